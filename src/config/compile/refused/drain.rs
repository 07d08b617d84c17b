//! What a user reads when the drain of an upstream is wrong, word for word.

use super::refused;

#[test]
fn asking_where_nobody_listens() {
    refused(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
drain = { on_check = true }

[upstream.search]
servers = ["127.0.0.1:9002"]
check = "http"
drain = { on_check = "404", on_headers = true }
"##,
        r##"
error: `on_check` hears what an HTTP check is told, and the check is "tcp"
 --> evenkeel.toml:6:22
  |
6 | drain = { on_check = true }
  |                      ^^^^
  |
  = help: write `check = "http"`, or remove it

error: `on_check` cannot be the text "404"
  --> evenkeel.toml:11:22
   |
11 | drain = { on_check = "404", on_headers = true }
   |                      ^^^^^
   |
   = help: write true or false

error: unknown key `on_headers`
  --> evenkeel.toml:11:29
   |
11 | drain = { on_check = "404", on_headers = true }
   |                             ^^^^^^^^^^
   |
   = help: did you mean `on_header`?

3 errors in evenkeel.toml
"##,
    );
}
