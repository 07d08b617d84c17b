//! Host names of servers, resolved off the path of requests.
//!
//! `/etc/hosts` first, then DNS with its TTL, within bounds. A name that stops resolving keeps the
//! addresses it had: a failing DNS must not take healthy servers down.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};

use super::supervisor::{Message, Report};
use crate::config::plan::DnsPlan;

/// How long an answer of `/etc/hosts` is believed.
const HOSTS: Duration = Duration::from_secs(10);
/// A look-up without an answer by then has failed.
const LIMIT: Duration = Duration::from_secs(5);
/// After a failure it is tried again after this time, then at growing intervals ...
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The system's settings are read anew after this time.
const SETTINGS: Duration = Duration::from_secs(60);

/// What one look-up found: addresses, at least one, and for how long they may be believed.
type Found = Result<(Vec<IpAddr>, Duration), String>;

/// Looks names up; shared by all servers, so that they share its cache.
#[derive(Clone)]
pub(super) struct Resolver {
    plan: Arc<DnsPlan>,
    dns: Arc<Mutex<Option<(Instant, TokioResolver)>>>,
}

impl Resolver {
    pub(super) fn new(plan: &DnsPlan) -> Self {
        Self { plan: Arc::new(plan.clone()), dns: Arc::default() }
    }

    /// One look-up.
    pub(super) async fn look_up(&self, host: &str) -> Found {
        if let Some(addresses) = in_hosts_file(host) {
            return Ok((addresses, HOSTS));
        }
        let dns = self.dns().await?;
        let answer = timeout(LIMIT, dns.lookup_ip(host))
            .await
            .map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?
            .map_err(|error| error.to_string())?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            return Err("the name exists but has no address".to_owned());
        }
        let ttl = answer.valid_until().saturating_duration_since(std::time::Instant::now());
        Ok((addresses, ttl.clamp(self.plan.min_ttl, self.plan.max_ttl)))
    }

    async fn dns(&self) -> Result<TokioResolver, String> {
        let mut dns = self.dns.lock().await;
        if let Some((read, resolver)) = &*dns
            && read.elapsed() < SETTINGS
        {
            return Ok(resolver.clone());
        }
        // Names that need no name server, such as localhost, resolve without a system configuration.
        let (mut config, options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_default();
        if !self.plan.servers.is_empty() {
            let servers = self.plan.servers.iter().map(|address| name_server(*address)).collect();
            config = ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
        }
        let resolver = build(config, options, &self.plan)?;
        *dns = Some((Instant::now(), resolver.clone()));
        Ok(resolver)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

/// A name server that is asked over UDP, and over TCP for what does not fit.
fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn build(config: ResolverConfig, mut options: ResolverOpts, plan: &DnsPlan) -> Result<TokioResolver, String> {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Read here instead: hickory would still ask DNS for the family that the file does not have.
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_min_ttl = Some(plan.min_ttl);
    options.positive_max_ttl = Some(plan.max_ttl);
    // Or a failure would be remembered beyond the next try.
    options.negative_max_ttl = Some(plan.min_ttl.min(SHORTEST_RETRY));
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| error.to_string())
}

fn in_hosts_file(host: &str) -> Option<Vec<IpAddr>> {
    let name = Name::from_utf8(host).ok()?;
    let hosts = Hosts::from_system().ok()?;
    let found: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|lookup| lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        .collect();
    (!found.is_empty()).then_some(found)
}

/// A task that keeps one server's name resolved; ends when dropped.
#[derive(Debug)]
pub(super) struct Resolving(AbortHandle);

impl Drop for Resolving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to resolve `host` for the server `uid`; every result goes to `inbox`.
pub(super) fn spawn(uid: u32, host: String, port: u16, resolver: Resolver, inbox: mpsc::Sender<Message>) -> Resolving {
    let task: JoinHandle<()> = tokio::spawn(async move {
        let mut retry = SHORTEST_RETRY;
        loop {
            let (result, pause) = match resolver.look_up(&host).await {
                Ok((addresses, ttl)) => {
                    retry = SHORTEST_RETRY;
                    (Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()), ttl)
                }
                Err(error) => {
                    let pause = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    (Err(error), pause)
                }
            };
            if inbox.send(Message::Report(Report::Resolved { uid, result })).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    });
    Resolving(task.abort_handle())
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    fn plan(servers: Vec<SocketAddr>) -> DnsPlan {
        DnsPlan { servers, min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(300) }
    }

    /// A name server that knows `name` as two IPv4 addresses with a TTL, and answers others NXDOMAIN.
    async fn name_server(ttl: u32) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
                let end = 12 + buffer[12..].iter().position(|b| *b == 0).unwrap() + 5;
                let (kind, known) = (buffer[end - 3], buffer[12..].starts_with(b"\x03app\x04test\x00"));
                let answers: &[[u8; 4]] = if known && kind == 1 { &[[192, 0, 2, 1], [192, 0, 2, 2]] } else { &[] };
                let mut answer = buffer[..end].to_vec();
                answer[2..12].copy_from_slice(&[
                    0x81,
                    if known { 0x80 } else { 0x83 },
                    0,
                    1,
                    0,
                    answers.len() as u8,
                    0,
                    0,
                    0,
                    0,
                ]);
                for ip in answers {
                    answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
                    answer.extend_from_slice(&ttl.to_be_bytes());
                    answer.extend_from_slice(&[0, 4]);
                    answer.extend_from_slice(ip);
                }
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        Resolver::new(&plan(vec![SocketAddr::from(([127, 0, 0, 1], port))]))
    }

    #[tokio::test]
    async fn all_addresses_with_their_ttl() {
        let (addresses, ttl) = name_server(60).await.look_up("app.test.").await.unwrap();
        assert_eq!(addresses, ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]);
        assert!((55..=60).contains(&ttl.as_secs()), "{ttl:?}");
    }

    #[tokio::test]
    async fn ttls_have_bounds() {
        let (_, ttl) = name_server(0).await.look_up("app.test.").await.unwrap();
        assert_eq!(ttl, Duration::from_secs(1));
        let (_, ttl) = name_server(86_400).await.look_up("app.test.").await.unwrap();
        assert!((295..=300).contains(&ttl.as_secs()), "{ttl:?}");
    }

    #[tokio::test]
    async fn an_unknown_name_is_an_error() {
        assert!(name_server(60).await.look_up("nobody.test.").await.is_err());
    }

    #[tokio::test]
    async fn localhost_needs_no_name_server() {
        let (addresses, _) = Resolver::new(&plan(Vec::new())).look_up("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
