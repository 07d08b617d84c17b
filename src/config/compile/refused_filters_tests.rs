//! What a user reads when filters of a route are wrong, word for word.

use super::refused_tests::refused;

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
