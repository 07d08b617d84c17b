use proptest::prelude::*;

use super::*;

fn inspector(longest_line: usize, most_headers: usize) -> Inspector {
    let plan = ListenerPlan { max_request_line: longest_line, max_headers: most_headers, ..ListenerPlan::example() };
    Inspector::new(&plan)
}

fn refused(pass: usize, kind: Kind) -> Verdict {
    Verdict::Refuse { pass, kind, in_body: false }
}

/// What becomes of these bytes in one read, which is what becomes of them in reads of one byte.
#[track_caller]
fn fed(bytes: &[u8]) -> Verdict {
    let whole = inspector(1000, 100).feed(bytes);
    let mut slow = inspector(1000, 100);
    let refused_at = bytes.iter().position(|byte| slow.feed(&[*byte]) != Verdict::Pass);
    assert_eq!(refused_at.is_none(), whole == Verdict::Pass, "{}", String::from_utf8_lossy(bytes));
    whole
}

#[test]
fn what_is_framed_in_one_way_passes() {
    for good in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length:  12 \t\r\n\r\nhello worldsGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-content-length: x\r\ncontent-lengths: x\r\ncontent_length: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA;a=\"b\"\r\n0123456789\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n1 \t;x\r\n\n\r\n000\r\nx: y\r\nz:\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(fed(good), Verdict::Pass, "{}", String::from_utf8_lossy(good));
    }
}

/// A body may hold whatever looks like a head.
#[test]
fn bodies_are_not_taken_for_heads() {
    let evil = "\r\n\r\nPOST /#x HTTP/1.1\nContent-Length: 1\r\nContent-Length: 2\r\nTransfer-Encoding: x\r\n\r\n";
    let length = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{evil}", evil.len());
    let chunk = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
    for message in [length, chunk] {
        assert_eq!(fed(message.as_bytes()), Verdict::Pass);
        // Right behind it, a head is one again.
        let twice = format!("{message}{evil}");
        assert_eq!(fed(twice.as_bytes()), refused(message.len() + 4, Kind::BadRequest));
    }
}

