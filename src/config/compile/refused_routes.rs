//! What a user reads when a route is wrong, word for word.

use super::refused_tests::refused;

#[test]
fn paths_that_are_not_in_the_form_that_is_compared() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/a//b/../%63"
upstream = "shop"

[[route]]
path = "/a%2Fb"
allow_escapes = ["slashes"]
upstream = "shop"

[[route]]
path = "/../a"
upstream = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: the path `/a//b/../%63` is not in the form that is compared
 --> evenkeel.toml:5:8
  |
5 | path = "/a//b/../%63"
  |        ^^^^^^^^^^^^^^
  |
  = help: write "/a/c"

error: the path `/a%2Fb` has escapes that servers read differently
 --> evenkeel.toml:9:8
  |
9 | path = "/a%2Fb"
  |        ^^^^^^^^
  |
  = help: write a path without escaped slashes, escapes of escapes and bytes that are not UTF-8

error: unknown kind of escapes `slashes`
  --> evenkeel.toml:10:18
   |
10 | allow_escapes = ["slashes"]
   |                  ^^^^^^^^^
   |
   = help: did you mean `slash`?

error: the path leaves its root
  --> evenkeel.toml:14:8
   |
14 | path = "/../a"
   |        ^^^^^^^
   |
   = help: write a path that a request can have

4 errors in evenkeel.toml
"##,
    );
}

#[test]
fn matchers_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = { regex = "^/(a" }
method = ["get", "G T"]
header = { "x y" = "1", ok = { regex = "[" }, other = { prefix = "a" } }
query = { a = { like = "b" } }
source = ["10.0.0.0/33"]
upstream = "shop"

[[route]]
path = { exact = "/a", regex = "b" }
method = []
upstream = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `^/(a` is not a regular expression: unclosed group
 --> evenkeel.toml:5:8
  |
5 | path = { regex = "^/(a" }
  |        ^^^^^^^^^^^^^^^^^^
  |
  = help: write one in the syntax of the Rust crate `regex`

error: `get` is not a method
 --> evenkeel.toml:6:11
  |
6 | method = ["get", "G T"]
  |           ^^^^^
  |
  = help: write it in capitals, such as "GET"

error: `G T` is not a method
 --> evenkeel.toml:6:18
  |
6 | method = ["get", "G T"]
  |                  ^^^^^
  |
  = help: write it in capitals, such as "GET"

error: `x y` is not the name of a header
 --> evenkeel.toml:7:12
  |
7 | header = { "x y" = "1", ok = { regex = "[" }, other = { prefix = "a" } }
  |            ^^^^^
  |
  = help: write letters, digits and dashes, such as "X-Name"

error: `[` is not a regular expression: unclosed character class
 --> evenkeel.toml:7:30
  |
7 | header = { "x y" = "1", ok = { regex = "[" }, other = { prefix = "a" } }
  |                              ^^^^^^^^^^^^^^^
  |
  = help: write one in the syntax of the Rust crate `regex`

error: only paths have prefixes
 --> evenkeel.toml:7:55
  |
7 | header = { "x y" = "1", ok = { regex = "[" }, other = { prefix = "a" } }
  |                                                       ^^^^^^^^^^^^^^^^
  |
  = help: write { regex = "^a" }

error: unknown a `like`
 --> evenkeel.toml:8:17
  |
8 | query = { a = { like = "b" } }
  |                 ^^^^
  |
  = help: known names: prefix, exact, regex, present

error: `10.0.0.0/33` is not a network
 --> evenkeel.toml:9:11
  |
9 | source = ["10.0.0.0/33"]
  |           ^^^^^^^^^^^^^
  |
  = help: write an address and a prefix length, such as "10.0.0.0/8"

error: `exact` and `regex`: there is one way only
  --> evenkeel.toml:13:8
   |
13 | path = { exact = "/a", regex = "b" }
   |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

error: this route has no method
  --> evenkeel.toml:14:10
   |
14 | method = []
   |          ^^
   |
   = help: name one, or leave the key out for any

10 errors in evenkeel.toml
"##,
    );
}

