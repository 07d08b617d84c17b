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
