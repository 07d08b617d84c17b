//! RFC 9113 (HTTP/2) where it binds a server that is an intermediary, with frames written by hand. Each
//! test names its section.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Origin, PING, PRIORITY, Proxy,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, app, asked, eventually, origins,
};

const RR: &str = "\"round_robin\"";
// RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) fn proxy() -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    (origins, proxy)
}

/// The connection ends, by GOAWAY with one of these codes or at least without an answer.
fn ends_the_connection(frames: &mut Frames, codes: &[u32], what: &str) {
    loop {
        match frames.next() {
            None => return,
            Some(frame) if frame.kind == GOAWAY => {
                assert!(codes.contains(&frame.code()), "{what}: GOAWAY with {}", frame.code());
                return;
            }
            Some(frame) => assert!(frame.kind != HEADERS, "{what}: an answer"),
        }
    }
}

/// The stream is reset, or the connection ends; in no case is there an answer of a server.
fn is_malformed(proxy: &Proxy, origins: &[Origin], fields: &[(&str, &str)], what: &str) {
    let before = asked(&origins[0]).len();
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, fields);
    match frames.next_of(&[RST_STREAM, GOAWAY, HEADERS]) {
        None => {}
        Some(frame) if frame.kind == HEADERS => assert_eq!(frame.status(), 400, "{what}"),
        Some(frame) => assert_eq!(frame.code(), PROTOCOL_ERROR, "{what}"),
    }
    assert_eq!(asked(&origins[0]).len(), before, "{what}: a server saw it");
}

#[test]
fn section_3_4_a_wrong_preface_ends_the_connection() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::silent(proxy.address);
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX");
    assert!(frames.is_ended());
    let mut frames = Frames::silent(proxy.address);
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // The first frame has to be SETTINGS.
    frames.send(PING, 0, 0, &[0; 8]);
    assert!(frames.is_ended());
}

#[test]
fn section_4_1_unknown_frames_and_flags_are_ignored() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(200, 0xff, 0, b"whatever");
    frames.send(PING, 0xf0, 0, b"12345678");
    let pong = frames.next_of(&[PING]).unwrap();
    assert_eq!((pong.flags & ACK, &*pong.payload), (ACK, &b"12345678"[..]));
    frames.ask(1, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
}

#[test]
fn section_4_2_a_frame_larger_than_allowed_ends_the_connection() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&Frames::get("/")));
    let _ = frames.try_send(DATA, 0, 1, &[0; 16_385]);
    ends_the_connection(&mut frames, &[FRAME_SIZE_ERROR, PROTOCOL_ERROR], "a frame of 16,385 bytes");
}

#[test]
fn section_4_3_what_cannot_be_decompressed_ends_the_connection() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    // An index far beyond both tables.
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0x7f]);
    ends_the_connection(&mut frames, &[COMPRESSION_ERROR, PROTOCOL_ERROR], "an index that is not there");
}

#[test]
fn section_5_1_frames_on_streams_that_cannot_have_them_are_errors() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(DATA, END_STREAM, 1, b"idle stream");
    ends_the_connection(&mut frames, &[PROTOCOL_ERROR, STREAM_CLOSED], "DATA on an idle stream");
    let mut frames = Frames::to(proxy.address);
    frames.ask(2, &Frames::get("/"));
    ends_the_connection(&mut frames, &[PROTOCOL_ERROR], "an even stream");
    let mut frames = Frames::to(proxy.address);
    frames.ask(5, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().stream, 5);
    frames.ask(3, &Frames::get("/"));
    assert!(frames.is_ended(), "an identifier that goes back (§5.1.1)");
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, &Frames::get("/slow?ms=60000"));
    frames.send(DATA, END_STREAM, 1, b"after the end");
    let error = frames.next_of(&[RST_STREAM, GOAWAY]).unwrap();
    assert!([STREAM_CLOSED, PROTOCOL_ERROR].contains(&error.code()));
}

#[test]
fn section_5_1_2_streams_beyond_the_limit_are_refused_and_may_be_sent_again() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("http2_max_streams = 2\n{}", app(RR, &origins)));
    let mut frames = Frames::to(proxy.address);
    let settings = frames.next_of(&[SETTINGS]).unwrap();
    assert!(settings.payload.chunks(6).any(|s| s == [0, 3, 0, 0, 0, 2]), "it is announced: {settings:?}");
    for stream in [1, 3, 5] {
        frames.ask(stream, &Frames::get("/slow?ms=60000"));
    }
    let refused = frames.next_of(&[RST_STREAM]).unwrap();
    assert_eq!((refused.stream, refused.code()), (5, REFUSED_STREAM));
    eventually("the others are served", || (proxy.server("app", "a").in_flight == 2).then_some(()));
    frames.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    eventually("one was taken back", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    frames.ask(7, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().stream, 7);
}

