//! What a user reads when a file is not what TOML or the keys allow, word for word.

use super::refused;

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