#[test]
fn what_could_be_framed_in_two_ways_is_refused() {
    for bad in [
        &b"GET / HTTP/1.1\nhost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: a\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\n",
        b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length:\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\x0c\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\x0c\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked                                             \r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5,5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5 5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 0x5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5.0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 184467440737095516160\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: , chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: \x0bchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n",
    ] {
        assert_eq!(fed(bad), refused(0, Kind::BadRequest), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn chunks_that_are_none_are_refused_where_they_begin_to_be() {
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    for (body, good) in [
        ("\r\n", 0),
        ("x\r\n", 0),
        ("-1\r\n", 0),
        (" 1\r\na\r\n", 0),
        ("1\na\r\n", 1),
        ("1\rXa\r\n", 2),
        ("1 2\r\n", 2),
        ("1;x\na\r\n", 3),
        ("1\r\nab", 4),
        ("1\r\na\n", 4),
        ("1\r\na\r\r\n", 5),
        ("fffffffffffffffff\r\n", 16),
        ("0\r\nx: y\n\r\n", 3),
        ("0\r\n\n", 3),
    ] {
        let verdict = Verdict::Refuse { pass: head.len() + good, kind: Kind::BadRequest, in_body: true };
        assert_eq!(fed(format!("{head}{body}").as_bytes()), verdict, "{body:?}");
    }
}

#[test]
fn a_request_before_a_refused_one_is_passed_on() {
    let first = "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc";
    let bytes = format!("{first}GET / HTTP/1.1\nhost: a\r\n\r\n");
    assert_eq!(fed(bytes.as_bytes()), refused(first.len(), Kind::BadRequest));
}

#[test]
fn limits_hold_before_the_end_has_come() {
    let line = |target: usize| format!("GET /{} HTTP/1.1", "x".repeat(target));
    let longest = line(100).len();
    for tail in ["", "\r", "\r\n", "\r\nhost: a\r\n\r\n"] {
        let too_long = format!("{}{tail}", line(101));
        let verdict = inspector(longest, 100).feed(too_long.as_bytes());
        // The last byte may still be the CR of a line that is long enough.
        assert_eq!(verdict == refused(0, Kind::UriTooLong), !tail.is_empty(), "{tail:?}: {verdict:?}");
        let fits = format!("{}{tail}", line(100));
        assert_eq!(inspector(longest, 100).feed(fits.as_bytes()), Verdict::Pass, "{tail:?}");
    }
    let mut endless = inspector(longest, 100);
    assert!((0..1000).any(|_| endless.feed(b"x") == refused(0, Kind::UriTooLong)));

    let headers = |count: usize| format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(count));
    assert_eq!(inspector(100, 5).feed(format!("{}\r\n", headers(5)).as_bytes()), Verdict::Pass);
    assert_eq!(inspector(100, 5).feed(headers(6).as_bytes()), refused(0, Kind::HeadersTooLarge));
    // Each head has its own count.
    assert_eq!(inspector(100, 5).feed(format!("{}\r\n", headers(5)).repeat(3).as_bytes()), Verdict::Pass);
}

#[test]
fn a_name_that_counts_is_not_hidden_by_blanks() {
    let padded = format!("POST / HTTP/1.1\r\ncontent-length:{}5\r\n\r\n     ", " ".repeat(100));
    // Longer than what is kept of a line that comes in pieces; in one piece it is no better.
    assert_eq!(fed(padded.as_bytes()), refused(0, Kind::BadRequest));
}

#[test]
fn what_follows_a_request_to_switch_protocols_waits() {
    let head = "GET / HTTP/1.1\r\nUpgrade: x\r\ncontent-length: 2\r\n\r\nhi";
    let mut inspector = inspector(100, 100);
    assert_eq!(inspector.feed(head.as_bytes()), Verdict::Pass);
    assert!(inspector.is_waiting());
    assert_eq!(inspector.feed(b"GET / HTTP/1.1\n"), Verdict::Hold { pass: 0 });
    inspector.resume();
    assert_eq!(inspector.feed(b"GET / HTTP/1.1\n"), refused(0, Kind::BadRequest));
    let both = format!("{head}no http");
    assert_eq!(fed(both.as_bytes()), Verdict::Hold { pass: head.len() });
}

fn message() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let good = prop_oneof![
        Just(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        Just(b"\r\nGET /?x HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|body| {
            [format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
        }),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..4).prop_map(|chunks| {
            let mut message = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in chunks {
                message.extend([format!("{:X};e\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat());
            }
            message.extend(b"0\r\nx-t: 1\r\n\r\n");
            message
        }),
    ];
    let bad = prop_oneof![
        Just(b"GET / HTTP/1.1\r\nhost: a\n\r\n".to_vec()),
        Just(b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
    ];
    prop_oneof![9 => good.prop_map(|m| (m, true)), 1 => bad.prop_map(|m| (m, false))]
}

proptest! {
    /// However messages are cut into reads, all before the first bad one pass and nothing of it is
    /// completed.
    #[test]
    fn the_cutting_into_reads_changes_nothing(
        messages in proptest::collection::vec(message(), 1..8),
        cuts in proptest::collection::vec(1..300_usize, 1..40),
    ) {
        let good: usize = messages.iter().take_while(|(_, good)| *good).map(|(m, _)| m.len()).sum();
        let all: Vec<u8> = messages.iter().flat_map(|(m, _)| m.iter().copied()).collect();
        let bad = messages.iter().find(|(_, good)| !good).map_or(0, |(m, _)| m.len());
        let mut inspector = inspector(1000, 100);
        let mut passed = 0;
        let mut refused = false;
        let mut rest = &all[..];
        for cut in cuts.iter().cycle() {
            let (read, next) = rest.split_at(rest.len().min(*cut));
            match inspector.feed(read) {
                Verdict::Pass => passed += read.len(),
                Verdict::Refuse { pass, in_body, .. } => {
                    prop_assert!(!in_body);
                    passed += pass;
                    refused = true;
                }
                Verdict::Hold { .. } => prop_assert!(false, "nothing to wait for"),
            }
            rest = next;
            if refused || rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(refused, bad > 0);
        prop_assert!(passed >= good && (passed < good + bad || bad == 0), "{} of {}", passed, good);
    }
}
