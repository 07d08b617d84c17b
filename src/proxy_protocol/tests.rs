use proptest::prelude::*;

use super::*;

fn proxied(source: &str, destination: &str) -> Header {
    Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn v2_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

#[test]
fn lines_of_version_1() {
    for (line, wanted) in [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n", proxied("192.0.2.7:5000", "10.0.0.1:443")),
        ("PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", proxied("[2001:db8::7]:0", "[::1]:65535")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", proxied("[::ffff:192.0.2.7]:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", Header::Local),
        ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Header::Local),
        ("PROXY UNKNOWN whatever it says\r\n", Header::Local),
    ] {
        assert_eq!(parse(format!("{line}GET / HTTP/1.1").as_bytes()), Parsed::Complete(wanted, line.len()), "{line}");
    }
}

#[test]
fn lines_that_are_refused() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rX",
        "PROXY TCP4\t1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\0\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY \r\n",
        "PROXY\r\n",
        "\x16\x03\x01",
        "\r\n\r\n\r\n",
    ] {
        assert!(matches!(parse(line.as_bytes()), Parsed::Invalid(_)), "{line:?}: {:?}", parse(line.as_bytes()));
    }
}

#[test]
fn a_line_of_version_1_has_at_most_107_bytes() {
    let line = |n: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(n - 16));
    assert_eq!(parse(line(107).as_bytes()), Parsed::Complete(Header::Local, 107));
    assert!(matches!(parse(line(108).as_bytes()), Parsed::Invalid(_)));
    assert_eq!(parse(&line(108).as_bytes()[..106]), Parsed::Partial);
    assert!(matches!(parse(&line(108).as_bytes()[..107]), Parsed::Invalid(_)));
}

#[test]
fn both_ends_are_written_in_one_family() {
    for (source, destination, line) in [
        ("192.0.2.7:5000", "10.0.0.1:443", "PROXY TCP4 192.0.2.7 10.0.0.1 5000 443"),
        ("[::ffff:192.0.2.7]:0", "10.0.0.1:443", "PROXY TCP4 192.0.2.7 10.0.0.1 0 443"),
        ("[2001:db8::7]:5000", "10.0.0.1:443", "PROXY TCP6 2001:db8::7 ::ffff:a00:1 5000 443"),
        ("192.0.2.7:5000", "[2001:db8::1]:443", "PROXY TCP6 ::ffff:c000:207 2001:db8::1 5000 443"),
    ] {
        let written = Version::V1.encode(&proxied(source, destination));
        assert_eq!(String::from_utf8(written).unwrap(), format!("{line}\r\n"));
    }
    assert_eq!(Version::V1.encode(&Header::Local), b"PROXY UNKNOWN\r\n");
}

#[test]
fn headers_of_version_2() {
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 1, 0xbb];
    let wanted = proxied("192.0.2.7:5000", "10.0.0.1:443");
    let plain = v2_of(0x21, 0x11, &v4);
    assert_eq!(parse(&plain), Parsed::Complete(wanted, plain.len()));
    // Extensions are skipped, and what follows the header is not looked at.
    let extended = v2_of(0x21, 0x11, &[&v4[..], &[0x04, 0, 3, 1, 2, 3], &[0xff; 900]].concat());
    assert_eq!(parse(&[&extended[..], b"\x16\x03\x01"].concat()), Parsed::Complete(wanted, extended.len()));

    let unix = [b'x'; 216];
    for (command, family, block) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0x11, &v4),
        (0x20, 0x11, &[]),
        (0x20, 0xff, &[1, 2, 3]),
        (0x21, 0x00, &[]),
        (0x21, 0x00, &[1, 2, 3]),
        (0x21, 0x31, &unix),
        (0x21, 0x12, &v4),
    ] {
        let bytes = v2_of(command, family, block);
        assert_eq!(parse(&bytes), Parsed::Complete(Header::Local, bytes.len()), "{command:x} {family:x}");
    }
}

#[test]
fn headers_of_version_2_that_are_refused() {
    let v4 = [1; 12];
    for (command, family, block) in [
        (0x11, 0x11, &v4[..]),
        (0x31, 0x11, &v4),
        (0x22, 0x11, &v4),
        (0x2f, 0x11, &v4),
        (0x21, 0x13, &v4),
        (0x21, 0x41, &v4),
        (0x21, 0x10, &v4),
        (0x21, 0x11, &v4[..11]),
        (0x21, 0x21, &v4),
        (0x21, 0x11, &[0; V2_LONGEST - V2_FIXED + 1]),
    ] {
        let bytes = v2_of(command, family, block);
        assert!(matches!(parse(&bytes), Parsed::Invalid(_)), "{command:x} {family:x}: {:?}", parse(&bytes));
    }
    let longest = v2_of(0x21, 0x11, &[0; V2_LONGEST - V2_FIXED]);
    assert!(matches!(parse(&longest), Parsed::Complete(_, V2_LONGEST)));
    // The length is known before the rest is there, and so is refused before it is waited for.
    assert!(matches!(parse(&v2_of(0x21, 0x11, &[0; V2_LONGEST])[..V2_FIXED]), Parsed::Invalid(_)));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    let v6 = any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    prop_oneof![v4, v6]
}

fn header() -> impl Strategy<Value = Header> {
    let pair = (address(), address()).prop_map(|(source, destination)| Header::Proxied { source, destination });
    prop_oneof![1 => Just(Header::Local), 9 => pair]
}

/// The same with both ends in their canonical form, which is all that the other side may rely on.
fn canonical(header: Header) -> Header {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    match header {
        Header::Local => Header::Local,
        Header::Proxied { source, destination } => {
            Header::Proxied { source: plain(source), destination: plain(destination) }
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed(header in header(), follows in prop::collection::vec(any::<u8>(), 0..40)) {
        for encoded in [encode_v1(&header), encode_v2(&header)] {
            let all = [&encoded[..], &follows].concat();
            let Parsed::Complete(parsed, len) = parse(&all) else { panic!("{:?}", parse(&all)) };
            prop_assert_eq!(canonical(parsed), canonical(header));
            prop_assert_eq!(len, encoded.len());
            // No over-read: until its last byte is there, every byte belongs to the header.
            for cut in 0..len {
                prop_assert_eq!(parse(&encoded[..cut]), Parsed::Partial);
            }
        }
    }

    #[test]
    fn no_bytes_are_read_two_ways(
        start in prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY ".to_vec()),
            Just(b"PROXY TCP4 1.1.1.1 2.2.2.2 ".to_vec()),
            Just(SIGNATURE.to_vec()),
            Just([&SIGNATURE[..], &[0x21, 0x11]].concat()),
            Just([&SIGNATURE[..], &[0x21, 0x21, 0]].concat()),
        ],
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, rest].concat();
        match parse(&bytes) {
            Parsed::Complete(_, len) => {
                prop_assert!(len <= bytes.len());
                prop_assert_eq!(parse(&bytes[..len]), parse(&bytes), "what follows must not matter");
                prop_assert_eq!(parse(&bytes[..len - 1]), Parsed::Partial);
            }
            Parsed::Partial => prop_assert!(bytes.len() < V2_LONGEST),
            Parsed::Invalid(_) => {
                let more = [&bytes[..], b"\r\n1 2\r\n"].concat();
                prop_assert!(matches!(parse(&more), Parsed::Invalid(_)), "more bytes must not make it valid");
            }
        }
    }
}
