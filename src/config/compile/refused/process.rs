//! What a user reads when settings of the process are wrong, word for word.

use super::refused;

#[test]
fn an_open_admin_api() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[admin]
bind = "0.0.0.0:9191"
"##,
        r##"
error: the admin API on 0.0.0.0:9191 would be open to everyone who reaches it
 --> evenkeel.toml:8:8
  |
8 | bind = "0.0.0.0:9191"
  |        ^^^^^^^^^^^^^^
  |
  = help: bind to 127.0.0.1, or set `token` or `token_file`

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn logs_and_sections_misspelt() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[log]
level = "inof"
format = "jsn"

[lisener]
bind = ":1"
"##,
        r##"
error: unknown level `inof`
 --> evenkeel.toml:8:9
  |
8 | level = "inof"
  |         ^^^^^^
  |
  = help: did you mean `info`?

error: unknown format `jsn`
 --> evenkeel.toml:9:10
  |
9 | format = "jsn"
  |          ^^^^^
  |
  = help: did you mean `json`?

error: unknown key `lisener`
  --> evenkeel.toml:11:2
   |
11 | [lisener]
   |  ^^^^^^^
   |
   = help: did you mean `listener`?

3 errors in evenkeel.toml
"##,
    );
}

#[test]
fn numbers_out_of_range() {
    refused(
        r##"cores = 0
[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
max_sessions = 0
drain = { sessions_idle = "2h", in_flight = "999d" }

[[upstream.shop.server]]
address = "app:9001"
weight = 1001
"##,
        r##"
error: `cores` is 0, which is out of range
 --> evenkeel.toml:1:9
  |
1 | cores = 0
  |         ^
  |
  = help: write a number from 1 to 1024

error: `max_sessions` is 0, which is out of range
 --> evenkeel.toml:7:16
  |
7 | max_sessions = 0
  |                ^
  |
  = help: write a number from 1 to 16777216

warning: `sessions_idle` is longer than `sessions_max` and so never matters
 --> evenkeel.toml:8:27
  |
8 | drain = { sessions_idle = "2h", in_flight = "999d" }
  |                           ^^^^
  |
  = help: write a shorter one, or raise `sessions_max`

error: `in_flight` is longer than a year
 --> evenkeel.toml:8:45
  |
8 | drain = { sessions_idle = "2h", in_flight = "999d" }
  |                                             ^^^^^^
  |
  = help: write at most "366d"

error: `weight` is 1001, which is out of range
  --> evenkeel.toml:12:10
   |
12 | weight = 1001
   |          ^^^^
   |
   = help: write a number from 0 to 1000

4 errors, 1 warning in evenkeel.toml
"##,
    );
}

#[test]
fn name_servers() {
    refused(
        r##"[dns]
servers = ["10.0.0.2", "dns.example.com", "10.0.0.3:0"]
min_ttl = "10m"

[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["app.internal:9001"]
timeouts = { tunnel_half_closed = "0s" }

[upgrade]
ready_within = "0s"
"##,
        r##"
error: `dns.example.com` is not the address of a name server
 --> evenkeel.toml:2:24
  |
2 | servers = ["10.0.0.2", "dns.example.com", "10.0.0.3:0"]
  |                        ^^^^^^^^^^^^^^^^^
  |
  = help: write an IP address, such as "10.0.0.2" or "127.0.0.1:8600"

error: `10.0.0.3:0` is not the address of a name server
 --> evenkeel.toml:2:43
  |
2 | servers = ["10.0.0.2", "dns.example.com", "10.0.0.3:0"]
  |                                           ^^^^^^^^^^^^
  |
  = help: write an IP address, such as "10.0.0.2" or "127.0.0.1:8600"

error: `min_ttl` is longer than `max_ttl`
 --> evenkeel.toml:3:11
  |
3 | min_ttl = "10m"
  |           ^^^^^
  |
  = help: write a shorter one

error: `tunnel_half_closed` is zero
  --> evenkeel.toml:10:35
   |
10 | timeouts = { tunnel_half_closed = "0s" }
   |                                   ^^^^
   |
   = help: write a duration above zero, such as "5s"

error: `ready_within` is zero
  --> evenkeel.toml:13:16
   |
13 | ready_within = "0s"
   |                ^^^^
   |
   = help: write a duration above zero, such as "5s"

5 errors in evenkeel.toml
"##,
    );
}
