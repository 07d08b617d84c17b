//! What a user reads when something is hardly what was meant, word for word.

use super::super::tests::good;

/// Checks the warnings that `text` leads to.
fn warned(text: &str, expected: &str) {
    let report = good(text).warnings.to_string();
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}

/// The messages alone.
fn messages(text: &str) -> Vec<String> {
    good(text).warnings.entries().iter().map(|e| e.message.to_owned()).collect()
}

#[test]
fn routes_that_no_request_comes_to() {
    warned(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/api"
upstream = "shop"

[[route]]
path = { regex = "^/" }
upstream = "shop"

[[route]]
path = { regex = '\.php$' }
respond = 410

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
warning: no request comes to the route `*/api`: another one takes them all
 --> test.toml:4:1
  |
4 | [[route]]
  | ^^^^^^^^^
...
8 | [[route]]
  | --------- this one is asked first
  |
  = help: write it as a regular expression before the other one, or give that one conditions

warning: no request comes to the route `*~\.php$`: another one takes them all
  --> test.toml:12:1
   |
 8 | [[route]]
   | --------- this one is asked first
...
12 | [[route]]
   | ^^^^^^^^^
   |
   = help: put it first, or give the other one conditions

2 warnings in test.toml
"##,
    );
}

#[test]
fn a_route_that_some_request_comes_to_is_no_cause_for_a_warning() {
    let top = "[[listener]]\nname = 'a'\nbind = ':1'\n[[listener]]\nname = 'b'\nbind = ':2'\n\
               [upstream.shop]\nservers = ['a:1']\n";
    let route = |keys: &str| format!("[[route]]\nupstream = 'shop'\n{keys}\n");
    let two = |first: &str, second: &str| messages(&format!("{top}{}{}", route(first), route(second)));
    let everything = "path = { regex = '^/' }";
    let shadowed = |second: &str| [format!("no request comes to the route `{second}`: another one takes them all")];
    for (first, second, told) in [
        (everything, "name = 'x'\npath = '/x'", true),
        (everything, "name = 'x'\npath = '/x'\nmethod = 'GET'", true),
        (everything, "name = 'x'\npath = '/x'\nlistener = 'b'", true),
        ("name = 'x'\npath = '/x'", everything, true),
        (
            "path = { regex = '[.]php$' }\nmethod = 'GET'",
            "name = 'x'\npath = { regex = '[.]php$' }\nmethod = 'GET'\nquery = { a = '1' }",
            true,
        ),
        // Exact paths are asked before.
        (everything, "path = { exact = '/x' }", false),
        // The other one has conditions, hosts or listeners of its own.
        ("path = { regex = '^/' }\nmethod = 'POST'", "path = '/x'", false),
        ("path = { regex = '^/' }\nheader = { X-A = '1' }", "path = '/x'\nheader = { X-A = '2' }", false),
        ("path = { regex = '^/' }\nsource = '10.0.0.0/8'", "path = '/x'", false),
        ("path = { regex = '^/' }\nhost = 'a.example'", "path = '/x'", false),
        ("path = { regex = '^/' }\nlistener = 'a'", "path = '/x'", false),
        // It is asked later, or takes less.
        ("path = { regex = '[.]php$' }", everything, false),
        ("path = { regex = '[.]php$' }", "path = '/x'", false),
        ("path = '/'", "path = '/x'", false),
    ] {
        let messages = two(first, second);
        if told {
            assert_eq!(messages, shadowed("x"), "{first} | {second}");
        } else {
            assert_eq!(messages, [""; 0], "{first} | {second}");
        }
    }
}

#[test]
fn litmus_that_looks_for_little() {
    warned(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
litmus = { percent = 1 }
servers = ["127.0.0.1:9001"]
"##,
        r##"
warning: `litmus` sees 401, 403 and 5xx only: no session cookie, login or body is named
 --> test.toml:5:10
  |
5 | litmus = { percent = 1 }
  |          ^^^^^^^^^^^^^^^
  |
  = help: name what users have: cookies = ["session"], login = "/login", same_body = ["/account"]

1 warning in test.toml
"##,
    );
    let with = |litmus: &str| {
        messages(&format!("[[listener]]\nbind = ':1'\n[upstream.shop]\nlitmus = {litmus}\nservers = ['a:1']\n"))
    };
    assert_eq!(with("true").len(), 1);
    for litmus in ["false", "{ cookies = ['sid'] }", "{ login = '/login' }", "{ same_body = ['/'] }"] {
        assert_eq!(with(litmus), [""; 0], "{litmus}");
    }
}

