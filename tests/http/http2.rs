//! HTTP/2 with clients, by prior knowledge: the same story as HTTP/1, many at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use harness::{
    Client2, Fake, Frames, PATIENCE, Proxy, app, eventually, exchange, is_reset, origins, unchecked, upstream,
};
use http::{HeaderMap, HeaderValue, StatusCode};

const RR: &str = "\"round_robin\"";

#[test]
fn many_requests_share_a_connection_and_reach_every_server() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let answers = client.runtime.block_on(async {
        let all = (0..50).map(|_| {
            let request = Client2::request("GET", "/").body(()).unwrap();
            tokio::spawn(exchange(client.sender.clone(), request, None, None))
        });
        let mut answers = Vec::new();
        for answer in all.collect::<Vec<_>>() {
            answers.push(answer.await.unwrap().unwrap());
        }
        answers
    });
    assert!(answers.iter().all(|a| a.status == StatusCode::OK && a.headers.contains_key("date")));
    for name in ["a", "b"] {
        let share = answers.iter().filter(|a| a.header("x-server") == Some(name)).count();
        assert_eq!(share, 25, "server {name}");
    }
    assert_eq!(proxy.metric("evenkeel_connections_accepted_total", &[]), 1.0);
    assert_eq!(proxy.metric("evenkeel_http2_connections_total", &[]), 1.0);
}

#[test]
fn servers_see_what_they_would_see_of_http1() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let request = Client2::request("GET", "/echo?x=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let answer = client.send(request, None).unwrap();
    let seen = String::from_utf8(answer.body).unwrap().to_lowercase();
    for wanted in ["\"a=1; b=2\"", "\"host\"", "x-forwarded-for", "127.0.0.1", "x-forwarded-proto"] {
        assert!(seen.contains(wanted), "{wanted} in {seen}");
    }
    assert!(answer.headers.contains_key("x-request-id") && !answer.headers.contains_key("connection"));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let answer = client.send_with_trailers(
        Client2::request("POST", "/mirror").header("trailer", "x-sum").header("te", "trailers").body(()).unwrap(),
        &body,
        trailers.clone(),
    );
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
    assert_eq!(answer.trailers, Some(trailers));
    let known = Client2::request("POST", "/mirror").header("content-length", body.len()).body(()).unwrap();
    assert!(client.send(known, Some(&body)).unwrap().body == body);
}

#[test]
fn head_and_answers_without_a_body_end_at_once() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let head = client.send(Client2::request("HEAD", "/bytes?n=12").body(()).unwrap(), None).unwrap();
    assert_eq!((head.header("content-length"), head.body.len()), (Some("12"), 0));
    assert_eq!(client.get("/status?code=204").status, StatusCode::NO_CONTENT);
    assert_eq!(client.get("/status?code=304").status, StatusCode::NOT_MODIFIED);
}

#[test]
fn errors_of_the_proxy_have_their_reason() {
    let proxy = Proxy::start(&unchecked("127.0.0.1:1", "retry = { attempts = 0 }"));
    let client = Client2::to(proxy.address);
    let answer = client.get("/");
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["error"], "connect_refused");
    assert!(answer.header("server-timing").unwrap().contains("connect_refused"));
    assert!(answer.header("connection").is_none() && answer.headers.contains_key("date"));
}

#[test]
fn an_answer_that_breaks_off_is_reset_never_ended() {
    let fake = Fake::saying_once("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let client = Client2::to(proxy.address);
    let error = client.send(Client2::request("GET", "/").body(()).unwrap(), None).unwrap_err();
    assert!(is_reset(&error, Reason::INTERNAL_ERROR), "{error:?}");
}

#[test]
fn a_request_that_the_client_takes_back_gives_up_its_server() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let held = client.runtime.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        sender.send_request(Client2::request("GET", "/slow?ms=60000").body(()).unwrap(), true).unwrap()
    });
    eventually("the request is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    drop(held);
    eventually("its claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    assert_eq!(client.get("/").status, StatusCode::OK, "the connection goes on");
}

#[test]
fn one_slow_reader_holds_up_no_other_stream() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::with(proxy.address, |builder| {
        builder.initial_window_size(65_535).initial_connection_window_size(1 << 24);
    });
    // Its answer is never read, so its window stays shut.
    let slow = client.runtime.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        let request = Client2::request("GET", "/bytes?n=50000000").body(()).unwrap();
        sender.send_request(request, true).unwrap().0.await.unwrap()
    });
    for _ in 0..20 {
        assert_eq!(client.get("/bytes?n=300000").body.len(), 300_000);
    }
    drop(slow);
}

