//! A GET whose answer is judged by status and body.
//!
//! Each probe opens its own connection: one that reuses a connection would not notice a server that
//! accepts no more.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::http2;
use super::tcp::{self, Target, Wire};
use super::{Hears, HttpCheck, Outcome, Says};
use crate::asks;
use crate::server_stream::ServerStream;

/// How much of a body is searched for the expected text.
const SEARCHED: usize = 64 << 10;
/// The first word of a body with which a server asks to be drained.
const DRAIN: &[u8] = b"drain";

/// Sends one request and judges its answer. The caller bounds the time; `deadline` is shared out among
/// addresses.
pub(super) async fn ask(
    check: &HttpCheck,
    target: &Target,
    wire: &Wire,
    hears: Hears,
    deadline: Instant,
) -> Result<Says, String> {
    let stream = tcp::open(target, wire, check.port, deadline).await?;
    if wire.http2 {
        return over_http2(check, target, wire, hears, stream).await;
    }
    let request = Request::builder()
        .method(Method::GET)
        .uri(&check.path)
        .header(HOST, check.host.as_deref().unwrap_or(target.host()))
        .header(USER_AGENT, "evenkeel-check")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the request cannot be built: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("no HTTP connection: {error}"))?;
    // The connection and the exchange end together: nothing is left behind when the probe is dropped.
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| format!("no valid answer: {error}"))?;
        let status = answer.status().as_u16();
        if asks(hears, status, answer.headers()) {
            return Ok(Says::Drain);
        }
        let mut body = Beginning { body: answer.into_body(), seen: Vec::new(), is_whole: false };
        if hears.check && status == 200 {
            body.read_until(|seen| seen.len() > DRAIN.len() + SKIPPED).await?;
            if begins_with_drain(&body.seen) {
                return Ok(Says::Drain);
            }
        }
        judge_status(check, status)?;
        match &check.expect_body {
            Some(text) => body.contains(text).await.map(|()| Says::Fine),
            None => Ok(Says::Fine),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // The rest of an answer may still be in the exchange's hands once the connection is done.
        _ = connection => exchange.await,
    }
}

async fn over_http2(
    check: &HttpCheck,
    target: &Target,
    wire: &Wire,
    hears: Hears,
    stream: ServerStream,
) -> Result<Says, String> {
    let scheme = if wire.tls.is_some() { "https" } else { "http" };
    let authority = check.host.as_deref().unwrap_or(target.host());
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(check.path.as_str()).build();
    let request = uri.and_then(|uri| {
        let request = Request::builder().uri(uri).version(http::Version::HTTP_2);
        request.header(USER_AGENT, "evenkeel-check").body(Bytes::new())
    });
    let request = request.map_err(|error| format!("the request cannot be built: {error}"))?;
    let reply = http2::ask(stream, request).await?;
    if asks(hears, reply.status, &reply.headers)
        || (hears.check && reply.status == 200 && begins_with_drain(&reply.body))
    {
        return Ok(Says::Drain);
    }
    judge_status(check, reply.status)?;
    match &check.expect_body {
        Some(text) if memchr::memmem::find(&reply.body, text.as_bytes()).is_none() => {
            Err(format!("the first 64 KiB of the body do not contain {text:?}"))
        }
        _ => Ok(Says::Fine),
    }
}

/// Whether the head of an answer asks for a drain.
fn asks(hears: Hears, status: u16, headers: &HeaderMap) -> bool {
    (hears.check && status == 404) || (hears.header && asks::is_for_drain(headers))
}

/// White space that may stand ahead of the word.
const SKIPPED: usize = 16;

fn begins_with_drain(body: &[u8]) -> bool {
    let body = &body[..body.len().min(DRAIN.len() + SKIPPED + 1)];
    let word = body.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
    word.is_some_and(|word| word.eq_ignore_ascii_case(DRAIN))
}

fn judge_status(check: &HttpCheck, status: u16) -> Outcome {
    let expected = check.expect_status;
    if status < expected.first || status > expected.last {
        return Err(format!("status {status}, expected {}", show(expected.first, expected.last)));
    }
    Ok(())
}

/// The beginning of a body, as far as it was read.
struct Beginning {
    body: Incoming,
    seen: Vec<u8>,
    is_whole: bool,
}

impl Beginning {
    /// Reads on until that is enough, or there is no more.
    async fn read_until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        while !self.is_whole && self.seen.len() < SEARCHED && !is_enough(&self.seen) {
            match self.body.frame().await {
                None => self.is_whole = true,
                Some(Err(error)) => return Err(format!("the body ended early: {error}")),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.seen.extend_from_slice(&data[..data.len().min(SEARCHED - self.seen.len())]);
                }
            }
        }
        Ok(())
    }

    async fn contains(&mut self, text: &str) -> Outcome {
        let finder = memchr::memmem::Finder::new(text);
        self.read_until(|seen| finder.find(seen).is_some()).await?;
        if finder.find(&self.seen).is_some() {
            return Ok(());
        }
        Err(format!("the first 64 KiB of the body do not contain {text:?}"))
    }
}