#[test]
fn sticky_upstreams_that_overwrite_each_others_cookies() {
    warned(
        r##"state_dir = "/var/lib/evenkeel"

[[listener]]
bind = ":8080"

[[route]]
host = "shop.example.com"
upstream = "shop"

[[route]]
host = "*.example.com"
path = "/beta"
upstream = "beta"

[upstream.shop]
policy = "sticky_cookie"
servers = ["127.0.0.1:9001"]

[upstream.beta]
policy = { sticky_cookie = { idle = "1h" } }
servers = ["127.0.0.1:9002"]
"##,
        r##"
warning: upstream `beta` and upstream `shop` set one cookie, `evenkeel`, for the same host
  --> test.toml:20:10
   |
16 | policy = "sticky_cookie"
   |          --------------- the other cookie
...
20 | policy = { sticky_cookie = { idle = "1h" } }
   |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: give it a cookie of its own: policy = { sticky_cookie = { name = "evenkeel_beta" } }

1 warning in test.toml
"##,
    );
}

#[test]
fn hot_keys_whose_cookie_is_that_of_another() {
    warned(
        r##"state_dir = "/var/lib/evenkeel"

[[listener]]
bind = ":8080"

[[route]]
path = "/beta"
upstream = "beta"

[[route]]
upstream = "shop"

[upstream.shop]
policy = { ip_hash = { max_load = 1.25, hot_keys = { spread = { cookie = "user" } } } }
servers = ["127.0.0.1:9001"]

[upstream.beta]
policy = { sticky_cookie = { name = "user" } }
servers = ["127.0.0.1:9002"]
"##,
        r##"
warning: `hot_keys` of upstream `shop` and upstream `beta` set one cookie, `user`, for the same host
  --> test.toml:14:10
   |
14 | policy = { ip_hash = { max_load = 1.25, hot_keys = { spread = { cookie = "user" } } } }
   |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
...
18 | policy = { sticky_cookie = { name = "user" } }
   |          ------------------------------------- the other cookie
   |
   = help: give it a cookie of its own: hot_keys = { spread = { cookie = "user_hot" } }

1 warning in test.toml
"##,
    );
    let top = "state_dir = '/x'\n[[listener]]\nbind = ':1'\n";
    let two = |one: &str, other: &str| {
        let routes = "[[route]]\npath = '/o'\nupstream = 'o'\n[[route]]\nupstream = 'u'\n";
        messages(&format!(
            "{top}{routes}[upstream.u]\nservers = ['a:1']\n{one}\n[upstream.o]\nservers = ['b:1']\n{other}\n"
        ))
    };
    let hot = "policy = { ip_hash = { max_load = 1.25, hot_keys = 'spread' } }";
    let sticky = |name: &str| format!("policy = {{ sticky_cookie = {{ name = '{name}' }} }}");
    assert_eq!(two(hot, hot), [""; 0], "one number is enough for both");
    assert_eq!(
        two(hot, &sticky("evenkeel_user")),
        ["`hot_keys` of upstream `u` and upstream `o` set one cookie, `evenkeel_user`, for the same host"]
    );
    let report = "policy = { ip_hash = { hot_keys = 'report' } }";
    assert_eq!(two(report, &sticky("evenkeel_user")), [""; 0], "without spreading there is none");
    let litmus = "litmus = { cookies = ['sid'] }";
    assert_eq!(two(litmus, litmus), [""; 0]);
    assert_eq!(
        two(litmus, &sticky("evenkeel_litmus")),
        ["upstream `o` and `litmus` of upstream `u` set one cookie, `evenkeel_litmus`, for the same host"]
    );
    let split =
        "[[route]]\nhost = 'a.example'\nsplit = ['u', 'o']\nsplit_by = { cookie = { name = 'evenkeel_user' } }\n";
    let split = split.replace("'u', 'o'", "{ upstream = 'u' }, { upstream = 'o' }");
    assert_eq!(
        messages(&format!("{top}{split}[upstream.u]\nservers = ['a:1']\n{hot}\n[upstream.o]\nservers = ['b:1']\n")),
        ["`hot_keys` of upstream `u` and the split of this route set one cookie, `evenkeel_user`, for the same host"]
    );
}

