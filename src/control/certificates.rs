//! Certificates of listeners: read from their files, made into what handshakes need, and kept fresh.
//!
//! Files are looked at once a second. What has changed is read and judged whole; only what is right takes
//! the place of what is in use, so a renewal that is half written, or wrong, costs nothing but a line in
//! the log. Listeners without TLS cost nothing at all.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use super::api::CertificateStatus;
use super::error::CommandError;
use super::state::Store;
use crate::config::plan::{CertificatePlan, Certificates, ListenerPlan, TlsPlan};
use crate::tls::{self, Certificate, Clients, Material, Resumption, Secrets, Server, Settings};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often they are read although nothing about them seems to have changed.
const READ: Duration = Duration::from_secs(60);
/// Looks after which a problem is believed: somebody may just be writing.
const PATIENCE: u32 = 2;
/// How long before its end a certificate is complained about, and how often.
const SOON: i64 = 14 * 86_400;
const AGAIN: Duration = Duration::from_secs(86_400);

/// TLS of one listener, with all that it takes to make it anew.
#[derive(Debug)]
pub(super) struct Terminator {
    listener: String,
    plan: TlsPlan,
    http2: bool,
    secrets: Secrets,
    /// The certificate that evenkeel made itself, PEM.
    made: Option<String>,
    pub(super) server: Arc<Server>,
    seen: Mutex<Seen>,
}

/// What the last look found.
#[derive(Debug, Default)]
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// What is in use.
    texts: Vec<String>,
    read_at: Option<Instant>,
    failures: u32,
    warned: Option<Instant>,
    /// Whether a revocation list had ended when what is in use was made.
    lists_ended: bool,
}

/// What tells one version of a file from the next, behind all links.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec()))
}

impl Terminator {
    /// What the handshakes of a listener are made from; none for plain HTTP.
    pub(super) fn of(listener: &ListenerPlan, store: &mut Store) -> Result<Option<Arc<Self>>, CommandError> {
        let Some(plan) = &listener.tls else { return Ok(None) };
        let refuse =
            |why: String| CommandError::InvalidConfig { report: format!("listener `{}`: {why}", listener.name) };
        let made = match plan.certificates {
            Certificates::Files(_) => None,
            Certificates::SelfSigned => {
                warn!(
                    listener = listener.name,
                    "this listener has a certificate that evenkeel made itself: for development only, no browser trusts it"
                );
                Some(store.self_signed(tls::self_signed).map_err(refuse)?)
            }
        };
        let secrets = match (&plan.tickets, plan.ticket_secrets.0.is_empty()) {
            (Some(_), true) => Secrets(store.ticket_secrets(tls::fresh_secret).map_err(|error| {
                CommandError::System { doing: "making a ticket secret", source: io::Error::other(error) }
            })?),
            _ => plan.ticket_secrets.clone(),
        };
        let (stamps, texts) = (stamps(plan), read_all(plan).map_err(refuse)?);
        let now = unix_seconds();
        let material = material(plan, made.as_deref(), &secrets, &texts, now).map_err(refuse)?;
        let server =
            Server::new(&settings(plan, listener.http2), material).map_err(|error| refuse(error.to_string()))?;
        let lists_ended = server.lists().is_some_and(|lists| lists.have_ended(now));
        let seen = Seen { stamps, texts, read_at: Some(Instant::now()), lists_ended, ..Seen::default() };
        let terminator = Self {
            listener: listener.name.clone(),
            plan: plan.clone(),
            http2: listener.http2,
            secrets,
            made,
            server: Arc::new(server),
            seen: Mutex::new(seen),
        };
        terminator.complain_of_age(&mut terminator.seen());
        Ok(Some(Arc::new(terminator)))
    }

