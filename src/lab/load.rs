//! Sends what is due, when it is due, whatever has become of what was sent before.
//!
//! Latency is counted from the moment at which a request was due, not from the one at which it was sent, so a
//! proxy that answers late is not spared by a client that waits for it. Each user has a connection of its own
//! from its own source address, keeps it open, and keeps cookies, as browsers do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::arrivals::{Arrival, address};
use super::scenario::Scenario;

/// A user waits no longer than this.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Seconds after the beginning at which it was due.
    pub at: f64,
    /// Seconds until the last byte of the answer, or until it was given up.
    pub latency: f64,
    pub group: u16,
    pub user: u32,
    /// The number of the server that answered, from 1.
    pub server: Option<u32>,
    /// None where no answer came.
    pub status: Option<u16>,
    /// Whether its user had a session that the server did not know.
    pub lost: bool,
    /// Whether its user came with it, and logged in.
    pub login: bool,
    /// Whether its server's cache had what was asked for; none where there is no cache.
    pub hit: Option<bool>,
}

impl Outcome {
    /// Whether its user got nothing of use: no answer, or an error of a server or of the proxy.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

/// How far a run is, told while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests that were sent.
    pub sent: AtomicUsize,
    /// Requests that failed.
    pub failed: AtomicUsize,
    /// Whether to stop early.
    pub stop: AtomicBool,
}

/// What users ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// What their group asks for, of servers that are not the lab's.
    Paths,
    Bytes,
    Sessions,
    Items,
}

/// What is known of servers that are not the lab's.
#[derive(Debug)]
struct Own {
    path: String,
    /// The cookie in which they keep a session.
    session: Option<String>,
}

/// A user's own: the connection that is free, and cookies.
#[derive(Default)]
struct User {
    connection: Option<SendRequest<Empty<Bytes>>>,
    cookies: Vec<(String, String)>,
    visits: u32,
    /// Which of those who came one after the other it is: what is still under way for the one before changes
    /// nothing for this one.
    generation: u32,
    /// The value of the session cookie that was lost last.
    lost: Option<String>,
}

