//! What a user reads when a shadow is wrong, word for word.

use super::refused;

#[test]
fn too_many_twice_and_no_name() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
shadow = ["first", "ip_hash", { ip_hash = { max_load = 1.25 } }, { ip_hash = {} }, "hash"]
shadow_cookie = "a b"

[upstream.pay]
servers = ["127.0.0.1:9001"]
shadow = ["ip_hsh"]
"##,
        r##"
error: `shadow` has 5 policies
 --> evenkeel.toml:6:10
  |
6 | shadow = ["first", "ip_hash", { ip_hash = { max_load = 1.25 } }, { ip_hash = {} }, "hash"]
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: each is asked for every request: write 4 at most

error: `ip_hash` is there twice
 --> evenkeel.toml:6:66
  |
6 | shadow = ["first", "ip_hash", { ip_hash = { max_load = 1.25 } }, { ip_hash = {} }, "hash"]
  |                                                                  ^^^^^^^^^^^^^^^^
  |
  = help: remove one, or give it other options

error: `a b` is no name for a cookie
 --> evenkeel.toml:7:17
  |
7 | shadow_cookie = "a b"
  |                 ^^^^^
  |
  = help: write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~

error: unknown shadow `ip_hsh`
  --> evenkeel.toml:11:11
   |
11 | shadow = ["ip_hsh"]
   |           ^^^^^^^^
   |
   = help: did you mean `ip_hash`?

4 errors in evenkeel.toml
"##,
    );
}
