//! What a user reads when a file is wrong, word for word.

use super::super::*;
use super::Surroundings;

/// Checks the whole text of the report.
pub(super) fn refused(text: &str, expected: &str) {
    let around = Surroundings {
        cores: 2,
        descriptors: 20_000,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let report = parse_in(text, "evenkeel.toml", &around).expect_err("this file is wrong").to_string();
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}

#[test]
fn a_misspelt_key() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[[upstream.shop.server]]
address = "127.0.0.1:9002"
wieght = 3
"##,
        r##"
error: unknown key `wieght`
 --> evenkeel.toml:9:1
  |
9 | wieght = 3
  | ^^^^^^
  |
  = help: did you mean `weight`?

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn a_misspelt_policy_and_an_unknown_check() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = "rond_robin"
check = "ping"
"##,
        r##"
error: unknown policy `rond_robin`
 --> evenkeel.toml:6:10
  |
6 | policy = "rond_robin"
  |          ^^^^^^^^^^^^
  |
  = help: did you mean `round_robin`?

error: unknown check `ping`
 --> evenkeel.toml:7:9
  |
7 | check = "ping"
  |         ^^^^^^
  |
  = help: known names: tcp, http, grpc, off

2 errors in evenkeel.toml
"##,
    );
}

#[test]
fn a_misspelt_policy_with_options() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = { rond_robin = {} }
"##,
        r##"
error: unknown policy `rond_robin`
 --> evenkeel.toml:6:12
  |
6 | policy = { rond_robin = {} }
  |            ^^^^^^^^^^
  |
  = help: did you mean `round_robin`?

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn a_misspelt_option_of_a_policy() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = { sticky_cookie = { new_client = "ip_hash" } }
"##,
        r##"
warning: upstream `shop` seals its cookies with a key that a restart loses
 --> evenkeel.toml:6:10
  |
6 | policy = { sticky_cookie = { new_client = "ip_hash" } }
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: set `state_dir`, `cookie_keys` or `cookie_key_file`

error: unknown key `new_client`
 --> evenkeel.toml:6:30
  |
6 | policy = { sticky_cookie = { new_client = "ip_hash" } }
  |                              ^^^^^^^^^^
  |
  = help: did you mean `new_clients`?

1 error, 1 warning in evenkeel.toml
"##,
    );
}

#[test]
fn an_option_that_is_wrong_is_the_only_thing_wrong() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = { sticky_cookie = { same_site = "none", secure = "never" } }
cookie_keys = ["0123456789abcdef"]
"##,
        r##"
error: `same_site = "none"` with `secure = "never"`: browsers refuse such a cookie
 --> evenkeel.toml:6:28
  |
6 | policy = { sticky_cookie = { same_site = "none", secure = "never" } }
  |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write `secure = "auto"` or `same_site = "lax"`

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn two_policies_in_one_place() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = { ip_hash = {}, round_robin = {} }
"##,
        r##"
error: `ip_hash` and `round_robin`: a policy has one name only
 --> evenkeel.toml:6:10
  |
6 | policy = { ip_hash = {}, round_robin = {} }
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn wrong_types_all_over() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
fail_open = "yes"
retry = { attempts = -1 }
timeouts = { connect = 5, request = "never", first_byte = "0s" }
pool = { max_idle = 1.5, max_age = "1y", max_requests = 0 }
"##,
        r##"
error: `fail_open` cannot be the text "yes"
 --> evenkeel.toml:6:13
  |
6 | fail_open = "yes"
  |             ^^^^^
  |
  = help: write true or false

error: `attempts` cannot be the number -1
 --> evenkeel.toml:7:22
  |
7 | retry = { attempts = -1 }
  |                      ^^
  |
  = help: write a whole number, not negative

error: `connect` cannot be the number 5
 --> evenkeel.toml:8:24
  |
8 | timeouts = { connect = 5, request = "never", first_byte = "0s" }
  |                        ^
  |
  = help: write a duration in quotes, such as "2s"

error: `never` is not a duration
 --> evenkeel.toml:8:37
  |
8 | timeouts = { connect = 5, request = "never", first_byte = "0s" }
  |                                     ^^^^^^^
  |
  = help: write a number and a unit (ms, s, m, h, d), such as "2s" or "1h30m"

error: `first_byte` is zero
 --> evenkeel.toml:8:59
  |
