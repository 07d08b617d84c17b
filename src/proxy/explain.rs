//! What is noted of a request where `[debug]` asks for it, and told to whoever may know.
//!
//! All of it begins with the Snapshot's `debug`, and hangs on one `Option` of the exchange.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::Exchange;
use super::sticky::Session;
use crate::balance::Pick;
use crate::error::{Kind, ProxyError};
use crate::upstream::explain::{Explanation, Pinned};
use crate::upstream::{Tried, Upstream};

pub(super) const X_EVENKEEL_DEBUG: HeaderName = HeaderName::from_static("x-evenkeel-debug");

/// What is noted of one request.
#[derive(Debug)]
pub(super) struct Noting {
    explanation: Explanation,
    /// Whether the client has shown that it may know.
    tells: bool,
}

/// Begins to note, where it is asked for; and takes the header out, which is for evenkeel alone.
pub(super) fn begin(exchange: &mut Exchange, headers: &mut HeaderMap) {
    let Some(debug) = &exchange.view.debug else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let asked = headers.remove(X_EVENKEEL_DEBUG);
    let tells = asked.is_some_and(|asked| debug.honours(asked.as_bytes(), now.as_secs()));
    if tells || debug.remembers() {
        let request_id = exchange.request_id.as_ref().map_or(&[][..], HeaderValue::as_bytes).into();
        let unix_millis = now.as_millis() as u64;
        let explanation = Explanation { request_id, unix_millis, ..Explanation::default() };
        exchange.noting = Some(Box::new(Noting { explanation, tells }));
    }
}

/// When a wait begins that is noted.
pub(super) fn waits(exchange: &Exchange) -> Option<Instant> {
    exchange.noting.as_ref().map(|_| exchange.conn.core.now())
}

/// That wait is over.
pub(super) fn has_waited(exchange: &mut Exchange, since: Option<Instant>) {
    if let (Some(since), Some(noting)) = (since, &mut exchange.noting) {
        noting.explanation.queued += exchange.conn.core.now().duration_since(since);
    }
}

/// A server was chosen for the next try, or there is none. `moved` says why it is not the session's own.
pub(super) fn chosen(
    exchange: &mut Exchange,
    pick: Option<Pick>,
    tried: &Tried,
    session: Option<&Session>,
    moved: Option<&'static str>,
) {
    let Some(mut noting) = exchange.noting.take() else { return };
    if let Some(upstream) = exchange.upstream() {
        noting.explanation.choose(upstream, pick.map(|pick| pick.index), tried);
    }
    noting.explanation.spread = exchange.spread.is_some();
    noting.explanation.pin = match session.map(|session| (session.age(), moved)) {
        None => Pinned::No,
        Some((None, _)) => Pinned::New,
        Some((Some(age), None)) => Pinned::Kept(age),
        Some((Some(age), Some(why))) => Pinned::Moved(age, why),
    };
    exchange.noting = Some(noting);
}

/// A try has failed.
pub(super) fn failed(exchange: &mut Exchange, index: usize, kind: Kind) {
    if exchange.noting.is_none() {
        return;
    }
    let server = exchange.upstream().and_then(|upstream| upstream.servers.get(index));
    let name = server.map(|server| Arc::clone(&server.name));
    if let (Some(noting), Some(name)) = (&mut exchange.noting, name) {
        noting.explanation.tried.push((name, kind.reason()));
    }
}

/// Tells the client, where it may know, and takes out what a server says in the place of evenkeel.
pub(super) fn tell(exchange: &Exchange, headers: &mut HeaderMap, error: Option<&ProxyError>) {
    if exchange.view.debug.is_none() {
        return;
    }
    headers.remove(X_EVENKEEL_DEBUG);
    if let Some(noting) = exchange.noting.as_ref().filter(|noting| noting.tells)
        && let Ok(value) = HeaderValue::try_from(told(exchange, &noting.explanation, error))
    {
        headers.insert(X_EVENKEEL_DEBUG, value);
    }
}

/// The request is over: what was noted is remembered.
pub(super) fn end(exchange: &mut Exchange, status: u16, reason: Option<Kind>, duration: Duration) {
    let Some(noting) = exchange.noting.take() else { return };
    let Some(debug) = exchange.view.debug.as_ref().filter(|debug| debug.remembers()) else { return };
    let route = exchange.route().map(|route| route.plan.name.as_str().into());
    let reason = reason.map(Kind::reason);
    let explanation = Explanation { route, status, reason, duration, ..noting.explanation };
    debug.keep(exchange.conn.core.id, explanation);
}

fn told(exchange: &Exchange, explanation: &Explanation, error: Option<&ProxyError>) -> String {
    let servers = exchange.upstream();
    let name = |server: &str| shown(servers, server);
    let list = |pairs: Vec<String>| if pairs.is_empty() { "none".to_owned() } else { pairs.join(",") };
    let skipped = explanation.skipped.iter().map(|(server, why)| format!("{}:{}", name(server), why.name())).collect();
    let tried = explanation.tried.iter().map(|(server, why)| format!("{}:{why}", name(server))).collect();
    let mut text = format!(
        "route={}; upstream={}; policy={}; server={}; pin={}; skipped={}; tried={}; queue={}ms",
        exchange.route().map_or_else(|| "none".to_owned(), |route| plain(&route.plan.name)),
        explanation.upstream.as_deref().map_or_else(|| "none".to_owned(), plain),
        if explanation.policy.is_empty() { "none" } else { explanation.policy },
        explanation.server.as_deref().map_or_else(|| "none".to_owned(), name),
        explanation.pin,
        list(skipped),
        list(tried),
        explanation.queued.as_millis(),
    );
    if explanation.spread {
        text.push_str("; hot_key=spread");
    }
    if let Some(error) = error {
        let _ = write!(text, "; error={}", error.kind.reason());
    }
    text
}

/// A server's name; one that is called by its address is told by its place.
fn shown(upstream: Option<&Upstream>, name: &str) -> String {
    let servers = upstream.map_or(&[][..], |upstream| &upstream.servers);
    match servers.iter().position(|server| *server.name == *name) {
        Some(index) if servers[index].address.to_string() == name => format!("#{}", index + 1),
        // One that is no more: it may have been called by its address.
        None => "#gone".to_owned(),
        Some(_) => plain(name),
    }
}

/// Only what cannot be taken for something else in the header.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, ';' | ',' | '=') { c } else { '_' }).collect()
}
