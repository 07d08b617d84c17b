//! The side of the old process: it raises the new one and hands everything over.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::channel::Channel;
use super::following::Successor;
use super::frames::{Failed, Frame, Ready};
use super::start::{start, talk};
use crate::control::admin;
use crate::control::api::{UpgradeStatus, Upgraded};
use crate::control::error::CommandError;
use crate::control::shared::Phase;
use crate::control::stop::Stopping;
use crate::control::supervisor::{Message, Reply, Report, Supervisor};
use crate::units::show_duration;
use crate::upstream::Order;

/// From the last word, once it is written, to the new process's that it accepts; as long for the word itself.
const TAKES: Duration = Duration::from_secs(10);
/// How long the new process's word may be on its way through this one.
const READS: Duration = Duration::from_millis(200);
/// How long cores have to say where round robin goes on.
const TELLS: Duration = Duration::from_secs(2);
/// How often it is looked, every 10 ms, how a process has ended.
const LOOKS: u32 = 100;
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
    /// Whether it was told how things are: what changes here from then on it would not know.
    pub(super) is_told: bool,
    /// Whether the configuration was read again here since it was started, or since it was told of that.
    pub(super) is_outdated: bool,
    /// Whether its time is over, and it is but looked whether its word is here already.
    is_late: bool,
    /// The file of a Unix socket that it has made.
    made: Option<PathBuf>,
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
    /// The last word is written.
    Told,
    /// Its time is over, and whatever it said before that was taken in.
    Late,
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
            return Err(CommandError::Conflict { message });
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
        Ok(Rising {
            attempt,
            child,
            frames,
            since,
            until,
            replies: Vec::new(),
            ready: None,
            is_told: false,
            is_outdated: false,
            is_late: false,
            made: None,
        })
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
                Frame::Made { path } => rising.made = Some(path),
                Frame::Taken if rising.ready.is_some() => self.hand_over(),
                _ => {}
            },
            News::Cursors(cursors) => {
                let mut carried = self.carried(&cursors);
                if let Some(rising) = &mut self.row.rising {
                    carried.reload = std::mem::take(&mut rising.is_outdated);
                    rising.is_told = true;
                    rising.until = Instant::now() + TAKES;
                    let _ = rising.frames.send(Frame::Commit(Box::new(carried)));
                    self.store.leave();
                }
            }
            News::Told => (rising.until, rising.is_late) = (Instant::now() + TAKES, false),
            News::Late if rising.is_late => self.give_up(CommandError::Upgrade {
                message: "the new process was ready and then did not take over".to_owned(),
            }),
            News::Late => {}
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
        self.store.take_back();
        let pid = rising.child.id();
        // It is gone, about to go, or hangs; it has nothing that is its own.
        let _ = rising.child.kill();
        std::thread::spawn(move || {
            let _ = rising.child.wait();
            // A killed process takes nothing away itself.
            if let Some(path) = rising.made
                && let Err(error) = admin::remove_stale(&path)
            {
                warn!(socket = %path.display(), %error, "the socket of the process that was given up stays");
            }
        });
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
        let Some(rising) = self.row.rising.take() else { return };
        let Rising { attempt, child, frames, since, replies, ready, is_outdated, .. } = rising;
        let (pid, ready) = (child.id(), ready.unwrap_or_default());
        let plan = self.plan.upgrade;
        let connections = self.plane.open_connections();
        info!(pid, version = ready.version, connections, "upgrade: the new process has taken over, this one drains");
        self.notify.tell(&format!("MAINPID={pid}"));
        self.listeners.close();
        let left: Arc<[usize]> = ready.slots.into();
        for core in &self.plane.orders {
            let left = Arc::clone(&left);
            let _ = core.send(Order::Drain { idle_grace: plan.idle_grace, within: plan.deadline, left });
        }
        self.registry.leave_to_others();
        self.stale = true;
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
        if is_outdated {
            // This process was told to when that one knew everything else already.
            let _ = kill_process(Pid::from_child(&child), Signal::HUP);
        }
    }

    /// Looks after a process that gets ready, and tells one that has taken over what is left.
    pub(in crate::control) fn step_successor(&mut self) {
        let is_over = |rising: &Rising| Instant::now() >= rising.until && !rising.is_late;
        match &mut self.row.rising {
            Some(_) if self.stopping.is_some() => self.give_up(CommandError::stopping()),
            Some(rising) if is_over(rising) && rising.is_told => {
                // It may accept already: its word to that goes before this one in the inbox.
                rising.is_late = true;
                let (inbox, attempt) = (self.inbox.clone(), rising.attempt);
                tokio::spawn(async move {
                    tokio::time::sleep(READS).await;
                    let _ = inbox.send(Message::Report(Report::Successor(attempt, News::Late))).await;
                });
            }
            Some(rising) if is_over(rising) => {
                let message = if rising.ready.is_some() {
                    "the new process was ready and then was not told how things are".to_owned()
                } else {
                    let within = show_duration(self.plan.upgrade.ready_within);
                    format!("the new process was not ready within {within}")
                };
                self.give_up(CommandError::Upgrade { message });
            }
            _ => {}
        }
        self.tell_progress();
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
