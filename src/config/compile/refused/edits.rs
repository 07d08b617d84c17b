//! What a user reads when rewrites and headers of a route are wrong, word for word.

use super::refused;

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
