//! Clients that do the script: half of them go to another server with each step, half stay at one.
//!
//! Which server a client meets in which step is laid down, not drawn: both halves meet each server equally
//! often in every step, so that a server that is broken is so for both.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, USER_AGENT};
use http_body_util::Full;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_128;

use super::jar::Jar;
use super::script::{Script, Step};
use super::servers::Servers;
use super::symptom::{Symptom, judge};
use crate::balance::key_of;
use crate::cli::target::encoded;

/// What becomes of a client between its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// It goes to another server.
    Shuffled,
    /// It stays.
    Pinned,
    /// It stays, and the servers are restarted.
    Restarted,
    /// It stays, and waits in the same place for as long as the restart took, without one.
    Waited,
}

/// What a run is made of.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) script: Script,
    pub(super) servers: Servers,
    pub(super) host: String,
    pub(super) at_once: usize,
}

/// An answer that has symptoms.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) client: usize,
    pub(super) group: Group,
    pub(super) step: usize,
    pub(super) from: Option<usize>,
    pub(super) to: usize,
    pub(super) symptoms: Vec<Symptom>,
    pub(super) what: String,
}

#[derive(Debug)]
pub(super) struct Client {
    /// Unique, from 1: what `{client}` stands for.
    number: usize,
    /// Place within its group.
    place: usize,
    group: Group,
    jar: Jar,
    saved: BTreeMap<String, String>,
    /// Hashes of first answers by request, where the script compares them: whole ones would be as many as clients
    /// times steps.
    bodies: HashMap<String, u128>,
    last: Option<usize>,
}

/// `count` clients of a group, numbered from `first` on.
pub(super) fn clients(group: Group, count: usize, first: usize) -> Vec<Client> {
    let client = |place| Client {
        number: first + place,
        place,
        group,
        jar: Jar::default(),
        saved: BTreeMap::new(),
        bodies: HashMap::new(),
        last: None,
    };
    (0..count).map(client).collect()
}

/// Has clients do these steps, each its own at its own pace.
pub(super) async fn steps(setup: &Arc<Setup>, clients: Vec<Client>, steps: Range<usize>) -> (Vec<Client>, Vec<Seen>) {
    let turns = Arc::new(Semaphore::new(setup.at_once));
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (setup, turns, steps) = (Arc::clone(setup), Arc::clone(&turns), steps.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let mut seen = Vec::new();
            for step in steps {
                seen.extend(client.step(&setup, step).await);
            }
            (client, seen)
        });
    }
    let (mut clients, mut seen) = (Vec::new(), Vec::new());
    for (client, of_client) in tasks.join_all().await {
        clients.push(client);
        seen.extend(of_client);
    }
    clients.sort_by_key(|client| client.number);
    seen.sort_by_key(|seen| (seen.step, seen.client));
    (clients, seen)
}

/// Where a client goes: `at` is where it was, and `place` its place among those of its kind.
fn next(at: Option<usize>, place: usize, step: usize, steps: usize, servers: usize) -> usize {
    let Some(at) = at else { return place % servers };
    // Of two servers every second step would meet the same one, so each client but some stays once: then no two
    // steps are always at one server.
    let moves = steps - 1;
    if servers == 2 && moves > 1 && place / 2 % (moves + 1) + 1 == step {
        return at;
    }
    // As many neighbours as there are servers go the same way from each of them, so all get the same; which way is
    // another with each step, or there would be steps with which everybody is back again.
    let way = key_of(&format!("{} {step}", place / servers)) as usize;
    (at + 1 + way % (servers - 1)) % servers
}

impl Client {
    /// Its turn where both halves come by turns.
    pub(super) fn turn(&self) -> (usize, bool) {
        (self.place, self.group == Group::Shuffled)
    }

    async fn step(&mut self, setup: &Setup, at: usize) -> Option<Seen> {
        let (step, servers) = (&setup.script.steps[at], &setup.servers.all);
        let to = match self.group {
            Group::Shuffled => next(self.last, self.place, at, setup.script.steps.len(), servers.len()),
            Group::Pinned | Group::Restarted | Group::Waited => self.place % servers.len(),
        };
        let from = self.last.replace(to);
        let target = self.filled(&step.path, encoded);
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let answer = match self.request(&setup.script, step, &target, &setup.host) {
            Ok(request) => servers[to].ask(request, setup.script.timeout).await,
            Err(why) => Err(why),
        };
        let key = format!("{} {target}", step.method);
        let before = self.bodies.get(&key).copied();
        let judged = judge(&setup.script, step, &path, answer.as_ref(), &mut self.jar, before);
        if let Ok(answer) = answer {
            let text = String::from_utf8_lossy(&answer.body);
            for (name, pattern) in &step.save {
                if let Some(group) = pattern.captures(&text).and_then(|found| found.get(1)) {
                    self.saved.insert(name.clone(), group.as_str().to_owned());
                }
            }
            if step.same_body && before.is_none() && judged.symptoms.is_empty() {
                self.bodies.insert(key, xxh3_128(&answer.body));
            }
        }
        let (client, group) = (self.number, self.group);
        let seen = Seen { client, group, step: at, from, to, symptoms: judged.symptoms, what: judged.what };
        (!seen.symptoms.is_empty()).then_some(seen)
    }