#[test]
fn two_routes_that_take_the_same_requests() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = { exact = "/a" }
method = ["POST", "GET"]
upstream = "shop"

[[route]]
path = { exact = "/a" }
method = ["GET", "POST"]
upstream = "shop"

[[route]]
path = "/a"
upstream = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: two routes are for *=/a on the same listener
  --> evenkeel.toml:10:8
   |
 5 | path = { exact = "/a" }
   |        ---------------- first used here
...
10 | path = { exact = "/a" }
   |        ^^^^^^^^^^^^^^^^
   |
   = help: remove one, or change its host, path or listener

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn actions_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
upstream = "shop"
redirect = "/x"

[[route]]
path = "/2"

[[route]]
path = "/3"
redirect = { to = "example.com", status = 200 }

[[route]]
path = "/4"
redirect = "https://{host}{1}"

[[route]]
path = { regex = "^/5(.*)" }
redirect = "https://{host}{1}"

[[route]]
path = "/6"
redirect = { status = 301 }

[[route]]
path = "/7"
respond = 99

[[route]]
path = "/8"
respond = { status = 204, body = "x" }

[[route]]
path = "/9"
redirect = "/{server}"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: this route has `upstream` and `redirect`
 --> evenkeel.toml:7:12
  |
6 | upstream = "shop"
  |            ------ the other one
7 | redirect = "/x"
  |            ^^^^
  |
  = help: keep one of them

error: this route leads nowhere
 --> evenkeel.toml:9:1
  |
9 | [[route]]
  | ^^^^^^^^^
  |
  = help: add `upstream = "shop"`, `split`, `redirect` or `respond`

error: `example.com` is not a target of a redirect
  --> evenkeel.toml:14:19
   |
14 | redirect = { to = "example.com", status = 200 }
   |                   ^^^^^^^^^^^^^
   |
   = help: write a path or a URL, such as "https://{host}{path}{query}"

error: 200 is not the status of a redirect
  --> evenkeel.toml:14:43
   |
14 | redirect = { to = "example.com", status = 200 }
   |                                           ^^^
   |
   = help: write 301, 302, 303, 307 or 308

error: `{1}` needs a regular expression
  --> evenkeel.toml:18:12
   |
18 | redirect = "https://{host}{1}"
   |            ^^^^^^^^^^^^^^^^^^^
   |
   = help: give the route `path = { regex = "..." }` with groups

error: a group of the regular expression is part of the host
  --> evenkeel.toml:22:12
   |
22 | redirect = "https://{host}{1}"
   |            ^^^^^^^^^^^^^^^^^^^
   |
   = help: write a slash before it

error: this redirect leads nowhere
  --> evenkeel.toml:26:12
   |
26 | redirect = { status = 301 }
   |            ^^^^^^^^^^^^^^^^
   |
   = help: add `to = "https://{host}{path}{query}"`

error: 99 is not the status of an answer
  --> evenkeel.toml:30:11
   |
30 | respond = 99
   |           ^^
   |
   = help: write a number from 200 to 599

error: an answer of status 204 has no body
  --> evenkeel.toml:34:22
   |
34 | respond = { status = 204, body = "x" }
   |                      ^^^
   |
   = help: remove the body, or write another status

error: unknown variable `{server}`
  --> evenkeel.toml:38:12
   |
38 | redirect = "/{server}"
   |            ^^^^^^^^^^^
   |
   = help: known here: host, authority, scheme, path, query, request_id, route

10 errors in evenkeel.toml
"##,
    );
}

#[test]
fn rewrites_and_headers_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = { exact = "/1" }
strip_prefix = true
upstream = "shop"

[[route]]
path = "/2"
rewrite = { to = "/x" }
upstream = "shop"

[[route]]
path = "/3"
rewrite = { regex = "^/3/(.*)$", to = "x?{2}" }
upstream = "shop"

[[route]]
path = "/4"
strip_prefix = true
rewrite = { prefix = "/x" }
upstream = "shop"

[[route]]
path = "/5"
rewrite = { prefix = "x" }
upstream_host = "a/b"
upstream = "shop"

