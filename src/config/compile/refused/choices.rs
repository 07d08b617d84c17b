//! What a user reads when a policy, a check or a protocol is wrong, word for word.

use super::refused;

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
fn an_address_that_is_spread_without_a_bound() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001", "127.0.0.1:9002"]
policy = { ip_hash = { hot_keys = "spread" } }
"##,
        r##"
error: `hot_keys = "spread"` spreads an address while its server is above `max_load`, and there is none
 --> evenkeel.toml:6:10
  |
6 | policy = { ip_hash = { hot_keys = "spread" } }
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: set `max_load = 1.25` beside it, or write `hot_keys = "report"`

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
fn protocols_that_are_none_and_their_options() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.a]
servers = ["127.0.0.1:9001"]
protocol = { h2c = { max_streams = 0, ping = "0s" } }

[upstream.b]
servers = ["127.0.0.1:9001"]
protocol = "http2"
"##,
        r##"
error: `max_streams` is 0, which is out of range
 --> evenkeel.toml:6:36
  |
6 | protocol = { h2c = { max_streams = 0, ping = "0s" } }
  |                                    ^
  |
  = help: write a number from 1 to 10000

error: `ping` is zero
 --> evenkeel.toml:6:46
  |
6 | protocol = { h2c = { max_streams = 0, ping = "0s" } }
  |                                              ^^^^
  |
  = help: write a duration above zero, such as "5s"

error: unknown protocol `http2`
  --> evenkeel.toml:10:12
   |
10 | protocol = "http2"
   |            ^^^^^^^
   |
   = help: did you mean `http1`?

3 errors in evenkeel.toml
"##,
    );
}

#[test]
fn a_moment_at_which_no_session_is_moved() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
drain = { move_sessions = "always" }
"##,
        r##"
error: unknown move_sessions `always`
 --> evenkeel.toml:6:27
  |
6 | drain = { move_sessions = "always" }
  |                           ^^^^^^^^
  |
  = help: known names: never, navigation

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn options_of_a_cookie_that_evenkeel_does_not_set() {
    refused(
        r##"
[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
policy = { sticky_cookie = { learn = "sid", path = "/shop" } }

[upstream.cart]
servers = ["127.0.0.1:9002"]
policy = { sticky_cookie = { learn = "sid", route = { cookie = "sid" } } }

[upstream.room]
servers = ["127.0.0.1:9003"]
policy = { sticky_cookie = { route = { cookie = "sid", after = ", " } } }
"##,
        r##"
error: `path` is of evenkeel's own cookie, and with `learn` there is none
 --> evenkeel.toml:7:28
  |
7 | policy = { sticky_cookie = { learn = "sid", path = "/shop" } }
  |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write no `path`, the application says that of its cookie

error: `learn` and `route` are two ways to one end
  --> evenkeel.toml:11:28
   |
11 | policy = { sticky_cookie = { learn = "sid", route = { cookie = "sid" } } }
   |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write `route` if the application's cookie names the server, else `learn`

error: `, ` cannot stand before the name of a server
  --> evenkeel.toml:15:64
   |
15 | policy = { sticky_cookie = { route = { cookie = "sid", after = ", " } } }
   |                                                                ^^^^
   |
   = help: write one of .!~:|-_ or another mark, but none of ;,"\

3 errors in evenkeel.toml
"##,
    );
}
