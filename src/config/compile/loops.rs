//! Requests that would go round: servers that are listeners of this very proxy.

use std::net::SocketAddr;

use super::Compiler;
use super::upstream::in_order;
use crate::config::plan::ListenerPlan;
use crate::config::spec::{At, Spec};

impl Compiler<'_> {
    /// Warns of servers that are listeners. One behind another is how some chain routes, so it is no error.
    pub(super) fn loops(&mut self, spec: &Spec, listeners: &[ListenerPlan]) {
        for (_, upstream) in in_order(spec) {
            let named = upstream.server.iter().filter_map(|server| server.get_ref().address.as_ref());
            let addresses: Vec<&At<String>> = upstream.servers.iter().chain(named).collect();
            for text in addresses {
                let Ok(address) = text.get_ref().parse::<SocketAddr>() else { continue };
                if listeners.iter().any(|listener| hears(listener.bind, address)) {
                    let message = format!("server {address} is a listener of this proxy");
                    let hint = "a request that is routed back to it goes round until connections run out: name your \
                                application's address";
                    self.warn(text.span(), message, hint);
                }
            }
        }
    }
}

/// Whether what connects to `address` comes to a socket that is bound there.
fn hears(bind: SocketAddr, address: SocketAddr) -> bool {
    let everywhere = bind.ip().is_unspecified() && address.ip().is_loopback();
    bind.port() == address.port() && bind.port() != 0 && (bind.ip() == address.ip() || everywhere)
}
