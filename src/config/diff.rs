//! What changes between two Plans: a value, computed without touching anything.
//!
//! A reload applies it, its answer prints it, and what cannot change in a running process is named
//! here, so that a reload is refused before it begins. Every struct of the Plan is taken apart field
//! by field: a new field does not compile until someone decides here what its change means. Secrets
//! are compared and never shown.

mod listener;
mod route;
mod upstream;

use std::fmt;
use std::time::Duration;

use super::plan::{
    Access, AccessLogPlan, AdminPlan, DebugPlan, DnsPlan, ListenerPlan, LogPlan, Plan, ShutdownPlan, UpgradePlan,
};
use crate::units::show_duration;

/// The difference between two Plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// What a reload can bring about, in the order process, listeners, routes, upstreams.
    pub changes: Vec<Change>,
    /// What only a restart can, by key; the reload is refused when there is any.
    pub needs_restart: Vec<String>,
    /// What happens to listening sockets.
    pub sockets: Sockets,
}

impl Diff {
    /// Whether both Plans are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.needs_restart.is_empty()
    }
}

/// Listening sockets belong to addresses, not to names: a listener that is renamed keeps its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Positions in the new Plan that need a new socket.
    pub open: Vec<usize>,
    /// Positions in the old Plan whose socket is closed.
    pub close: Vec<usize>,
    /// Positions in the old and in the new Plan that share a socket.
    pub keep: Vec<(usize, usize)>,
}

/// One change. Its `Display` is one plain line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub subject: Subject,
    pub what: What,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Process,
    Shutdown,
    Upgrade,
    Debug,
    Listener(String),
    Route(String),
    Upstream(String),
    Server { upstream: String, server: String },
}

/// How it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Added,
    Removed,
    /// A key with its old and its new value.
    Value {
        key: &'static str,
        old: String,
        new: String,
    },
    /// A key whose values are too long to show, or secret.
    Key(&'static str),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Process => f.write_str("process")?,
            Subject::Shutdown => f.write_str("shutdown")?,
            Subject::Upgrade => f.write_str("upgrade")?,
            Subject::Debug => f.write_str("debug")?,
            Subject::Listener(name) => write!(f, "listener {name}")?,
            Subject::Route(name) => write!(f, "route {name}")?,
            Subject::Upstream(name) => write!(f, "upstream {name}")?,
            Subject::Server { upstream, server } => write!(f, "upstream {upstream}: server {server}")?,
        }
        match &self.what {
            What::Added => f.write_str(" added"),
            What::Removed => f.write_str(" removed"),
            What::Value { key, old, new } => write!(f, ": {key} {old} → {new}"),
            What::Key(key) => write!(f, ": {key} changed"),
        }
    }
}

/// Compares two Plans.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Diff {
    let mut diff = Diff { sockets: sockets(&old.listeners, &new.listeners), ..Diff::default() };
    diff.process(old, new);
    pair(&old.listeners, &new.listeners, |l| &l.name, |event| diff.listener(event));
    for (before, now) in &diff.sockets.keep {
        let (before, now) = (&old.listeners[*before], &new.listeners[*now]);
        if before.backlog != now.backlog {
            diff.needs_restart.push(format!("listener {}: backlog", now.name));
        }
    }
    pair(&old.routes, &new.routes, |r| &r.name, |event| diff.route(event, old, new));
    pair(&old.upstreams, &new.upstreams, |u| &u.name, |event| diff.upstream(event));
    diff
}

/// What became of one named thing.
enum Event<'a, T> {
    Removed(&'a T),
    Both(&'a T, &'a T),
    Added(&'a T),
}

fn pair<'a, T>(old: &'a [T], new: &'a [T], name: impl Fn(&T) -> &str, mut tell: impl FnMut(&Event<'a, T>)) {
    for before in old {
        match new.iter().find(|now| name(now) == name(before)) {
            Some(now) => tell(&Event::Both(before, now)),
            None => tell(&Event::Removed(before)),
        }
    }
    new.iter()
        .filter(|now| old.iter().all(|before| name(before) != name(now)))
        .for_each(|now| tell(&Event::Added(now)));
}

fn sockets(old: &[ListenerPlan], new: &[ListenerPlan]) -> Sockets {
    let mut sockets = Sockets { close: (0..old.len()).collect(), ..Sockets::default() };
    let mut keep = vec![None; new.len()];
    // The same name first: several listeners may be bound to port 0.
    for same_name in [true, false] {
        for (at, now) in new.iter().enumerate().filter(|(at, _)| keep[*at].is_none()).collect::<Vec<_>>() {
            let matches = |i: &usize| old[*i].bind == now.bind && (!same_name || old[*i].name == now.name);
            if let Some(found) = sockets.close.iter().position(matches) {
                keep[at] = Some(sockets.close.remove(found));
            }
        }
    }
    for (at, kept) in keep.into_iter().enumerate() {
        match kept {
            Some(before) => sockets.keep.push((before, at)),
            None => sockets.open.push(at),
        }
    }
    sockets
}

