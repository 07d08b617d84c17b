//! Commands from asynchronous code: of the admin API, and of programs that embed evenkeel.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};

use super::api::{
    Deadlines, Deploy, Explained, NewCanary, NewPlan, NewServer, Planned, Reloaded, ServerChange, ServerStatus,
    ServiceChange, Status, Swap, Upgraded, UpstreamStatus,
};
use super::deploys::DeployOrder;
use super::error::CommandError;
use super::planning;
use super::reload::Load;
use super::shared::{Phase, Shared};
use super::supervisor::{Command, Message, Signal};
use crate::units;

/// How long clients are looked at if nothing else is said, and at most.
const SAMPLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How often a server that drains is looked at when nothing tells of a change.
const LOOK: Duration = Duration::from_millis(100);

/// Gives commands to the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) inbox: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    load: Load,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(inbox: mpsc::Sender<Message>, shared: Arc<Shared>, load: Load) -> Self {
        Self { inbox, shared, load }
    }

    /// What the process is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Reads the configuration again and puts it in force.
    ///
    /// # Errors
    /// It is invalid, changes what cannot change live, or an address cannot be bound; then nothing of
    /// it was applied.
    pub async fn reload(&self) -> Result<Reloaded, CommandError> {
        self.ask(|reply| Command::Reload { reply }).await?
    }

    /// What runs.
    ///
    /// # Errors
    /// The control plane has ended.
    pub async fn status(&self) -> Result<Status, CommandError> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Has another process take over from this one. When this returns, it has, and this one drains.
    ///
    /// # Errors
    /// An upgrade is under way, the process before this one still drains, or the new one could not take over;
    /// then this one goes on.
    pub async fn upgrade(&self) -> Result<Upgraded, CommandError> {
        self.ask(|reply| Command::Upgrade { reply }).await?
    }

    /// The status of one server.
    ///
    /// # Errors
    /// There is no such server, or the control plane has ended.
    pub async fn server(&self, upstream: &str, server: &str) -> Result<ServerStatus, CommandError> {
        let (upstream, server) = (upstream.to_owned(), server.to_owned());
        self.ask(|reply| Command::Server { upstream, server, reply }).await?
    }

    /// Changes one server. When this returns, the change is in force.
    ///
    /// # Errors
    /// There is no such server, or the change makes no sense; then nothing of it was done.
    pub async fn change(
        &self,
        upstream: &str,
        server: &str,
        change: ServerChange,
    ) -> Result<ServerStatus, CommandError> {
        let (upstream, server) = (upstream.to_owned(), server.to_owned());
        self.ask(|reply| Command::Change { upstream, server, change, reply }).await?
    }

    /// Brings a server into service. When this returns, it is checked, or gets requests where nothing is.
    ///
    /// # Errors
    /// There is no such upstream, it has such a server already, or the address is none.
    pub async fn add(&self, upstream: &str, server: NewServer) -> Result<ServerStatus, CommandError> {
        let upstream = upstream.to_owned();
        self.ask(|reply| Command::Add { upstream, server, reply }).await?
    }

    /// Drains a server; once that is over there is no such server any more.
    ///
    /// # Errors
    /// There is no such server, or it is the last of its upstream.
    pub async fn remove(
        &self,
        upstream: &str,
        server: &str,
        deadlines: Deadlines,
    ) -> Result<ServerStatus, CommandError> {
        let (upstream, server) = (upstream.to_owned(), server.to_owned());
        self.ask(|reply| Command::Remove { upstream, server, deadlines, reply }).await?
    }

    /// Opens, pauses or closes an upstream. When this returns, it is in force.
    ///
    /// # Errors
    /// There is no such upstream, or the change makes no sense.
    pub async fn serve(&self, upstream: &str, change: ServiceChange) -> Result<UpstreamStatus, CommandError> {
        let upstream = upstream.to_owned();
        self.ask(|reply| Command::Serve { upstream, change, reply }).await?
    }

    /// Puts servers in the place of others. When this returns, it is in force.
    ///
    /// # Errors
    /// There is no such upstream or server, or one that is to come is not healthy; then nothing was done.
    pub async fn swap(&self, upstream: &str, swap: Swap) -> Result<UpstreamStatus, CommandError> {
        let upstream = upstream.to_owned();
        self.ask(|reply| Command::Swap { upstream, swap, reply }).await?
    }

    /// Begins a canary; none ends it. When this returns, it is in force.
    ///
    /// # Errors
    /// There is no such upstream, nobody deploys it, or it makes no sense; then nothing was done.
    pub async fn canary(&self, upstream: &str, canary: Option<NewCanary>) -> Result<UpstreamStatus, CommandError> {
        let upstream = upstream.to_owned();
        self.ask(|reply| Command::Canary { upstream, canary, reply }).await?
    }

    /// Begins a deploy, or says something of one.
    ///
    /// # Errors
    /// There is no such upstream or deploy, somebody else is at it, or it makes no sense.
    pub(super) async fn deploy(&self, upstream: &str, order: DeployOrder) -> Result<Deploy, CommandError> {
        let upstream = upstream.to_owned();
        self.ask(|reply| Command::Deploy { upstream, order, reply }).await?
    }

    /// What is remembered of a request, the oldest first where its id came several times.
    ///
    /// # Errors
    /// Nothing is remembered, or not that request.
    pub async fn why(&self, request_id: &str) -> Result<Vec<Explained>, CommandError> {
        let request_id = request_id.to_owned();
        self.ask(|reply| Command::Why { request_id, reply }).await?
    }

    /// What a reload of another configuration would do. Where it takes one, looks at who comes for a while.
    ///
    /// # Errors
    /// The configuration is invalid, or somebody else looks at clients.
    pub async fn plan(&self, plan: NewPlan) -> Result<Planned, CommandError> {
        let NewPlan { name, text, sample } = plan;
        let bad = |message: String| CommandError::BadRequest { message };
        let lasts = match sample {
            None => SAMPLE.0,
            Some(text) => units::parse_duration(&text).map_err(|error| bad(format!("sample: {error}")))?,
        };
        if lasts > SAMPLE.1 {
            return Err(bad(format!("sample: write at most {}", units::show_duration(SAMPLE.1))));
        }
        let proposed = Box::new(planning::read(Arc::clone(&self.load), name, text).await?);
        let proposed = self.ask(|reply| Command::Propose { proposed, reply }).await??;
        let mut sampled = None;
        if proposed.wants_sample && !lasts.is_zero() {
            let sampler = self.ask(|reply| Command::Sample { lasts, reply }).await??;
            sleep(lasts).await;
            sampled = Some((sampler, lasts));
        }
        let (sampler, looked) = sampled.unzip();
        let looked = looked.unwrap_or_default();
        let foretold = self.ask(|reply| Command::Foretell { proposed, looked, reply }).await?;
        spawn_blocking(move || foretold.finish(sampler.as_deref()))
            .await
            .map_err(|error| CommandError::System { doing: "telling who would move", source: error.into() })
    }

    /// Waits until a server is out of service with nothing in flight, so that it is safe to stop it;
    /// or until it is ready again, or `limit` has passed. The answer is its status then.
    ///
    /// # Errors
    /// There is no such server any more, or the control plane has ended.
    pub async fn wait_drained(
        &self,
        upstream: &str,
        server: &str,
        limit: Duration,
    ) -> Result<ServerStatus, CommandError> {
        let mut changes = self.shared.changes();
        let deadline = Instant::now() + limit;
        loop {
            changes.mark_unchanged();
            let status = self.server(upstream, server).await?;
            let out = matches!(status.admin.as_str(), "drained" | "disabled");
            if status.admin == "ready" || (out && status.drain.is_none() && status.in_flight == 0) {
                return Ok(status);
            }
            let next = Instant::now() + LOOK;
            if next.min(deadline) == deadline {
                sleep(deadline.saturating_duration_since(Instant::now())).await;
                return self.server(upstream, server).await;
            }
            // What is cut ends a moment after its order, and no change is published for that.
            let _ = timeout_at(next, changes.changed()).await;
        }
    }

    /// Begins to drain the process.
    pub fn stop(&self) {
        self.signal(Signal::Stop { because: "the admin API", insist: false });
    }

    /// Sends without waiting: only a control plane far behind, or one that has ended, misses it.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.inbox.try_send(Message::Signal(signal)) {
            let inbox = self.inbox.clone();
            std::thread::spawn(move || {
                let _ = inbox.blocking_send(message);
            });
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        let refused = || match self.phase() {
            Phase::HandedOver => CommandError::HandedOver,
            _ => CommandError::stopping(),
        };
        self.inbox.send(Message::Command(command(reply))).await.map_err(|_| refused())?;
        answer.await.map_err(|_| refused())
    }
}
