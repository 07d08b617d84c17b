//! Users in virtual time: what they carry, and what of it a policy goes by.
//!
//! As over real sockets, what an answer brings is there when it arrives: who asks twice before that has logged in twice.

use http::{HeaderMap, HeaderValue, header};

use crate::balance::{HashBy, StickyCookie};
use crate::lab::arrivals::Arrival;
use crate::lab::scenario::Scenario;

/// The cookie that toy servers keep a session in.
const SESSION: &str = "sid";

/// What a user carries.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct User {
    visits: u32,
    /// The server that evenkeel's own cookie names.
    pin: Option<usize>,
    pub(super) session: Option<Session>,
    /// How many were here before in their place.
    pub(super) before: u32,
}

/// A session, which is in the memory of one server, in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) server: usize,
    pub(super) life: u32,
    /// Of the request that began it: no two are the same.
    pub(super) number: u32,
}

impl Session {
    /// Whether it would be kept where that one is.
    pub(super) fn is_at(self, other: Self) -> bool {
        (self.server, self.life) == (other.server, other.life)
    }
}

/// What an answer brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) server: usize,
    /// The session that was there and is no more, and the one that there is now.
    pub(super) session: Option<(Option<Session>, Option<Session>)>,
}

impl User {
    /// One more visit, or the first of somebody new.
    pub(super) fn comes(&mut self, stay: Option<u32>) {
        self.visits += 1;
        if stay.is_some_and(|stay| self.visits > stay) {
            *self = Self { visits: 1, before: self.before + 1, ..Self::default() };
        }
    }

    pub(super) fn gets(&mut self, answer: Answer) {
        self.pin = Some(answer.server);
        match answer.session {
            Some((_, Some(new))) => self.session = Some(new),
            // Unless there is another one meanwhile.
            Some((lost, None)) if self.session == lost => self.session = None,
            _ => {}
        }
    }

    /// The server that a sticky cookie names: evenkeel's own, or that of the application, if toy servers set one of that
    /// name.
    pub(super) fn pinned(&self, sticky: &StickyCookie) -> Option<usize> {
        match (&sticky.learn, &sticky.route) {
            (None, None) => self.pin,
            (Some(name), _) if name == SESSION => self.session.map(|session| session.server),
            _ => None,
        }
    }
}

/// What a policy goes by that goes by a key: users say who they are, ask for what they ask the real servers for, and have
/// the cookie of their session.
pub(super) fn key(by: &HashBy, scenario: &Scenario, arrival: &Arrival, session: Option<Session>) -> Option<u64> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("lab"));
    headers.insert("x-user", HeaderValue::try_from(arrival.name()).ok()?);
    if let Some(Session { server, life, number }) = session {
        let cookie = format!("{SESSION}=s{server}-{life}-{number}");
        headers.insert(header::COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    let login = format!("user={}", arrival.name());
    let (path, query) = match (scenario.sessions, session) {
        (true, None) => ("/login", Some(&*login)),
        (true, Some(_)) => ("/count", None),
        (false, _) => ("/bytes", Some("n=512")),
    };
    by.key(path, query, &headers)
}
