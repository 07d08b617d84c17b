//! What whoever runs the servers asks of them about sessions, and what they ask each other: `/sessions` and below.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::answers::{self, Answer, broken, query, text};
use super::journal::header;
use super::server::Shared;
use super::sessions::{FOLLOWER, PROTOCOL};
use super::tunnel;

/// Answers a path that begins with `/sessions`.
pub(super) async fn sessions(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/sessions" => held(shared),
        "/sessions/revoke" => revoke(shared, &request).await,
        "/sessions/copy" | "/sessions/writes" => replicate(shared, request),
        _ => text(StatusCode::NOT_FOUND, "there is /sessions, /sessions/revoke, /sessions/copy, /sessions/writes\n"),
    }
}

fn held(shared: &Shared) -> Answer {
    let held = shared.sessions.held();
    let told = serde_json::json!({
        "server": shared.name,
        "sessions": held.sessions,
        "bytes": held.bytes,
        "peers": held.peers,
        "sent_bytes": held.sent,
    });
    answers::json(&told)
}

/// Logs a user out.
async fn revoke(shared: &Shared, request: &Request<Incoming>) -> Answer {
    if *request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "a user is logged out with POST\n");
    }
    let user: String = match query(request, "user") {
        Ok(Some(user)) => user,
        Ok(None) => return text(StatusCode::BAD_REQUEST, "whom? Write /sessions/revoke?user=NAME\n"),
        Err(wrong) => return *wrong,
    };
    match shared.sessions.revoke(&user).await {
        Ok(Some(ended)) => text(StatusCode::OK, format!("{ended} sessions of {user} ended\n")),
        Ok(None) => text(StatusCode::CONFLICT, "nothing is kept here, so nothing can be taken away\n"),
        Err(error) => broken(&error),
    }
}

/// Another server wants what this one has, or what it will write.
fn replicate(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Answer {
    let asked = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    let (Some(replicated), true) = (shared.sessions.replicated().cloned(), asked) else {
        let mut answer: Answer = Response::new(answers::full("for servers that replicate\n"));
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        return answer;
    };
    let follower: Option<SocketAddr> = header(request.headers(), FOLLOWER).and_then(|at| at.parse().ok());
    let writes = (request.uri().path() == "/sessions/writes").then(|| replicated.subscribe());
    let upgrade = hyper::upgrade::on(&mut request);
    let stopping = shared.stopping();
    shared.spawn_tunnel(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let wire = TokioIo::new(upgraded);
        let giving = async {
            match writes {
                Some(writes) => replicated.give_writes(follower, writes, wire).await,
                None => replicated.give_copy(wire).await,
            }
        };
        // Who is cut off asks again.
        tokio::select! {
            _ = giving => {}
            () = stopping => {}
        }
    });
    tunnel::switching(HeaderValue::from_static(PROTOCOL))
}
