//! What each path answers.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, SET_COOKIE, TRAILER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::body::Pattern;
use super::cache;
use super::journal::{Entry, Served, cookie, header, latin1};
use super::operator;
use super::server::Shared;
use super::sessions::Broken;
use super::tunnel;

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Ends the connection without an answer.
#[derive(Debug)]
pub(super) struct HangUp;

impl Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was ended as the request or the test asked")
    }
}

impl std::error::Error for HangUp {}

/// Serves one request: enters it in the journal, answers, and names the server.
pub(super) async fn answer(shared: Arc<Shared>, connection: u64, request: Request<Incoming>) -> Result<Answer, HangUp> {
    let headers = request.headers();
    let mut entry = shared.journal.enter(Served {
        connection,
        method: request.method().clone(),
        target: request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string),
        request_id: header(headers, "x-request-id"),
        session: cookie(headers, "sid"),
        forwarded_for: header(headers, "x-forwarded-for"),
        status: None,
        body: 0,
    });
    let mut answer = by_path(&shared, &mut entry, connection, request).await?;
    answer.headers_mut().insert("x-server", shared.server_header.clone());
    entry.answered(answer.status().as_u16());
    Ok(answer)
}

async fn by_path(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Answer, HangUp> {
    let behaviour = *shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    let path = request.uri().path();
    if path == "/healthz" {
        pause(behaviour.health_delay).await;
        return Ok(match behaviour.healthy && shared.sessions.is_ready() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "not well\n"),
        });
    }
    if path.starts_with("/sessions") {
        return Ok(operator::sessions(shared, request).await);
    }
    pause(behaviour.delay).await;
    shared.work().await;
    if behaviour.hang_up || path == "/drop" {
        return Err(HangUp);
    }
    if let Some(code) = behaviour.status {
        return Ok(status(code));
    }
    Ok(match path {
        "/" => page(shared, entry, request.headers()).await,
        "/login" => login(shared, &request).await,
        "/count" => count(shared, entry).await,
        "/item" => cache::item(shared, &request).await,
        "/slow" => match query(&request, "ms") {
            Ok(ms) => {
                pause(Duration::from_millis(ms.unwrap_or(1000))).await;
                text(StatusCode::OK, "that took a while\n")
            }
            Err(wrong) => *wrong,
        },
        "/bytes" => bytes(&request),
        "/echo" => return echo(shared, entry, connection, request).await,
        "/mirror" => mirror(request),
        "/sink" => return sink(shared, entry, request).await,
        "/status" => match query(&request, "code") {
            Ok(code) => status(code.unwrap_or(200)),
            Err(wrong) => *wrong,
        },
        "/ws" => tunnel::web_socket(shared, request),
        "/tunnel" => tunnel::bytes(shared, request),
        _ => text(StatusCode::NOT_FOUND, format!("{} has nothing at {path}\n", shared.name)),
    })
}

async fn pause(time: Duration) {
    // A sleep of nothing would still wait for the timer's next tick.
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// A page for people: HTML for browsers, a line for curl.
async fn page(shared: &Shared, entry: &Entry, headers: &HeaderMap) -> Answer {
    let sessions = &shared.sessions;
    let known = match entry.session() {
        Some(id) => sessions.visit(id).await,
        None => Ok(None),
    };
    let known = match known {
        Ok(known) => known,
        Err(error) => return broken(&error),
    };
    let mut started = None;
    if known.is_none() {
        let new = async {
            let id = sessions.start("somebody", None).await?;
            sessions.visit(&id).await?;
            Ok(id)
        };
        match new.await {
            Ok(id) => started = Some(id),
            Err(error) => return broken(&error),
        }
    }
    let open = sessions.held().sessions;
    let name = &shared.name;
    let visits = known.unwrap_or(1);
    let lost = match (entry.session(), known) {
        (Some(_), None) => " Your session is not known here, so a new one was started.",
        _ => "",
    };
    let wants_html = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let mut answer = if wants_html.is_some_and(|accept| accept.contains("text/html")) {
        let name = escape(name);
        let plural = if open == 1 { "session lives" } else { "sessions live" };
        let mut answer = text(
            StatusCode::OK,
            format!(
                "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Server {name}</title>\n\
                 <meta name=\"viewport\" content=\"width=device-width\">\n\
                 <style>body{{font:1.2rem/1.6 system-ui;margin:4rem auto;max-width:36rem;padding:0 1rem}}\
                 b{{font-size:3rem}}</style>\n\
                 <p>This is server<br><b>{name}</b>\n<p>Visit {visits} of your session.{lost}\n\
                 <p>{open} {plural} in this server's memory, and in no other.\n</html>\n"
            ),
        );
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        answer
    } else {
        text(StatusCode::OK, format!("server {name}, visit {visits} of your session.{lost}\n"))
    };
    answer.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    if let Some(id) = started {
        set_session(&mut answer, &id);
    }
    answer
}

fn escape(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

async fn login(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let (user, life) = match (query::<String>(request, "user"), query(request, "life_ms")) {
        (Ok(user), Ok(life)) => (user.unwrap_or_else(|| "somebody".to_owned()), life.map(Duration::from_millis)),
        (Err(wrong), _) | (_, Err(wrong)) => return *wrong,
    };
    match shared.sessions.start(&user, life).await {
        Ok(id) => {
            let mut answer = text(StatusCode::OK, format!("logged in at {}\n", shared.name));
            set_session(&mut answer, &id);
            answer
        }
        Err(error) => broken(&error),
    }
}

/// What keeps sessions or items has failed.
pub(super) fn broken(error: &Broken) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("this cannot be answered: {}\n", error.0))
}

