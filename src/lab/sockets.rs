//! Long connections: users who each keep a WebSocket open, say something now and then, and come back when it ends.
//!
//! How each one ended is told apart as a client can: a close frame with its code, or nothing, which is what a dead server
//! leaves. A message is lost that was sent and did not come back before the end.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::header;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::arrivals::address;
use super::load::{Meter, Outcome};
use super::scenario::{Scenario, WebSockets};
use crate::balance::Scratch;

/// A user waits no longer than this for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether to stop.
const PACE: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    pub group: u16,
    pub user: u32,
    /// The number of its server, from 1.
    pub server: Option<u32>,
    /// Seconds after the beginning.
    pub opened: f64,
    /// None where it lasted until the end of the run.
    pub ended: Option<Ended>,
    /// Messages that were sent.
    pub sent: u32,
    /// Those of them that did not come back.
    pub lost: u32,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    pub at: f64,
    /// What the close frame said; none where there was none.
    pub code: Option<u16>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of each try to open a connection.
    pub outcomes: Vec<Outcome>,
    pub connections: Vec<Connection>,
}

/// What all users of a run have in common.
struct Run {
    proxy: SocketAddr,
    sockets: WebSockets,
    start: Instant,
    end: Instant,
    meter: Arc<Meter>,
    seen: RefCell<Seen>,
}

/// A user: who, from where, and with which cookies.
struct User {
    group: u16,
    number: u32,
    from: IpAddr,
    cookies: Vec<(String, String)>,
    chance: Scratch,
}

/// Lets all users come, at the rate of their group, and stay until the end.
///
/// # Errors
/// When a runtime cannot be started.
pub fn hold(
    proxy: SocketAddr,
    scenario: &Scenario,
    sockets: &WebSockets,
    start: std::time::Instant,
    meter: &Arc<Meter>,
) -> io::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::from_std(start);
    let run = Rc::new(Run {
        proxy,
        sockets: sockets.clone(),
        start,
        end: start + scenario.duration,
        meter: Arc::clone(meter),
        seen: RefCell::default(),
    });
    let local = LocalSet::new();
    let holding = local.run_until(async {
        let mut tasks = Vec::new();
        for (number, group) in (0u16..).zip(&scenario.groups) {
            for user in 0..group.users {
                let comes = start + group.from + Duration::from_secs_f64(f64::from(user) / group.rate);
                let from = IpAddr::V4(address(number, group, user));
                let chance = Scratch::new(user as usize, scenario.seed ^ u64::from(number));
                let user = User { group: number, number: user, from, cookies: Vec::new(), chance };
                let run = Rc::clone(&run);
                tasks.push(tokio::task::spawn_local(async move {
                    sleep_until(comes.min(run.end)).await;
                    stay(&run, user).await;
                }));
            }
        }
        for task in tasks {
            let _ = task.await;
        }
    });
    runtime.block_on(holding);
    drop(local);
    let mut seen = run.seen.take();
    seen.outcomes.sort_by(|a, b| a.at.total_cmp(&b.at));
    seen.connections.sort_by(|a, b| a.opened.total_cmp(&b.opened));
    Ok(seen)
}