#[test]
fn section_5_2_windows_are_kept_and_may_not_overflow() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::silent(proxy.address);
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // SETTINGS_INITIAL_WINDOW_SIZE of 10.
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    frames.send(SETTINGS, ACK, 0, &[]);
    frames.ask(1, &Frames::get("/bytes?n=25"));
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let data = frames.next_of(&[DATA]).unwrap();
        sizes.push(data.payload.len());
        if data.flags & END_STREAM == 0 {
            frames.send(WINDOW_UPDATE, 0, 1, &10_u32.to_be_bytes());
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    frames.send(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    ends_the_connection(&mut frames, &[FLOW_CONTROL_ERROR], "a window beyond 2^31-1");
    let mut frames = Frames::to(proxy.address);
    frames.send(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes());
    ends_the_connection(&mut frames, &[PROTOCOL_ERROR], "an update by nothing (§6.9)");
}

#[test]
fn section_6_frames_with_a_wrong_size_or_stream_end_the_connection() {
    let (_origins, proxy) = proxy();
    for (kind, flags, stream, payload, code, what) in [
        (PING, 0, 0, &[0_u8; 7][..], FRAME_SIZE_ERROR, "a PING of 7 bytes (§6.7)"),
        (PING, 0, 1, &[0; 8], PROTOCOL_ERROR, "a PING on a stream (§6.7)"),
        (SETTINGS, 0, 0, &[0; 5], FRAME_SIZE_ERROR, "SETTINGS of 5 bytes (§6.5)"),
        (SETTINGS, ACK, 0, &[0; 6], FRAME_SIZE_ERROR, "an acknowledgement with content (§6.5)"),
        (SETTINGS, 0, 1, &[], PROTOCOL_ERROR, "SETTINGS on a stream (§6.5)"),
        (SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], PROTOCOL_ERROR, "ENABLE_PUSH of 2 (§6.5.2)"),
        (SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0], FLOW_CONTROL_ERROR, "a window of 2^31 (§6.5.2)"),
        (RST_STREAM, 0, 0, &[0; 4], PROTOCOL_ERROR, "RST_STREAM on the connection (§6.4)"),
        (RST_STREAM, 0, 1, &[0; 4], PROTOCOL_ERROR, "RST_STREAM of an idle stream (§6.4)"),
        (WINDOW_UPDATE, 0, 0, &[0; 3], FRAME_SIZE_ERROR, "WINDOW_UPDATE of 3 bytes (§6.9)"),
        (GOAWAY, 0, 1, &[0; 8], PROTOCOL_ERROR, "GOAWAY on a stream (§6.8)"),
        (CONTINUATION, END_HEADERS, 1, &[], PROTOCOL_ERROR, "CONTINUATION of nothing (§6.10)"),
        (HEADERS, END_HEADERS, 0, &[0x82], PROTOCOL_ERROR, "HEADERS on the connection (§6.2)"),
        (DATA, 0, 0, b"x", PROTOCOL_ERROR, "DATA on the connection (§6.1)"),
        (5, END_HEADERS, 1, &[0, 0, 0, 2], PROTOCOL_ERROR, "PUSH_PROMISE of a client (§8.4)"),
    ] {
        let mut frames = Frames::to(proxy.address);
        frames.send(kind, flags, stream, payload);
        // The library says PROTOCOL_ERROR for some that have a code of their own: as harmless.
        ends_the_connection(&mut frames, &[code, PROTOCOL_ERROR], what);
    }
}

#[test]
fn section_6_2_padding_is_taken_off_and_may_not_be_longer_than_the_frame() {
    let (origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    let mut padded = vec![3];
    padded.extend(Frames::block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/sink")]));
    padded.extend([0; 3]);
    frames.send(HEADERS, END_HEADERS | 8, 1, &padded);
    frames.send(DATA, END_STREAM | 8, 1, &[&[2][..], b"body", &[0; 2]].concat());
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
    assert_eq!(asked(&origins[0]).last().unwrap().body, 4);
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[200, 0x82]);
    ends_the_connection(&mut frames, &[PROTOCOL_ERROR], "padding beyond the frame");
}

#[test]
fn section_6_3_priorities_are_read_and_ignored() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(PRIORITY, 0, 3, &[0, 0, 0, 1, 15]);
    frames.ask(5, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
}

#[test]
fn section_6_10_a_head_may_come_in_pieces_but_nothing_between_them() {
    let (_origins, proxy) = proxy();
    let block = Frames::block(&Frames::get("/"));
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_STREAM, 1, &block[..7]);
    frames.send(CONTINUATION, 0, 1, &block[7..20]);
    frames.send(CONTINUATION, END_HEADERS, 1, &block[20..]);
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_STREAM, 1, &block[..7]);
    frames.send(PING, 0, 0, &[0; 8]);
    ends_the_connection(&mut frames, &[PROTOCOL_ERROR], "a PING within a head");
}

#[test]
fn section_6_8_a_client_that_says_goaway_gets_its_answers() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, &Frames::get("/slow?ms=100"));
    frames.send(GOAWAY, 0, 0, &[0; 8]);
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
}

