//! What a user reads when a listener is wrong, word for word.

use super::refused;

#[test]
fn wrong_addresses_and_networks() {
    refused(
        r##"[[listener]]
bind = "localhost:1"

[[listener]]
bind = "1.2.3.4"

[[listener]]
name = "a b"
bind = ":80"
trusted_proxies = ["10.1.2.3/8", "x", "0.0.0.0/0"]
max_header_bytes = "1KiB"
max_request_line = "65KiB"
max_headers = 0

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `localhost` is a host name, not an address of this machine
 --> evenkeel.toml:2:8
  |
2 | bind = "localhost:1"
  |        ^^^^^^^^^^^^^
  |
  = help: write an IP address and a port, such as "0.0.0.0:8080", "[::1]:8080" or ":8080"

error: `1.2.3.4` has no port
 --> evenkeel.toml:5:8
  |
5 | bind = "1.2.3.4"
  |        ^^^^^^^^^
  |
  = help: add it, such as "0.0.0.0:8080" or "[::1]:8080"

error: ` ` cannot be in the name of a listener
 --> evenkeel.toml:8:8
  |
8 | name = "a b"
  |        ^^^^^
  |
  = help: use letters, digits and . _ - : @ [ ]

warning: `10.1.2.3/8` has bits beyond its prefix length, which are ignored
  --> evenkeel.toml:10:20
   |
10 | trusted_proxies = ["10.1.2.3/8", "x", "0.0.0.0/0"]
   |                    ^^^^^^^^^^^^
   |
   = help: write "10.0.0.0/8"

error: `x` is not a network
  --> evenkeel.toml:10:34
   |
10 | trusted_proxies = ["10.1.2.3/8", "x", "0.0.0.0/0"]
   |                                  ^^^
   |
   = help: write an address and a prefix length, such as "10.0.0.0/8"

warning: `0.0.0.0/0` trusts everyone to say who the client is
  --> evenkeel.toml:10:39
   |
10 | trusted_proxies = ["10.1.2.3/8", "x", "0.0.0.0/0"]
   |                                       ^^^^^^^^^^^
   |
   = help: name the networks of your own proxies only

error: `max_header_bytes` is 1024 bytes, which is out of range
  --> evenkeel.toml:11:20
   |
11 | max_header_bytes = "1KiB"
   |                    ^^^^^^
   |
   = help: write a size from "8KiB" to "1MiB"

error: `max_request_line` is 66560 bytes, which is out of range
  --> evenkeel.toml:12:20
   |
12 | max_request_line = "65KiB"
   |                    ^^^^^^^
   |
   = help: write a size from "1KiB" to "64KiB"

error: `max_headers` is 0, which is out of range
  --> evenkeel.toml:13:15
   |
13 | max_headers = 0
   |               ^
   |
   = help: write a number from 1 to 10000

7 errors, 2 warnings in evenkeel.toml
"##,
    );
}

#[test]
fn limits_of_connections() {
    refused(
        r##"max_connections = 0

[[listener]]
bind = ":8080"
max_connections_per_client = 0
unlimited_clients = ["me"]
max_requests_per_connection = 0

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `max_connections` is zero
 --> evenkeel.toml:1:19
  |
1 | max_connections = 0
  |                   ^
  |
  = help: write a whole number from 1, or "unlimited"

error: `max_connections_per_client` is zero
 --> evenkeel.toml:5:30
  |
5 | max_connections_per_client = 0
  |                              ^
  |
  = help: write a whole number from 1, or "unlimited"

error: `me` is not a network
 --> evenkeel.toml:6:22
  |
6 | unlimited_clients = ["me"]
  |                      ^^^^
  |
  = help: write an address and a prefix length, such as "10.0.0.0/8"

error: `max_requests_per_connection` is zero
 --> evenkeel.toml:7:31
  |
7 | max_requests_per_connection = 0
  |                               ^
  |
  = help: write a whole number from 1, or "unlimited"

4 errors in evenkeel.toml
"##,
    );
}

#[test]
fn proxy_protocol_headers_from_nobody() {
    refused(
        r##"[[listener]]
bind = ":8080"
proxy_protocol = {}

[[listener]]
bind = ":8081"
proxy_protocol = { from = ["balancer"], timeout = "0s" }

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `proxy_protocol` has nobody to come `from`
 --> evenkeel.toml:3:18
  |
3 | proxy_protocol = {}
  |                  ^^
  |
  = help: add `from = ["10.0.0.0/8"]` with the networks of what stands in front

error: `balancer` is not a network
 --> evenkeel.toml:7:28
  |
7 | proxy_protocol = { from = ["balancer"], timeout = "0s" }
  |                            ^^^^^^^^^^
  |
  = help: write an address and a prefix length, such as "10.0.0.0/8"

error: `timeout` is zero
 --> evenkeel.toml:7:51
  |
7 | proxy_protocol = { from = ["balancer"], timeout = "0s" }
  |                                                   ^^^^
  |
  = help: write a duration above zero, such as "5s"

3 errors in evenkeel.toml
"##,
    );
}

#[test]
fn another_word_for_what_becomes_of_underscores() {
    refused(
        r##"[[listener]]
bind = ":8080"
underscores_in_headers = "deny"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: unknown underscores_in_headers `deny`
 --> evenkeel.toml:3:26
  |
3 | underscores_in_headers = "deny"
  |                          ^^^^^^
  |
  = help: known names: drop, allow, refuse

1 error in evenkeel.toml
"##,
    );
}