/// Sends all arrivals to `proxy`, beginning at `start`. Blocks until the last is answered or given up, or
/// until it is told to stop.
///
/// # Errors
/// When a runtime cannot be started.
pub fn send(
    proxy: SocketAddr,
    scenario: &Scenario,
    arrivals: &[Arrival],
    start: std::time::Instant,
    meter: &Arc<Meter>,
) -> io::Result<Vec<Outcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let outcomes = Rc::new(RefCell::new(Vec::with_capacity(arrivals.len())));
    let mut users: HashMap<(u16, u32), Rc<RefCell<User>>> = HashMap::new();
    let start = Instant::from_std(start);
    let asked = match (&scenario.items, scenario.sessions) {
        _ if !scenario.targets.is_empty() => Asked::Paths,
        (Some(_), _) => Asked::Items,
        (None, true) => Asked::Sessions,
        (None, false) => Asked::Bytes,
    };
    let sending = local.run_until(async {
        let mut tasks = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            sleep_until(start + arrival.at).await;
            if meter.stop.load(Relaxed) {
                break;
            }
            let user = Rc::clone(users.entry((arrival.group, arrival.user)).or_default());
            let from = address(arrival.group, &scenario.groups[usize::from(arrival.group)], arrival.user);
            let stay = scenario.groups[usize::from(arrival.group)].visits;
            let path = scenario.groups[usize::from(arrival.group)].path.clone();
            let own = Own { path: path.unwrap_or_else(|| "/".to_owned()), session: scenario.session_cookie.clone() };
            let (arrival, outcomes) = (*arrival, Rc::clone(&outcomes));
            let meter = Arc::clone(meter);
            meter.sent.fetch_add(1, Relaxed);
            tasks.push(tokio::task::spawn_local(async move {
                come(&mut user.borrow_mut(), stay);
                let visit = visit(&user, IpAddr::V4(from), proxy, asked, &arrival, &own);
                let Seen { server, status, lost, login, hit } = timeout(PATIENCE, visit).await.unwrap_or_default();
                let latency = start.elapsed().saturating_sub(arrival.at);
                if status.is_none_or(|status: u16| status >= 500) {
                    meter.failed.fetch_add(1, Relaxed);
                }
                outcomes.borrow_mut().push(Outcome {
                    at: arrival.at.as_secs_f64(),
                    latency: latency.as_secs_f64(),
                    group: arrival.group,
                    user: arrival.user,
                    server,
                    status,
                    lost,
                    login,
                    hit,
                });
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
    });
    runtime.block_on(sending);
    drop((local, users));
    let mut outcomes = outcomes.take();
    outcomes.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(outcomes)
}

/// A user comes, or somebody new does in the place of one who has had enough.
fn come(user: &mut User, stay: Option<u32>) {
    user.visits += 1;
    if stay.is_some_and(|stay| user.visits > stay) {
        user.visits = 1;
        user.cookies.clear();
        user.generation += 1;
    }
}

/// What a user has seen of an answer.
#[derive(Debug, Default)]
struct Seen {
    server: Option<u32>,
    status: Option<u16>,
    lost: bool,
    login: bool,
    hit: Option<bool>,
}

/// One request of a user.
async fn visit(
    user: &Rc<RefCell<User>>,
    from: IpAddr,
    proxy: SocketAddr,
    asked: Asked,
    arrival: &Arrival,
    own: &Own,
) -> Seen {
    // Taken here: before it is sent, somebody new may have come in this user's place.
    let (cookies, generation) = (user.borrow().cookies.clone(), user.borrow().generation);
    let logged_in = cookies.iter().any(|(name, _)| name == "sid");
    let path = match asked {
        Asked::Paths => &own.path,
        Asked::Bytes => "/bytes?n=512",
        Asked::Items => &format!("/item?key={}", arrival.item),
        Asked::Sessions if logged_in => "/count",
        Asked::Sessions => &format!("/login?user={}", arrival.name()),
    };
    let login = asked == Asked::Sessions && !logged_in;
    let Some(answer) = ask(user, from, proxy, path, &cookies, &arrival.name()).await else {
        return Seen { login, ..Seen::default() };
    };
    let Answered { server, status, hit, set, connection } = answer;
    let mut user = user.borrow_mut();
    user.connection = connection.or(user.connection.take());
    let seen = |lost: bool| Seen { server, status: Some(status), lost, login, hit };
    if user.generation == generation {
        for (name, value) in &set {
            user.cookies.retain(|(other, _)| other != name);
            user.cookies.push((name.clone(), value.clone()));
        }
    }
    let value_in = |cookies: &[(String, String)], name: &str| {
        cookies.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let Some(name) = &own.session else {
        let lost = path == "/count" && status == StatusCode::UNAUTHORIZED.as_u16();
        if lost {
            // They log in again with their next request, if they have not meanwhile.
            let refused = value_in(&cookies, "sid");
            user.cookies.retain(|(name, value)| name != "sid" || refused.as_ref() != Some(value));
        }
        return seen(lost);
    };
    // Whoever had a session and gets another one is somebody new there; requests that were under way at the same
    // time lose the same session once.
    let (had, got) = (value_in(&cookies, name), value_in(&set, name));
    let lost = had.is_some() && got.is_some() && had != got && had != user.lost;
    if lost {
        user.lost = had;
    }
    seen(lost)
}

/// What an answer says, and the connection where it may be kept.
struct Answered {
    server: Option<u32>,
    status: u16,
    /// Whether a cache had it.
    hit: Option<bool>,
    /// Cookies that it sets.
    set: Vec<(String, String)>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// Asks on the connection that is kept, or on a new one where that turns out to be closed.
async fn ask(
    user: &Rc<RefCell<User>>,
    from: IpAddr,
    proxy: SocketAddr,
    path: &str,
    cookies: &[(String, String)],
    name: &str,
) -> Option<Answered> {
    let kept = user.borrow_mut().connection.take();
    if let Some(mut connection) = kept
        && connection.ready().await.is_ok()
    {
        let request = request(path, cookies, name)?;
        match connection.try_send_request(request).await {
            Ok(answer) => return settle(connection, answer).await,
            // Closed before it was sent: browsers try again on another.
            Err(error) if error.message().is_some() => {}
            Err(_) => return None,
        }
    }
    let socket = TcpSocket::new_v4().ok()?;
    // Many users may share an address: whatever port is free towards the proxy will do.
    socket.set_reuseaddr(true).ok()?;
    socket.bind(SocketAddr::new(from, 0)).ok()?;
    let stream = socket.connect(proxy).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (mut connection, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::task::spawn_local(driver);
    let answer = connection.send_request(request(path, cookies, name)?).await.ok()?;
    settle(connection, answer).await
}

fn request(path: &str, cookies: &[(String, String)], name: &str) -> Option<Request<Empty<Bytes>>> {
    // Who asks, for policies that go by it.
    let request = Request::get(path).header(header::HOST, "lab").header("x-user", name);
    let cookies: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let request = if cookies.is_empty() { request } else { request.header(header::COOKIE, cookies.join("; ")) };
    request.body(Empty::new()).ok()
}

/// Reads the answer to its end.
async fn settle(
    connection: SendRequest<Empty<Bytes>>,
    answer: http::Response<hyper::body::Incoming>,
) -> Option<Answered> {
    let (head, body) = answer.into_parts();
    body.collect().await.ok()?;
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let closes = text("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let set = head.headers.get_all(header::SET_COOKIE).iter().filter_map(|line| {
        let (name, value) = line.to_str().ok()?.split(';').next()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Some(Answered {
        server: text("x-server").and_then(|name| name.strip_prefix('s')?.parse().ok()),
        status: head.status.as_u16(),
        hit: text("x-cache").map(|cache| cache == "hit"),
        set: set.collect(),
        connection: (!closes).then_some(connection),
    })
}
