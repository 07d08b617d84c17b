//! What a user reads when what says who may come is wrong, word for word.

use super::refused_tests::refused;

#[test]
fn networks_that_let_nobody_in() {
    refused(
        r##"[[listener]]
bind = ":8080"
allow = []
deny = "10.1.2.3/8"

[[route]]
allow = ["office", "::ffff:10.0.0.0/104"]
deny = []
upstream = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `allow` is empty
 --> evenkeel.toml:3:9
  |
3 | allow = []
  |         ^^
  |
  = help: name a network, or leave the key out

warning: `10.1.2.3/8` has bits beyond its prefix length, which are ignored
 --> evenkeel.toml:4:8
  |
4 | deny = "10.1.2.3/8"
  |        ^^^^^^^^^^^^
  |
  = help: write "10.0.0.0/8"

error: `office` is not a network
 --> evenkeel.toml:7:10
  |
7 | allow = ["office", "::ffff:10.0.0.0/104"]
  |          ^^^^^^^^
  |
  = help: write an address and a prefix length, such as "10.0.0.0/8"

error: `::ffff:10.0.0.0/104` is a network of IPv4 in the form of IPv6
 --> evenkeel.toml:7:20
  |
7 | allow = ["office", "::ffff:10.0.0.0/104"]
  |                    ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write "10.0.0.0/8"

error: `deny` is empty
 --> evenkeel.toml:8:8
  |
8 | deny = []
  |        ^^
  |
  = help: name a network, or leave the key out

4 errors, 1 warning in evenkeel.toml
"##,
    );
}