#[test]
fn a_split_whose_cookie_is_that_of_an_upstream() {
    warned(
        r##"state_dir = "/var/lib/evenkeel"

[[listener]]
bind = ":8080"

[[route]]
split = [{ upstream = "shop" }, { upstream = "beta" }]
split_by = { cookie = { name = "evenkeel" } }

[upstream.shop]
policy = "sticky_cookie"
servers = ["127.0.0.1:9001"]

[upstream.beta]
policy = { sticky_cookie = { name = "beta" } }
servers = ["127.0.0.1:9002"]
"##,
        r##"
warning: the split of this route and upstream `shop` set one cookie, `evenkeel`, for the same host
  --> test.toml:6:1
   |
 6 | [[route]]
   | ^^^^^^^^^
...
11 | policy = "sticky_cookie"
   |          --------------- the other cookie
   |
   = help: give it a cookie of its own: split_by = { cookie = { name = "evenkeel_split" } }

1 warning in test.toml
"##,
    );
}

#[test]
fn cookies_that_do_not_meet_are_no_cause_for_a_warning() {
    let top = "state_dir = '/s'\n[[listener]]\nname = 'a'\nbind = ':1'\n[[listener]]\nname = 'b'\nbind = ':2'\n";
    let sticky = |name: &str, options: &str| {
        format!("[upstream.{name}]\nservers = ['a:1']\npolicy = {{ sticky_cookie = {{ {options} }} }}\n")
    };
    let two = |one: (&str, &str), other: (&str, &str)| {
        let route = |name: &str, keys: &str| format!("[[route]]\npath = '/{name}'\nupstream = '{name}'\n{keys}\n");
        let routes = format!("{}{}", route("one", one.0), route("other", other.0));
        messages(&format!("{top}{routes}{}{}", sticky("one", one.1), sticky("other", other.1)))
    };
    for (one, other, told) in [
        (("", ""), ("", ""), true),
        (("host = 'x.a'", ""), ("host = 'X.A'", ""), true),
        (("host = 'x.a'", ""), ("", ""), true),
        // A cookie is not kept to a port.
        (("host = 'x.a'\nlistener = 'a'", ""), ("host = 'x.a'\nlistener = 'b'", ""), true),
        (("host = 'x.a'", "domain = 'a'"), ("host = 'y.a'", "domain = 'a'"), true),
        (("host = 'x.a'", "domain = 'a'"), ("host = 'y.a'", ""), true),
        (("host = ['u', 'v']", ""), ("host = ['v', 'w']", ""), true),
        (("host = 'x.a'", ""), ("host = 'y.a'", ""), false),
        (("host = '*.x.a'", ""), ("host = '*.y.a'", ""), false),
        (("listener = 'a'", ""), ("listener = 'b'", ""), false),
        (("", "name = 'one'"), ("", ""), false),
        (("", "path = '/one'"), ("", "path = '/other'"), false),
    ] {
        let wanted = if told {
            vec!["upstream `other` and upstream `one` set one cookie, `evenkeel`, for the same host"]
        } else {
            vec![]
        };
        assert_eq!(two(one, other), wanted, "{one:?} {other:?}");
    }
    // Splits share theirs: that is what makes them agree.
    let split = "[[route]]\nsplit = [{ upstream = 'one' }, { upstream = 'other' }]\n";
    let own = format!("{}{}", sticky("one", "name = 'one'"), sticky("other", "name = 'other'"));
    assert_eq!(messages(&format!("{top}{split}{split}path = '/x'\n{own}")), [""; 0]);
    assert_eq!(
        messages(&format!("{top}{split}{}{}", sticky("one", ""), sticky("other", ""))),
        ["upstream `other` and upstream `one` set one cookie, `evenkeel`, for the same host"]
    );
}

#[test]
fn a_spread_that_does_not_fit_into_its_deadline() {
    warned(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]

[upstream.shop.drain]
in_flight = "5s"
close_spread = "20s"
"##,
        r##"
warning: `close_spread` is longer than `in_flight`, in which it lies
 --> test.toml:9:16
  |
9 | close_spread = "20s"
  |                ^^^^^
  |
  = help: write a shorter one, or raise `in_flight`

1 warning in test.toml
"##,
    );
}

#[test]
fn ejections_that_never_come() {
    let with = |outliers: &str| {
        format!("[[listener]]\nbind = ':80'\n[upstream.shop]\nservers = ['a:1', 'b:1']\noutliers = {outliers}\n")
    };
    assert_eq!(messages(&with("true")), [""; 0]);
    assert_eq!(messages(&with("{ ejection = '10m' }")), ["`ejection` is longer than `max_ejection`, which bounds it"]);
    assert_eq!(
        messages(&with("{ max_ejected_percent = 10 }")),
        ["10 % of 2 servers is less than one: none is ever ejected"]
    );
    assert_eq!(
        messages(&with("{ consecutive_failures = 0, failure_percent = 0 }")),
        ["`consecutive_failures` and `failure_percent` are both 0: nothing would eject a server"]
    );
}

