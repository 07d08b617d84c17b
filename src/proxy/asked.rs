//! Answers in which a server asks for its own drain, where its upstream hears that.
//!
//! The header is between the server and evenkeel: it never reaches a client. What follows from it is the
//! control plane's, which is told once and not waited for.

use http::HeaderMap;

use super::exchange::Exchange;
use crate::asks;
use crate::upstream::{Admin, Event};

/// Hears what an answer says of its server, and takes it out.
pub(super) fn hear(exchange: &Exchange, headers: &mut HeaderMap) {
    if exchange.upstream().is_some_and(|upstream| upstream.plan.drain_on.header) {
        heard(exchange, headers);
    }
}

fn heard(exchange: &Exchange, headers: &mut HeaderMap) {
    let Some(claim) = &exchange.claim else { return };
    let server = claim.server();
    let is_ready = server.state().admin == Admin::Ready;
    if !headers.contains_key(asks::HEADER) {
        if is_ready && server.has_asked() {
            server.forget_asking();
            exchange.conn.core.report(Event::AsksNoMore { server: server.uid });
        }
        return;
    }
    // One that drains at its own request goes on saying so to those who stay: a check that was lost meanwhile
    // does not mean that it has begun anew.
    let is_heard = is_ready || server.state().admin == Admin::Draining;
    if is_heard
        && asks::is_for_drain(headers)
        && server.asks_for_drain()
        && !exchange.conn.core.tell(Event::AsksForDrain { server: server.uid })
    {
        // The control plane is behind: the next answer says it again.
        server.forget_asking();
    }
    headers.remove(asks::HEADER);
}