    /// The certificates in use.
    pub(super) fn status(&self) -> Vec<CertificateStatus> {
        let status = |used: tls::InUse| CertificateStatus {
            listener: self.listener.clone(),
            certificate: used.label,
            names: used.names,
            algorithm: used.algorithm.to_owned(),
            expires: used.not_after,
            problem: self.server.problem(),
        };
        self.server.in_use().into_iter().map(status).collect()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files, and takes what they hold now if that is right. `patiently` leaves a problem
    /// one more look before it is believed.
    pub(super) fn look(&self, patiently: bool) {
        let mut seen = self.seen();
        self.complain_of_age(&mut seen);
        self.end_tickets_with_lists(&mut seen);
        let now = stamps(&self.plan);
        let rested = seen.read_at.is_none_or(|at| at.elapsed() >= READ);
        if now == seen.stamps && !rested && seen.failures == 0 && patiently {
            return;
        }
        seen.read_at = Some(Instant::now());
        let changed = now != seen.stamps;
        seen.stamps = now;
        let renewed = read_all(&self.plan).and_then(|texts| {
            if texts == seen.texts {
                return Ok(None);
            }
            seen.lists_ended = self.renew(&texts)?;
            Ok(Some(texts))
        });
        match renewed {
            Ok(texts) => {
                if seen.failures >= PATIENCE {
                    self.server.note_problem(None);
                }
                seen.failures = 0;
                if let Some(texts) = texts {
                    seen.texts = texts;
                    seen.warned = None;
                    info!(listener = self.listener, "certificate files have changed and are in use");
                    self.complain_of_age(&mut seen);
                }
            }
            Err(why) => {
                seen.failures = if changed { 1 } else { seen.failures.saturating_add(1) };
                if seen.failures == PATIENCE || !patiently {
                    error!(
                        listener = self.listener,
                        "certificate files have changed and cannot be used, the old ones go on: {why}"
                    );
                    self.server.note_problem(Some(why));
                    seen.failures = seen.failures.max(PATIENCE);
                }
            }
        }
    }

    /// Takes what the texts hold. Whether a revocation list among them has ended.
    fn renew(&self, texts: &[String]) -> Result<bool, String> {
        let now = unix_seconds();
        let material = material(&self.plan, self.made.as_deref(), &self.secrets, texts, now)?;
        self.server.renew(&settings(&self.plan, self.http2), material).map_err(|error| error.to_string())?;
        Ok(self.server.lists().is_some_and(|lists| lists.have_ended(now)))
    }

    /// Handshakes see the end of a list by themselves; tickets of clients who were verified before it are
    /// made worthless here.
    fn end_tickets_with_lists(&self, seen: &mut Seen) {
        if seen.lists_ended || !self.server.lists().is_some_and(|lists| lists.have_ended(unix_seconds())) {
            return;
        }
        seen.warned = None;
        self.complain_of_age(seen);
        // What is in use was right when it was taken, and only the time is another now.
        if let Ok(ended) = self.renew(&seen.texts) {
            seen.lists_ended = ended;
        }
    }

    fn complain_of_age(&self, seen: &mut Seen) {
        if self.made.is_some() || seen.warned.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        let now = unix_seconds();
        if let (Some(lists), Some(auth)) = (self.server.lists(), &self.plan.client_auth)
            && lists.are_overdue(now)
        {
            seen.warned = Some(Instant::now());
            let file = auth.crl.as_deref().unwrap_or(&auth.ca).display();
            if lists.have_ended(now) {
                error!(listener = self.listener, %file, "a revocation list has expired: clients of its authority are refused");
            } else {
                warn!(listener = self.listener, %file, "a revocation list expires soon: put the next one in its place");
            }
        }
        for used in self.server.in_use() {
            let left = used.not_after - now;
            if left < SOON {
                let days = left / 86_400;
                seen.warned = Some(Instant::now());
                if left < 0 {
                    error!(listener = self.listener, certificate = used.label, "this certificate has expired");
                } else {
                    warn!(listener = self.listener, certificate = used.label, days, "this certificate expires soon");
                }
            }
        }
    }
}

/// The terminators in force, shared with the task that looks after them.
#[derive(Debug, Clone, Default)]
pub(super) struct Terminators(Arc<Mutex<Vec<Arc<Terminator>>>>);

impl Terminators {
    pub(super) fn replace(&self, terminators: &[Option<Arc<Terminator>>]) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *list = terminators.iter().flatten().cloned().collect();
    }

    fn list(&self) -> Vec<Arc<Terminator>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at everything now.
    pub(super) fn look(&self, patiently: bool) {
        self.list().iter().for_each(|terminator| terminator.look(patiently));
    }

    /// Looks at everything for as long as the control plane runs.
    pub(super) fn watch(&self) {
        let all = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if all.list().is_empty() {
                    continue;
                }
                let all = all.clone();
                // A disk that hangs must not hold anything else up.
                let _ = tokio::task::spawn_blocking(move || all.look(true)).await;
            }
        });
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn settings(plan: &TlsPlan, http2: bool) -> Settings {
    let mut alpn = vec![b"http/1.1".to_vec()];
    if http2 {
        alpn.insert(0, b"h2".to_vec());
    }
    Settings { alpn, handshake_timeout: plan.handshake_timeout, tls13_only: plan.tls13_only }
}

/// Every file of a plan, in one order.
fn files(plan: &TlsPlan) -> Vec<&PathBuf> {
    let mut files = Vec::new();
    if let Certificates::Files(certificates) = &plan.certificates {
        files.extend(certificates.iter().flat_map(|CertificatePlan { chain, key }| [chain, key]));
    }
    if let Some(auth) = &plan.client_auth {
        files.push(&auth.ca);
        files.extend(&auth.crl);
    }
    files
}

fn stamps(plan: &TlsPlan) -> Vec<Option<Stamp>> {
    files(plan).into_iter().map(|path| stamp(path)).collect()
}

fn read_all(plan: &TlsPlan) -> Result<Vec<String>, String> {
    let read = |path: &PathBuf| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    files(plan).into_iter().map(read).collect()
}

/// What the texts of [`files`] hold.
fn material(
    plan: &TlsPlan,
    made: Option<&str>,
    secrets: &Secrets,
    texts: &[String],
    now: i64,
) -> Result<Material, String> {
    let mut texts = texts.iter().map(String::as_str);
    let mut next = || texts.next().unwrap_or_default();
    let certificates = match (&plan.certificates, made) {
        (Certificates::Files(files), _) => {
            let read = |file: &CertificatePlan| {
                let (chain, key) = (next(), next());
                let certificate = Certificate::read(chain, key).map_err(|wrong| {
                    let path = if wrong.in_key { &file.key } else { &file.chain };
                    format!("{}: {wrong}", path.display())
                })?;
                Ok((file.chain.display().to_string(), certificate))
            };
            files.iter().map(read).collect::<Result<_, String>>()?
        }
        (Certificates::SelfSigned, made) => {
            let pem = made.unwrap_or_default();
            vec![("self_signed".to_owned(), Certificate::read(pem, pem).map_err(|wrong| wrong.to_string())?)]
        }
    };
    let clients = match &plan.client_auth {
        None => None,
        Some(auth) => {
            let (ca, crl) = (next(), auth.crl.as_ref().map(|_| next()));
            let clients = Clients::new(ca, crl, auth.required, now).map_err(|(in_crl, why)| {
                let file = auth.crl.as_ref().filter(|_| in_crl).unwrap_or(&auth.ca);
                format!("{}: {why}", file.display())
            })?;
            Some(clients)
        }
    };
    let resumption = plan.tickets.map(|lifetime| Resumption { lifetime, secrets: secrets.clone() });
    Ok(Material { certificates, clients, resumption })
}
