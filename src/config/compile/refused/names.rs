//! What a user reads when names do not meet, word for word.

use super::refused;

#[test]
fn servers_that_are_there_twice() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[[upstream.shop.server]]
name = "a"
address = "127.0.0.1:9002"

[[upstream.shop.server]]
name = "a"
address = "127.0.0.1:9001"
"##,
        r##"
error: two servers of upstream `shop` are called `a`
  --> evenkeel.toml:12:8
   |
 8 | name = "a"
   |        --- first used here
...
12 | name = "a"
   |        ^^^
   |
   = help: give one of them another name

error: two servers of upstream `shop` have the address 127.0.0.1:9001
  --> evenkeel.toml:13:11
   |
 5 | servers = ["127.0.0.1:9001"]
   |            ---------------- first used here
...
13 | address = "127.0.0.1:9001"
   |           ^^^^^^^^^^^^^^^^
   |
   = help: remove one; to give it more traffic, set `weight`

2 errors in evenkeel.toml
"##,
    );
}

#[test]
fn listeners_that_are_there_twice() {
    refused(
        r##"[[listener]]
name = "web"
bind = ":8080"
[[listener]]
bind = 8080
[[listener]]
name = "web"
bind = ":8081"
[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: two listeners are bound to [::]:8080
 --> evenkeel.toml:5:8
  |
3 | bind = ":8080"
  |        ------- first used here
4 | [[listener]]
5 | bind = 8080
  |        ^^^^
  |
  = help: remove one, or give it another address

error: two listeners are called `web`
 --> evenkeel.toml:7:8
  |
2 | name = "web"
  |        ----- first used here
...
7 | name = "web"
  |        ^^^^^
  |
  = help: give one of them another name

2 errors in evenkeel.toml
"##,
    );
}

#[test]
fn references_to_nothing() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[[route]]
listener = "8080"
upstream = "shopp"
"##,
        r##"
error: unknown listener `8080`
 --> evenkeel.toml:8:12
  |
8 | listener = "8080"
  |            ^^^^^^
  |
  = help: did you mean `:8080`?

error: unknown upstream `shopp`
 --> evenkeel.toml:9:12
  |
9 | upstream = "shopp"
  |            ^^^^^^^
  |
  = help: did you mean `shop`?

2 errors in evenkeel.toml
"##,
    );
}

#[test]
fn upstreams_without_servers_or_routes() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[upstream.other]

[upstream.third]
servers = ["app", "http://app", "127.0.0.1:0", "unix:app.sock"]
"##,
        r##"
error: upstream `other` has no server
 --> evenkeel.toml:7:11
  |
7 | [upstream.other]
  |           ^^^^^
  |
  = help: add `servers = ["127.0.0.1:9001"]`

error: `app` has no port
  --> evenkeel.toml:10:12
   |
10 | servers = ["app", "http://app", "127.0.0.1:0", "unix:app.sock"]
   |            ^^^^^
   |
   = help: write "127.0.0.1:9001", "app.internal:9001" or "unix:/run/app.sock"

error: an address has no scheme, `http://` is one
  --> evenkeel.toml:10:19
   |
10 | servers = ["app", "http://app", "127.0.0.1:0", "unix:app.sock"]
   |                   ^^^^^^^^^^^^
   |
   = help: write "127.0.0.1:9001", "app.internal:9001" or "unix:/run/app.sock"

error: a server cannot have port 0
  --> evenkeel.toml:10:33
   |
10 | servers = ["app", "http://app", "127.0.0.1:0", "unix:app.sock"]
   |                                 ^^^^^^^^^^^^^
   |
   = help: write a number from 1 to 65535

error: `app.sock` is not an absolute path
  --> evenkeel.toml:10:48
   |
10 | servers = ["app", "http://app", "127.0.0.1:0", "unix:app.sock"]
   |                                                ^^^^^^^^^^^^^^^
   |
   = help: write "unix:/run/app.sock"

error: no route, and 3 upstreams to choose from
--> evenkeel.toml
 = help: add `[[route]]` with `path = "/"` and `upstream = "shop"`

6 errors in evenkeel.toml
"##,
    );
}