#[test]
fn a_window_that_stays_shut_ends_its_stream_and_not_the_connection() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("between_bytes = \"300ms\"\n{}", app(RR, &origins)));
    let client = Client2::with(proxy.address, |builder| {
        builder.initial_window_size(1000);
    });
    let ended = client.runtime.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        let request = Client2::request("GET", "/bytes?n=5000").body(()).unwrap();
        let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
        let work = async {
            loop {
                // What is read is not given back to the window.
                match body.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, work).await.unwrap()
    });
    assert!(ended.is_some_and(|error| is_reset(&error, Reason::CANCEL)));
    assert_eq!(client.get("/status?code=204").status, StatusCode::NO_CONTENT);
    eventually("the claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

#[test]
fn an_upload_waits_for_its_server() {
    let fake = Fake::start(|_, mut conn| {
        harness::read_head(&mut conn);
        // Takes nothing of the body.
        std::thread::park();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let client = Client2::to(proxy.address);
    let sent = client.runtime.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        let (_answer, mut stream) =
            sender.send_request(Client2::request("POST", "/").body(()).unwrap(), false).unwrap();
        let mut sent = 0_usize;
        loop {
            stream.reserve_capacity(65_536);
            let room = tokio::time::timeout(Duration::from_millis(400), async {
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await
            });
            let Ok(Some(Ok(room))) = room.await else { return sent };
            sent += room;
            stream.send_data(Bytes::from(vec![0; room]), false).unwrap();
        }
    });
    // The window, and what sockets and the server's connection buffer.
    assert!(sent < 16 << 20, "{sent} bytes were taken with nobody to take them");
}

#[test]
fn a_sticky_client_stays_over_http2() {
    let origins = origins(3);
    let proxy = Proxy::of("\"sticky_cookie\"", &origins);
    let client = Client2::to(proxy.address);
    let first = client.get("/");
    let cookies = first.headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap());
    let cookie = cookies.filter_map(|c| c.split(';').next()).find(|c| c.starts_with("evenkeel=")).unwrap().to_owned();
    for _ in 0..6 {
        let request = Client2::request("GET", "/").header("cookie", &cookie).body(()).unwrap();
        assert_eq!(client.send(request, None).unwrap().header("x-server"), first.header("x-server"));
    }
}

#[test]
fn a_stop_lets_requests_end_and_tells_the_client_to_go() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let client = Client2::to(proxy.address);
    let request = Client2::request("GET", "/slow?ms=700").body(()).unwrap();
    let pending = client.runtime.spawn(exchange(client.sender.clone(), request, None, None));
    eventually("the request is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    proxy.stop();
    let answer = client.runtime.block_on(pending).unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(client.wait().is_ok(), "the connection ends without an error");
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("idle_timeout = \"200ms\"\n{}", app(RR, &origins)));
    let client = Client2::to(proxy.address);
    assert_eq!(client.get("/").status, StatusCode::OK);
    assert!(client.wait().is_ok());
    eventually("it is counted", || (proxy.metric("evenkeel_connections_closed_total", &["idle"]) == 1.0).then_some(()));
}

#[test]
fn http2_can_be_turned_off() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("http2 = false\n{}", app(RR, &origins)));
    let mut frames = Frames::to(proxy.address);
    assert!(frames.is_ended());
    assert_eq!(proxy.metric("evenkeel_http2_connections_total", &[]), 0.0);
}

