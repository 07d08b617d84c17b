//! Hot keys on the request's path: each request is counted by its key, and one whose key is spread goes by its user.
//!
//! A user is known by a cookie that is set once, or until it comes back by the connection, whose number the cookie
//! then has: so what a user does on the connection that got the cookie and on all later ones goes to one place. Who
//! keeps no cookies stays where a connection is. Behind a trusted proxy a connection is nobody's own: there each
//! request without the cookie is somebody new.

use http::{HeaderMap, HeaderValue};

use super::exchange::Exchange;
use super::headers::Noted;
use super::split;
use super::sticky::Session;
use crate::balance::hot::number_of_connection;
use crate::upstream::Upstream;
use crate::upstream::hot::Watch;

/// Counts a request, and finds its user where its key is spread. Takes the cookie out of what the server gets.
pub(super) fn note(
    exchange: &mut Exchange,
    upstream: &Upstream,
    watch: &Watch,
    session: Option<&Session>,
    headers: &mut HeaderMap,
    noted: Noted,
) {
    let number = watch.cookie.as_ref().and_then(|cookie| split::number(headers, &cookie.name, noted));
    // Who is pinned does not go by the key.
    if session.and_then(Session::pin).is_some_and(|pin| upstream.pinned(pin).is_some()) {
        return;
    }
    let Some(key) = upstream.hot_key(exchange.key, exchange.client) else { return };
    watch.counts.note(exchange.conn.core.id, key);
    if !watch.spread.contains(&key) {
        return;
    }
    let user = match number {
        Some(number) => number,
        None => *exchange.new_hot.insert(new_user(exchange)),
    };
    exchange.spread = Some(key.of_user(user));
}

/// The number of a user who has no cookie yet.
fn new_user(exchange: &Exchange) -> u64 {
    let peer = &exchange.conn.peer;
    let mut random = [0; 8];
    // Without chance it is the connection all the same.
    if peer.address != exchange.client && aws_lc_rs::rand::fill(&mut random).is_ok() {
        return u64::from_ne_bytes(random);
    }
    number_of_connection(peer.address, peer.port)
}

/// The `Set-Cookie` that a user needs who came without one.
pub(super) fn cookie(exchange: &Exchange) -> Option<HeaderValue> {
    let number = exchange.new_hot?;
    // A reload may have come while the request was served.
    let cookie = exchange.upstream()?.hot.as_ref()?.cookie.as_ref()?;
    HeaderValue::try_from(cookie.set_cookie(number, exchange.is_https)).ok()
}