8 | timeouts = { connect = 5, request = "never", first_byte = "0s" }
  |                                                           ^^^^
  |
  = help: write a duration above zero, such as "5s"

error: `max_idle` cannot be the number 1.5
 --> evenkeel.toml:9:21
  |
9 | pool = { max_idle = 1.5, max_age = "1y", max_requests = 0 }
  |                     ^^^
  |
  = help: write a whole number, not negative

error: `1y` is not a duration
 --> evenkeel.toml:9:36
  |
9 | pool = { max_idle = 1.5, max_age = "1y", max_requests = 0 }
  |                                    ^^^^
  |
  = help: write a number and a unit (ms, s, m, h, d), such as "2s" or "1h30m"

error: `max_requests` is 0: no connection could be used
 --> evenkeel.toml:9:57
  |
9 | pool = { max_idle = 1.5, max_age = "1y", max_requests = 0 }
  |                                                         ^
  |
  = help: write a whole number from 1, or "unlimited"

8 errors in evenkeel.toml
"##,
    );
}

#[test]
fn wrong_options_of_a_check() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[upstream.shop.check.http]
path = "healthz"
interval = "1s"
timeout = "3s"
jitter = 60
expect_status = "99"
port = 0
healthy_threshold = 0
"##,
        r##"
error: the path `healthz` does not start with `/`
 --> evenkeel.toml:8:8
  |
8 | path = "healthz"
  |        ^^^^^^^^^
  |
  = help: write "/healthz"

warning: `timeout` (3s) is longer than `interval` (1s)
  --> evenkeel.toml:10:11
   |
10 | timeout = "3s"
   |           ^^^^
   |
   = help: a slow check delays the next one: set `timeout` to "1s" or less

error: `jitter` is 60, which is out of range
  --> evenkeel.toml:11:10
   |
11 | jitter = 60
   |          ^^
   |
   = help: write a percentage from 0 to 50

error: `99` is not a status or a range of statuses
  --> evenkeel.toml:12:17
   |
12 | expect_status = "99"
   |                 ^^^^
   |
   = help: write "200" or "200-399"

error: a check cannot use port 0
  --> evenkeel.toml:13:8
   |
13 | port = 0
   |        ^
   |
   = help: write a number from 1 to 65535

error: `healthy_threshold` is 0, which is out of range
  --> evenkeel.toml:14:21
   |
14 | healthy_threshold = 0
   |                     ^
   |
   = help: write a number from 1 to 1000

5 errors, 1 warning in evenkeel.toml
"##,
    );
}

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
fn single_and_double_brackets_mixed_up() {
    refused(
        r##"[listener]
bind = ":80"

[[upstream]]
name = "a"
"##,
        r##"
error: `listener` cannot be a table
 --> evenkeel.toml:1:1
  |
1 | [listener]
  | ^^^^^^^^^^
  |
  = help: write `[[listener]]`, with double brackets: there may be several

error: `upstream` cannot be a list
 --> evenkeel.toml:4:1
  |
4 | [[upstream]]
  | ^^^^^^^^^^^^
  |
  = help: write `[upstream.NAME]`, with single brackets

2 errors in evenkeel.toml
"##,
    );
}

