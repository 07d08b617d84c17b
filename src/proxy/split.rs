//! To which upstream a request goes: the one of its route, or the one that its user belongs to.
//!
//! A user is found again by a cookie that is set once, or by its address ([`crate::balance::split`]). An
//! error that the proxy makes sets no cookie: a user who got one is not held to where it was.

use http::{HeaderMap, HeaderValue, header};

use super::exchange::Exchange;
use super::headers::Noted;
use super::sticky;
use crate::balance::split::{SplitBy, User, number_in};
use crate::balance::sticky_cookie;
use crate::config::plan::Action;
use crate::upstream::Route;

/// The position of the upstream; none for a route that leads to none. Takes the cookie out of what the
/// server gets.
pub(super) fn target(exchange: &mut Exchange, route: &Route, headers: &mut HeaderMap, noted: Noted) -> Option<usize> {
    let (Some(split), Action::Split { branches, by }) = (&route.split, &route.plan.action) else {
        return route.plan.action.upstreams().next();
    };
    let user = match by {
        SplitBy::Address(_) => User::of_address(exchange.client),
        SplitBy::Cookie(cookie) => User::of_number(match number(headers, &cookie.name, noted) {
            Some(number) => number,
            None => {
                let mut random = [0; 8];
                aws_lc_rs::rand::fill(&mut random).ok()?;
                *exchange.new_user.insert(u64::from_ne_bytes(random))
            }
        }),
    };
    branches.get(split.pick(user)?).map(|branch| branch.upstream)
}

/// The number in the client's cookie.
pub(super) fn number(headers: &mut HeaderMap, name: &str, noted: Noted) -> Option<u64> {
    if !noted.has(Noted::COOKIE) {
        return None;
    }
    let lines = headers.get_all(header::COOKIE);
    let number = number_in(sticky_cookie::find(lines.iter().map(HeaderValue::as_bytes), name)?);
    sticky::hide(headers, name);
    number
}

/// The `Set-Cookie` that a new user needs.
pub(super) fn cookie(exchange: &Exchange) -> Option<HeaderValue> {
    let number = exchange.new_user?;
    // The route may have changed while the request was tried again.
    let Action::Split { by: SplitBy::Cookie(cookie), .. } = &exchange.route()?.plan.action else { return None };
    HeaderValue::try_from(cookie.set_cookie(number, exchange.is_https)).ok()
}
