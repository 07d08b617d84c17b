//! Pages in the place of the answers that evenkeel makes itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::path::Path;

use harness::{Answer, Fake, Proxy, Refusing, unchecked};

const PAGE: &str = "<title>{status} {title}</title><style>b{color:red}</style>{reason}|{message}|{request_id}|{other}";

fn write(dir: &Path, name: &str, text: &str) -> String {
    std::fs::write(dir.join(name), text).unwrap();
    dir.join(name).display().to_string()
}

fn ask(proxy: &Proxy, path: &str, accept: &str) -> Answer {
    proxy.client().send("GET", path, &[("accept", accept), ("x-request-id", "my-id")], b"")
}

#[test]
fn own_errors_wear_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let page = write(dir.path(), "error.html", PAGE);
    let refusing = Refusing::new();
    let route = "[[route]]\npath = \"/app\"\nupstream = \"app\"\n";
    let listener = format!("error_pages = [{{ status = [\"404\", \"5xx\"], file = {page:?} }}]");
    let proxy = Proxy::start(&format!("{listener}\n{route}{}", unchecked(refusing.address, "")));
    let style = "<style>b{color:red}</style>";

    let answer = ask(&proxy, "/app", "text/html");
    assert_eq!((answer.status, answer.header("content-type")), (502, Some("text/html; charset=utf-8")));
    let said = "connect_refused|The application could not be reached.|my-id|{other}";
    assert_eq!(answer.text(), format!("<title>502 Bad Gateway</title>{style}{said}"));
    assert_eq!(answer.reason(), Some("connect_refused"), "the rest of the head is as ever");
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let answer = ask(&proxy, "/elsewhere", "*/*");
    let said = "no_route|Nothing is served at this address.|my-id|{other}";
    assert_eq!(answer.text(), format!("<title>404 Not Found</title>{style}{said}"));
    assert_eq!(answer.status, 404);

    let answer = proxy.client().send("HEAD", "/elsewhere", &[("x-request-id", "my-id")], b"");
    let length = format!("<title>404 Not Found</title>{style}{said}").len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));

    let answer = proxy.client().send("GET", "/app", &[("expect", "a miracle")], b"");
    assert_eq!((answer.status, answer.header("content-type")), (417, Some("application/json")), "no page is for it");
}

#[test]
fn the_closest_page_is_taken_and_a_route_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let pages = ["a.json", "b.html", "c.txt", "d.html"].map(|name| write(dir.path(), name, name));
    let refusing = Refusing::new();
    let proxy = Proxy::start(&format!(
        "error_pages = [{{ status = \"5xx\", file = {:?} }}, {{ status = \"5xx\", file = {:?} }},\
         {{ status = \"404\", file = {:?}, content_type = \"text/x-own\" }}]\n\
         [[route]]\npath = \"/app\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/own\"\nupstream = \"app\"\nerror_pages = [{{ status = \"502\", file = {:?} }}]\n{}",
        pages[0],
        pages[1],
        pages[2],
        pages[3],
        unchecked(refusing.address, "")
    ));
    for (path, accept, text, kind) in [
        ("/app", "*/*", "a.json", "application/json"),
        ("/app", "text/html,*/*;q=0.8", "b.html", "text/html; charset=utf-8"),
        ("/own", "*/*", "d.html", "text/html; charset=utf-8"),
        ("/nowhere", "text/html", "c.txt", "text/x-own"),
    ] {
        let answer = ask(&proxy, path, accept);
        assert_eq!((answer.text().as_str(), answer.header("content-type")), (text, Some(kind)), "{path} {accept}");
    }
}

#[test]
fn answers_of_servers_are_replaced_only_where_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (page, other) =
        (write(dir.path(), "a.html", "sorry {status} {reason}"), write(dir.path(), "b.html", "not this"));
    let fake = Fake::answering(|_, _, head| {
        let status = head.split(['/', ' ']).find(|word| word.len() == 3 && word.parse::<u16>().is_ok()).unwrap();
        Some(format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: text/plain\r\netag: \"x\"\r\nset-cookie: a=b\r\n\
             retry-after: 7\r\ncontent-length: 6\r\n\r\nsecret"
        ))
    });
    let proxy = Proxy::start(&format!(
        "error_pages = [{{ status = \"5xx\", file = {page:?}, intercept = true }}, {{ status = \"4xx\", file = {other:?} }}]\n{}",
        unchecked(fake.address(), "")
    ));
    let mut client = proxy.client();
    for (status, text) in
        [(500, "sorry 500 intercepted"), (503, "sorry 503 intercepted"), (404, "secret"), (200, "secret")]
    {
        let answer = client.get(&format!("/{status}"));
        assert_eq!((answer.status, answer.text().as_str()), (status, text));
        assert_eq!(answer.header("etag").is_some(), text == "secret");
        assert_eq!((answer.header("set-cookie"), answer.header("retry-after")), (Some("a=b"), Some("7")));
        assert_eq!(answer.all("content-length").len(), 1);
    }
    assert_eq!(client.send("HEAD", "/500", &[], b"").header("content-length"), Some("21"));
}

#[test]
fn pages_are_read_again_by_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let page = write(dir.path(), "a.txt", "before");
    let refusing = Refusing::new();
    let text = format!("error_pages = [{{ status = \"5xx\", file = {page:?} }}]\n{}", unchecked(refusing.address, ""));
    let proxy = Proxy::start(&text);
    assert_eq!(proxy.get("/").text(), "before");
    write(dir.path(), "a.txt", "after");
    assert_eq!(proxy.get("/").text(), "before", "nothing is read while requests are served");
    assert_eq!(proxy.reload(&text).unwrap().changes, ["listener main: error_pages changed"]);
    assert_eq!(proxy.get("/").text(), "after");
    std::fs::remove_file(&page).unwrap();
    assert!(proxy.reload(&text).is_err());
    assert_eq!(proxy.get("/").text(), "after");
}
