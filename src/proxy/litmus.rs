//! The experiment on the request's path: whether its user takes part, and what the answer was like.
//!
//! A user is known by a cookie that is set once, or by the address. With the request that gets the cookie nobody
//! takes part: who keeps none would be somebody else each time. Upgrades take no part, nor do requests without a
//! valid pin where a sticky cookie says where users belong, nor those whose session has to leave its server, nor any
//! while a canary runs.

mod same_body;

use std::rc::Rc;
use std::sync::Arc;

use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

pub(super) use same_body::Watched;

use self::same_body::Judged;
use super::exchange::Exchange;
use super::headers::Noted;
use super::server_body::ServerBody;
use super::split;
use super::sticky::Session;
use crate::balance::canary::CanaryBy;
use crate::balance::litmus::Group;
use crate::balance::split::User;
use crate::balance::{key_of, sticky_cookie};
use crate::config::plan::MOST_LITMUS_COOKIES;
use crate::metrics::cells::LitmusSymptom;
use crate::path;
use crate::upstream::litmus::{Experiment, Part, Told};
use crate::upstream::{Server, Upstream};

/// A request that takes part.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) part: Part,
    /// Hashes of the values of the session cookies that it has, in the order of the plan; 0 is none.
    sent: [u64; MOST_LITMUS_COOKIES],
    /// What is told of it, if it gives something away.
    asked: Option<(Method, PathAndQuery)>,
    /// Which of the paths it is for whose bodies are compared, by position in the plan.
    same_body: Option<usize>,
}

/// Finds out whether the request's user takes part. Takes the experiment's cookie out of what the server gets.
#[cold]
pub(super) fn begin<B>(
    exchange: &mut Exchange,
    upstream: &Upstream,
    experiment: &Experiment,
    session: Option<&Session>,
    request: &mut Request<B>,
    noted: Noted,
    compared: Option<&str>,
) {
    let plan = &experiment.plan;
    let user = match plan.by {
        CanaryBy::Address => User::of_address(exchange.client),
        CanaryBy::Cookie => match split::number(request.headers_mut(), &plan.cookie.name, noted) {
            Some(number) => {
                experiment.cells[exchange.conn.core.id].recognized.inc();
                User::of_number(number)
            }
            None => {
                let mut random = [0; 8];
                exchange.new_litmus = aws_lc_rs::rand::fill(&mut random).ok().map(|()| u64::from_ne_bytes(random));
                return;
            }
        },
    };
    let is_upgrade = noted.has(Noted::UPGRADE) || request.method() == Method::CONNECT;
    if is_upgrade || upstream.canary.is_some() || !is_at_home(upstream, session) {
        return;
    }
    let core = exchange.conn.core.id;
    let moves = plan.methods.contains(request.method());
    let Some(part) = experiment.join(user, moves, core) else { return };
    let mut sent = [0; MOST_LITMUS_COOKIES];
    if noted.has(Noted::COOKIE) {
        for (name, sent) in plan.cookies.iter().zip(&mut sent) {
            let lines = request.headers().get_all(header::COOKIE);
            let value = sticky_cookie::find(lines.iter().map(HeaderValue::as_bytes), name);
            *sent = value.map_or(0, hash);
        }
    }
    // Cloned without a copy of its bytes, and only as long as there is something left to tell.
    let asked = part.group == Group::Shuffled && experiment.has_room(core);
    let asked = asked.then(|| request.uri().path_and_query().cloned().map(|path| (request.method().clone(), path)));
    let path = (request.method() == Method::GET && request.uri().query().is_none())
        .then(|| compared.unwrap_or(request.uri().path()));
    let same_body = path.and_then(|path| plan.same_body.iter().position(|named| named == path));
    exchange.litmus = Some(Box::new(Taking { part, sent, asked: asked.flatten(), same_body }));
}

/// Whether a session that is pinned may go on where it is: not without a pin, nor where its server is gone, fails or
/// drains and lets it leave. Where there are no sessions everybody is at home.
fn is_at_home(upstream: &Upstream, session: Option<&Session>) -> bool {
    let Some(session) = session else { return true };
    let home = session.pin().and_then(|pin| upstream.pinned(pin));
    home.is_some_and(|home| home.state().takes_pinned(upstream.failing_open)) && !session.leaves(upstream)
}

/// Never 0.
fn hash(value: &[u8]) -> u64 {
    key_of(&String::from_utf8_lossy(value)).max(1)
}

