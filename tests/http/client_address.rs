//! Who the client is said to be: one rule for headers and for hashing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Answer, Client, Proxy, app, origins};

const LIES: [(&str, &str); 7] = [
    ("x-mirrored-by", "evenkeel"),
    ("x-forwarded-for", "1.2.3.4, 5.6.7.8"),
    ("x-forwarded-for", "9.9.9.9"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil"),
    ("forwarded", "for=1.2.3.4;proto=https"),
    ("x-real-ip", "1.2.3.4"),
];

fn echo(listener: &str, headers: &[(&str, &str)]) -> (Answer, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{listener}\n{}", app("\"round_robin\"", &origins)));
    (proxy.client().send("GET", "/echo", headers, b""), proxy)
}

#[test]
fn a_stranger_cannot_say_who_it_is() {
    let (answer, proxy) = echo("", &LIES);
    assert_eq!(answer.echoed("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(answer.echoed("x-forwarded-proto"), ["http"]);
    assert_eq!(answer.echoed("x-forwarded-host"), [proxy.address.to_string()]);
    assert_eq!(answer.echoed("forwarded"), [""; 0]);
    assert_eq!(answer.echoed("x-real-ip"), [""; 0]);
    assert_eq!(answer.echoed("x-mirrored-by"), [""; 0]);
    assert_eq!(proxy.metric("evenkeel_forwarded_headers_ignored_total", &["untrusted"]), 1.0);
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to() {
    let (answer, _proxy) = echo("trusted_proxies = [\"127.0.0.0/8\"]", &LIES);
    assert_eq!(answer.echoed("x-forwarded-for"), ["1.2.3.4, 5.6.7.8", "9.9.9.9", "127.0.0.1"]);
    assert_eq!(answer.echoed("x-forwarded-proto"), ["https"]);
    assert_eq!(answer.echoed("x-forwarded-host"), ["evil"]);
    assert_eq!(answer.echoed("x-mirrored-by"), ["evenkeel"]);
}

#[test]
fn the_standard_header_is_written_where_it_is_wanted() {
    let (answer, proxy) = echo("forwarded = \"rfc7239\"", &LIES);
    let own = format!("for=127.0.0.1;host=\"{}\";proto=http", proxy.address);
    assert_eq!(answer.echoed("forwarded"), std::slice::from_ref(&own));
    assert_eq!(answer.echoed("x-forwarded-for"), [""; 0], "neither its own nor a stranger's");
    let (answer, proxy) = echo("forwarded = \"both\"\ntrusted_proxies = [\"127.0.0.1\"]", &LIES);
    let own = format!("for=127.0.0.1;host=\"{}\";proto=http", proxy.address);
    assert_eq!(answer.echoed("forwarded"), ["for=1.2.3.4;proto=https".to_owned(), own]);
    assert_eq!(answer.echoed("x-forwarded-for").last().unwrap(), "127.0.0.1");
}

#[test]
fn nothing_is_written_where_it_is_switched_off_and_lies_still_go() {
    let (answer, _proxy) = echo("forwarded = \"off\"", &LIES);
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip"] {
        assert_eq!(answer.echoed(name), [""; 0], "{name}");
    }
}

#[test]
fn ipv6_clients_are_told_in_the_right_form() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "[[listener]]\nname = \"six\"\nbind = \"[::1]:0\"\nforwarded = \"both\"\n{}",
        app("\"round_robin\"", &origins)
    ));
    let answer = proxy.client().get("/echo");
    assert_eq!(answer.echoed("x-forwarded-for"), ["::1"]);
    assert!(answer.echoed("forwarded")[0].starts_with("for=\"[::1]\";"), "{:?}", answer.echoed("forwarded"));
}

#[test]
fn a_dual_stack_listener_shows_ipv4_clients_as_such() {
    let origins = origins(1);
    let proxy =
        Proxy::start(&format!("[[listener]]\nname = \"all\"\nbind = \":0\"\n{}", app("\"round_robin\"", &origins)));
    let answer = Client::to(([127, 0, 0, 1], proxy.address.port()).into()).get("/echo");
    assert_eq!(answer.echoed("x-forwarded-for"), ["127.0.0.1"]);
}

/// The servers that ten clients get, who differ only in what they say of themselves.
fn spread(listener: &str, said: impl Fn(usize) -> String) -> usize {
    let origins = origins(4);
    let proxy = Proxy::start(&format!("{listener}\n{}", app("\"ip_hash\"", &origins)));
    let mut client = proxy.client();
    let servers: std::collections::BTreeSet<_> = (0..40)
        .map(|n| client.send("GET", "/bytes", &[("x-forwarded-for", &said(n))], b"").server().to_owned())
        .collect();
    servers.len()
}

#[test]
fn the_hash_is_of_the_client_behind_trusted_proxies_only() {
    let trusted = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    assert_eq!(spread("", |n| format!("192.0.2.{n}")), 1, "a stranger cannot choose its server");
    assert!(spread(trusted, |n| format!("192.0.2.{n}")) > 1);
    assert_eq!(spread(trusted, |n| format!("192.0.2.{n}, 198.51.100.7, 10.1.1.1")), 1, "what a client made up");
    assert_eq!(spread(trusted, |n| format!("192.0.2.{n}, garbage")), 1, "garbage ends the walk");
    assert_eq!(spread(trusted, |n| format!("2001:db8::{n:x}")), 1, "one /64 is one client");
    assert!(spread(trusted, |n| format!("2001:db8:0:{n:x}::1")) > 1);
}

#[test]
fn names_with_an_underscore_do_not_pass_for_others() {
    let names = [("X_Forwarded_For", "6.6.6.6"), ("Content_Length", "9"), ("X_Client", "a"), ("X_Tenant", "b")];
    let dropped = "evenkeel_underscore_headers_dropped_total";

    let (answer, proxy) = echo("", &names);
    for (name, _) in names {
        assert_eq!(answer.echoed(&name.to_lowercase()), [""; 0], "{name}");
    }
    assert_eq!(proxy.metric(dropped, &[]), 4.0);

    let route = "[[route]]\npath = \"/\"\nupstream = \"app\"\nrequest_headers = { set = { X-Tenant = \"own\" } }";
    let (answer, proxy) = echo(&format!("underscores_in_headers = \"allow\"\n{route}"), &names);
    assert_eq!(answer.echoed("x_client"), ["a"]);
    assert_eq!(answer.echoed("x-tenant"), ["own"]);
    for name in ["x_forwarded_for", "content_length", "x_tenant"] {
        assert_eq!(answer.echoed(name), [""; 0], "{name}");
    }
    assert_eq!(proxy.metric(dropped, &[]), 3.0);

    let refusing = "underscores_in_headers = \"refuse\"";
    assert_eq!(echo(refusing, &names).0.status, 400);
    assert_eq!(echo(refusing, &[]).0.status, 200);
}
