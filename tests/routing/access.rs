//! Who may come: by network, and by name and password.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;
use std::time::Instant;

use base64::Engine as _;
use harness::{Answer, Client, Client2, Proxy, eventually, origins, upstream};

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

/// A hash of `password`; each step of cost takes twice as long.
fn hash(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).unwrap()
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}

fn as_user(client: &mut Client, path: &str, credentials: &str) -> Answer {
    client.send("GET", path, &[("authorization", &basic(credentials))], b"")
}

/// A route `/in` for `ann` with the password `open`, and one for everybody.
fn guarded(cost: u32, more: &str) -> (Vec<harness::Origin>, Proxy) {
    routed(&format!(
        "cores = 1\n[[route]]\npath = \"/in\"\nstrip_prefix = true\nupstream = \"app\"\n\
         basic_auth = {{ realm = \"Back room\", users = {{ ann = \"{}\" }}{more} }}\n[[route]]\nupstream = \"app\"\n",
        hash("open", cost)
    ))
}

#[test]
fn those_who_know_a_password_are_let_in() {
    let (origins, proxy) = guarded(5, "");
    let mut client = proxy.client();
    for wrong in [None, Some("ann:shut"), Some("ann:"), Some("bob:open"), Some("Ann:open"), Some("ann:open ")] {
        let answer = match wrong {
            None => client.get("/in/echo"),
            Some(credentials) => as_user(&mut client, "/in/echo", credentials),
        };
        assert_eq!((answer.status, answer.reason()), (401, Some("unauthorized")), "{wrong:?}");
        assert_eq!(answer.all("www-authenticate"), ["Basic realm=\"Back room\", charset=\"UTF-8\""]);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert!(origins[0].requests().is_empty());
    for _ in 0..2 {
        let answer = as_user(&mut client, "/in/echo", "ann:open");
        assert_eq!((answer.status, answer.echoed("authorization")), (200, Vec::new()));
    }
    assert_eq!(as_user(&mut client, "/in/echo", "ann:shut").status, 401, "whoever was let in before");
    // Where nobody is asked it is none of ours.
    assert_eq!(as_user(&mut client, "/echo", "x:y").echoed("authorization"), [basic("x:y")]);
    let twice = [("authorization", &*basic("ann:open")), ("authorization", &*basic("ann:open"))];
    assert_eq!(client.send("GET", "/in/echo", &twice, b"").status, 401);
}

#[test]
fn they_are_let_in_over_http2_and_wait_together() {
    let (_origins, proxy) = guarded(10, "");
    let client = Client2::to(proxy.address);
    let ask = |credentials: &str| {
        let request = Client2::request("GET", "/in/echo").header("authorization", basic(credentials));
        request.body(()).unwrap()
    };
    let refused = client.get("/in/echo");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"Back room\", charset=\"UTF-8\""));
    assert_eq!(client.send(ask("ann:shut"), None).unwrap().status, 401);
    // More at once than may wait with credentials of their own.
    let asking: Vec<_> = (0..40)
        .map(|_| client.runtime.spawn(harness::exchange(client.sender.clone(), ask("ann:open"), None, None)))
        .collect();
    for answer in asking {
        assert_eq!(client.runtime.block_on(answer).unwrap().unwrap().status, 200);
    }
}

#[test]
fn servers_get_credentials_where_the_route_says_so() {
    let (_origins, proxy) = guarded(4, ", forward = true");
    assert_eq!(as_user(&mut proxy.client(), "/in/echo", "ann:open").echoed("authorization"), [basic("ann:open")]);
}

#[test]
fn answers_of_routes_are_guarded_too() {
    let (_origins, proxy) = routed(&format!(
        "[[route]]\npath = \"/a\"\nrespond = 204\nbasic_auth = {{ users = {{ ann = \"{0}\" }} }}\n\
         [[route]]\npath = \"/b\"\nredirect = \"/x\"\ndeny = \"127.0.0.2\"\nbasic_auth = {{ users = {{ ann = \"{0}\" }} }}\n\
         [[route]]\nupstream = \"app\"\n",
        hash("open", 4)
    ));
    let mut client = proxy.client();
    assert_eq!([client.get("/a").status, client.get("/b").status], [401, 401]);
    assert_eq!(as_user(&mut client, "/a", "ann:open").status, 204);
    assert_eq!(as_user(&mut client, "/b", "ann:open").status, 302);
    assert_eq!(from(&proxy, [127, 0, 0, 2], "/b"), 403, "who may not come is not asked");
}

