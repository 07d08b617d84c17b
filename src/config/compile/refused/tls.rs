//! What a user reads when TLS lacks something, word for word.

use super::refused;

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