    fn request(&self, script: &Script, step: &Step, target: &str, host: &str) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder().method(step.method.clone()).uri(target);
        request = request.header(HOST, host).header(CONNECTION, "close");
        let names = || script.headers.keys().chain(step.headers.keys());
        if !names().any(|name| name.eq_ignore_ascii_case("user-agent")) {
            request = request.header(USER_AGENT, concat!("evenkeel-litmus/", env!("CARGO_PKG_VERSION")));
        }
        for (name, value) in script.headers.iter().filter(|(name, _)| !step.headers.contains_key(*name)) {
            request = request.header(name, self.filled(value, str::to_owned));
        }
        for (name, value) in &step.headers {
            request = request.header(name, self.filled(value, str::to_owned));
        }
        if let Some(cookies) = self.jar.header(target.split('?').next().unwrap_or_default()) {
            request = request.header(COOKIE, cookies);
        }
        let body = match (&step.form, &step.body) {
            (Some(form), _) => {
                if !names().any(|name| name.eq_ignore_ascii_case("content-type")) {
                    request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                }
                let field = |(name, value): (&String, &String)| {
                    format!("{}={}", encoded(name), encoded(&self.filled(value, str::to_owned)))
                };
                form.iter().map(field).collect::<Vec<_>>().join("&")
            }
            (None, Some(body)) => self.filled(body, str::to_owned),
            (None, None) => String::new(),
        };
        if !body.is_empty() || step.method == http::Method::POST {
            request = request.header(CONTENT_LENGTH, body.len());
        }
        request.body(Full::from(body)).map_err(|error| format!("what was filled in makes no request: {error}"))
    }

    /// Puts what is known of the client into a text; other braces stay as they are.
    fn filled(&self, text: &str, write: impl Fn(&str) -> String) -> String {
        let mut text = text.replace("{client}", &self.number.to_string());
        for (name, value) in &self.saved {
            text = text.replace(&format!("{{{name}}}"), &write(value));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The servers that clients of the shuffled half meet, by place and step.
    fn ways(clients: usize, steps: usize, servers: usize) -> Vec<Vec<usize>> {
        let way = |place| {
            let mut at = None;
            (0..steps).map(|step| *at.insert(next(at, place, step, steps, servers))).collect()
        };
        (0..clients).map(way).collect()
    }

    #[test]
    fn everybody_goes_elsewhere_with_each_step_and_servers_get_the_same() {
        for servers in 3..6 {
            let clients = servers * (servers - 1) * 4;
            let ways = ways(clients, 5, servers);
            for way in &ways {
                assert!(way.windows(2).all(|pair| pair[0] != pair[1]), "{way:?}");
            }
            for step in 0..5 {
                for server in 0..servers {
                    let there = ways.iter().filter(|way| way[step] == server).count();
                    assert_eq!(there, clients / servers, "step {step}, server {server} of {servers}");
                }
            }
        }
    }

    #[test]
    fn no_two_steps_are_always_at_one_server() {
        assert!(ways(8, 2, 2).iter().all(|way| way[0] != way[1]), "there is one move only");
        for servers in 2..6 {
            let ways = ways(60, 5, servers);
            for a in 0..5 {
                for b in a + 1..5 {
                    let apart = ways.iter().filter(|way| way[a] != way[b]).count();
                    assert!(apart >= 15, "steps {a} and {b} of {servers} servers: {apart} of 60");
                }
            }
        }
        for way in &ways(48, 5, 2) {
            assert!(way.windows(2).filter(|pair| pair[0] == pair[1]).count() <= 1, "{way:?}");
        }
    }

    #[test]
    fn what_a_client_knows_is_filled_in() {
        let mut client = clients(Group::Pinned, 1, 7).remove(0);
        client.saved.insert("token".into(), "a b/c".into());
        assert_eq!(client.filled("/x/{token}?c={client}&j={other}", encoded), "/x/a%20b%2Fc?c=7&j={other}");
        let script = Script::read(
            "headers = { X-All = \"{client}\" }\n[[step]]\nmethod = \"POST\"\npath = \"/a\"\n\
             form = { t = \"{token}\", u = \"user{client}\" }\n[[step]]\npath = \"/b\"\n",
        )
        .unwrap();
        let request = client.request(&script, &script.steps[0], "/a", "shop").unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!((header("host"), header("x-all"), header("content-length")), ("shop", "7", "19"));
        assert_eq!(header("content-type"), "application/x-www-form-urlencoded");
        client.saved.insert("bad".into(), "a\nb".into());
        let step = Script::read("[[step]]\npath = \"/\"\nrepeat = 2\nheaders = { X-Y = \"{bad}\" }\n").unwrap();
        assert!(client.request(&step, &step.steps[0], "/", "shop").unwrap_err().contains("makes no request"));
    }
}