[[route]]
path = "/6"
upstream = "shop"
request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
response_headers = { add = { X-A = "{path}", Transfer-Encoding = "x" } }
timeouts = { connect = "0s" }

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: this route has no prefix to strip
 --> evenkeel.toml:6:16
  |
6 | strip_prefix = true
  |                ^^^^
  |
  = help: write `rewrite` instead

error: this `rewrite` has no regular expression
  --> evenkeel.toml:11:11
   |
11 | rewrite = { to = "/x" }
   |           ^^^^^^^^^^^^^
   |
   = help: add `regex = "^/old/(.*)$"`, or give the route `path = { regex = "..." }`

error: `x?{2}` is not a path
  --> evenkeel.toml:16:39
   |
16 | rewrite = { regex = "^/3/(.*)$", to = "x?{2}" }
   |                                       ^^^^^^^
   |
   = help: write one that starts with `/`, such as "/new/{1}"

error: `{2}` is not a group of the regular expression
  --> evenkeel.toml:16:39
   |
16 | rewrite = { regex = "^/3/(.*)$", to = "x?{2}" }
   |                                       ^^^^^^^
   |
   = help: it has groups 0 to 1

error: this route has `strip_prefix` and `rewrite`
  --> evenkeel.toml:22:11
   |
22 | rewrite = { prefix = "/x" }
   |           ^^^^^^^^^^^^^^^^^
   |
   = help: keep one of them

error: `x` is not a path
  --> evenkeel.toml:27:22
   |
27 | rewrite = { prefix = "x" }
   |                      ^^^
   |
   = help: write one that starts with `/`, in its shortest form

error: `a/b` is not a host with an optional port
  --> evenkeel.toml:28:17
   |
28 | upstream_host = "a/b"
   |                 ^^^^^
   |
   = help: write one such as "app.internal"

error: `host` cannot be changed
  --> evenkeel.toml:34:29
   |
34 | request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
   |                             ^^^^
   |
   = help: write `upstream_host = "..."` in the route

error: `content-length` cannot be changed
  --> evenkeel.toml:34:41
   |
34 | request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
   |                                         ^^^^^^^^^^^^^^
   |
   = help: remove it: it says how a message is framed, or belongs to one connection

error: `a\nb` is not the value of a header
  --> evenkeel.toml:34:69
   |
34 | request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
   |                                                                     ^^^^^^
   |
   = help: write ASCII characters, without line breaks

error: unknown variable `{nope}`
  --> evenkeel.toml:34:83
   |
34 | request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
   |                                                                                   ^^^^^^^^
   |
   = help: known here: client_ip, host, authority, scheme, method, path, query, request_id, route, upstream

error: `connection` cannot be changed
  --> evenkeel.toml:34:105
   |
34 | request_headers = { set = { Host = "a", Content-Length = "1", X-A = "a\nb", X-B = "{nope}" }, remove = ["connection"] }
   |                                                                                                         ^^^^^^^^^^^^
   |
   = help: remove it: it says how a message is framed, or belongs to one connection

error: unknown variable `{path}`
  --> evenkeel.toml:35:36
   |
35 | response_headers = { add = { X-A = "{path}", Transfer-Encoding = "x" } }
   |                                    ^^^^^^^^
   |
   = help: known here: client_ip, request_id, route, upstream, server

error: `transfer-encoding` cannot be changed
  --> evenkeel.toml:35:46
   |
35 | response_headers = { add = { X-A = "{path}", Transfer-Encoding = "x" } }
   |                                              ^^^^^^^^^^^^^^^^^
   |
   = help: remove it: it says how a message is framed, or belongs to one connection

error: `connect` is zero
  --> evenkeel.toml:36:24
   |
36 | timeouts = { connect = "0s" }
   |                        ^^^^
   |
   = help: write a duration above zero, such as "5s"

15 errors in evenkeel.toml
"##,
    );
}

#[test]
fn splits_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
split = []

[[route]]
path = "/2"
split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]

[[route]]
path = "/3"
split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
split_by = { cookie = { name = "a b" } }

[[route]]
path = "/4"
split = [{ upstream = "shop", weight = 0 }]
split_by = "header"

