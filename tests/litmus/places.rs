//! Where users of the experiment go beside everything else that says where a request goes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};

use evenkeel::balance::litmus::Group;
use evenkeel::balance::split::User;
use serde_json::json;

use crate::harness::{Answer, Client, Client2, Fake, Process, Running, Signal, command, eventually, origins, upstream};

/// Half of all users are moved, the others stay.
const HALF: &str = "litmus = { percent = 50, cookies = [\"sid\"], same_body = [\"/account\"] }\n";

/// Numbers of users of a group; made up, as whoever reads the cookie could.
fn numbers(group: Group) -> impl Iterator<Item = u64> {
    (1..).filter(move |number| Group::of(User::of_number(*number), 50) == Some(group))
}

fn cookie(number: u64) -> String {
    format!("evenkeel_litmus={number:016x}")
}

/// A user who takes part from the first request on.
fn user(evenkeel: &Running, number: u64) -> Client {
    evenkeel.client().with("cookie", &cookie(number))
}

fn gets(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.get("/echo").server().to_owned()).collect()
}

fn is_moved(servers: &[String]) -> bool {
    servers.windows(2).all(|pair| pair[0] != pair[1])
}

fn stays(servers: &[String]) -> bool {
    servers.windows(2).all(|pair| pair[0] == pair[1])
}

/// Users of both groups who take part, and answers that counted.
fn seen(evenkeel: &Running) -> [u64; 2] {
    let litmus = evenkeel.status().upstreams[0].litmus.clone().unwrap();
    [litmus.shuffled.users + litmus.control.users, litmus.shuffled.requests + litmus.control.requests]
}

/// Who meets new servers is the canary's business: meanwhile nobody is moved or counted, and it is said.
#[test]
fn while_a_canary_runs_nobody_takes_part() {
    let mut origins = origins(3);
    let new = origins.split_off(2);
    let config =
        upstream("app", "\"round_robin\"", &format!("slow_start = \"off\"\noutliers = false\n{HALF}"), &origins);
    let evenkeel = Running::start(&config);
    let moved = numbers(Group::Shuffled).next().unwrap();
    assert!(is_moved(&gets(&mut user(&evenkeel, moved), 4)));
    let before = seen(&evenkeel);
    assert_eq!(before[0], 1);

    let dir = tempfile::tempdir().unwrap();
    let mut deploy = command(&["deploy", "app", "--admin", evenkeel.socket().to_str().unwrap()]);
    deploy.args(["--watch", "10ms", "--lease", "3s", "--percent", "50", "--for", "1h", "--proof"]);
    deploy.arg(dir.path().join("proof.json"));
    let mut deploy = Process::of(deploy.args(["--replace", &format!("c={}", new[0].address())]));
    eventually("the canary", || evenkeel.status().upstreams[0].canary.is_some().then_some(()));
    let told = evenkeel.verb(&["litmus", "--live", "app"]).out;
    assert!(told.contains("while a canary runs, nobody takes part"), "{told}");
    for number in numbers(Group::Shuffled).take(8) {
        let servers = gets(&mut user(&evenkeel, number), 4);
        assert!(servers.iter().all(|server| ["a", "b", "c"].contains(&server.as_str())), "{servers:?}");
    }
    assert_eq!(seen(&evenkeel), before);
    deploy.signal(Signal::INT);
    eventually("it ends", || deploy.ended());
    eventually("the canary ends", || evenkeel.status().upstreams[0].canary.is_none().then_some(()));
    assert!(is_moved(&gets(&mut user(&evenkeel, moved), 4)));
    assert!(seen(&evenkeel)[1] > before[1]);
    assert!(!evenkeel.verb(&["litmus", "--live", "app"]).out.contains("canary"));
}

