//! The side of the old process: it starts the new one, hands everything over, and drains.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::carry::service_resumed;
use super::channel::{self, Channel};
use super::frames::{Descriptor, Failed, Frame, Hello, Named, Progress, Ready, States};
use super::inherited::FROM;
use crate::control::api::{UpgradeStatus, Upgraded};
use crate::control::error::CommandError;
use crate::control::shared::Phase;
use crate::control::stop::Stopping;
use crate::control::supervisor::{Message, Reply, Report, Supervisor};
use crate::units::show_duration;
use crate::upstream::server::State;
use crate::upstream::{Order, Server};

/// From the last word to the new process's that it accepts.
const TAKES: Duration = Duration::from_secs(10);
/// How long cores have to say where round robin goes on.
const TELLS: Duration = Duration::from_millis(500);
/// How often it is looked, every 10 ms, how a process has ended.
const LOOKS: u32 = 100;
/// How often the new process is told what is left.
const PROGRESS: Duration = Duration::from_millis(100);

/// How a process like this one is started: anew from its path, so that a new file there is a new binary.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
}

/// A process that gets ready.
#[derive(Debug)]
pub(super) struct Rising {
    attempt: u64,
    child: Child,
    frames: mpsc::Sender<Frame>,
    since: Instant,
    until: Instant,
    replies: Vec<Reply<Upgraded>>,
    /// What it has said when it was ready.
    ready: Option<Ready>,
}

/// A process that has taken over.
#[derive(Debug)]
pub(super) struct Successor {
    attempt: u64,
    frames: mpsc::Sender<Frame>,
    /// The newest states of servers that it has sent.
    heard: u64,
    told: Option<(Instant, Progress)>,
    /// Whether this process was told to stop since.
    hurried: bool,
}

/// What the thread that listens to the new process, and the cores, report.
#[derive(Debug)]
pub(in crate::control) enum News {
    Said(Box<Frame>),
    /// The channel has ended; how often it was looked whether the process has, too.
    Gone {
        looks: u32,
    },
    /// Where round robin goes on: for each core, by slot of the upstream.
    Cursors(Vec<(usize, Vec<usize>)>),
}

impl Supervisor {
    /// Starts a process that is to take over. `reply` is answered when it has, or has failed.
    pub(in crate::control) fn upgrade(&mut self, reply: Option<Reply<Upgraded>>) {
        match self.raise() {
            Ok(mut rising) => {
                info!(pid = rising.child.id(), "upgrade: a new process gets ready");
                rising.replies.extend(reply);
                self.row.rising = Some(rising);
            }
            Err(refused) => {
                error!("no upgrade: {refused}");
                if let Some(reply) = reply {
                    let _ = reply.send(Err(refused));
                }
            }
        }
    }

    fn raise(&mut self) -> Result<Rising, CommandError> {
        let busy = |message: String| Err(CommandError::Busy { message });
        if self.stopping.is_some() {
            return Err(CommandError::stopping());
        }
        if self.row.inheriting.is_some() {
            return busy("this process has not taken over from the one before it yet".to_owned());
        }
        if let Some(rising) = &self.row.rising {
            let left = rising.until.saturating_duration_since(Instant::now());
            let pid = rising.child.id();
            return busy(format!("an upgrade is under way: process {pid} has {} to become ready", rough(left)));
        }
        if let Some(predecessor) = &self.row.predecessor {
            return busy(format!(
                "process {} from before the last upgrade still has {} connections: upgrade when it has ended, within {}",
                predecessor.pid,
                predecessor.progress.connections,
                rough(predecessor.ends_within())
            ));
        }
        let Some(program) = &self.row.program else {
            let message = "evenkeel runs inside another program, which would have to start anew itself".to_owned();
            return Err(CommandError::BadRequest { message });
        };
        let failed = |source| CommandError::System { doing: "starting the new process", source };
        self.row.attempts += 1;
        let attempt = self.row.attempts;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let hello = self.hello();
        let sockets = self.descriptors().map_err(failed)?;
        let mut child = start(program, theirs.into()).map_err(|source| CommandError::Upgrade {
            message: format!("{} cannot be started: {source}", program.path.display()),
        })?;
        let channel = Channel::new(ours);
        let frames = talk(channel, hello, sockets, attempt, self.inbox.clone());
        let frames = frames.inspect_err(|_| drop(child.kill())).map_err(failed)?;
        let since = Instant::now();
        let until = since + self.plan.upgrade.ready_within;
        Ok(Rising { attempt, child, frames, since, until, replies: Vec::new(), ready: None })
    }