impl Run {
    fn is_over(&self) -> bool {
        self.meter.stop.load(Relaxed) || Instant::now() >= self.end
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Ready at the end, or when the run is told to stop.
    async fn over(&self) {
        while !self.is_over() {
            sleep(PACE.min(self.end.saturating_duration_since(Instant::now()))).await;
        }
    }
}

/// Opens a connection, keeps it, and opens another when it has ended.
async fn stay(run: &Run, mut user: User) {
    while !run.is_over() {
        let at = run.seconds();
        run.meter.sent.fetch_add(1, Relaxed);
        let opening = tokio::select! {
            opening = timeout(PATIENCE, open(run, &mut user)) => opening.ok().flatten(),
            // What nobody waits for any more has not failed.
            () = run.over() => return,
        };
        let latency = run.seconds() - at;
        let (server, status) = match &opening {
            Some((server, _)) => (*server, Some(101)),
            None => (None, None),
        };
        run.meter.failed.fetch_add(usize::from(opening.is_none()), Relaxed);
        let (group, number) = (user.group, user.number);
        let outcome = Outcome { at, latency, group, user: number, server, status, ..Outcome::default() };
        run.seen.borrow_mut().outcomes.push(outcome);
        if let Some((server, socket)) = opening {
            let opened = run.seconds();
            let (ended, sent, lost) = talk(run, &mut user, socket).await;
            let connection = Connection { group, user: number, server, opened, ended, sent, lost };
            run.seen.borrow_mut().connections.push(connection);
        }
        // At a random moment, so that all who were cut at once do not come back at once.
        let most = run.sockets.reconnect.as_millis() as u32;
        let wait = Duration::from_millis(u64::from(user.chance.below(most.max(1))));
        sleep_until((Instant::now() + wait).min(run.end)).await;
    }
}

type Socket = WebSocketStream<TcpStream>;

/// A connection through the proxy, and the server that it says it is with; none where there is none to be had.
async fn open(run: &Run, user: &mut User) -> Option<(Option<u32>, Socket)> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(SocketAddr::new(user.from, 0)).ok()?;
    let stream = socket.connect(run.proxy).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let mut request = ClientRequestBuilder::new("ws://lab/ws".parse().ok()?);
    if !user.cookies.is_empty() {
        let cookies: Vec<String> = user.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request = request.with_header(header::COOKIE.as_str(), cookies.join("; "));
    }
    let (socket, answer) = client_async(request, stream).await.ok()?;
    for line in answer.headers().get_all(header::SET_COOKIE) {
        let pair = line.to_str().ok().and_then(|line| line.split(';').next()?.split_once('='));
        if let Some((name, value)) = pair {
            user.cookies.retain(|(other, _)| other != name);
            user.cookies.push((name.to_owned(), value.to_owned()));
        }
    }
    let server = answer.headers().get("x-server").and_then(|name| name.to_str().ok()?.strip_prefix('s')?.parse().ok());
    Some((server, socket))
}

/// What a close frame says; 1005 is that it says nothing (RFC 6455 §7.1.5).
fn told(frame: Option<&CloseFrame>) -> u16 {
    frame.map_or(1005, |frame| frame.code.into())
}

/// Says something now and then until the connection ends, or the run does. How it ended, what was sent and lost.
async fn talk(run: &Run, user: &mut User, mut socket: Socket) -> (Option<Ended>, u32, u32) {
    let every = run.sockets.message;
    let phase = Duration::from_millis(u64::from(user.chance.below(every.as_millis() as u32)));
    let mut pace = interval_at(Instant::now() + phase, every);
    let (mut sent, mut lost, mut code) = (0_u32, 0_u32, None);
    let over = run.over();
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            message = socket.next() => match message {
                Some(Ok(Message::Text(_))) => lost = lost.saturating_sub(1),
                // The answer to it is sent while the end is awaited.
                Some(Ok(Message::Close(frame))) => code = Some(told(frame.as_ref())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (Some(Ended { at: run.seconds(), code }), sent, lost),
            },
            () = &mut over => {
                // What was said last is waited for, then it is closed as clients do.
                let rest = async {
                    while lost > 0 {
                        match socket.next().await {
                            Some(Ok(Message::Text(_))) => lost = lost.saturating_sub(1),
                            Some(Ok(Message::Close(frame))) => code = Some(told(frame.as_ref())),
                            Some(Ok(_)) => {}
                            Some(Err(_)) | None => break,
                        }
                    }
                    let _: Result<(), tungstenite::Error> = socket.close(None).await;
                };
                let _ = timeout(Duration::from_secs(1), rest).await;
                // Whose server has said goodbye did not last, even where the run was over before the connection was.
                let ended = code.map(|code| Ended { at: run.seconds(), code: Some(code) });
                return (ended, sent, lost);
            }
            _ = pace.tick(), if code.is_none() => {
                if socket.send(Message::text("still there")).await.is_ok() {
                    sent += 1;
                    lost += 1;
                }
            }
        }
    }
}