#[test]
fn sessions_that_nobody_has() {
    warned(
        r##"[[listener]]
bind = ":8080"

[upstream.shop]
servers = ["127.0.0.1:9001"]
drain = { move_sessions = "navigation" }
"##,
        r##"
warning: `move_sessions` is set, and this upstream has no sessions
 --> test.toml:6:27
  |
6 | drain = { move_sessions = "navigation" }
  |                           ^^^^^^^^^^^^
  |
  = help: set `policy = "sticky_cookie"`, or remove it

1 warning in test.toml
"##,
    );
}

#[test]
fn first_without_a_limit() {
    let with = |keys: &str| format!("[[listener]]\nbind = ':80'\n[upstream.shop]\nservers = ['a:1', 'b:1']\n{keys}\n");
    let everything = ["`first` without `max_requests` sends everything to the first server"];
    assert_eq!(messages(&with("policy = 'first'")), everything);
    assert_eq!(messages(&with("policy = 'first'\nmax_requests = 9")), [""; 0]);
    assert_eq!(messages(&with("policy = 'first'").replace(", 'b:1'", "")), [""; 0]);
}

#[test]
fn a_slow_start_that_would_move_clients() {
    let with = |keys: &str| format!("[[listener]]\nbind = ':80'\n[upstream.shop]\nservers = ['a:1']\n{keys}\n");
    let nothing = ["`slow_start` does nothing here: `ip_hash` keeps clients where they belong"];
    assert_eq!(messages(&with("policy = 'ip_hash'")), [""; 0]);
    assert_eq!(messages(&with("policy = 'ip_hash'\nslow_start = '5s'")), nothing);
    assert_eq!(messages(&with("policy = 'ip_hash'\nslow_start = 'off'")), [""; 0]);
    assert_eq!(messages(&with("policy = 'ip_hash'\nslow_start = '5s'\nmax_requests = 9")), nothing);
    let bounded = "policy = { ip_hash = { max_load = 2 } }\nslow_start = '5s'\nmax_requests = 9";
    assert_eq!(messages(&with(bounded)), [""; 0], "who finds it full goes elsewhere");
    assert_eq!(messages(&with("slow_start = '5s'")), [""; 0]);
    assert_eq!(good(&with("slow_start = '0s'")).plan.upstreams[0].slow_start, None);
}

#[test]
fn backups_of_nobody() {
    let server = |name: &str| format!("[[upstream.shop.server]]\naddress = '{name}:1'\nbackup = true\n");
    let text = format!("[[listener]]\nbind = ':80'\n{}", server("a"));
    assert_eq!(messages(&text), ["all servers of upstream `shop` are backups: `backup` says nothing then"]);
    let one = format!("{text}{}", server("b").replace("backup = true", "backup = false"));
    assert_eq!(messages(&one), [""; 0]);
}

#[test]
fn a_drain_that_only_an_operator_can_end() {
    let with = |keys: &str| format!("[[listener]]\nbind = ':80'\n[upstream.shop]\nservers = ['a:1']\n{keys}\n");
    let asked =
        "a server that has asked by its header comes back once its check has failed and passed, and `check` is \"off\"";
    assert_eq!(messages(&with("check = 'off'\ndrain = { on_header = true }")), [asked]);
    assert_eq!(messages(&with("drain = { on_header = true }")), [""; 0]);
}

#[test]
fn a_shadow_cookie_that_nobody_looks_at() {
    let upstream = |keys: &str| {
        messages(&format!(
            "[[listener]]\nbind = ':80'\n[upstream.u]\nservers = ['127.0.0.1:1']\nshadow_cookie = 'sid'\n{keys}"
        ))
    };
    assert_eq!(upstream(""), ["`shadow_cookie` has nothing to do without `shadow`"]);
    assert_eq!(upstream("shadow = ['ip_hash']"), [""; 0]);
    let sticky = upstream("shadow = ['ip_hash']\npolicy = 'sticky_cookie'\ncookie_keys = ['0123456789abcdef']");
    assert_eq!(sticky, ["`shadow_cookie` is not looked at where the policy has sessions of its own"]);
}