    fn hello(&self) -> Hello {
        let listeners = self.listeners.sockets().flat_map(|(slot, bind, name, bound)| {
            let one = Descriptor::Listener { bind, name: name.map(str::to_owned), address: bound.address, slot };
            std::iter::repeat_n(one, bound.sockets.len())
        });
        let unix = self
            .admin
            .unix()
            .map(|(path, _)| Descriptor::AdminSocket { path: path.clone(), foreign: !self.admin.is_ours });
        let tcp = self.admin.tcp().zip(self.admin.addresses.tcp);
        let tcp = tcp.map(|((bind, _), address)| Descriptor::AdminTcp { bind: *bind, address });
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            descriptors: listeners.chain(unix).chain(tcp).collect(),
            carried: self.carried(&[]),
        }
    }

    /// In the order of [`Self::hello`].
    fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.sockets().flat_map(|(_, _, _, bound)| bound.sockets.iter().map(AsFd::as_fd));
        let unix = self.admin.unix().map(|(_, socket)| socket.as_fd());
        let tcp = self.admin.tcp().map(|(_, socket)| socket.as_fd());
        listeners.chain(unix).chain(tcp).map(|socket| socket.try_clone_to_owned()).collect()
    }

    /// The new process has said something, or is gone.
    pub(in crate::control) fn successor_said(&mut self, attempt: u64, news: News) {
        if self.row.successor.as_ref().is_some_and(|successor| successor.attempt == attempt) {
            return self.follow(news);
        }
        let Some(rising) = self.row.rising.as_mut().filter(|rising| rising.attempt == attempt) else { return };
        match news {
            News::Said(frame) => match *frame {
                Frame::Failed(failed) => self.give_up(reason(failed)),
                Frame::Ready(ready) if rising.ready.is_none() => {
                    rising.ready = Some(ready);
                    rising.until = Instant::now() + TAKES;
                    self.ask_for_cursors(attempt);
                }
                Frame::Taken if rising.ready.is_some() => self.hand_over(),
                _ => {}
            },
            News::Cursors(cursors) => {
                let carried = self.carried(&cursors);
                if let Some(rising) = &self.row.rising {
                    let _ = rising.frames.send(Frame::Commit(Box::new(carried)));
                }
            }
            News::Gone { looks } => match rising.child.try_wait() {
                // Its end of the channel is closed a moment before it has ended.
                Ok(None) if looks < LOOKS => {
                    let (inbox, looks) = (self.inbox.clone(), looks + 1);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        let _ = inbox.send(Message::Report(Report::Successor(attempt, News::Gone { looks }))).await;
                    });
                }
                ended => {
                    let how = match ended {
                        Ok(Some(status)) => format!("ended before it was ready ({status}): its log says why"),
                        _ => "closed the channel before it was ready".to_owned(),
                    };
                    self.give_up(CommandError::Upgrade { message: format!("the new process {how}") });
                }
            },
        }
    }

    fn ask_for_cursors(&self, attempt: u64) {
        let (reply, mut told) = unbounded_channel();
        for core in &self.plane.orders {
            let _ = core.send(Order::Tell { reply: reply.clone() });
        }
        drop(reply);
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let mut cursors = Vec::new();
            let all = async {
                while let Some(one) = told.recv().await {
                    cursors.push(one);
                }
            };
            // Without them round robin begins somewhere.
            let _ = tokio::time::timeout(TELLS, all).await;
            let _ = inbox.send(Message::Report(Report::Successor(attempt, News::Cursors(cursors)))).await;
        });
    }

    /// Gives the new process up and goes on.
    fn give_up(&mut self, why: CommandError) {
        let Some(mut rising) = self.row.rising.take() else { return };
        let pid = rising.child.id();
        // It is gone, about to go, or hangs; it has nothing that is its own.
        let _ = rising.child.kill();
        std::thread::spawn(move || rising.child.wait());
        match &why {
            CommandError::InvalidConfig { report } => {
                error!(pid, "upgrade failed, this process goes on: the configuration is invalid\n{report}");
            }
            CommandError::Busy { .. } => info!(pid, "no upgrade: {why}"),
            why => error!(pid, "upgrade failed, this process goes on: {why}"),
        }
        let mut replies = rising.replies.into_iter();
        if let Some(first) = replies.next() {
            let _ = first.send(Err(why));
        }
    }

    /// Another process accepts: lets go and drains.
    fn hand_over(&mut self) {
        let Some(Rising { attempt, child, frames, since, replies, ready, .. }) = self.row.rising.take() else { return };
        let (pid, ready) = (child.id(), ready.unwrap_or_default());
        let plan = self.plan.upgrade;
        let connections = self.plane.open_connections();
        info!(pid, version = ready.version, connections, "upgrade: the new process has taken over, this one drains");
        self.notify.tell(&format!("MAINPID={pid}"));
        self.store.leave();
        self.listeners.close();
        let left: Arc<[usize]> = ready.slots.into();
        for core in &self.plane.orders {
            let left = Arc::clone(&left);
            let _ = core.send(Order::Drain { idle_grace: plan.idle_grace, within: plan.deadline, left });
        }
        self.registry.leave_to_others();
        self.row.successor = Some(Successor { attempt, frames, heard: 0, told: None, hurried: false });
        self.stopping = Some(Stopping::Draining { until: Instant::now() + plan.deadline, looks: 0 });
        self.shared.set_phase(Phase::HandedOver);
        let upgraded = Upgraded {
            pid,
            version: ready.version,
            seconds: since.elapsed().as_secs_f64(),
            connections_left: connections,
        };
        for reply in replies {
            let _ = reply.send(Ok(upgraded.clone()));
        }
        self.admin.hand_over(ready.admin_socket);
    }

    /// Looks after a process that gets ready, and tells one that has taken over what is left.
    pub(in crate::control) fn step_successor(&mut self) {
        let now = Instant::now();
        if let Some(rising) = &self.row.rising
            && (self.stopping.is_some() || now >= rising.until)
        {
            let why = if self.stopping.is_some() {
                CommandError::stopping()
            } else if rising.ready.is_some() {
                CommandError::Upgrade { message: "the new process was ready and then did not take over".to_owned() }
            } else {
                let within = show_duration(self.plan.upgrade.ready_within);
                CommandError::Upgrade { message: format!("the new process was not ready within {within}") }
            };
            self.give_up(why);
        }
        let ends_within = match self.stopping {
            Some(Stopping::Draining { until, .. }) => until.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let Some(successor) = &mut self.row.successor else { return };
        let mut progress = Progress {
            heard: successor.heard,
            connections: self.plane.open_connections(),
            ends_within,
            ..Progress::default()
        };
        for server in self.registry.servers() {
            progress.tunnels += tunnels(server);
            if server.in_flight() > 0 {
                let name = Named { upstream: server.upstream.to_string(), server: server.name.to_string() };
                progress.in_flight.push((name, server.in_flight()));
            }
        }
        let news = successor.told.as_ref().is_none_or(|(at, told)| {
            *told != Progress { ends_within: told.ends_within, ..progress.clone() } || now >= *at + 10 * PROGRESS
        });
        let pause_over =
            successor.told.as_ref().is_none_or(|(at, told)| now >= *at + PROGRESS || told.heard != progress.heard);
        if news && pause_over {
            let _ = successor.frames.send(Frame::Progress(progress.clone()));
            successor.told = Some((now, progress));
        }
    }

    /// Does as the new process says.
    fn follow(&mut self, news: News) {
        let News::Said(frame) = news else {
            if let News::Gone { .. } = news {
                warn!("the process that has taken over is gone; this one drains on");
            }
            return;
        };
        match *frame {
            Frame::States(States { number, servers, services }) => {
                for (upstream, service) in services {
                    self.registry.set_service(&upstream, service_resumed(&service));
                    self.stale = true;
                }
                for one in servers {
                    if let Some(server) = self.named(&one.name) {
                        server.set_state(State { operational: one.operational, admin: one.admin });
                        self.registry.touch(&one.name.upstream);
                        self.stale = true;
                    }
                }
                // Published first: who is told that it was heard may rely on it.
                self.publish();
                if let Some(successor) = &mut self.row.successor {
                    successor.heard = number;
                }
            }
            Frame::Close(close) => {
                if let Some(uid) = self.named(&close.server).map(|server| server.uid) {
                    let (over, within) = (close.over, close.within);
                    self.order(|| Order::Close { servers: [uid].into(), over, within });
                }
            }
            Frame::Cut(name) => {
                if let Some(uid) = self.named(&name).map(|server| server.uid) {
                    self.cut(&[uid]);
                }
            }
            _ => {}
        }
    }

    fn named(&self, name: &Named) -> Option<&Server> {
        let uid = self.registry.find(&name.upstream, &name.server).ok()?;
        Some(&self.registry.member(uid)?.server)
    }

    /// This process drains already because another has taken over, and is told to stop: it has the time that a
    /// process has which stops. Whether that is so; the second time it is not.
    pub(in crate::control) fn hurry(&mut self, because: &'static str) -> bool {
        let Some(successor) = self.row.successor.as_mut().filter(|successor| !successor.hurried) else { return false };
        successor.hurried = true;
        let within = self.plan.shutdown.deadline;
        let ends = Instant::now() + within;
        if let Some(Stopping::Draining { until, looks }) = self.stopping
            && ends < until
        {
            info!(because, "draining, but no longer than a process that stops");
            let idle_grace = self.plan.shutdown.idle_grace;
            self.order(|| Order::Drain { idle_grace, within, left: [].into() });
            self.stopping = Some(Stopping::Draining { until: ends, looks });
        }
        true
    }

    /// A process that gets ready, for the status.
    pub(in crate::control) fn upgrade_status(&self) -> Option<UpgradeStatus> {
        let rising = self.row.rising.as_ref()?;
        Some(UpgradeStatus {
            pid: rising.child.id(),
            seconds: rising.since.elapsed().as_secs_f64(),
            ends_within_seconds: rising.until.saturating_duration_since(Instant::now()).as_secs_f64(),
        })
    }

    /// What is said to who asks a process that another has taken over from.
    pub(in crate::control) fn handed_over(&self) -> Option<CommandError> {
        self.row.is_over().then_some(CommandError::HandedOver)
    }
}

