//! What a user reads when the rules of ejection, a slow start or a backup are wrong, word for word.

use super::refused;

#[test]
fn numbers_and_statuses_out_of_range() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[upstream.shop.outliers]
failure_percent = 101
statuses = [404, 503]
window = "0s"
max_ejected_percent = 0
trial_requests = 1001
"##,
        r##"
error: `failure_percent` is 101, which is out of range
 --> evenkeel.toml:8:19
  |
8 | failure_percent = 101
  |                   ^^^
  |
  = help: write a number from 0 to 100

error: an answer with status 404 is no failure of a server
 --> evenkeel.toml:9:13
  |
9 | statuses = [404, 503]
  |             ^^^
  |
  = help: write statuses from 500 to 599

error: `window` is zero
  --> evenkeel.toml:10:10
   |
10 | window = "0s"
   |          ^^^^
   |
   = help: write a duration above zero, such as "5s"

error: `max_ejected_percent` is 0, which is out of range
  --> evenkeel.toml:11:23
   |
11 | max_ejected_percent = 0
   |                       ^
   |
   = help: write a number from 1 to 100

error: `trial_requests` is 1001, which is out of range
  --> evenkeel.toml:12:18
   |
12 | trial_requests = 1001
   |                  ^^^^
   |
   = help: write a number from 0 to 1000

5 errors in evenkeel.toml
"##,
    );
}

#[test]
fn neither_a_table_nor_true_nor_false() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
outliers = "off"
"##,
        r##"
error: `outliers` cannot be the text "off"
 --> evenkeel.toml:6:12
  |
6 | outliers = "off"
  |            ^^^^^
  |
  = help: write true, false or a table of options

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn a_misspelt_key() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
outliers = { consecutive_errors = 5 }
"##,
        r##"
error: unknown key `consecutive_errors`
 --> evenkeel.toml:6:14
  |
6 | outliers = { consecutive_errors = 5 }
  |              ^^^^^^^^^^^^^^^^^^
  |
  = help: known keys here: consecutive_failures, failure_percent, min_requests, window, statuses, ejection, max_ejection, max_ejected_percent, trial_requests

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn a_slow_start_that_is_no_time() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
slow_start = true
"##,
        r##"
error: `slow_start` cannot be the boolean true
 --> evenkeel.toml:6:14
  |
6 | slow_start = true
  |              ^^^^
  |
  = help: write a duration in quotes, such as "30s", or "off"

1 error in evenkeel.toml
"##,
    );
}

#[test]
fn a_backup_that_is_no_yes_or_no() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[upstream.shop.server]]
address = "127.0.0.1:9001"
backup = "yes"
"##,
        r##"
error: `backup` cannot be the text "yes"
 --> evenkeel.toml:6:10
  |
6 | backup = "yes"
  |          ^^^^^
  |
  = help: write true or false

1 error in evenkeel.toml
"##,
    );
}
