//! What a user reads when what a route matches is wrong, word for word.

use super::refused;

#[test]
fn wrong_hosts_and_paths() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[[route]]
path = "api"
upstream = "shop"

[[route]]
host = ["a.example", "a.example:80", "x*.b"]
upstream = "shop"

[[route]]
host = "A.example."
upstream = "shop"
"##,
        r##"
error: the path `api` does not start with `/`
 --> evenkeel.toml:8:8
  |
8 | path = "api"
  |        ^^^^^
  |
  = help: write "/api"

error: the host `a.example:80` has a port
  --> evenkeel.toml:12:22
   |
12 | host = ["a.example", "a.example:80", "x*.b"]
   |                      ^^^^^^^^^^^^^^
   |
   = help: write the host alone; ports belong to listeners

error: in the host `x*.b` a star is not the first label
  --> evenkeel.toml:12:38
   |
12 | host = ["a.example", "a.example:80", "x*.b"]
   |                                      ^^^^^^
   |
   = help: write "*.example.com"

error: two routes are for a.example/ on the same listener
  --> evenkeel.toml:16:8
   |
12 | host = ["a.example", "a.example:80", "x*.b"]
   |         ----------- first used here
...
16 | host = "A.example."
   |        ^^^^^^^^^^^^
   |
   = help: remove one, or change its host, path or listener

4 errors in evenkeel.toml
"##,
    );
}

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