#[test]
fn an_empty_file() {
    refused(
        r##""##,
        r##"
error: no listener
--> evenkeel.toml
 = help: add `[[listener]]` with `bind = "0.0.0.0:8080"`

error: no upstream
--> evenkeel.toml
 = help: add `[upstream.app]` with `servers = ["127.0.0.1:9001"]`

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

#[test]
fn text_that_is_not_toml() {
    refused(
        r##"a = 1 2
b = "x
[c
"##,
        r##"
error: not valid TOML: string values must be quoted
 --> evenkeel.toml:1:5
  |
1 | a = 1 2
  |     ^^^
  |
  = help: expected literal string

error: not valid TOML: invalid basic string
 --> evenkeel.toml:2:7
  |
2 | b = "x
  |       ^
  |
  = help: expected `"`

error: not valid TOML: unclosed table
 --> evenkeel.toml:3:3
  |
3 | [c
  |   ^
  |
  = help: expected `]`

3 errors in evenkeel.toml
"##,
    );
}

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
fn secrets_are_blotted_out() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = "sticky_cookie"
cookie_keys = ["tiny", 5]

[admin]
token = ["topsecret"]
"##,
        r##"
error: cookie key 1 is shorter than 16 characters
 --> evenkeel.toml:7:16
  |
7 | cookie_keys = ["****", *]
  |                ^^^^^^
  |
  = help: make one with `openssl rand -hex 32`

error: `cookie_keys` cannot be a number
 --> evenkeel.toml:7:24
  |
7 | cookie_keys = ["****", *]
  |                        ^
  |
  = help: write text in quotes

error: `token` cannot be a list
  --> evenkeel.toml:10:9
   |
10 | token = ["*********"]
   |         ^^^^^^^^^^^^^
   |
   = help: write text in quotes

3 errors in evenkeel.toml
"##,
    );
}

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

4 errors in evenkeel.toml
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
fn tls_without_what_it_needs() {
    refused(
        r##"[[listener]]
bind = ":8443"
tls = { certificate = { key = "key.pem" }, tickets = "8d", client_auth = { mode = "required" } }
redirect_to_https = { status = 200 }

[[listener]]
bind = ":8080"
hsts = "365d"
tls = "made_up"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `tickets` is out of range
 --> evenkeel.toml:3:54
  |
3 | tls = { certificate = { key = "key.pem" }, tickets = "8d", client_auth = { mode = "required" } }
  |                                                      ^^^^
  |
  = help: write a time from "1m" to "84h", or "off"

error: `redirect_to_https` on a listener with TLS
 --> evenkeel.toml:4:21
  |
4 | redirect_to_https = { status = 200 }
  |                     ^^^^^^^^^^^^^^^^
  |
  = help: set it on the listener for plain HTTP

error: `status` is 200, which does not redirect
 --> evenkeel.toml:4:32
  |
4 | redirect_to_https = { status = 200 }
  |                                ^^^
  |
  = help: write 301, 302, 307 or 308

error: `hsts` on a listener without TLS
 --> evenkeel.toml:8:8
  |
8 | hsts = "365d"
  |        ^^^^^^
  |
  = help: set it on the listener that has `tls`; browsers ignore it elsewhere

error: `tls` cannot be the text "made_up"
 --> evenkeel.toml:9:7
  |
9 | tls = "made_up"
  |       ^^^^^^^^^
  |
  = help: write a table with `certificate`, or "self_signed"

5 errors in evenkeel.toml
"##,
    );
}

#[test]
fn certificate_files_that_are_not_there() {
    refused(
        r##"[[listener]]
bind = ":8443"
tls = { certificate = ["one.pem", { chain = "two.pem", key = "two.key" }], ticket_secrets = ["short"] }

[[listener]]
bind = ":8080"
hsts = { max_age = "1d", preload = true }

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: cannot read `chain` one.pem: entity not found
 --> evenkeel.toml:3:24
  |
3 | tls = { certificate = ["one.pem", { chain = "two.pem", key = "two.key" }], ticket_secrets = ["*****"] }
  |                        ^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: cannot read `chain` two.pem: entity not found
 --> evenkeel.toml:3:45
  |
3 | tls = { certificate = ["one.pem", { chain = "two.pem", key = "two.key" }], ticket_secrets = ["*****"] }
  |                                             ^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: cannot read `key` two.key: entity not found
 --> evenkeel.toml:3:62
  |
3 | tls = { certificate = ["one.pem", { chain = "two.pem", key = "two.key" }], ticket_secrets = ["*****"] }
  |                                                              ^^^^^^^^^
  |
  = help: name a file that the user running evenkeel can read

error: a ticket secret has fewer than 32 characters
 --> evenkeel.toml:3:93
  |
3 | tls = { certificate = ["one.pem", { chain = "two.pem", key = "two.key" }], ticket_secrets = ["*****"] }
  |                                                                                             ^^^^^^^^^
  |
  = help: make one with `openssl rand -hex 32`

error: `hsts` on a listener without TLS
 --> evenkeel.toml:7:8
  |
7 | hsts = { max_age = "1d", preload = true }
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: set it on the listener that has `tls`; browsers ignore it elsewhere

error: `preload` without `include_subdomains` or with a `max_age` below 365 days
 --> evenkeel.toml:7:8
  |
7 | hsts = { max_age = "1d", preload = true }
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: preload lists take neither

6 errors in evenkeel.toml
"##,
    );
}
