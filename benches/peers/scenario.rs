//! What is measured, and what design and README promise of it.

/// The scenario that counts bytes instead of time.
pub(crate) const MEMORY: &str = "memory";

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// One request after the other.
    KeepAlive,
    /// As before, with the cookie that the first answer sets; all answers must come from one server.
    Sticky,
    /// One request, then it is closed.
    Once,
    /// Ten streams at a time.
    Http2,
    /// Small messages to and fro after an upgrade.
    WebSocket,
    /// One request, then nothing.
    Idle,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Exchange(&'static str),
    MebibyteDown,
    Connection,
}

/// What must be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Budget {
    /// Times what the better peer needs in the same run.
    OfBestPeer(f64),
    /// KiB.
    Kibibytes(f64),
}

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) connections: usize,
    pub(crate) path: &'static str,
    /// Header lines beyond Host.
    pub(crate) headers: &'static str,
    /// Bytes of the request's body.
    pub(crate) upload: usize,
    /// Bytes of the answer's body.
    pub(crate) answer: usize,
    pub(crate) using: Use,
    pub(crate) tls: bool,
    pub(crate) unit: Unit,
    pub(crate) budget: Budget,
}

/// A small answer: the server's letter and some text.
pub(crate) const SMALL: usize = 64;

const BASE: Scenario = Scenario {
    name: "small",
    title: "small GET, 32 connections",
    connections: 32,
    path: "/small",
    headers: "",
    upload: 0,
    answer: SMALL,
    using: Use::KeepAlive,
    tls: false,
    unit: Unit::Exchange("request"),
    budget: Budget::OfBestPeer(1.0),
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    BASE,
    Scenario { name: "browser", title: "GET with 1 KiB of headers", headers: BROWSER, ..BASE },
    Scenario { name: "sticky", title: "sticky cookie", path: "/sticky/small", using: Use::Sticky, ..BASE },
    Scenario { name: "ip_hash", title: "hash of the client address", path: "/hash/small", ..BASE },
    Scenario {
        name: "64k",
        title: "answer of 64 KiB",
        path: "/64k",
        answer: 64 << 10,
        budget: Budget::OfBestPeer(0.7),
        ..BASE
    },
    Scenario {
        name: "10m",
        title: "answer of 10 MiB, 8 connections",
        connections: 8,
        path: "/10m",
        answer: 10 << 20,
        unit: Unit::MebibyteDown,
        budget: Budget::OfBestPeer(0.75),
        ..BASE
    },
    Scenario {
        name: "upload",
        title: "upload of 1 MiB, 8 connections",
        connections: 8,
        path: "/upload",
        upload: 1 << 20,
        unit: Unit::Exchange("upload"),
        budget: Budget::OfBestPeer(0.75),
        ..BASE
    },
    Scenario {
        name: "connect",
        title: "new connection per request",
        headers: "Connection: close\r\n",
        using: Use::Once,
        ..BASE
    },
    Scenario { name: "1000", title: "small GET, 1,000 connections", connections: 1000, ..BASE },
    Scenario {
        name: "websocket",
        title: "WebSocket ping-pong, 32 sockets",
        path: "/ws",
        using: Use::WebSocket,
        unit: Unit::Exchange("message"),
        ..BASE
    },
    Scenario { name: "tls", title: "small GET under TLS 1.3", tls: true, budget: Budget::OfBestPeer(0.9), ..BASE },
    Scenario {
        name: "handshake",
        title: "full TLS 1.3 handshake with a request",
        headers: "Connection: close\r\n",
        using: Use::Once,
        tls: true,
        budget: Budget::OfBestPeer(0.9),
        ..BASE
    },
    Scenario {
        name: "tls-64k",
        title: "answer of 64 KiB under TLS 1.3",
        path: "/64k",
        answer: 64 << 10,
        tls: true,
        budget: Budget::OfBestPeer(0.7),
        ..BASE
    },
    Scenario {
        name: "http2",
        title: "HTTP/2 under TLS 1.3, 8 connections, 10 streams",
        connections: 8,
        using: Use::Http2,
        tls: true,
        budget: Budget::OfBestPeer(0.8),
        ..BASE
    },
    Scenario {
        name: MEMORY,
        title: "memory of an idle connection, 5,000",
        connections: 5000,
        using: Use::Idle,
        unit: Unit::Connection,
        budget: Budget::Kibibytes(3.0),
        ..BASE
    },
];

/// What a browser sends along, 1,024 bytes.
const BROWSER: &str = "\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"138\", \"Not)A;Brand\";v=\"8\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
Upgrade-Insecure-Requests: 1\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-User: ?1\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: http://shop.example.com/products/kettles?sort=price&page=2\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7\r\n\
If-None-Match: \"5f1d7a3c9e8b4026\"\r\n\
Cookie: sid=0123456789abcdef0123456789abcdef; theme=dark; currency=EUR; consent=necessary%2Cstatistics; \
cart=eyJpdGVtcyI6W3sic2t1IjoiSy0xMjM0IiwicXR5IjoxfSx7InNrdSI6IlQtOTg3NiIsInF0eSI6Mn1dfQ; \
seen=K-1234.T-9876.K-5521.K-7310; first_visit=2026-01-14T09:21:44Z; experiment=checkout-b; campaign=spring-2026; device=7d1f0c52-9b6e-4e1a-8c3d-2f60a1b94\r\n";
