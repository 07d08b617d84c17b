//! The command's side of the ledger that the proxy holds: it reports, is heard from, and stops when the proxy
//! has given the deploy to somebody else.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::interrupt::Interrupts;
use super::proof::{Counts, Span};
use super::report::Turn;
use crate::cli::args::DeployArgs;
use crate::cli::client::{Client, ClientError, PROMPT};
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::path_of_deploy as path_of;
use crate::control::api::{
    AttachDeploy, Deadlines, Deploy, DeployPhase, DeployReport, DeployTurn, EndDeploy, NewDeploy,
};
use crate::units::show_duration;

/// What another command needs to go on and to end the proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Unix seconds.
    pub(super) began: u64,
    /// When the first turn began.
    pub(super) started: f64,
    pub(super) batch: u16,
    pub(super) deadlines: Deadlines,
    /// Every server of the upstream.
    pub(super) everyone: Vec<String>,
    pub(super) turns: Vec<Turn>,
    pub(super) before: Span,
    pub(super) start: Counts,
}

/// A deploy that is registered with the proxy.
#[derive(Debug)]
pub(super) struct Ledger {
    client: Client,
    path: String,
    id: String,
    beat: JoinHandle<()>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

impl Ledger {
    pub(super) async fn open(
        client: &Client,
        args: &DeployArgs,
        kind: &str,
        servers: Vec<String>,
        interrupts: &Interrupts,
    ) -> Result<Self, Failure> {
        let path = path_of(&args.upstream);
        let new = NewDeploy {
            by: who(),
            kind: kind.to_owned(),
            servers,
            lease: Some(show_duration(args.lease)),
            healthy_within: Some(show_duration(args.healthy_within)),
            notes: serde_json::Value::Null,
        };
        let deploy: Deploy = client.tell(Method::POST, &path, &new, PROMPT).await?;
        Ok(Self::of(client, path, deploy.id, args.lease, interrupts))
    }

    /// Takes over what a command has left that has died.
    pub(super) async fn attach(
        client: &Client,
        args: &DeployArgs,
        interrupts: &Interrupts,
    ) -> Result<(Self, Deploy), Failure> {
        let path = path_of(&args.upstream);
        let attach = AttachDeploy { by: who(), lease: Some(show_duration(args.lease)) };
        let deploy: Deploy = client.tell(Method::POST, &format!("{path}/attach"), &attach, PROMPT).await?;
        Ok((Self::of(client, path, deploy.id.clone(), args.lease, interrupts), deploy))
    }

    /// Ends a deploy, whoever began it.
    pub(super) async fn abandon(client: &Client, upstream: &str) -> Result<Deploy, Failure> {
        Ok(client.tell(Method::DELETE, &path_of(upstream), &EndDeploy::default(), PROMPT).await?)
    }

    fn of(client: &Client, path: String, id: String, lease: Duration, interrupts: &Interrupts) -> Self {
        let (client, interrupts) = (client.clone(), interrupts.clone());
        let beat = {
            let (client, path, id) = (client.clone(), path.clone(), id.clone());
            tokio::spawn(async move {
                let report = DeployReport { id, ..Default::default() };
                let mut heard = true;
                loop {
                    let (pause, within) = beat(lease, heard);
                    sleep(pause).await;
                    let told = client.put::<Deploy>(&path, &report, within).await;
                    // A proxy that does not answer may be restarting: it keeps the ledger over that.
                    if let Some(why) = told.as_ref().err().and_then(taken) {
                        interrupts.lose(why);
                        return;
                    }
                    heard = told.is_ok();
                }
            })
        };
        Self { client, path, id, beat }
    }

    /// Says what will be done now.
    ///
    /// # Errors
    /// Why it must not be.
    pub(super) async fn phase(&self, servers: &[String], phase: DeployPhase) -> Result<(), String> {
        let turns = servers.iter().map(|server| DeployTurn { server: server.clone(), phase }).collect();
        self.report(DeployReport { id: self.id.clone(), turns, notes: None }).await
    }

    pub(super) async fn note(&self, notes: &Notes) -> Result<(), String> {
        let notes = serde_json::to_value(notes).map_err(|error| error.to_string())?;
        self.report(DeployReport { id: self.id.clone(), turns: Vec::new(), notes: Some(notes) }).await
    }

    async fn report(&self, report: DeployReport) -> Result<(), String> {
        let told = self.client.put::<Deploy>(&self.path, &report, PROMPT).await;
        told.map(|_| ()).map_err(|error| taken(&error).unwrap_or_else(|| error.to_string()))
    }

    /// All is in order.
    ///
    /// # Errors
    /// The proxy does not take it.
    pub(super) async fn end(self) -> Result<(), Failure> {
        let end = EndDeploy { id: Some(self.id.clone()) };
        self.client.tell::<Deploy>(Method::DELETE, &self.path, &end, PROMPT).await?;
        Ok(())
    }
}

/// When the command reports again, and how long the answer may take. Two reports in a row that are lost leave
/// time for a third.
fn beat(lease: Duration, heard: bool) -> (Duration, Duration) {
    (if heard { lease / 6 } else { lease / 60 }, lease / 3)
}

/// Why the deploy is no longer this command's, if it is not.
fn taken(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Refused { status: StatusCode::NOT_FOUND, .. } => {
            Some("it was abandoned by somebody else".to_owned())
        }
        ClientError::Refused { status: StatusCode::CONFLICT, refusal: Some(refusal), .. } => {
            Some(refusal.message.clone())
        }
        _ => None,
    }
}

/// Who deploys, for people.
fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { String::new() } else { format!("@{}", host.trim()) };
    format!("{user}{host} (pid {})", std::process::id())
}

/// What is left of a deploy that has died, where this command was not given the hook for it.
pub(super) fn needs_hook(left: &[&str]) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "--attach has servers left ({}) and needs the hook for them again: say --each or --exec. The proxy keeps no \
             commands",
            left.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reports_that_are_lost_are_no_death() {
        for lease in [1, 3, 15, 600].map(Duration::from_secs) {
            let ((first, within), (again, _)) = (beat(lease, true), beat(lease, false));
            assert!(first + within + again + within + again < lease, "{lease:?}");
        }
    }
}