fn set_session(answer: &mut Answer, id: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("sid={id}; Path=/; HttpOnly; SameSite=Lax")) {
        answer.headers_mut().append(SET_COOKIE, value);
    }
}

async fn count(shared: &Shared, entry: &Entry) -> Answer {
    let visits = match entry.session() {
        Some(id) => shared.sessions.visit(id).await,
        None => Ok(None),
    };
    match visits {
        Ok(Some(visits)) => text(StatusCode::OK, format!("{visits}\n")),
        Ok(None) => text(StatusCode::UNAUTHORIZED, format!("{} does not know this session\n", shared.name)),
        Err(error) => broken(&error),
    }
}

fn bytes(request: &Request<Incoming>) -> Answer {
    let (length, cut, chunked) = match (query(request, "n"), query(request, "cut"), query::<u8>(request, "chunked")) {
        (Ok(length), Ok(cut), Ok(chunked)) => (length, cut, chunked),
        (Err(wrong), ..) | (_, Err(wrong), _) | (.., Err(wrong)) => return *wrong,
    };
    let body = Pattern::new(length.unwrap_or(1024), chunked.unwrap_or(0) == 0, cut);
    let mut answer = Response::new(body.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// Everything the server was sent, so that a test sees what the proxy made of it.
async fn echo(
    shared: &Shared,
    entry: &mut Entry,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Answer, HangUp> {
    let (head, mut body) = request.into_parts();
    let (length, trailers) = read(&mut body, entry).await?;
    let told = serde_json::json!({
        "server": shared.name,
        "connection": connection,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": pairs(&head.headers),
        "body_length": length,
        "trailers": pairs(&trailers),
    });
    Ok(json(&told))
}

pub(super) fn json(told: &serde_json::Value) -> Answer {
    let mut answer = text(StatusCode::OK, format!("{told:#}\n"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, String)> {
    headers.iter().map(|(name, value)| (name.as_str(), latin1(value.as_bytes()))).collect()
}

fn mirror(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let mut answer = Response::new(body.map_err(io::Error::other).boxed_unsync());
    for name in [CONTENT_TYPE, TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

async fn sink(shared: &Shared, entry: &mut Entry, request: Request<Incoming>) -> Result<Answer, HangUp> {
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "the sink takes POST and PUT\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, PUT"));
        return Ok(answer);
    }
    let id = header(request.headers(), "x-request-id").unwrap_or_else(|| "-".to_owned());
    let (length, _) = read(&mut request.into_body(), entry).await?;
    Ok(text(StatusCode::OK, format!("{} took {length} bytes as {id}\n", shared.name)))
}

/// Reads a body to its end in constant memory; one that breaks off ends the connection.
async fn read(body: &mut Incoming, entry: &mut Entry) -> Result<(u64, HeaderMap), HangUp> {
    let mut length = 0;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| HangUp)?.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                entry.set_body(length);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((length, trailers))
}

fn status(code: u16) -> Answer {
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 => {
            let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            text(status, if empty { String::new() } else { format!("{status}\n") })
        }
        _ => text(StatusCode::BAD_REQUEST, format!("{code} is no final status: write 200 to 999\n")),
    }
}

/// A number from the query, none where it is missing.
///
/// # Errors
/// The answer for one that is not a number.
pub(super) fn query<T: FromStr>(request: &Request<Incoming>, name: &str) -> Result<Option<T>, Box<Answer>> {
    let pairs = request.uri().query().unwrap_or("").split('&');
    let Some((_, value)) = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name) else {
        return Ok(None);
    };
    let wrong = |_| Box::new(text(StatusCode::BAD_REQUEST, format!("{name}={value} is not a number that fits\n")));
    value.parse().map(Some).map_err(wrong)
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

pub(super) fn full(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}
