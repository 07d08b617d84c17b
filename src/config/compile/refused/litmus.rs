//! What a user reads when `litmus` is asked for what cannot be, word for word.

use super::refused;

#[test]
fn users_that_cannot_be_moved() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
policy = "shuffle"
servers = ["127.0.0.1:9001", "127.0.0.1:9002"]

[upstream.shop.litmus]
percent = 60
methods = ["get"]
cookies = ["a", "b", "c", "d", "e"]
login = "login"
same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
"##,
        r##"
error: `shuffle` moves everybody, which leaves `litmus` nobody to compare with
 --> evenkeel.toml:5:10
  |
5 | policy = "shuffle"
  |          ^^^^^^^^^
  |
  = help: choose the policy that users are to have, or remove `litmus`

error: `percent` is 60, which is out of range
 --> evenkeel.toml:9:11
  |
9 | percent = 60
  |           ^^
  |
  = help: write a number from 1 to 50

error: `get` is not a method
  --> evenkeel.toml:10:12
   |
10 | methods = ["get"]
   |            ^^^^^
   |
   = help: write it in capitals, such as "GET"

error: 5 session cookies are named, which is too many
  --> evenkeel.toml:11:11
   |
11 | cookies = ["a", "b", "c", "d", "e"]
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: name 4 at the most

error: `login` is not a path
  --> evenkeel.toml:12:9
   |
12 | login = "login"
   |         ^^^^^^^
   |
   = help: write the path that users are sent to, such as "/login"

error: 5 paths are named whose bodies are compared, which is too many
  --> evenkeel.toml:13:13
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: name 4 at the most

error: `same_body` compares answers to GET, which is not one of `methods`
  --> evenkeel.toml:13:13
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: add "GET" to `methods`, or remove `same_body`

error: the path `account` does not start with `/`
  --> evenkeel.toml:13:14
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |              ^^^^^^^^^
   |
   = help: write "/account"

error: requests with a query are not compared
  --> evenkeel.toml:13:25
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |                         ^^^^^^^^
   |
   = help: write "/a"

error: `/a` is named twice
  --> evenkeel.toml:13:41
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |                                   ----  ^^^^
   |                                   |
   |                                   first used here
   |
   = help: remove one

error: the path `/x y` is not in the form that is compared
  --> evenkeel.toml:13:47
   |
13 | same_body = ["account", "/a?b=1", "/a", "/a", "/x y"]
   |                                               ^^^^^^
   |
   = help: write "/x%20y"

11 errors in evenkeel.toml
"##,
    );
}
