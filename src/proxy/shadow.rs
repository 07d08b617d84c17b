//! What other policies would have done with a request, asked on its way: see [`crate::upstream::shadow`].
//!
//! Called only where an upstream has policies in its shadow. Nothing in here changes the request.

use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, header};

use super::core::View;
use super::exchange::Exchange;
use super::sticky::Session;
use crate::balance::{HashBy, Pick, Scratch, sticky_cookie};
use crate::upstream::clock;
use crate::upstream::shadow::{Asked, Cast, KnownBy, Shadow};

/// A request that policies were asked about, and the Snapshot in which they were.
#[derive(Debug)]
pub(super) struct Shaded {
    view: View,
    upstream: usize,
    cast: Cast,
}

impl Shaded {
    /// The request has ended.
    pub(super) fn ended(&self, core: usize) {
        if let Some(shadow) = &self.view.upstreams[self.upstream].shadow {
            shadow.ended(&self.cast, core);
        }
    }
}

/// Asks them: before the request's headers become what the server gets, and after what is evenkeel's own was
/// taken out. `request` is its path as it is compared, its query and its headers.
pub(super) fn ask(
    exchange: &mut Exchange,
    shadow: &Shadow,
    session: Option<&Session>,
    request: (&str, Option<&str>, &HeaderMap),
) {
    let (path, query, headers) = request;
    let Some(upstream) = exchange.target else { return };
    if exchange.to_new {
        // A canary's own.
        return;
    }
    let core = &exchange.conn.core;
    let asked = Asked {
        client: exchange.client,
        of: known(shadow, exchange.client, session, headers),
        key: |by: &HashBy| by.key(path, query, headers),
        now: clock::seconds_at(core.clock.get()),
    };
    let view = Rc::clone(&exchange.view);
    let target = &view.upstreams[upstream];
    let cast = core.with_scratch(target.slot, |scratch| {
        let all = &mut scratch.shadow;
        while all.len() < shadow.count() {
            // Once for each core: they begin apart by design, as with the upstream's own policy.
            let seed = scratch.seed ^ (all.len() as u64 + 1).wrapping_mul(0x9FB2_1C65_1E98_DF25);
            all.push(Scratch::new(core.id, seed));
        }
        shadow.ask(target, core.id, &asked, all)
    });
    exchange.shaded = Some(Box::new(Shaded { view, upstream, cast }));
}

/// Tells where it has really gone.
pub(super) fn sent(exchange: &Exchange, pick: Pick) {
    if let (Some(shaded), Some(shadow)) = (&exchange.shaded, exchange.upstream().and_then(|u| u.shadow.as_ref())) {
        shadow.sent(&shaded.cast, exchange.conn.core.id, pick.index);
    }
}

/// Who a request is of.
fn known(shadow: &Shadow, client: IpAddr, session: Option<&Session>, headers: &HeaderMap) -> Option<u64> {
    match &shadow.known_by {
        KnownBy::Session => session?.pin().map(|pin| shadow.hash(&pin.session.to_ne_bytes(), b"")),
        KnownBy::Cookie(name) => {
            let lines = headers.get_all(header::COOKIE);
            let value = sticky_cookie::find(lines.iter().map(HeaderValue::as_bytes), name)?;
            (!value.is_empty()).then(|| shadow.hash(value, b""))
        }
        KnownBy::Address => {
            let agent = headers.get(header::USER_AGENT).map_or(&b"-"[..], HeaderValue::as_bytes);
            Some(match client {
                IpAddr::V4(address) => shadow.hash(&address.octets(), agent),
                IpAddr::V6(address) => shadow.hash(&address.octets(), agent),
            })
        }
    }
}
