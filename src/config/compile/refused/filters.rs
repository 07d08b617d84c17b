//! What a user reads when filters of a route are wrong, word for word.

use super::refused;

#[test]
fn compression() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
upstream = "shop"
compress = { encodings = ["gzip", "brotli", "deflate"], types = ["html", "text/*", "*/*"] }

[[route]]
path = "/a"
upstream = "shop"
compress = { encodings = [], lvl = "fast" }

[[route]]
path = "/b"
upstream = "shop"
compress = "gzip"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: unknown encoding `brotli`
 --> evenkeel.toml:6:35
  |
6 | compress = { encodings = ["gzip", "brotli", "deflate"], types = ["html", "text/*", "*/*"] }
  |                                   ^^^^^^^^
  |
  = help: known encodings: zstd, br, gzip

error: unknown encoding `deflate`
 --> evenkeel.toml:6:45
  |
6 | compress = { encodings = ["gzip", "brotli", "deflate"], types = ["html", "text/*", "*/*"] }
  |                                             ^^^^^^^^^
  |
  = help: known encodings: zstd, br, gzip

error: `html` is not a media type
 --> evenkeel.toml:6:66
  |
6 | compress = { encodings = ["gzip", "brotli", "deflate"], types = ["html", "text/*", "*/*"] }
  |                                                                  ^^^^^^
  |
  = help: write "text/html", "text/*" or "application/*+json"

error: `*/*` is not a media type
 --> evenkeel.toml:6:84
  |
6 | compress = { encodings = ["gzip", "brotli", "deflate"], types = ["html", "text/*", "*/*"] }
  |                                                                                    ^^^^^
  |
  = help: write "text/html", "text/*" or "application/*+json"

error: `encodings` is empty
  --> evenkeel.toml:11:26
   |
11 | compress = { encodings = [], lvl = "fast" }
   |                          ^^
   |
   = help: name some of "zstd", "br" and "gzip", or leave the key out for all

error: unknown key `lvl`
  --> evenkeel.toml:11:30
   |
11 | compress = { encodings = [], lvl = "fast" }
   |                              ^^^
   |
   = help: known keys here: encodings, level, min_size, types

error: `compress` cannot be the text "gzip"
  --> evenkeel.toml:16:12
   |
16 | compress = "gzip"
   |            ^^^^^^
   |
   = help: write true, false or a table of options

7 errors in evenkeel.toml
"##,
    );
}

#[test]
fn error_pages() {
    refused(
        r##"[[listener]]
bind = ":8080"
error_pages = [
    { status = ["200", "6xx", "5xx"], file = "missing.html" },
    { file = "missing.html" },
    { status = "404" },
    { status = "404", file = "page" },
]

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `200` is no status of an error
 --> evenkeel.toml:4:17
  |
4 |     { status = ["200", "6xx", "5xx"], file = "missing.html" },
  |                 ^^^^^
  |
  = help: write "404", or "5xx" for all from 500 to 599

error: `6xx` is no status of an error
 --> evenkeel.toml:4:24
  |
4 |     { status = ["200", "6xx", "5xx"], file = "missing.html" },
  |                        ^^^^^
  |
  = help: write "404", or "5xx" for all from 500 to 599

error: cannot read `file` missing.html: entity not found
 --> evenkeel.toml:4:46
  |
4 |     { status = ["200", "6xx", "5xx"], file = "missing.html" },
  |                                              ^^^^^^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: this page has no `status`
 --> evenkeel.toml:5:5
  |
5 |     { file = "missing.html" },
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: add `status = ["404", "5xx"]`

error: cannot read `file` missing.html: entity not found
 --> evenkeel.toml:5:14
  |
5 |     { file = "missing.html" },
  |              ^^^^^^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: this page has no `file`
 --> evenkeel.toml:6:5
  |
6 |     { status = "404" },
  |     ^^^^^^^^^^^^^^^^^^
  |
  = help: add `file = "/etc/evenkeel/error.html"`

error: the name of this file does not tell its content type
 --> evenkeel.toml:7:30
  |
7 |     { status = "404", file = "page" },
  |                              ^^^^^^
  |
  = help: add `content_type = "text/html; charset=utf-8"`

error: cannot read `file` page: entity not found
 --> evenkeel.toml:7:30
  |
7 |     { status = "404", file = "page" },
  |                              ^^^^^^
  |
  = help: name a file that the user running evenkeel can read

8 errors in evenkeel.toml
"##,
    );
}

#[test]
fn mirrors() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
upstream = "shop"
mirror = { to = "shp", percent = 0, max_in_flight = 0 }

[[route]]
path = "/a"
upstream = "shop"
mirror = { percent = 50 }

[[route]]
path = "/b"
upstream = "shop"
mirror = { to = "shop", max_body = "1GiB" }

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: unknown upstream `shp`
 --> evenkeel.toml:6:17
  |
6 | mirror = { to = "shp", percent = 0, max_in_flight = 0 }
  |                 ^^^^^
  |
  = help: did you mean `shop`?

error: `percent` is 0, which is out of range
 --> evenkeel.toml:6:34
  |
6 | mirror = { to = "shp", percent = 0, max_in_flight = 0 }
  |                                  ^
  |
  = help: write a number from 1 to 100

error: `max_in_flight` is 0, which is out of range
 --> evenkeel.toml:6:53
  |
6 | mirror = { to = "shp", percent = 0, max_in_flight = 0 }
  |                                                     ^
  |
  = help: write a number from 1 to 1048576

error: this mirror has no `to`
  --> evenkeel.toml:11:10
   |
11 | mirror = { percent = 50 }
   |          ^^^^^^^^^^^^^^^^
   |
   = help: add `to = "shop"`

error: `max_body` of a mirror is above 16 MiB
  --> evenkeel.toml:16:10
   |
16 | mirror = { to = "shop", max_body = "1GiB" }
   |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: copies are kept in memory: write less

5 errors in evenkeel.toml
"##,
    );
}

#[test]
fn forms_that_others_have() {
    refused(
        r##"[[listener]]
bind = ":8080"
proxy_protocol = true
error_pages = [{ status = [503, 200], file = "missing.html" }]

[[route]]
upstream = "shop"
compress = { level = 5 }
mirror = "beta"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `proxy_protocol` cannot be the boolean true
 --> evenkeel.toml:3:18
  |
3 | proxy_protocol = true
  |                  ^^^^
  |
  = help: write a table that says from whom, such as { from = ["10.0.0.0/8"] }

error: `200` is no status of an error
 --> evenkeel.toml:4:33
  |
4 | error_pages = [{ status = [503, 200], file = "missing.html" }]
  |                                 ^^^
  |
  = help: write "404", or "5xx" for all from 500 to 599

error: cannot read `file` missing.html: entity not found
 --> evenkeel.toml:4:46
  |
4 | error_pages = [{ status = [503, 200], file = "missing.html" }]
  |                                              ^^^^^^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: `level` cannot be the number 5
 --> evenkeel.toml:8:22
  |
8 | compress = { level = 5 }
  |                      ^
  |
  = help: write "fast", "balanced" or "small"

error: `mirror` cannot be the text "beta"
 --> evenkeel.toml:9:10
  |
9 | mirror = "beta"
  |          ^^^^^^
  |
  = help: write a table that names an upstream, such as { to = "app" }

5 errors in evenkeel.toml
"##,
    );
}
