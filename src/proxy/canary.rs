//! Whether a request meets the new servers of a canary: by what its user is known by ([`crate::balance::canary`]).
//!
//! Where a sticky cookie says which server a user belongs to, that decides, and only users without one are
//! drawn; elsewhere a cookie of the canary's own, or the address. Nothing of this is done where no canary is.

use http::{HeaderMap, HeaderValue};

use super::exchange::Exchange;
use super::headers::Noted;
use super::split;
use crate::balance::canary::{Canary, CanaryBy};
use crate::balance::split::User;

/// Draws for a request. Takes the cookie out of what the server gets.
#[cold]
pub(super) fn draw(exchange: &mut Exchange, canary: &Canary, is_sticky: bool, headers: &mut HeaderMap, noted: Noted) {
    let random = || {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).ok().map(|()| u64::from_ne_bytes(bytes))
    };
    let user = match canary.by {
        // The answer's cookie says for good where it came.
        _ if is_sticky => random().map(User::of_number),
        CanaryBy::Address => Some(User::of_address(exchange.client)),
        CanaryBy::Cookie => match split::number(headers, &canary.cookie.name, noted) {
            Some(number) => Some(User::of_number(number)),
            None => {
                let number = random();
                exchange.new_canary = number;
                number.map(User::of_number)
            }
        },
    };
    exchange.to_new = canary.allows(exchange.client) || user.is_some_and(|user| canary.takes(user));
}

/// The `Set-Cookie` that a user needs who was drawn for the first time.
pub(super) fn cookie(exchange: &Exchange) -> Option<HeaderValue> {
    let number = exchange.new_canary?;
    // The canary may have ended while the request was served.
    let branch = exchange.upstream()?.canary.as_ref()?;
    HeaderValue::try_from(branch.canary.cookie.set_cookie(number, exchange.is_https)).ok()
}