#[test]
fn section_8_1_1_a_body_of_another_length_than_announced_is_malformed() {
    let (_origins, proxy) = proxy();
    for (length, body) in [("3", &b"four"[..]), ("5", b"four")] {
        let mut frames = Frames::to(proxy.address);
        let mut fields = Frames::get("/sink");
        fields[0].1 = "POST";
        fields.push(("content-length", length));
        frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&fields));
        frames.send(DATA, END_STREAM, 1, body);
        let end = frames.next_of(&[RST_STREAM, GOAWAY, HEADERS]).unwrap();
        if end.kind == HEADERS {
            assert_eq!(end.status(), 400);
        } else {
            assert_eq!(end.code(), PROTOCOL_ERROR, "{length}");
        }
        eventually("its claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    }
}

#[test]
fn section_8_2_names_and_values_that_http1_would_read_differently_are_malformed() {
    let (origins, proxy) = proxy();
    for (name, value) in [
        ("Upper", "x"),
        ("a b", "x"),
        ("a:b", "x"),
        ("a\r\nb", "x"),
        ("", "x"),
        ("a", "x\r\nevil: 1"),
        ("a", "x\nevil: 1"),
        ("a", "x\0"),
        ("connection", "keep-alive"),
        ("connection", "close"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("content-length", "1"),
        ("content-length", "+0"),
        ("content-length", "0, 0"),
    ] {
        let mut fields = Frames::get("/");
        fields.push((name, value));
        is_malformed(&proxy, &origins, &fields, &format!("{name:?}: {value:?}"));
    }
}

#[test]
fn section_8_3_pseudo_headers_are_there_once_known_and_first() {
    let (origins, proxy) = proxy();
    let without = |name: &str| Frames::get("/").into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    for name in [":method", ":scheme", ":path"] {
        is_malformed(&proxy, &origins, &without(name), &format!("no {name}"));
    }
    for (name, value) in Frames::get("/") {
        let mut twice = Frames::get("/");
        twice.push((name, value));
        is_malformed(&proxy, &origins, &twice, &format!("two of {name}"));
    }
    for (name, value) in [(":status", "200"), (":unknown", "x"), (":protocol", "websocket")] {
        let mut more = Frames::get("/");
        more.push((name, value));
        is_malformed(&proxy, &origins, &more, name);
    }
    let mut late = without(":path");
    late.extend([("accept", "*/*"), (":path", "/")]);
    is_malformed(&proxy, &origins, &late, "a pseudo-header after a header");
    for (name, value) in [(":path", ""), (":path", "no-slash"), (":path", "*"), (":scheme", "ftp"), (":method", "G T")]
    {
        let mut wrong = without(name);
        wrong.insert(0, (name, value));
        is_malformed(&proxy, &origins, &wrong, &format!("{name} {value:?}"));
    }
}

#[test]
fn section_8_3_1_one_authority_and_it_agrees_with_host() {
    let (origins, proxy) = proxy();
    let with = |authority: Option<&'static str>, hosts: &[&'static str]| {
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/echo")];
        fields.extend(authority.map(|a| (":authority", a)));
        fields.extend(hosts.iter().map(|h| ("host", *h)));
        fields
    };
    for (authority, hosts) in [
        (None, &[][..]),
        (Some("a"), &["b"]),
        (Some("a"), &["a", "b"]),
        (None, &["a", "a"]),
        (Some("user@a"), &[]),
        (Some("a,b"), &[]),
        (Some(""), &[]),
        (None, &["a b"]),
    ] {
        is_malformed(&proxy, &origins, &with(authority, hosts), &format!("{authority:?} and {hosts:?}"));
    }
    for (authority, hosts) in [(Some("a"), &[][..]), (Some("a"), &["a"]), (None, &["a"])] {
        let mut frames = Frames::to(proxy.address);
        frames.ask(1, &with(authority, hosts));
        assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200, "{authority:?} and {hosts:?}");
        let body = frames.next_of(&[DATA]).unwrap().payload;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let hosts = body["headers"].as_array().unwrap().iter().filter(|h| h[0] == "host");
        assert_eq!(hosts.map(|h| h[1].as_str().unwrap()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(body["target"], "/echo");
    }
}

#[test]
fn section_8_1_pseudo_headers_in_trailers_go_no_further() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    let mut fields = Frames::get("/echo");
    fields[0].1 = "POST";
    frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&fields));
    frames.send(DATA, 0, 1, b"body");
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &Frames::block(&[(":path", "/other")]));
    let end = frames.next_of(&[RST_STREAM, GOAWAY, HEADERS]).unwrap();
    if end.kind == HEADERS {
        // Dropped, as a recipient may (§8.1), rather than passed on in any form.
        let told: serde_json::Value = serde_json::from_slice(&frames.next_of(&[DATA]).unwrap().payload).unwrap();
        assert_eq!((&told["target"], &told["trailers"]), (&"/echo".into(), &serde_json::json!([])));
    } else {
        assert_eq!(end.code(), PROTOCOL_ERROR);
    }
}

#[test]
fn section_8_5_connect_is_not_served() {
    let (origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&[(":method", "CONNECT"), (":authority", "a:443")]));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 501);
    assert!(asked(&origins[0]).iter().all(|r| r.method != "CONNECT"));
}
