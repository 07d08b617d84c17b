//! RFC 9113 §10.5: clients of HTTP/2 that would have the proxy, or a server, work for nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;
use crate::rfc9113::{ENHANCE_YOUR_CALM, proxy};

use harness::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, PRIORITY, Proxy, RST_STREAM, SETTINGS,
    app, asked, eventually, full_backlog, origins, unchecked,
};

const RR: &str = "\"round_robin\"";

#[test]
fn section_10_5_a_head_that_never_ends_is_cut() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("header_timeout = \"300ms\"\n{}", app(RR, &origins)));
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_STREAM, 1, &Frames::block(&Frames::get("/"))[..5]);
    assert!(frames.is_ended(), "a head of which nothing more comes");
    let mut frames = Frames::to(proxy.address);
    frames.raw(&Frames::frame(PING, 0, 0, &[0; 8])[..12]);
    assert!(frames.is_ended(), "half a frame");
    eventually("both are counted", || {
        (proxy.metric("evenkeel_errors_total", &["header_timeout"]) == 2.0).then_some(())
    });
}

#[test]
fn section_10_5_1_a_header_list_beyond_the_limit_is_refused() {
    let origins = origins(1);
    let proxy =
        Proxy::start(&format!("max_header_bytes = \"8KiB\"\nmax_request_line = \"4KiB\"\n{}", app(RR, &origins)));
    let before = asked(&origins[0]).len();
    let long = "x".repeat(4000);
    let mut frames = Frames::to(proxy.address);
    let mut fields = Frames::get("/");
    fields.extend([("a", &*long), ("b", &*long), ("c", &*long)]);
    frames.ask(1, &fields);
    let end = frames.next_of(&[RST_STREAM, GOAWAY, HEADERS]).unwrap();
    assert!(end.kind != HEADERS || end.status() == 431, "{end:?}");
    // RFC 7541 §7.3: a long value kept in the table once and then named a thousand times, by a byte each.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0x81, 0x1e];
    bomb.resize(bomb.len() + 127 + 1 + 30 * 128, b'y');
    bomb.extend([0xbe; 1000]);
    let mut frames = Frames::to(proxy.address);
    let block = [Frames::block(&Frames::get("/")), bomb].concat();
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let end = frames.next_of(&[RST_STREAM, GOAWAY, HEADERS]).unwrap();
    assert!(end.kind != HEADERS || end.status() == 431, "{end:?}");
    // Thousands of pieces, none of which ends the head.
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_STREAM, 1, &[0x82]);
    for _ in 0..20_000 {
        if frames.try_send(CONTINUATION, 0, 1, &[]).is_err() {
            break;
        }
    }
    assert!(frames.is_ended());
    assert_eq!(asked(&origins[0]).len(), before);
}

/// Sends frames until the connection ends, at most `most` of them; how many were taken.
fn flood(proxy: &Proxy, most: usize, mut next: impl FnMut(usize) -> Vec<u8>) -> usize {
    let mut frames = Frames::to(proxy.address);
    let mut reader = Frames(frames.0.try_clone().unwrap());
    let reading = std::thread::spawn(move || {
        let mut code = None;
        while let Some(frame) = reader.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    });
    let mut sent = 0;
    use std::io::Write as _;
    while sent < most && frames.0.write_all(&next(sent)).is_ok() {
        sent += 1;
    }
    let _ = frames.0.shutdown(std::net::Shutdown::Both);
    if let Some(code) = reading.join().unwrap() {
        assert_eq!(code, ENHANCE_YOUR_CALM);
    }
    sent
}

#[test]
fn section_10_5_floods_cost_the_client_its_connection() {
    let (origins, proxy) = proxy();
    let post = {
        let mut fields = Frames::get("/sink");
        fields[0].1 = "POST";
        Frames::frame(HEADERS, END_HEADERS, 1, &Frames::block(&fields))
    };
    for (what, frame) in [
        ("pings", Frames::frame(PING, 0, 0, &[0; 8])),
        ("settings", Frames::frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("priorities", Frames::frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 15])),
        ("unknown frames", Frames::frame(99, 0, 0, &[])),
        ("empty data", Frames::frame(DATA, 0, 1, &[])),
    ] {
        let sent = flood(&proxy, 200_000, |n| if n == 0 { post.clone() } else { frame.clone() });
        assert!(sent < 200_000, "{what}: all were taken");
    }
    let floods = proxy.metric("evenkeel_connections_closed_total", &["flood"]);
    assert!(floods >= 4.0, "{floods} of 5 were counted as floods");
    eventually("nothing is left", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    assert_eq!(proxy.get("/").server(), "a");
    drop(origins);
}

#[test]
fn section_10_5_rapid_reset_costs_the_client_its_connection_and_the_server_nothing() {
    let (origins, proxy) = proxy();
    let before = asked(&origins[0]).len();
    let block = Frames::block(&Frames::get("/"));
    let sent = flood(&proxy, 20_000, |n| {
        let stream = 2 * n as u32 + 1;
        let mut pair = Frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        pair.extend(Frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        pair
    });
    assert!(sent < 20_000, "all were taken");
    let reached = asked(&origins[0]).len() - before;
    assert!(reached < 50, "{reached} of {sent} reached a server");
    eventually("nothing is left", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

/// A stream's window is worth many tiny frames, each of which costs memory while nobody takes it: some are
/// borne, as messages of a slow server's client are, and no more than that.
#[test]
fn section_10_5_tiny_frames_that_no_server_takes_are_bounded() {
    let (listener, _queued) = full_backlog();
    let proxy =
        Proxy::start(&unchecked(listener.local_addr().unwrap(), "timeouts = { connect = \"5m\", request = \"5m\" }"));
    let mut post = Frames::get("/");
    post[0].1 = "POST";
    let upload = |count: usize| {
        let mut frames = Frames::to(proxy.address);
        frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&post));
        let tiny = Frames::frame(DATA, 0, 1, b"x").repeat(1000);
        for _ in 0..count / 1000 {
            // It may have ended already.
            let _ = std::io::Write::write_all(&mut frames.0, &tiny);
        }
        let _ = frames.try_send(PING, 0, 0, &[7; 8]);
        frames.next_of(&[GOAWAY, PING]).expect("a word")
    };
    assert_eq!(upload(25_000).kind, PING, "they are borne");
    let end = upload(40_000);
    assert_eq!((end.kind, end.code()), (GOAWAY, ENHANCE_YOUR_CALM), "there is an end to it");
}
