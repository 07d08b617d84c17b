//! What a user reads when what says who may come is wrong, word for word.

use super::Surroundings;
use super::refused;
use crate::config::*;

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

const HASH: &str = "$2b$04$lSC4LR6D83TY8ILJAPbtH.vRcbB5ti5hnIAqnNKRB2YohOZVZXYrq";

fn lines(basic_auth: &str, file: &'static str) -> Vec<String> {
    let read = move |_: &Path| Ok(file.replace("HASH", HASH));
    let around = Surroundings {
        cores: 2,
        descriptors: 20_000,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &read,
    };
    let route = basic_auth.replace("HASH", HASH);
    let text = format!(
        "[[listener]]\nbind = 1\n[[route]]\nupstream = 'u'\nbasic_auth = {route}\n[upstream.u]\nservers = ['127.0.0.1:9001']\n"
    );
    match parse_in(&text, "e.toml", &around) {
        Ok(loaded) => loaded.warnings.lines(),
        Err(report) => {
            assert!(!report.render(false).contains(HASH), "a hash was shown");
            report.lines()
        }
    }
}

#[test]
fn realms_and_users_that_cannot_be() {
    for (basic_auth, problems) in [
        ("{ users = { ann = 'HASH', 'Jörg B.' = 'HASH' } }", &[][..]),
        (
            "{}",
            &[
                "e.toml:5:14: this `basic_auth` lets nobody in (add `users_file = \"/etc/evenkeel/users\"`, which `htpasswd -cB FILE NAME` makes)",
            ],
        ),
        (
            "{ realm = 'a\"b', users = {} }",
            &[
                "e.toml:5:24: `a\\\"b` cannot be a realm (write ASCII characters, without quotes and backslashes)",
                "e.toml:5:39: `users` is empty (write `users = { NAME = \"HASH\" }`)",
            ],
        ),
        (
            "{ users_file = 'x', users = { ann = 'HASH' } }",
            &["e.toml:5:29: this `basic_auth` has `users` and `users_file` (keep one of them)"],
        ),
        (
            "{ users = { ann = 'open', 'a:b' = 'HASH', eve = '$2y$31$lSC4LR6D83TY8ILJAPbtH.vRcbB5ti5hnIAqnNKRB2YohOZVZXYrq' } }",
            &[
                "e.toml:5:40: `a:b` cannot be the name of a user (write 1 to 255 bytes without colons, control characters and outer blanks)",
                "e.toml:5:32: the password of `ann` is not a bcrypt hash (write what `htpasswd -nB ann` prints behind the colon)",
                "e.toml:5:118: the hash of `eve` has a cost of 31, which is out of range (make one with a cost from 4 to 14: `htpasswd -nB -C 12 eve`)",
            ],
        ),
        ("{ users = { ann = 5 } }", &["e.toml:5:32: `ann` cannot be a number (write text in quotes)"]),
    ] {
        let mut said = lines(basic_auth, "");
        let mut problems: Vec<_> = problems.iter().map(|p| (*p).to_owned()).collect();
        said.sort();
        problems.sort();
        assert_eq!(said, problems, "{basic_auth}");
    }
}

#[test]
fn every_bad_line_of_a_users_file_is_named() {
    let said = |file| lines("{ users_file = '/u' }", file);
    assert_eq!(said("# us\r\nann:HASH\r\n\nbob:HASH:the other\n"), [""; 0]);
    assert_eq!(
        said(
            "ann:HASH\nopensesame\nbob:{SHA}x\nann:HASH\n:HASH\neve:$apr1$a$b\nroy:$2x$10$lSC4LR6D83TY8ILJAPbtH.vRcbB5ti5hnIAqnNKRB2YohOZVZXYrq\n"
        ),
        [
            "e.toml:5:29: /u, line 2: this is not `name:hash` (write what `htpasswd -nB NAME` prints)",
            "e.toml:5:29: /u, line 3: the password of `bob` is not a bcrypt hash (write what `htpasswd -nB bob` prints behind the colon)",
            "e.toml:5:29: /u, line 4: user `ann` is there twice, first in line 1 (remove one of the lines)",
            "e.toml:5:29: /u, line 5: `` cannot be the name of a user (write 1 to 255 bytes without colons, control characters and outer blanks)",
            "e.toml:5:29: /u, line 6: the password of `eve` is not a bcrypt hash (write what `htpasswd -nB eve` prints behind the colon)",
            "e.toml:5:29: /u, line 7: the password of `roy` is not a bcrypt hash (write what `htpasswd -nB roy` prints behind the colon)",
        ]
    );
    assert_eq!(said("\n# none\n"), ["e.toml:5:29: /u has no user (add one with `htpasswd -B FILE NAME`)"]);
}
