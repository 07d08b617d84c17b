//! What a user reads when an upstream is wrong, word for word.

use super::refused_tests::refused;

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
fn tls_with_servers_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.a]
servers = ["127.0.0.1:9001"]
protocol = "h2"

[upstream.b]
servers = ["unix:/run/b.sock"]
protocol = "h2c"
tls = { ca = "/nowhere/ca.pem" }

[upstream.c]
servers = ["127.0.0.1:9001"]
tls = { server_name = "not a name", verify = false }
"##,
        r##"
error: `h2` is HTTP/2 over TLS, and there is no `tls` here
 --> evenkeel.toml:6:12
  |
6 | protocol = "h2"
  |            ^^^^
  |
  = help: add `tls = true`, or write `protocol = "h2c"` for HTTP/2 in clear

error: `h2c` is HTTP/2 in clear, and `tls` is set
  --> evenkeel.toml:10:12
   |
10 | protocol = "h2c"
   |            ^^^^^
   |
   = help: write `protocol = "h2"`, or remove `tls`

error: a server on a Unix socket has no name that its certificate could be for
  --> evenkeel.toml:11:7
   |
11 | tls = { ca = "/nowhere/ca.pem" }
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: add `server_name` to `tls`

error: cannot read `ca` /nowhere/ca.pem: entity not found
  --> evenkeel.toml:11:14
   |
11 | tls = { ca = "/nowhere/ca.pem" }
   |              ^^^^^^^^^^^^^^^^^
   |
   = help: name a file that the user running evenkeel can read

error: `not a name` is neither a host name nor an address
  --> evenkeel.toml:15:23
   |
15 | tls = { server_name = "not a name", verify = false }
   |                       ^^^^^^^^^^^^
   |
   = help: write the name that the server's certificate is for

warning: servers are not verified: whoever gets between them and evenkeel can read and change everything
  --> evenkeel.toml:15:46
   |
15 | tls = { server_name = "not a name", verify = false }
   |                                              ^^^^^
   |
   = help: remove `verify = false`, and name the authority with `ca`

error: no route, and 3 upstreams to choose from
--> evenkeel.toml
 = help: add `[[route]]` with `path = "/"` and `upstream = "a"`

6 errors, 1 warning in evenkeel.toml
"##,
    );
}

#[test]
fn a_client_named_ahead_of_a_connection_that_many_share() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.a]
servers = ["127.0.0.1:9001"]
protocol = "h2c"
send_proxy = "v2"

[upstream.b]
servers = ["127.0.0.1:9001"]
send_proxy = "v3"

[[route]]
upstream = "a"
"##,
        r##"
error: `send_proxy` names one client, and a connection of `h2c` is shared by many
 --> evenkeel.toml:7:14
  |
7 | send_proxy = "v2"
  |              ^^^^
  |
  = help: remove it, or write `protocol = "http1"`

error: unknown send_proxy `v3`
  --> evenkeel.toml:11:14
   |
11 | send_proxy = "v3"
   |              ^^^^
   |
   = help: did you mean `v1`?

2 errors in evenkeel.toml
"##,
    );
}
