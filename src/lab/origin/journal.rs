//! What an origin was asked: in memory for tests, a line each for people.
//!
//! A request is entered when its head has arrived, not when it was answered: a server that dies in
//! between has still been given it, and a test that counts deliveries must see that. Of a server that is
//! a process of its own only what it has written survives its kill: that is what arrivals are for.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};

/// One request that reached an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Which connection of this server it came on, from 1.
    pub connection: u64,
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// The `sid` cookie.
    pub session: Option<String>,
    /// `X-Forwarded-For`, as it was sent.
    pub forwarded_for: Option<String>,
    /// None until the answer began, and for good where there was none.
    pub status: Option<u16>,
    /// Bytes of the body, where the path reads it (`/sink`, `/echo`).
    pub body: u64,
}

impl Served {
    /// The path without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }
}

/// One line: `a #3 GET /count 200 request=… session=… for=…`; the status is `-` where there was none.
impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {} ", self.connection, self.method, self.target)?;
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("-")?,
        }
        for (name, value) in [("request", &self.request_id), ("session", &self.session), ("for", &self.forwarded_for)] {
            if let Some(value) = value {
                write!(f, " {name}={}", value.escape_debug())?;
            }
        }
        Ok(())
    }
}

/// Where the lines go.
pub(super) type Lines = Box<dyn Write + Send>;

pub(super) struct Journal {
    name: String,
    remember: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    served: VecDeque<Served>,
    /// How many entries were dropped from the front; an entry's number minus this is its position.
    dropped: u64,
    lines: Option<Lines>,
    arrivals: Option<Lines>,
}

impl Journal {
    /// Remembers the last `remember` requests, writes a line for each to `lines` when it is over, and to
    /// `arrivals` before anything is done about it.
    pub(super) fn new(name: String, remember: usize, lines: Option<Lines>, arrivals: Option<Lines>) -> Self {
        let inner = Inner { served: VecDeque::new(), dropped: 0, lines, arrivals };
        Self { name, remember, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything remembered, in the order of arrival.
    pub(super) fn served(&self) -> Vec<Served> {
        self.inner().served.iter().cloned().collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut inner = self.inner();
        inner.dropped += inner.served.len() as u64;
        inner.served.clear();
    }

    /// Enters a request; the entry is completed and its line written when it is dropped.
    pub(super) fn enter(self: &Arc<Self>, served: Served) -> Entry {
        let mut inner = self.inner();
        let number = inner.dropped + inner.served.len() as u64;
        if let Some(arrivals) = &mut inner.arrivals {
            // In one piece: several processes may write to the same file.
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let _ = arrivals.write_all(format!("{} {served} at={at:.6}\n", self.name).as_bytes());
        }
        if self.remember > 0 {
            if inner.served.len() == self.remember {
                inner.served.pop_front();
                inner.dropped += 1;
            }
            inner.served.push_back(served.clone());
        } else {
            inner.dropped += 1;
        }
        drop(inner);
        Entry { journal: Arc::clone(self), number, served }
    }
}

/// A request that is being served. Dropped without a status it was cut.
pub(super) struct Entry {
    journal: Arc<Journal>,
    number: u64,
    served: Served,
}

impl Entry {
    pub(super) fn session(&self) -> Option<&str> {
        self.served.session.as_deref()
    }

    pub(super) fn set_body(&mut self, bytes: u64) {
        self.served.body = bytes;
    }

    pub(super) fn answered(mut self, status: u16) {
        self.served.status = Some(status);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut inner = self.journal.inner();
        let position = self.number.checked_sub(inner.dropped).and_then(|p| usize::try_from(p).ok());
        if let Some(lines) = &mut inner.lines {
            // A reader that went away (`evenkeel origin | head`) must not end the server.
            let _ = writeln!(lines, "{} {}", self.journal.name, self.served);
        }
        if let Some(entry) = position.and_then(|p| inner.served.get_mut(p)) {
            entry.status = self.served.status;
            entry.body = self.served.body;
        }
    }
}

/// The first value of a header, bytes beyond ASCII as Latin-1.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| latin1(value.as_bytes()))
}

/// The value of a cookie, from whichever `Cookie` line has it first.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
}

/// Every byte as the character of the same number, so that nothing is lost on the way into JSON.
pub(super) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(connection: u64) -> Served {
        Served {
            connection,
            method: Method::GET,
            target: "/count?x=1".to_owned(),
            request_id: Some("r\n1".to_owned()),
            session: None,
            forwarded_for: Some("192.0.2.1".to_owned()),
            status: None,
            body: 0,
        }
    }

    #[test]
    fn an_entry_is_there_before_its_answer_and_stays_without_one() {
        let journal = Arc::new(Journal::new("a".to_owned(), 10, None, None));
        let first = journal.enter(request(1));
        let second = journal.enter(request(2));
        assert_eq!(journal.served().iter().map(|s| s.status).collect::<Vec<_>>(), [None, None]);
        second.answered(200);
        drop(first);
        assert_eq!(journal.served().iter().map(|s| s.status).collect::<Vec<_>>(), [None, Some(200)]);
    }

    #[test]
    fn only_the_last_requests_are_remembered_and_a_late_answer_finds_its_own() {
        let journal = Arc::new(Journal::new("a".to_owned(), 2, None, None));
        let forgotten = journal.enter(request(1));
        let kept = journal.enter(request(2));
        journal.enter(request(3)).answered(203);
        forgotten.answered(201);
        kept.answered(202);
        let served: Vec<_> = journal.served().iter().map(|s| (s.connection, s.status)).collect();
        assert_eq!(served, [(2, Some(202)), (3, Some(203))]);
        let nothing = Arc::new(Journal::new("a".to_owned(), 0, None, None));
        nothing.enter(request(1)).answered(200);
        assert!(nothing.served().is_empty());
    }

    #[test]
    fn a_line_cannot_be_forged_from_a_header() {
        assert_eq!(request(7).to_string(), "#7 GET /count?x=1 - request=r\\n1 for=192.0.2.1");
        assert_eq!(request(7).path(), "/count");
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1; sidx=2".parse().unwrap());
        headers.append("cookie", "b; sid=3=4 ;c=5".parse().unwrap());
        assert_eq!(cookie(&headers, "sid").as_deref(), Some("3=4"));
        assert_eq!(cookie(&headers, "si"), None);
    }
}