/// A backup is nobody's place while others are up, and everybody's afterwards.
#[test]
fn backups_are_for_nobody_while_others_are_up() {
    let mut origins = origins(3);
    let backup = origins.split_off(2);
    let spare =
        format!("[[upstream.app.server]]\nname = \"spare\"\nbackup = true\naddress = \"{}\"\n", backup[0].address());
    let evenkeel = Running::start(&(upstream("app", "\"round_robin\"", HALF, &origins) + &spare));
    let ask = |group, count| gets(&mut user(&evenkeel, numbers(group).next().unwrap()), count);
    let moved = ask(Group::Shuffled, 8);
    assert!(is_moved(&moved) && moved.iter().collect::<BTreeSet<_>>().len() == 2, "{moved:?}");
    assert!(stays(&ask(Group::Control, 4)));
    // Where there is one place only, that is where everybody is.
    evenkeel.change("app", "a", &json!({ "admin": "disabled" }));
    for group in Group::ALL {
        assert_eq!(ask(group, 4), ["b"; 4], "{group:?}");
    }
    evenkeel.change("app", "b", &json!({ "admin": "disabled" }));
    for group in Group::ALL {
        assert_eq!(ask(group, 3), ["c"; 3], "{group:?}: the spare one calls itself so");
    }
    evenkeel.change("app", "a", &json!({ "admin": "ready" }));
    evenkeel.change("app", "b", &json!({ "admin": "ready" }));
    assert!(is_moved(&ask(Group::Shuffled, 4)));
}

/// Many users over one connection: it is the cookie that tells them apart, in a line of its own or not.
#[test]
fn users_of_http2_are_moved_and_their_bodies_compared() {
    let fakes: Vec<Fake> = (0..3)
        .map(|number| {
            Fake::answering(move |_, _, head| {
                assert!(!head.contains("evenkeel_litmus"), "{head}");
                Some(format!("HTTP/1.1 200 OK\r\nX-Server: {number}\r\nContent-Length: 1\r\n\r\n{number}"))
            })
        })
        .collect();
    let servers: Vec<String> = fakes.iter().map(|fake| format!("\"{}\"", fake.address())).collect();
    let evenkeel =
        Running::start(&format!("[upstream.app]\ncheck = \"off\"\n{HALF}servers = [{}]\n", servers.join(", ")));
    let client = Client2::to(evenkeel.address);
    let first = client.get("/account");
    assert!(first.header("set-cookie").unwrap().starts_with("evenkeel_litmus="));
    for (group, moves) in [(Group::Shuffled, true), (Group::Control, false)] {
        for number in numbers(group).take(6) {
            let servers: Vec<String> = (0..5)
                .map(|_| {
                    let request = Client2::request("GET", "/account").header("cookie", "theme=dark");
                    let request = request.header("cookie", cookie(number)).body(()).unwrap();
                    let answer = client.send(request, None).unwrap();
                    assert!(answer.status == 200 && answer.header("set-cookie").is_none(), "{answer:?}");
                    String::from_utf8(answer.body).unwrap()
                })
                .collect();
            assert!(if moves { is_moved(&servers) } else { stays(&servers) }, "{group:?}: {servers:?}");
        }
    }
    assert_eq!(seen(&evenkeel)[0], 12);
    let litmus = eventually("all bodies have ended", || {
        let litmus = evenkeel.status().upstreams[0].litmus.clone().unwrap();
        (litmus.shuffled.requests + litmus.control.requests == 12 * 4).then_some(litmus)
    });
    let bodies = |symptoms: &[evenkeel::control::api::LitmusSymptomStatus]| {
        symptoms.iter().find(|symptom| symptom.symptom == "body").unwrap().users
    };
    assert_eq!((bodies(&litmus.shuffled.symptoms), bodies(&litmus.control.symptoms)), (6, 0));
}

