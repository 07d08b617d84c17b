//! What a user reads when `[debug]` is wrong, word for word.

use super::refused;

#[test]
fn keys_and_numbers() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[debug]
remember = 100001
key = "short"
key_file = "/etc/evenkeel/debug.key"
remeber = 5
"##,
        r##"
error: `remember` is 100001, which is out of range
 --> evenkeel.toml:8:12
  |
8 | remember = 100001
  |            ^^^^^^
  |
  = help: write a number from 0 to 100000

error: the key has 5 characters: it is to have 16 or more
 --> evenkeel.toml:9:7
  |
9 | key = "short"
  |       ^^^^^^^
  |
  = help: make one with `openssl rand -hex 32`

error: `key` and `key_file` are both set
  --> evenkeel.toml:10:12
   |
 9 | key = "short"
   |       ------- first used here
10 | key_file = "/etc/evenkeel/debug.key"
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: keep one of them

error: unknown key `remeber`
  --> evenkeel.toml:11:1
   |
11 | remeber = 5
   | ^^^^^^^
   |
   = help: did you mean `remember`?

4 errors in evenkeel.toml
"##,
    );
}
