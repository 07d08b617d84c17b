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