/// What the application's cookie says is learned where the session is: of one that is begun anew at a server that
/// its user was moved to, that is there, and whoever changes something does it there.
#[test]
fn a_session_begun_where_its_user_was_moved_to_is_learned_there() {
    let origins = origins(3);
    let evenkeel = Running::start(&upstream("app", "{ sticky_cookie = { learn = \"sid\" } }", HALF, &origins));
    let send = |number: u64, sid: &str, method: &str, path: &str| -> Answer {
        let cookies = if sid.is_empty() { cookie(number) } else { format!("{}; {sid}", cookie(number)) };
        evenkeel.client().send(method, path, &[("cookie", &cookies)], b"")
    };
    for number in numbers(Group::Shuffled).take(12) {
        // Nobody is anywhere yet: they take no part until they have a session.
        let login = send(number, "", "GET", "/login");
        let (home, sid) = (login.server().to_owned(), login.cookie("sid").unwrap());
        assert_eq!(send(number, &sid, "POST", "/count").server(), home);
        let away = send(number, &sid, "GET", "/count");
        assert!(away.server() != home && away.status == 401, "{away:?}");
        // Their own session is where it was.
        let back = send(number, &sid, "POST", "/count");
        assert_eq!((back.server(), back.status), (home.as_str(), 200));
        // They are moved, and the server there begins another one.
        let again = send(number, &sid, "GET", "/login");
        let (there, sid) = (again.server().to_owned(), again.cookie("sid").unwrap());
        assert_ne!(there, home);
        for _ in 0..2 {
            let count = send(number, &sid, "POST", "/count");
            assert_eq!((count.server(), count.status), (there.as_str(), 200));
        }
        assert_ne!(send(number, &sid, "GET", "/echo").server(), there, "and from there it is moved");
    }
    let of = |group| {
        for number in numbers(group).take(6) {
            let login = send(number, "", "GET", "/login");
            let (home, sid) = (login.server().to_owned(), login.cookie("sid").unwrap());
            let answers: Vec<Answer> = (0..4).map(|_| send(number, &sid, "GET", "/count")).collect();
            assert!(answers.iter().all(|answer| answer.server() == home && answer.status == 200));
        }
    };
    of(Group::Control);
    let moved = evenkeel.metric("evenkeel_sessions_moved_total", &["upstream=\"app\""]);
    assert_eq!(moved, 0.0, "no session has moved by itself");
}

/// A request that waits until it is let go.
#[derive(Default)]
struct Gate {
    /// How many wait, and whether they may go.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    fn has(&self, count: usize) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.0 < count).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Nobody waits for the experiment: where the other server is full, the request goes where the user is at home.
#[test]
fn a_full_server_is_passed_over() {
    let gate = Arc::new(Gate::default());
    let fakes: Vec<Fake> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let gate = Arc::clone(&gate);
            Fake::answering(move |_, _, head| {
                if head.starts_with("POST /held") {
                    gate.pass();
                }
                Some(format!("HTTP/1.1 200 OK\r\nX-Server: {name}\r\nContent-Length: 0\r\n\r\n"))
            })
        })
        .collect();
    let servers: Vec<String> = fakes.iter().map(|fake| format!("\"{}\"", fake.address())).collect();
    // Whoever waited would wait for as long as the test does.
    let evenkeel = Running::start(&format!(
        "[upstream.app]\ncheck = \"off\"\nmax_requests = 2\nqueue = {{ timeout = \"10m\" }}\n{HALF}servers = [{}]\n",
        servers.join(", ")
    ));
    let home = |number: u64| user(&evenkeel, number).post("/", b"").server().to_owned();
    let mine = numbers(Group::Shuffled).next().unwrap();
    let my_home = home(mine);
    let other = numbers(Group::Control).find(|number| home(*number) != my_home).unwrap();
    std::thread::scope(|scope| {
        let held = [0, 1].map(|_| scope.spawn(|| user(&evenkeel, other).post("/held", b"").status));
        gate.has(2);
        let mut me = user(&evenkeel, mine);
        for _ in 0..3 {
            assert_eq!(me.get("/").server(), my_home);
        }
        // Nobody else is there, so what waited would have waited for the full one.
        assert_eq!(evenkeel.status().upstreams[0].queue.as_ref().map(|queue| queue.queued), Some(0));
        gate.open();
        held.into_iter().for_each(|held| assert_eq!(held.join().unwrap(), 200));
    });
    // There is room again when that request is over, which its client may know before.
    eventually("it is moved", || (user(&evenkeel, mine).get("/").server() != my_home).then_some(()));
}