#[test]
fn the_preface_is_known_however_it_is_cut_and_other_methods_with_p_are_not_it() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut frames = Frames::silent(proxy.address);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for byte in preface {
        frames.raw(&[*byte]);
        // Each in a segment of its own, read before the next.
        std::thread::sleep(Duration::from_millis(2));
    }
    frames.send(harness::SETTINGS, 0, 0, &[]);
    frames.ask(1, &Frames::get("/"));
    assert_eq!(frames.next_of(&[harness::HEADERS]).unwrap().status(), 200);
    for method in ["POST", "PUT", "PATCH", "PROPFIND", "PRINT"] {
        let mut conn = proxy.raw();
        let request = format!("{method} /mirror HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        for byte in request.as_bytes().chunks(2) {
            conn.send(byte);
        }
        assert_eq!(conn.answer_to(method).status, 200, "{method}");
    }
}

#[test]
fn http2_may_begin_on_a_connection_that_was_parked_first() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut frames = Frames::silent(proxy.address);
    eventually("it is parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(()));
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frames.send(harness::SETTINGS, 0, 0, &[]);
    frames.ask(1, &Frames::get("/"));
    assert_eq!(frames.next_of(&[harness::HEADERS]).unwrap().status(), 200);
}

#[test]
fn a_request_deadline_answers_its_stream_alone() {
    let origins = origins(1);
    let proxy = Proxy::start(&upstream("app", RR, "[upstream.app.timeouts]\nrequest = \"2s\"\n", &origins));
    let client = Client2::to(proxy.address);
    let began = Instant::now();
    let (slow, quick) = client.runtime.block_on(async {
        let ask = |path| exchange(client.sender.clone(), Client2::request("GET", path).body(()).unwrap(), None, None);
        tokio::join!(ask("/slow?ms=30000"), ask("/"))
    });
    assert_eq!(slow.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(quick.unwrap().status, StatusCode::OK);
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn goodbye_is_said_in_two_steps_and_what_came_between_is_served() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut frames = Frames::to(proxy.address);
    let mut upload = Frames::get("/sink");
    upload[0].1 = "POST";
    frames.send(harness::HEADERS, harness::END_HEADERS, 1, &Frames::block(&upload));
    eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    proxy.stop();
    let first = frames.next_of(&[harness::GOAWAY]).unwrap();
    assert_eq!((last_stream(&first), first.code()), (0x7fff_ffff, 0), "the first names no stream");
    // The client has not heard of it: this one is still served.
    frames.ask(3, &Frames::get("/"));
    let ping = frames.next_of(&[harness::PING]).unwrap();
    frames.send(harness::PING, harness::ACK, 0, &ping.payload);
    frames.send(harness::DATA, harness::END_STREAM, 1, b"x");
    let (mut answered, mut second) = (Vec::new(), None);
    while let Some(frame) = frames.next() {
        match frame.kind {
            harness::HEADERS => answered.push((frame.stream, frame.status())),
            harness::GOAWAY => second = Some((last_stream(&frame), frame.code())),
            _ => {}
        }
    }
    answered.sort_unstable();
    assert_eq!((answered, second), (vec![(1, 200), (3, 200)], Some((3, 0))));
}

fn last_stream(goaway: &harness::Frame) -> u32 {
    u32::from_be_bytes(goaway.payload[..4].try_into().unwrap())
}

#[test]
fn streams_that_do_not_end_are_cut_at_the_deadline_of_the_stop() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{}[shutdown]\ndeadline = \"500ms\"\n", app(RR, &origins)));
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, &Frames::get("/slow?ms=60000"));
    eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    proxy.stop();
    assert!(frames.is_ended());
    proxy.wait();
}