fn show(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::health::{Check, StatusRange};

    /// Answers one request with `answer`; the handle gives what the client sent.
    async fn server(answer: String) -> (Target, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            String::from_utf8(head).unwrap()
        });
        (Target::Net { addresses: vec![address], host: "app.example:80".to_owned() }, task)
    }

    async fn judge(check: HttpCheck, answer: &str) -> Outcome {
        Check::Http(check).probe(&server(answer.to_owned()).await.0, &Wire::default()).await
    }

    #[tokio::test]
    async fn the_request_says_who_asks() {
        let (target, sent) = server("HTTP/1.1 204 No Content\r\n\r\n".to_owned()).await;
        let check = HttpCheck { path: "/healthz?full=1".to_owned(), ..HttpCheck::default() };
        assert_eq!(Check::Http(check).probe(&target, &Wire::default()).await, Ok(()));
        let sent = sent.await.unwrap();
        assert!(sent.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{sent}");
        for line in ["host: app.example:80\r\n", "user-agent: evenkeel-check\r\n", "connection: close\r\n"] {
            assert!(sent.contains(line), "{sent}");
        }
    }

    #[tokio::test]
    async fn the_host_may_be_set() {
        let (target, sent) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
        let check = HttpCheck { host: Some("other.example".to_owned()), ..HttpCheck::default() };
        assert_eq!(Check::Http(check).probe(&target, &Wire::default()).await, Ok(()));
        assert!(sent.await.unwrap().contains("host: other.example\r\n"));
    }

    #[tokio::test]
    async fn status_is_judged() {
        let down = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(judge(HttpCheck::default(), down).await.unwrap_err(), "status 503, expected 200-399");
        let only_503 = HttpCheck { expect_status: StatusRange { first: 503, last: 503 }, ..HttpCheck::default() };
        assert_eq!(judge(only_503, down).await, Ok(()));
    }

    #[tokio::test]
    async fn body_is_searched_in_its_first_64_kib() {
        let check = || HttpCheck { expect_body: Some("ready".to_owned()), ..HttpCheck::default() };
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
        assert_eq!(judge(check(), &answer("all ready")).await, Ok(()));
        assert!(judge(check(), &answer("starting")).await.unwrap_err().contains("\"ready\""));
        let late = format!("{}ready", "x".repeat(SEARCHED));
        assert!(judge(check(), &answer(&late)).await.is_err());
        let just = format!("{}ready", "x".repeat(SEARCHED - 5));
        assert_eq!(judge(check(), &answer(&just)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_server_asks_to_be_drained() {
        let (both, header) = (Hears { check: true, header: true }, Hears { check: false, header: true });
        let says = |hears: Hears, answer: &'static str| async move {
            let target = server(answer.to_owned()).await.0;
            Check::Http(HttpCheck::default()).ask(&target, &Wire::default(), hears).await
        };
        let gone = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(says(both, gone).await, Ok(Says::Drain));
        assert!(says(header, gone).await.is_err());
        for (body, expected) in [
            ("drain", Says::Drain),
            (" Drain\r\nplease", Says::Drain),
            ("drained", Says::Fine),
            ("no drain", Says::Fine),
            ("", Says::Fine),
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
            let target = || async { server(answer.clone()).await.0 };
            let check = Check::Http(HttpCheck::default());
            assert_eq!(check.ask(&target().await, &Wire::default(), both).await, Ok(expected), "{body:?}");
            assert_eq!(check.ask(&target().await, &Wire::default(), header).await, Ok(Says::Fine), "{body:?}");
        }
        let told = "HTTP/1.1 200 OK\r\nx-evenkeel: weight=3; DRAIN\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(says(header, told).await, Ok(Says::Drain));
        assert_eq!(says(Hears::default(), told).await, Ok(Says::Fine));
        // Whoever asks for a drain is not judged by what a whole answer has.
        let check = Check::Http(HttpCheck { expect_body: Some("all well".to_owned()), ..HttpCheck::default() });
        let target = server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ndrain".to_owned()).await.0;
        assert_eq!(check.ask(&target, &Wire::default(), both).await, Ok(Says::Drain));
    }

    #[tokio::test]
    async fn garbage_and_silence_are_failures() {
        assert!(judge(HttpCheck::default(), "SSH-2.0-x\r\n").await.unwrap_err().contains("no valid answer"));
        let short = HttpCheck { timeout: Duration::from_millis(50), ..HttpCheck::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Net { addresses: vec![listener.local_addr().unwrap()], host: "x".to_owned() };
        assert_eq!(Check::Http(short).probe(&target, &Wire::default()).await.unwrap_err(), "no result within 50ms");
    }
}