[[route]]
path = "/5"
split = [{ upstream = "shop", share = 1 }]
split_by = { cookie = { max_age = "0s" } }

[[route]]
path = "/6"
split = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `split` is empty
 --> evenkeel.toml:6:9
  |
6 | split = []
  |         ^^
  |
  = help: name an upstream, such as { upstream = "shop", weight = 1 }

error: `weight` is 10001, which is out of range
  --> evenkeel.toml:10:55
   |
10 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                                       ^^^^^
   |
   = help: write a number from 0 to 10000

error: upstream `shop` is there twice
  --> evenkeel.toml:14:46
   |
14 | split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
   |                       ------ first used here ^^^^^^
   |
   = help: remove one, and give the other the sum of their weights

error: `a b` is no name for a cookie
  --> evenkeel.toml:15:32
   |
15 | split_by = { cookie = { name = "a b" } }
   |                                ^^^^^
   |
   = help: write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~

error: no part of the split has a weight
  --> evenkeel.toml:19:9
   |
19 | split = [{ upstream = "shop", weight = 0 }]
   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: give one of them a `weight` above zero

error: unknown split_by `header`
  --> evenkeel.toml:20:12
   |
20 | split_by = "header"
   |            ^^^^^^^^
   |
   = help: known names: cookie, address

error: unknown key `share`
  --> evenkeel.toml:24:31
   |
24 | split = [{ upstream = "shop", share = 1 }]
   |                               ^^^^^
   |
   = help: known keys here: upstream, weight

error: 0ms is too short
  --> evenkeel.toml:25:35
   |
25 | split_by = { cookie = { max_age = "0s" } }
   |                                   ^^^^
   |
   = help: write at least "1s"

error: `split` cannot be the text "shop"
  --> evenkeel.toml:29:9
   |
29 | split = "shop"
   |         ^^^^^^
   |
   = help: write a list, such as ["...", "..."]

9 errors in evenkeel.toml
"##,
    );
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
upstream = "shop"
split = [{ upstream = "shop" }]

[[route]]
path = "/2"
split = []

[[route]]
path = "/3"
split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]

[[route]]
path = "/4"
split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
split_by = { cookie = { max_age = "400d" } }

[[route]]
path = "/5"
split = [{ upstream = "shop", weight = 0 }]

[[route]]
path = "/6"
upstream = "shop"
split_by = "address"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: this route has `upstream` and `split`
 --> evenkeel.toml:7:9
  |
6 | upstream = "shop"
  |            ------ the other one
7 | split = [{ upstream = "shop" }]
  |         ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: keep one of them

error: `split` is empty
  --> evenkeel.toml:11:9
   |
11 | split = []
   |         ^^
   |
   = help: name an upstream, such as { upstream = "shop", weight = 1 }

error: this part of the split leads nowhere
  --> evenkeel.toml:15:10
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |          ^^^^^^^^^^^^^^
   |
   = help: add `upstream = "shop"`

error: unknown upstream `shp`
  --> evenkeel.toml:15:39
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                       ^^^^^
   |
   = help: did you mean `shop`?

error: `weight` is 10001, which is out of range
  --> evenkeel.toml:15:55
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                                       ^^^^^
   |
   = help: write a number from 0 to 10000

error: upstream `shop` is there twice
  --> evenkeel.toml:19:46
   |
19 | split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
   |                       ------ first used here ^^^^^^
   |
   = help: remove one, and give the other the sum of their weights

error: `max_age` is longer than a year
  --> evenkeel.toml:20:12
   |
20 | split_by = { cookie = { max_age = "400d" } }
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write at most "366d"

error: no part of the split has a weight
  --> evenkeel.toml:24:9
   |
24 | split = [{ upstream = "shop", weight = 0 }]
   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: give one of them a `weight` above zero

warning: `split_by` does nothing without `split`
  --> evenkeel.toml:29:12
   |
29 | split_by = "address"
   |            ^^^^^^^^^
   |
   = help: remove it

8 errors, 1 warning in evenkeel.toml
"##,
    );
}