#[test]
fn memory_is_bounded_when_every_stream_is_slow() {
    const STREAMS: u32 = 100;
    let origins = origins(1);
    let proxy = harness::Running::start(&app(RR, &origins));
    let before = {
        let mut frames = Frames::to(proxy.address);
        frames.ask(1, &Frames::get("/bytes?n=100000"));
        frames.next_of(&[harness::DATA]).unwrap();
        proxy.process.rss_kib()
    };
    let mut frames = Frames::silent(proxy.address);
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // Windows that let everything through, and a client that then reads nothing.
    frames.send(harness::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frames.send(harness::WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
    for n in 0..STREAMS {
        frames.ask(2 * n + 1, &Frames::get("/bytes?n=100000000"));
    }
    eventually("all are under way", || {
        (origins[0].requests().iter().filter(|r| r.target.ends_with("100000000")).count() == STREAMS as usize)
            .then_some(())
    });
    let each = (proxy.process.settled_rss_kib() - before) / u64::from(STREAMS);
    assert!(each < 640, "{each} KiB for each stream that is not read");
}

#[test]
fn early_hints_reach_the_client_before_the_answer() {
    let fake = Fake::saying(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, &Frames::get("/"));
    let hints = frames.next_of(&[harness::HEADERS]).unwrap();
    assert_eq!((hints.status(), hints.flags & harness::END_STREAM), (103, 0));
    assert_eq!(frames.next_of(&[harness::HEADERS]).unwrap().status(), 200);
    assert_eq!(frames.next_of(&[harness::DATA]).unwrap().payload, b"hi");
}

#[test]
fn a_client_that_takes_or_sends_a_byte_at_a_time_is_given_up() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("between_bytes = \"400ms\"\nmin_rate = \"4KiB\"\n{}", app(RR, &origins)));
    let mut frames = Frames::silent(proxy.address);
    frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // SETTINGS_INITIAL_WINDOW_SIZE of 1.
    frames.send(harness::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
    frames.send(harness::SETTINGS, harness::ACK, 0, &[]);
    frames.ask(1, &Frames::get("/bytes?n=100000"));
    let mut taken = 0;
    let end = loop {
        let frame = frames.next_of(&[harness::DATA, harness::RST_STREAM]).unwrap();
        if frame.kind == harness::RST_STREAM {
            break frame;
        }
        taken += frame.payload.len();
        // A client that takes its answer too slowly, without ever pausing for long.
        std::thread::sleep(Duration::from_millis(20));
        let _ = frames.try_send(harness::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    };
    assert_eq!((end.stream, end.code()), (1, 8), "after {taken} bytes");
    let mut fields = Frames::get("/sink");
    fields[0].1 = "POST";
    frames.send(harness::HEADERS, harness::END_HEADERS, 3, &Frames::block(&fields));
    let mut reader = Frames(frames.0.try_clone().unwrap());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sending = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
            let _ = frames.try_send(harness::DATA, 0, 3, b"x");
        }
    });
    assert_eq!(reader.next_of(&[harness::HEADERS]).unwrap().status(), 408);
    stop.send(()).unwrap();
    sending.join().unwrap();
}

#[test]
fn the_limits_of_heads_are_those_of_http1() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("max_headers = 10\nmax_request_line = \"1KiB\"\n{}", app(RR, &origins)));
    let client = Client2::to(proxy.address);
    let many = (0..11).fold(Client2::request("GET", "/"), |request, n| request.header(format!("x-{n}"), "1"));
    assert_eq!(client.send(many.body(()).unwrap(), None).unwrap().status.as_u16(), 431);
    assert_eq!(client.get(&format!("/{}", "x".repeat(1100))).status.as_u16(), 414);
    assert_eq!(client.get("/").status, StatusCode::OK);
}

#[test]
fn small_messages_may_be_measured_with_pings() {
    let fake = Fake::start(|_, mut conn| {
        harness::read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..1500 {
            // Messages one by one, as a stream of events has them.
            std::thread::sleep(Duration::from_millis(1));
            if conn.try_send(b"5\r\nhello\r\n").is_err() {
                return;
            }
        }
        conn.send(b"0\r\n\r\n");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut frames = Frames::to(proxy.address);
    frames.ask(1, &Frames::get("/"));
    let mut bytes = 0;
    loop {
        let data = frames.next_of(&[harness::DATA, harness::GOAWAY]).unwrap();
        assert_eq!(data.kind, harness::DATA, "told to calm down after {bytes} bytes");
        bytes += data.payload.len();
        if data.flags & harness::END_STREAM != 0 {
            break;
        }
        let _ = frames.try_send(harness::WINDOW_UPDATE, 0, 0, &5_u32.to_be_bytes());
        let _ = frames.try_send(harness::PING, 0, 0, &[0; 8]);
    }
    assert_eq!(bytes, 7500);
}