#[test]
fn a_password_is_verified_once_and_others_go_on_meanwhile() {
    let (_origins, proxy) = guarded(13, "");
    let (done, answered) = channel();
    let mut slow = proxy.client();
    let first = std::thread::spawn(move || {
        let begun = Instant::now();
        let answer = as_user(&mut slow, "/in/echo", "ann:open");
        done.send(()).unwrap();
        (answer.status, begun.elapsed(), slow)
    });
    let mut other = proxy.client();
    for _ in 0..5 {
        assert_eq!(other.get("/echo").status, 200);
    }
    assert!(answered.try_recv().is_err(), "others had to wait");
    let (status, took, mut slow) = first.join().unwrap();
    assert_eq!(status, 200);
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(as_user(&mut slow, "/in/echo", "ann:open").status, 200);
    }
    assert!(begun.elapsed() < took * 5, "{:?} for 20 requests, {took:?} for the first", begun.elapsed());
}

#[test]
fn whoever_guesses_waits_and_leaves_room_to_others() {
    let (_origins, proxy) = guarded(11, "");
    let address = proxy.address;
    let guesses: Vec<_> = (0..20)
        .map(|n| std::thread::spawn(move || as_user(&mut Client::to(address), "/in/echo", &format!("ann:guess{n}"))))
        .collect();
    let other = std::thread::spawn(move || {
        as_user(&mut Client::to(address).from([127, 0, 0, 2]), "/in/echo", "ann:open").status
    });
    let answers: Vec<_> = guesses.into_iter().map(|guess| guess.join().unwrap()).collect();
    assert_eq!(other.join().unwrap(), 200);
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!busy.is_empty() && busy.iter().all(|answer| answer.reason() == Some("auth_busy")));
    assert!(busy.iter().all(|answer| answer.header("retry-after").is_some()));
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 20 - busy.len());
    // Their places are free again.
    assert_eq!(as_user(&mut proxy.client(), "/in/echo", "ann:another").status, 401);
}

#[test]
fn a_reload_reads_the_users_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let write = |text: String| std::fs::write(&file, text).unwrap();
    write(format!("ann:{}\n# more\nbob:{}\n", hash("open", 4), hash("sesame", 4)));
    let (_origins, proxy) =
        routed(&format!("[[route]]\nbasic_auth = {{ users_file = {file:?} }}\nupstream = \"app\"\n"));
    let mut client = proxy.client();
    let mut ask = |credentials: &str| as_user(&mut client, "/echo", credentials).status;
    assert_eq!([ask("ann:open"), ask("bob:sesame")], [200, 200]);
    write(format!("ann:{}\nbob:plain\n", hash("shut", 4)));
    let refused = proxy.reload_file().unwrap_err();
    assert!(format!("{refused:?}").contains("line 2: the password of `bob` is not a bcrypt hash"), "{refused:?}");
    assert_eq!([ask("ann:open"), ask("bob:sesame")], [200, 200], "the old ones go on");
    // As `htpasswd` writes it.
    let cat = "cat:$2y$04$CI3H6xNg9sNjNQgIcnqQYes2LidSzZqP4R2hmBg2/3tsbXv1kQhKW";
    write(format!("ann:{}\n{cat}\n\n", hash("shut", 4)));
    assert_eq!(proxy.reload_file().unwrap().changes, ["route */: basic_auth changed"]);
    assert_eq!([ask("ann:open"), ask("bob:sesame"), ask("ann:shut"), ask("cat:grin é")], [401, 401, 200, 200]);
}

#[test]
fn the_log_says_who_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let (_origins, proxy) = routed(&format!(
        "[access_log]\nfile = {log:?}\nformat = \"combined\"\n[[route]]\nupstream = \"app\"\n\
         basic_auth = {{ users = {{ \"Ann B\" = \"{}\" }} }}\n",
        hash("open", 4)
    ));
    let mut client = proxy.client();
    assert_eq!(as_user(&mut client, "/echo", "Ann B:shut").status, 401);
    assert_eq!(as_user(&mut client, "/echo", "Ann B:open").status, 200);
    let lines = eventually("two lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == 2).then_some(text)
    });
    assert!(lines.starts_with("127.0.0.1 - - ["), "{lines}");
    assert!(lines.contains("\n127.0.0.1 - Ann\\x20B ["), "{lines}");
    assert!(!lines.contains("open"), "{lines}");
}
