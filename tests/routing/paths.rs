//! One form of a path: what a route was found by is what the server gets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Origin, Proxy, origins, upstream};

/// `public` for everything, `admin` for what lies under `/admin`.
fn guarded(listener: &str, public: &str) -> (Vec<Origin>, Proxy) {
    let origins = origins(2);
    let proxy = Proxy::start(&format!(
        "{listener}\n[[route]]\npath = \"/\"\n{public}\nupstream = \"public\"\n\
         [[route]]\npath = \"/admin\"\nupstream = \"admin\"\n{}{}",
        upstream("public", "\"round_robin\"", "", &origins[..1]),
        upstream("admin", "\"round_robin\"", "", &origins[1..]),
    ));
    (origins, proxy)
}

/// Who got the request and as what, or the status where nobody did.
fn reached(origins: &[Origin], proxy: &Proxy, target: &[u8]) -> Result<(&'static str, String), u16> {
    let before: Vec<usize> = origins.iter().map(|o| o.requests().len()).collect();
    let mut conn = proxy.raw();
    conn.send(&[b"GET ", target, b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat());
    let answer = conn.answer();
    for (at, name) in ["public", "admin"].into_iter().enumerate().take(origins.len()) {
        let requests = origins[at].requests();
        if requests.len() > before[at] {
            return Ok((name, requests.last().unwrap().target.clone()));
        }
    }
    Err(answer.status)
}

#[test]
fn no_spelling_of_a_path_reaches_what_another_route_guards() {
    let (origins, proxy) = guarded("", "");
    for (sent, who, target) in [
        ("/x", "public", "/x"),
        ("/administrator", "public", "/administrator"),
        ("/admin", "admin", "/admin"),
        ("//admin", "admin", "/admin"),
        ("///admin//x/", "admin", "/admin/x/"),
        ("/./admin", "admin", "/admin"),
        ("/x/../admin", "admin", "/admin"),
        ("/x/%2e%2e/admin", "admin", "/admin"),
        ("/x/.%2E/admin", "admin", "/admin"),
        ("/x//../admin", "admin", "/admin"),
        ("/%61dmin", "admin", "/admin"),
        ("/%61%64%6d%69%6e/x", "admin", "/admin/x"),
        ("/admin;x=1", "admin", "/admin;x=1"),
        ("/admin;/x", "admin", "/admin;/x"),
        ("/admin%3bx/y", "admin", "/admin%3Bx/y"),
        ("/admin/../x", "public", "/x"),
        ("/admin/..", "public", "/"),
        ("/Admin", "public", "/Admin"),
        ("/x?/../admin", "public", "/x?/../admin"),
        ("//admin?a=//b/../c%2f%00", "admin", "/admin?a=//b/../c%2f%00"),
        ("/caf%c3%a9", "public", "/caf%C3%A9"),
        ("/café", "public", "/caf%C3%A9"),
        ("/a|b", "public", "/a%7Cb"),
        ("/%40a%20b", "public", "/%40a%20b"),
        ("http://a//admin", "admin", "/admin"),
    ] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Ok((who, target.to_owned())), "{sent}");
    }
}

#[test]
fn a_path_that_servers_could_read_differently_is_400_and_reaches_nobody() {
    let (origins, proxy) = guarded("", "");
    for sent in [
        "/../admin",
        "/%2e%2e/admin",
        "/x/../../admin",
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "/x/..%3b/admin",
        "/x/..%2fadmin",
        "/x/..%5cadmin",
        "/x\\..\\admin",
        "/x%2f..%2fadmin",
        "/;x/admin",
        "/admin%2fx",
        "/admin%2Fx",
        "/admin%5cx",
        "/admin\\x",
        "/x%252f..%252fadmin",
        "/%252e%252e/admin",
        "/%2561dmin",
        "/admin%00",
        "/x%00/../admin",
        "/admin%0d%0aX:1",
        "/admin%09",
        "/%c0%ae%c0%ae/admin",
        "/x%c0%afadmin",
        "/%e0%80%ae",
        "/caf%e9",
        "/%",
        "/%6",
        "/%6x",
        "/%u0061dmin",
        "http://a/../admin",
    ] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Err(400), "{sent}");
    }
    for sent in [&b"/\xc0\xae\xc0\xae/admin"[..], b"/\xff", b"/a\x00b", b"/a\x7fb", b"admin", b"*"] {
        assert_eq!(reached(&origins, &proxy, sent), Err(400), "{}", sent.escape_ascii());
    }
}

#[test]
fn a_route_may_allow_escapes_but_no_dots_behind_them() {
    let (origins, proxy) = guarded("", "allow_escapes = [\"slash\", \"double\", \"bytes\"]");
    for (sent, target) in [
        ("/@scope%2fname", "/@scope%2Fname"),
        ("/a\\b", "/a%5Cb"),
        ("/admin%2fx", "/admin%2Fx"),
        ("/a%2541", "/a%2541"),
        ("/caf%e9", "/caf%E9"),
    ] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Ok(("public", target.to_owned())), "{sent}");
    }
    for sent in ["/x%2f..%2fadmin", "/x/..%5cadmin", "/%c0%ae%c0%ae/", "/%00", "/admin/%2f", "/admin/%e9"] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Err(400), "{sent}");
    }
}

#[test]
fn slashes_can_be_kept() {
    let (origins, proxy) = guarded("merge_slashes = false", "");
    for (sent, who, target) in [
        ("//admin", "public", "//admin"),
        ("/admin//x/", "admin", "/admin//x/"),
        ("/x//../admin", "public", "/x/admin"),
    ] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Ok((who, target.to_owned())), "{sent}");
    }
}

#[test]
fn a_prefix_is_taken_off_however_it_is_spelled() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/my@app/v1\"\nstrip_prefix = true\nupstream = \"app\"\n{}",
        upstream("app", "\"round_robin\"", "", &origins),
    ));
    for (sent, target) in [
        ("/my@app/v1/x?y", "/x?y"),
        ("/my%40app/v1/x", "/x"),
        ("/my@app;v=2/v1;w/x;z", "/x;z"),
        ("//my@app//v1//", "/"),
        ("/my@app/v1;w", "/"),
        ("/my@app/v1?x=/a/b", "/?x=/a/b"),
    ] {
        assert_eq!(reached(&origins, &proxy, sent.as_bytes()), Ok(("public", target.to_owned())), "{sent}");
    }
}
