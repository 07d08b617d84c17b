//! What a user reads when limits of servers or their queue are wrong, word for word.

use super::refused;

#[test]
fn limits_and_queues_out_of_range() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
max_requests = 0
queue = { size = 2000000, timeout = "0s" }

[[upstream.shop.server]]
address = "127.0.0.1:9001"
max_requests = 0
"##,
        r##"
error: `max_requests` is zero
 --> evenkeel.toml:5:16
  |
5 | max_requests = 0
  |                ^
  |
  = help: write a whole number from 1, or "unlimited"

error: `size` is 2000000, which is out of range
 --> evenkeel.toml:6:18
  |
6 | queue = { size = 2000000, timeout = "0s" }
  |                  ^^^^^^^
  |
  = help: write a number from 0 to 1048576

error: `timeout` is zero
 --> evenkeel.toml:6:37
  |
6 | queue = { size = 2000000, timeout = "0s" }
  |                                     ^^^^
  |
  = help: write a duration above zero, such as "5s"

error: `max_requests` is zero
  --> evenkeel.toml:10:16
   |
10 | max_requests = 0
   |                ^
   |
   = help: write a whole number from 1, or "unlimited"

4 errors in evenkeel.toml
"##,
    );
}

#[test]
fn misspelt_keys_and_types() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
max_request = 10
queue = { length = 10 }
"##,
        r##"
error: unknown key `max_request`
 --> evenkeel.toml:6:1
  |
6 | max_request = 10
  | ^^^^^^^^^^^
  |
  = help: did you mean `max_requests`?

error: unknown key `length`
 --> evenkeel.toml:7:11
  |
7 | queue = { length = 10 }
  |           ^^^^^^
  |
  = help: known keys here: size, timeout

2 errors in evenkeel.toml
"##,
    );
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
max_requests = "many"
queue = 10
"##,
        r##"
error: `max_requests` cannot be the text "many"
 --> evenkeel.toml:6:16
  |
6 | max_requests = "many"
  |                ^^^^^^
  |
  = help: write a whole number from 1, or "unlimited"

error: `queue` cannot be the number 10
 --> evenkeel.toml:7:9
  |
7 | queue = 10
  |         ^^
  |
  = help: write a table

2 errors in evenkeel.toml
"##,
    );
}