/// Looks at the server's answer, and at its body where that is to be the same each time.
#[cold]
pub(super) fn note(exchange: &Exchange, taking: &Taking, answer: &Parts, body: ServerBody) -> ServerBody {
    let (Some(upstream), Some(claim)) = (exchange.upstream(), &exchange.claim) else { return body };
    let Some(experiment) = &upstream.litmus else { return body };
    // Where another server had to help out, who met whom is nobody's doing.
    if exchange.retries > 0 {
        return body;
    }
    let counts = experiment.meet(&taking.part, claim.server().key);
    let symptoms = symptoms(experiment, taking, answer.status, &answer.headers);
    let same_body = taking.same_body.filter(|_| answer.status == StatusCode::OK);
    let may_tell = counts && (symptoms != 0 || same_body.is_some());
    let told = taking.asked.as_ref().filter(|_| may_tell).map(|(method, path)| Told {
        method: method.to_string(),
        path: path::shown(path.path()),
        from: upstream.name_of_mark(taking.part.last()).unwrap_or("a server that is gone").to_owned(),
        to: claim.server().name.to_string(),
        status: answer.status.as_u16(),
        symptoms: Vec::new(),
    });
    let judged = Judged {
        experiment: Arc::clone(experiment),
        conn: Rc::clone(&exchange.conn),
        slot: upstream.slot,
        part: taking.part,
        counts,
        symptoms,
        told,
    };
    match same_body {
        Some(path) => judged.watch(path, body),
        None => {
            judged.settle();
            body
        }
    }
}

fn symptoms(experiment: &Experiment, taking: &Taking, status: StatusCode, headers: &HeaderMap) -> u8 {
    let mut symptoms = match status.as_u16() {
        401 | 403 => LitmusSymptom::Refused.bit(),
        500.. => LitmusSymptom::Failed.bit(),
        _ => 0,
    };
    if status.is_redirection()
        && let Some(login) = &experiment.plan.login
        && headers.get(header::LOCATION).is_some_and(|location| leads_to(location.as_bytes(), login.as_bytes()))
    {
        symptoms |= LitmusSymptom::Login.bit();
    }
    let reissued = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { return false };
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        let mut named = experiment.plan.cookies.iter().zip(&taking.sent);
        named.any(|(cookie, sent)| cookie.as_bytes() == name && *sent != 0 && *sent != hash(value))
    };
    if !experiment.plan.cookies.is_empty() && headers.get_all(header::SET_COOKIE).iter().any(reissued) {
        symptoms |= LitmusSymptom::Reissued.bit();
    }
    symptoms
}

/// Whether a `Location` has that path, or one below it.
fn leads_to(location: &[u8], login: &[u8]) -> bool {
    let path = match location.windows(3).position(|window| window == b"://") {
        Some(at) if !location[..at].contains(&b'/') => {
            let rest = &location[at + 3..];
            &rest[rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())..]
        }
        _ => location,
    };
    // ASP.NET has the session of a client without cookies ahead of the path.
    let end = path.iter().skip(1).position(|byte| *byte == b'/').map_or(path.len(), |at| at + 1);
    let is_session = path.get(1..end).is_some_and(|part| str::from_utf8(part).is_ok_and(path::is_session));
    let path = if is_session { &path[end..] } else { path };
    let rest = path.strip_prefix(login);
    rest.is_some_and(|rest| login.ends_with(b"/") || rest.first().is_none_or(|byte| b"/?#;".contains(byte)))
}

/// The server that a session settles with: its own, where it was moved for the experiment.
pub(super) fn home<'a>(exchange: &'a Exchange, session: &Session) -> Option<&'a Server> {
    let taking = exchange.litmus.as_ref().filter(|taking| taking.part.is_moved())?;
    let upstream = exchange.upstream()?;
    let home = upstream.pinned(session.pin()?)?;
    let server = exchange.claim.as_ref()?.server();
    (taking.part.is_moved() && server.key != home.key).then_some(home)
}

/// The `Set-Cookie` that a user needs who came without one.
pub(super) fn cookie(exchange: &Exchange) -> Option<HeaderValue> {
    let number = exchange.new_litmus?;
    // A reload may have ended the experiment while the request was served.
    let experiment = exchange.upstream()?.litmus.as_ref()?;
    experiment.cells[exchange.conn.core.id].introduced.inc();
    HeaderValue::try_from(experiment.plan.cookie.set_cookie(number, exchange.is_https)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_in_every_form_of_a_location() {
        for (location, leads) in [
            ("/login", true),
            ("/login?next=%2F", true),
            ("/login/sso#x", true),
            ("/login;jsessionid=0A1B", true),
            ("https://shop.example/login", true),
            ("/(S(lit3py55t21z5v55vlm25s55))/login", true),
            ("https://shop.example/(S(x))/login/?a", true),
            ("/(S(login))", false),
            ("/(S)/login", false),
            ("/logins", false),
            ("/cart?from=/login", false),
            ("/x?u=https://shop.example/login", false),
            ("https://shop.example", false),
        ] {
            assert_eq!(leads_to(location.as_bytes(), b"/login"), leads, "{location}");
        }
    }
}
