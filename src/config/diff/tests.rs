use super::super::parse;
use super::*;

const BASE: &str = "\
cores = 1
[log]
level = 'info'
[[listener]]
name = 'web'
bind = '127.0.0.1:8080'
[[listener]]
bind = '127.0.0.1:8081'
[[route]]
name = 'all'
upstream = 'shop'
[[route]]
name = 'admin'
path = '/admin'
upstream = 'admin'
[upstream.shop]
state = 'x'
[[upstream.shop.server]]
name = 'a'
address = '127.0.0.1:9001'
[[upstream.shop.server]]
name = 'b'
address = '127.0.0.1:9002'
[upstream.admin]
servers = ['127.0.0.1:9003']
";

fn plan(text: &str) -> Plan {
    parse(text, "t").unwrap_or_else(|report| panic!("{report}")).plan
}

/// The difference after replacing texts of the base.
fn after(edits: &[(&str, &str)]) -> Diff {
    let base = BASE.replace("state = 'x'\n", "policy = 'round_robin'\n");
    let mut text = base.clone();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    diff(&plan(&base), &plan(&text))
}

fn lines(diff: &Diff) -> Vec<String> {
    diff.changes.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_changes_between_equal_plans() {
    let diff = after(&[]);
    assert!(diff.is_empty());
    assert_eq!(diff.sockets, Sockets { open: vec![], close: vec![], keep: vec![(0, 0), (1, 1)] });
}

#[test]
fn servers_come_go_and_change() {
    let diff = after(&[
        ("name = 'b'\naddress = '127.0.0.1:9002'", "name = 'c'\naddress = '127.0.0.1:9004'"),
        ("9001'", "9005'\nweight = 3"),
    ]);
    assert_eq!(
        lines(&diff),
        [
            "upstream shop: server a: address 127.0.0.1:9001 → 127.0.0.1:9005",
            "upstream shop: server a: weight 1 → 3",
            "upstream shop: server b removed",
            "upstream shop: server c added",
        ]
    );
    assert_eq!(diff.changes[3].subject, Subject::Server { upstream: "shop".into(), server: "c".into() });
    assert!(diff.needs_restart.is_empty());
}

#[test]
fn options_of_upstreams_change() {
    let diff = after(&[(
        "policy = 'round_robin'",
        "policy = 'ip_hash'\nshadow = ['first']\nshadow_cookie = 'sid'\nprotocol = 'h2c'\ncheck = 'off'\nfail_open = false\nslow_start = 'off'\ntimeouts = { request = '5s' }\n\
         pool = { max_requests = 10 }\nretry = { attempts = 0 }\noutliers = false\ndrain = { in_flight = '1m', close_spread = '2s', move_sessions = 'navigation' }\nmax_sessions = 5",
    )]);
    assert_eq!(
        lines(&diff),
        [
            "upstream shop: policy round_robin → ip_hash",
            "upstream shop: shadow changed",
            "upstream shop: shadow_cookie changed",
            "upstream shop: protocol http1 → h2c",
            "upstream shop: check tcp → off",
            "upstream shop: fail_open true → false",
            "upstream shop: slow_start 10s → off",
            "upstream shop: timeouts.request off → 5s",
            "upstream shop: pool.max_requests unlimited → 10",
            "upstream shop: retry.attempts 2 → 0",
            "upstream shop: outliers on → off",
            "upstream shop: drain.in_flight 30s → 1m",
            "upstream shop: drain.close_spread 10s → 2s",
            "upstream shop: drain.move_sessions never → navigation",
            "upstream shop: max_sessions 131072 → 5",
        ]
    );
    let old = BASE.replace("state = 'x'", "policy = 'sticky_cookie'\ncookie_keys = ['first-secret-first']");
    let new = BASE.replace(
        "state = 'x'",
        "policy = { sticky_cookie = { new_clients = 'ip_hash' } }\ncheck = { tcp = { interval = '9s' } }\n\
         cookie_keys = ['second-secret-second', 'first-secret-first']\nsend_proxy = 'v2'\n\
         outliers = { consecutive_failures = 9, statuses = [500], ejection = '1m' }",
    );
    let diff = super::diff(&plan(&old), &plan(&new));
    assert_eq!(
        lines(&diff),
        [
            "upstream shop: policy options changed",
            "upstream shop: send_proxy off → v2",
            "upstream shop: check options changed",
            "upstream shop: outliers.consecutive_failures 5 → 9",
            "upstream shop: outliers.statuses changed",
            "upstream shop: outliers.ejection 30s → 1m",
            "upstream shop: cookie_keys changed"
        ]
    );
    assert!(!format!("{diff:?}").contains("secret"), "secrets are not shown");
}

#[test]
fn routes_and_upstreams_come_go_and_change() {
    let diff = after(&[
        ("name = 'all'", "name = 'everything'\nstrip_prefix = true"),
        (
            "path = '/admin'\nupstream = 'admin'",
            "path = '/ops'\nhost = 'ops.example'\nlistener = 'web'\nupstream = 'ops'",
        ),
        ("[upstream.admin]", "[upstream.ops]"),
    ]);
    assert_eq!(
        lines(&diff),
        [
            "route all removed",
            "route admin: listener changed",
            "route admin: host any → ops.example",
            "route admin: path /admin → /ops",
            "route admin: upstream admin → ops",
            "route everything added",
            "upstream admin removed",
            "upstream ops added",
        ]
    );
}

#[test]
fn what_routes_take_and_do_changes() {
    let base = BASE.replace("state = 'x'\n", "policy = 'round_robin'\n");
    let to = |before: &str, after: &str| {
        let with =
            |keys: &str| plan(&base.replace("name = 'all'\nupstream = 'shop'", &format!("name = 'all'\n{keys}")));
        lines(&diff(&with(before), &with(after)))
    };
    let upstream = |keys: &str| format!("upstream = 'shop'\n{keys}");
    for (before, after, told) in [
        // From one action to another.
        ("upstream = 'shop'", "redirect = '/x'", "leads to upstream shop → redirect 302 /x"),
        ("redirect = '/x'", "respond = 410", "leads to redirect 302 /x → respond 410"),
        ("respond = 200", "upstream = 'shop'", "leads to respond 200 → upstream shop"),
        ("upstream = 'shop'", "split = [{ upstream = 'shop' }]", "leads to upstream shop → split shop 1"),
        // Within one.
        ("redirect = '/x'", "redirect = { to = '/x', status = 301 }", "leads to redirect 302 /x → redirect 301 /x"),
        ("redirect = '/{host}'", "redirect = '/{path}'", "leads to redirect 302 /{host} → redirect 302 /{path}"),
        ("respond = { body = 'a' }", "respond = { body = 'b' }", "answer changed"),
        ("respond = { body = 'a' }", "respond = { body = 'a', content_type = 'a/b' }", "answer changed"),
        (
            "split = [{ upstream = 'shop', weight = 95 }, { upstream = 'admin', weight = 5 }]",
            "split = [{ upstream = 'shop', weight = 90 }, { upstream = 'admin', weight = 10 }]",
            "split shop 95, admin 5 → shop 90, admin 10",
        ),
        (
            "split = [{ upstream = 'shop' }]",
            "split = [{ upstream = 'shop' }]\nsplit_by = 'address'",
            "split_by cookie → address",
        ),
        (
            "split = [{ upstream = 'shop' }]",
            "split = [{ upstream = 'shop' }]\nsplit_by = { cookie = { name = 'x' } }",
            "split_by options changed",
        ),
    ] {
        assert_eq!(to(before, after), [format!("route all: {told}")], "{before} | {after}");
        assert_eq!(to(before, before), [""; 0]);
    }
    for (before, after, told) in [
        ("", "rewrite = { prefix = '/v2' }", "rewrite changed"),
        ("strip_prefix = true", "rewrite = { prefix = '/v2' }", "rewrite changed"),
        ("rewrite = { regex = 'a', to = '/b' }", "rewrite = { regex = 'a', to = '/c' }", "rewrite changed"),
        ("", "method = 'GET'", "conditions changed"),
        ("method = ['GET', 'PUT']", "method = 'GET'", "conditions changed"),
        ("header = { X-A = '1' }", "header = { X-A = { regex = '1' } }", "conditions changed"),
        ("query = { a = '1' }", "query = { a = { present = true } }", "conditions changed"),
        ("source = '10.0.0.0/8'", "source = '10.0.0.0/9'", "conditions changed"),
        ("path = '/a'", "path = { exact = '/a' }", "path /a → =/a"),
        ("path = { regex = 'a' }", "path = { regex = 'b' }", "path ~a → ~b"),
        ("", "upstream_host = 'a'", "upstream_host changed"),
        ("", "request_headers = { remove = ['a'] }", "request_headers changed"),
        ("", "response_headers = { set = { a = 'b' } }", "response_headers changed"),
        ("", "timeouts = { connect = '1s' }", "timeouts changed"),
        ("", "max_body = '1KiB'", "max_body the listener's → 1024"),
        ("allow_escapes = ['slash']", "allow_escapes = ['slash', 'bytes']", "allow_escapes slash → slash, bytes"),
    ] {
        assert_eq!(to(&upstream(before), &upstream(after)), [format!("route all: {told}")], "{before} | {after}");
    }
    // The same in another order.
    assert_eq!(to(&upstream("method = ['PUT', 'GET']"), &upstream("method = ['GET', 'PUT']")), [""; 0]);
}

#[test]
fn order_and_positions_are_not_differences() {
    let base = BASE.replace("state = 'x'\n", "");
    let (before, admin) = base.split_once("[upstream.admin]").unwrap();
    let (head, shop) = before.split_once("[upstream.shop]").unwrap();
    let swapped = format!("{head}[upstream.admin]{admin}[upstream.shop]{shop}");
    assert!(diff(&plan(&base), &plan(&swapped)).is_empty());
    let split =
        |text: &str| text.replacen("upstream = 'shop'", "split = [{ upstream = 'shop' }, { upstream = 'admin' }]", 1);
    assert!(diff(&plan(&split(&base)), &plan(&split(&swapped))).is_empty());
}

#[test]
fn listeners_keep_their_sockets_where_the_address_stays() {
    let diff = after(&[
        ("name = 'web'\nbind = '127.0.0.1:8080'", "name = 'front'\nbind = '127.0.0.1:8080'\ntrusted_proxies = ['::1']"),
        ("bind = '127.0.0.1:8081'", "bind = '127.0.0.1:8082'"),
    ]);
    assert_eq!(
        lines(&diff),
        [
            "listener web removed",
            "listener 127.0.0.1:8081 removed",
            "listener front added",
            "listener 127.0.0.1:8082 added"
        ]
    );
    assert_eq!(diff.sockets, Sockets { open: vec![1], close: vec![1], keep: vec![(0, 0)] });

    let diff = after(&[("8080'", "8090'\ntrusted_proxies = ['::1']\nmax_body = '1MiB'\nidle_timeout = '5s'")]);
    assert_eq!(
        lines(&diff),
        [
            "listener web: bind 127.0.0.1:8080 → 127.0.0.1:8090",
            "listener web: trusted_proxies changed",
            "listener web: idle_timeout 1m → 5s",
            "listener web: max_body unlimited → 1048576",
        ]
    );
    assert_eq!(diff.sockets, Sockets { open: vec![0], close: vec![0], keep: vec![(1, 1)] });
}

#[test]
fn listeners_on_any_free_port_are_told_apart_by_name() {
    let text = |first: &str, second: &str| {
        format!(
            "[[listener]]\nname = '{first}'\nbind = '127.0.0.1:0'\n[[listener]]\nname = '{second}'\nbind = '127.0.0.1:0'\n\
             [upstream.a]\nservers = ['a:1']\n"
        )
    };
    let diff = diff(&plan(&text("x", "y")), &plan(&text("y", "z")));
    assert_eq!(diff.sockets.keep, [(1, 0), (0, 1)]);
}

#[test]
fn a_new_listener_leaves_routes_alone() {
    let added =
        ("[[route]]\nname = 'all'", "[[listener]]\nname = 'new'\nbind = '127.0.0.1:8083'\n[[route]]\nname = 'all'");
    let diff = after(&[added]);
    assert_eq!(lines(&diff), ["listener new added"]);
    assert_eq!((&*diff.sockets.open, &*diff.sockets.close), (&[2][..], &[][..]));
}

#[test]
fn what_needs_a_restart_is_named() {
    let diff = after(&[
        ("cores = 1", "cores = 2\nstate_dir = '/s'"),
        (
            "[log]\nlevel = 'info'",
            "[log]\nlevel = 'debug'\nformat = 'json'\n[admin]\nsocket = '/s'\nbind = '127.0.0.1:1'\ntoken = 'a-token-of-some-length'\n[dns]\nservers = ['10.0.0.2']\nmin_ttl = '2s'\nmax_ttl = '3s'\n[access_log]",
        ),
        ("bind = '127.0.0.1:8080'", "bind = '127.0.0.1:8080'\nbacklog = 5"),
    ]);
    assert_eq!(
        diff.needs_restart,
        [
            "cores",
            "state_dir",
            "admin.socket",
            "admin.bind",
            "admin.token",
            "log.level",
            "log.format",
            "access_log",
            "dns.servers",
            "dns.min_ttl",
            "dns.max_ttl",
            "listener web: backlog"
        ]
    );
    assert!(!diff.is_empty());
    // A socket that is opened anew takes any backlog.
    assert!(after(&[("8080'", "8090'\nbacklog = 5")]).needs_restart.is_empty());
    assert_eq!(lines(&after(&[("[log]", "[shutdown]\ndeadline = '1m'\n[log]")])), ["shutdown: deadline 30s → 1m"]);
    assert_eq!(lines(&after(&[("[log]", "[upgrade]\nidle_grace = '1m'\n[log]")])), ["upgrade: idle_grace 10s → 1m"]);
}

#[test]
fn limits_of_servers_and_the_queue() {
    let diff = after(&[
        ("policy = 'round_robin'\n", "max_requests = 5\nqueue = { size = 0, timeout = '1s' }\n"),
        ("address = '127.0.0.1:9002'\n", "address = '127.0.0.1:9002'\nmax_requests = 'unlimited'\n"),
    ]);
    assert_eq!(
        lines(&diff),
        [
            "upstream shop: max_requests unlimited → 5",
            "upstream shop: queue.size 1024 → 0",
            "upstream shop: queue.timeout 5s → 1s",
            "upstream shop: server a: max_requests unlimited → 5",
        ]
    );
}