fn tunnels(server: &Server) -> u64 {
    server.cells.iter().map(|cell| cell.counts.tunnels.get()).fold(0, u64::wrapping_add)
}

/// A time for people: the next whole second.
fn rough(time: Duration) -> String {
    show_duration(Duration::from_secs(time.as_secs() + 1))
}

fn reason(Failed { kind, message }: Failed) -> CommandError {
    match kind.as_str() {
        "invalid_config" => CommandError::InvalidConfig { report: message },
        _ => CommandError::Upgrade { message: format!("the new process could not start: {}", message.trim_end()) },
    }
}

fn start(program: &Program, channel: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    command.args(&program.args).stdin(Stdio::from(channel)).env(FROM, std::process::id().to_string());
    // Those of the service manager were for this process.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.spawn()
}

/// Begins to talk with the new process, in threads.
fn talk(
    mut channel: Channel,
    hello: Hello,
    sockets: Vec<OwnedFd>,
    attempt: u64,
    inbox: tokio::sync::mpsc::Sender<Message>,
) -> io::Result<mpsc::Sender<Frame>> {
    let mut reading = channel.try_clone()?;
    let writing = channel.try_clone()?;
    std::thread::Builder::new().name("upgrade-hello".to_owned()).spawn(move || {
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let sent = channel.send(&Frame::Hello(Box::new(hello))).and_then(|()| channel.send_descriptors(&sockets));
        if let Err(error) = sent {
            // It has closed its end, which the reader notices.
            tracing::debug!(%error, "the new process did not take what it was told");
        }
    })?;
    std::thread::Builder::new().name("upgrade-read".to_owned()).spawn(move || {
        loop {
            let frame = reading.receive().unwrap_or_else(|error| {
                warn!(%error, "the channel to the new process is broken");
                None
            });
            let is_end = frame.is_none();
            let news = frame.map_or(News::Gone { looks: 0 }, |frame| News::Said(Box::new(frame)));
            if inbox.blocking_send(Message::Report(Report::Successor(attempt, news))).is_err() || is_end {
                return;
            }
        }
    })?;
    channel::writer(writing)
}
