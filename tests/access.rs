//! Who may come: by network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use harness::{Client, Client2, Proxy, origins, upstream};

fn routed(keys_and_routes: &str) -> (Vec<harness::Origin>, Proxy) {
    let origins = origins(1);
    let app = upstream("app", "\"round_robin\"", "", &origins);
    let proxy = Proxy::start(&format!("{keys_and_routes}\n{app}"));
    (origins, proxy)
}

/// What a client at that address of this machine gets.
fn from(proxy: &Proxy, address: [u8; 4], path: &str) -> u16 {
    Client::to(proxy.address).from(address).get(path).status
}

#[test]
fn networks_are_let_in_or_not_by_the_route() {
    let (origins, proxy) = routed(
        "[[route]]\npath = \"/only\"\nallow = [\"127.0.0.2\", \"127.0.1.0/24\", \"2001:db8::/32\"]\ndeny = \"127.0.1.7\"\nstrip_prefix = true\nupstream = \"app\"\n\
         [[route]]\npath = \"/but\"\ndeny = \"127.0.0.2/32\"\nrespond = 204\n\
         [[route]]\nupstream = \"app\"\n",
    );
    for (address, path, status) in [
        ([127, 0, 0, 2], "/only", 200),
        ([127, 0, 1, 9], "/only", 200),
        ([127, 0, 1, 7], "/only", 403),
        ([127, 0, 0, 1], "/only", 403),
        ([127, 0, 0, 1], "/only/x", 403),
        ([127, 0, 0, 1], "/%6fnly/./", 403),
        ([127, 0, 0, 1], "/", 200),
        ([127, 0, 0, 2], "/but", 403),
        ([127, 0, 0, 1], "/but", 204),
    ] {
        assert_eq!(from(&proxy, address, path), status, "{address:?} {path}");
    }
    assert_eq!(origins[0].requests().len(), 3, "who is refused reaches nobody");
    let refused = proxy.get("/only");
    assert_eq!((refused.status, refused.reason()), (403, Some("forbidden")));
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"forbidden\""]), 6.0);
}

#[test]
fn networks_are_let_in_or_not_by_the_listener() {
    let (_origins, proxy) =
        routed("deny = \"127.0.0.2\"\n[[route]]\npath = \"/a\"\nallow = \"127.0.0.2\"\nupstream = \"app\"\n");
    for (address, path, status) in [
        ([127, 0, 0, 1], "/a", 403),
        ([127, 0, 0, 2], "/a", 403),
        ([127, 0, 0, 1], "/none", 404),
        // Nor does it hear what there is.
        ([127, 0, 0, 2], "/none", 403),
    ] {
        assert_eq!(from(&proxy, address, path), status, "{address:?} {path}");
    }
}

#[test]
fn the_address_is_the_one_behind_trusted_proxies() {
    let (_origins, proxy) =
        routed("trusted_proxies = [\"127.0.0.3\"]\n[[route]]\nallow = \"192.0.2.0/24\"\nupstream = \"app\"\n");
    let asked = |address: [u8; 4], forwarded: &str| {
        Client::to(proxy.address).from(address).with("x-forwarded-for", forwarded).get("/").status
    };
    assert_eq!(asked([127, 0, 0, 3], "192.0.2.9"), 200);
    assert_eq!(asked([127, 0, 0, 3], "192.0.2.9, 198.51.100.1"), 403);
    // A stranger says what it likes.
    assert_eq!(asked([127, 0, 0, 1], "192.0.2.9"), 403);
}

#[test]
fn an_unread_body_of_a_refused_request_is_no_request() {
    let (origins, proxy) = routed("[[route]]\ndeny = \"127.0.0.0/8\"\nupstream = \"app\"\n");
    let mut conn = proxy.raw();
    conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 36\r\n\r\nGET /inner HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = conn.answer();
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(origins[0].requests().is_empty());
    let client = Client2::to(proxy.address);
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.status.as_u16(), answer.header("connection")), (403, None));
    }
}

#[test]
fn a_reload_lets_others_in_on_connections_that_are_open() {
    let (_origins, proxy) = routed("[[route]]\nallow = \"127.0.0.2\"\nupstream = \"app\"\n");
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 403);
    std::fs::write(&proxy.config, proxy.text().replace("\"127.0.0.2\"", "\"127.0.0.1\"")).unwrap();
    let reloaded = proxy.reload_file().unwrap();
    assert_eq!(reloaded.changes, ["route */: allow changed"]);
    assert_eq!(client.get("/").status, 200);
}