impl Diff {
    fn process(&mut self, old: &Plan, new: &Plan) {
        let Plan {
            cores,
            state_dir,
            max_connections,
            admin,
            log,
            access_log,
            shutdown,
            upgrade,
            debug,
            dns,
            listeners: _,
            routes: _,
            upstreams: _,
        } = old;
        let AdminPlan { socket, bind, token } = admin;
        let LogPlan { level, format } = log;
        let DnsPlan { servers, min_ttl, max_ttl } = dns;
        let parts =
            |log: &Option<AccessLogPlan>| log.as_ref().map(|AccessLogPlan { file, format }| (file.clone(), *format));
        for (key, same) in [
            ("cores", *cores == new.cores),
            ("state_dir", *state_dir == new.state_dir),
            ("admin.socket", *socket == new.admin.socket),
            ("admin.bind", *bind == new.admin.bind),
            ("admin.token", *token == new.admin.token),
            ("log.level", *level == new.log.level),
            ("log.format", *format == new.log.format),
            ("access_log", parts(access_log) == parts(&new.access_log)),
            ("dns.servers", *servers == new.dns.servers),
            ("dns.min_ttl", *min_ttl == new.dns.min_ttl),
            ("dns.max_ttl", *max_ttl == new.dns.max_ttl),
        ] {
            if !same {
                self.needs_restart.push(key.to_owned());
            }
        }
        let mut fields = self.of(Subject::Process);
        fields.value("max_connections", &count(*max_connections), &count(new.max_connections));
        let ShutdownPlan { announce, idle_grace, deadline } = *shutdown;
        let mut fields = self.of(Subject::Shutdown);
        fields.time("announce", announce, new.shutdown.announce);
        fields.time("idle_grace", idle_grace, new.shutdown.idle_grace);
        fields.time("deadline", deadline, new.shutdown.deadline);
        let DebugPlan { remember, key } = debug;
        let mut fields = self.of(Subject::Debug);
        fields.value("remember", remember, &new.debug.remember);
        fields.key("key", *key == new.debug.key);
        let UpgradePlan { ready_within, idle_grace, deadline } = *upgrade;
        let mut fields = self.of(Subject::Upgrade);
        fields.time("ready_within", ready_within, new.upgrade.ready_within);
        fields.time("idle_grace", idle_grace, new.upgrade.idle_grace);
        fields.time("deadline", deadline, new.upgrade.deadline);
    }

    /// Notes what was added or removed; gives back what is in both.
    fn both<'a, T>(&mut self, event: &Event<'a, T>, subject: impl Fn(&T) -> Subject) -> Option<(&'a T, &'a T)> {
        match event {
            Event::Both(old, new) => return Some((*old, *new)),
            Event::Added(new) => self.changes.push(Change { subject: subject(new), what: What::Added }),
            Event::Removed(old) => self.changes.push(Change { subject: subject(old), what: What::Removed }),
        }
        None
    }

    fn of(&mut self, subject: Subject) -> Fields<'_> {
        Fields { diff: self, subject }
    }
}

/// Compares the fields of one subject.
struct Fields<'a> {
    diff: &'a mut Diff,
    subject: Subject,
}

impl Fields<'_> {
    fn value<T: PartialEq + fmt::Display>(&mut self, key: &'static str, old: &T, new: &T) {
        if old != new {
            self.push(What::Value { key, old: old.to_string(), new: new.to_string() });
        }
    }

    fn time(&mut self, key: &'static str, old: Duration, new: Duration) {
        self.value(key, &show_duration(old), &show_duration(new));
    }

    fn key(&mut self, key: &'static str, same: bool) {
        if !same {
            self.push(What::Key(key));
        }
    }

    fn access(&mut self, Access { allow, deny }: &Access, new: &Access) {
        self.key("allow", *allow == new.allow);
        self.key("deny", *deny == new.deny);
    }

    fn push(&mut self, what: What) {
        self.diff.changes.push(Change { subject: self.subject.clone(), what });
    }
}

fn count(number: u64) -> String {
    if number == u64::MAX { "unlimited".to_owned() } else { number.to_string() }
}

#[cfg(test)]
mod tests;
