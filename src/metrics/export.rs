//! Metrics as text: sums the cells of all cores when, and only when, somebody asks.
//!
//! The `prometheus` crate checks and encodes; its own counters are shared atomics and stay unused,
//! because a request must not touch a cache line that another core writes. A series belongs to what is
//! in force now: when a reload removes a server or a route, its series end.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::cells::{CoreCells, Counter, Histogram, MoveReason, RouteCell, ServerCell, StickyCell, TlsFailure, Totals};
use super::{Id, Kind, TABLE};
use crate::balance::litmus::Group;
use crate::error;
use crate::upstream::server::WHOLE_SHARE;
use crate::upstream::{Admin, Operational, Server, Service, Snapshot, Swap, Upstream};

mod process;
mod skew;

/// Content type of what [`Exporter::render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of histogram buckets, as powers of two of microseconds: 256 µs to 134 s. At a power of
/// two [`Totals::below`] is exact.
const BOUNDS: std::ops::RangeInclusive<u32> = 8..=27;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Renders every metric as Prometheus text.
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// An exporter over what `swap` publishes and what the cores count in `cells`. `now` gives seconds
    /// since the process began, by the clock that stamps sessions in the ledger.
    ///
    /// # Errors
    /// When the table of metrics is not valid for Prometheus, which a test rules out.
    pub fn new(swap: Arc<Swap>, cells: Arc<[CoreCells]>, now: fn() -> u32) -> Result<Self, prometheus::Error> {
        let descs = TABLE
            .iter()
            .map(|metric| {
                let labels = metric.labels.iter().map(|&label| label.to_owned()).collect();
                Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, HashMap::new())
            })
            .collect::<Result<_, _>>()?;
        let registry = Registry::new();
        registry.register(Box::new(Sums { swap, cells, now, descs }))?;
        Ok(Self { registry })
    }

    /// Every metric as it is now, in the text exposition format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written in full");
        }
        text
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

struct Sums {
    swap: Arc<Swap>,
    cells: Arc<[CoreCells]>,
    now: fn() -> u32,
    descs: Vec<Desc>,
}

impl Collector for Sums {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.swap.current.load_full();
        let mut families = Families::new();
        process::collect(&mut families);
        families.value(Id::Cores, &[], self.cells.len() as f64);
        families.value(Id::Generation, &[], snapshot.generation as f64);
        families.value(Id::PredecessorConnections, &[], self.swap.predecessor_connections() as f64);
        families.value(Id::ForgottenProxy, &[], self.swap.forgotten_share());
        families.value(Id::ConnectionsMax, &[], snapshot.max_connections as f64);
        cores(&mut families, &self.cells);
        certificates(&mut families, &snapshot);
        routes(&mut families, &snapshot);
        for upstream in &snapshot.upstreams {
            self::upstream(&mut families, upstream, (self.now)());
            skew::collect(&mut families, upstream, self.swap.lately(upstream).as_ref(), (self.now)());
        }
        families.finish()
    }
}

fn cores(families: &mut Families, cells: &[CoreCells]) {
    let total = |cell: fn(&CoreCells) -> &Counter| sum(cells.iter().map(cell));
    families.value(Id::ConnectionsAccepted, &[], total(|c| &c.connections_accepted));
    families.value(Id::ConnectionsOpen, &[], total(|c| &c.connections_open));
    families.value(Id::ConnectionsParked, &[], total(|c| &c.connections_parked));
    families.value(Id::ConnectionsClosed, &["bad_request"], total(|c| &c.bad_requests));
    families.value(Id::ConnectionsClosed, &["proxy_protocol"], total(|c| &c.bad_proxy_headers));
    families.value(Id::ConnectionsClosed, &["full"], total(|c| &c.refused_full));
    families.value(Id::ConnectionsClosed, &["client_limit"], total(|c| &c.refused_client));
    families.value(Id::ConnectionsClosed, &["idle"], total(|c| &c.idle_closed));
    families.value(Id::ConnectionsClosed, &["flood"], total(|c| &c.http2_floods));
    families.value(Id::Http2Connections, &[], total(|c| &c.http2_connections));
    families.value(Id::AcceptErrors, &[], total(|c| &c.accept_errors));
    families.value(Id::Panics, &[], total(|c| &c.panics));
    families.value(Id::NoRoute, &[], total(|c| &c.no_route));
    families.value(Id::ForwardedIgnored, &["untrusted"], total(|c| &c.forwarded_discarded));
    families.value(Id::ForwardedIgnored, &["invalid"], total(|c| &c.forwarded_invalid));
    families.value(Id::UnderscoresDropped, &[], total(|c| &c.underscores_dropped));
    families.value(Id::LogLinesLost, &[], total(|c| &c.log_lines_lost));
    families.value(Id::TlsHandshakes, &["full"], total(|c| &c.tls_full));
    families.value(Id::TlsHandshakes, &["resumed"], total(|c| &c.tls_resumed));
    for (failure, reason) in TlsFailure::ALL {
        families.value(Id::TlsFailures, &[reason], sum(cells.iter().map(|c| &c.tls_failures[failure as usize])));
    }
    for (i, kind) in error::Kind::ALL.iter().enumerate() {
        families.value(Id::Errors, &[kind.reason()], sum(cells.iter().map(|c| &c.errors[i])));
    }
}

fn certificates(families: &mut Families, snapshot: &Snapshot) {
    for listening in snapshot.listeners.iter().flatten() {
        let (name, Some(server)) = (listening.plan.name.as_str(), &listening.tls) else { continue };
        let problem = f64::from(u8::from(server.problem().is_some()));
        families.value(Id::CertificateProblem, &[name], problem);
        for used in server.in_use() {
            families.value(Id::CertificateExpiry, &[name, &used.label], used.not_after as f64);
        }
    }
}

fn routes(families: &mut Families, snapshot: &Snapshot) {
    let mut seen: HashSet<*const RouteCell> = HashSet::new();
    for listening in snapshot.listeners.iter().flatten() {
        for route in &listening.routes.all {
            let name = route.plan.name.as_str();
            let mut info = |upstream| families.value(Id::RouteInfo, &[&listening.plan.name, name, upstream], 1.0);
            let mut upstreams = route.plan.action.upstreams().peekable();
            if upstreams.peek().is_none() {
                info("");
            }
            upstreams.for_each(|position| info(snapshot.upstreams.get(position).map_or("", |u| u.name())));
            // A route of several listeners shares its cells: once by pointer, or it counts double.
            let cells = Arc::as_ptr(&route.cells).cast::<RouteCell>();
            if !seen.insert(cells) {
                continue;
            }
            let cells = &route.cells;
            for (class, code) in CLASSES.iter().enumerate() {
                families.value(Id::Requests, &[name, code], sum(cells.iter().map(|c| &c.answers[class])));
            }
            families.histogram(Id::RequestDuration, &[name], cells.iter().map(|c| &c.duration));
            families.value(Id::RequestBytes, &[name], sum(cells.iter().map(|c| &c.bytes_in)));
            families.value(Id::MirrorsOpen, &[name], sum(cells.iter().map(|c| &c.mirrors_open)));
            families.value(Id::Mirrored, &[name, "answered"], sum(cells.iter().map(|c| &c.mirrors_answered)));
            families.value(Id::Mirrored, &[name, "failed"], sum(cells.iter().map(|c| &c.mirrors_failed)));
            families.value(Id::Mirrored, &[name, "skipped"], sum(cells.iter().map(|c| &c.mirrors_skipped)));
            families.value(Id::Compressed, &[name], sum(cells.iter().map(|c| &c.compressed)));
            families.value(Id::CompressedBytes, &[name], sum(cells.iter().map(|c| &c.compressed_bytes)));
            families.value(Id::ResponseBytes, &[name], sum(cells.iter().map(|c| &c.bytes_out)));
        }
    }
}

fn upstream(families: &mut Families, upstream: &Upstream, now: u32) {
    let name = upstream.name();
    families.value(Id::UpstreamInfo, &[name, upstream.plan.policy.name()], 1.0);
    families.value(Id::FailingOpen, &[name], f64::from(u8::from(upstream.failing_open)));
    for state in Service::STATES {
        families.value(Id::UpstreamService, &[name, state], f64::from(u8::from(upstream.service.name() == state)));
    }
    let queue = || upstream.queue.lines().iter().map(|line| &line.counts);
    families.value(Id::Queued, &[name], f64::from(upstream.queue.waiting()));
    families.value(Id::QueuedTotal, &[name], sum(queue().map(|c| &c.queued)));
    families.histogram(Id::QueueSeconds, &[name], queue().map(|c| &c.waited));
    families.value(Id::QueueRefused, &[name, "full"], sum(queue().map(|c| &c.overflows)));
    families.value(Id::QueueRefused, &[name, "timeout"], sum(queue().map(|c| &c.timeouts)));
    if let Some(watch) = &upstream.hot {
        for hot in watch.counts.shown().iter() {
            families.value(Id::HotKeyRatio, &[name, &hot.key, &hot.server], hot.share);
            families.value(Id::HotKeySpread, &[name, &hot.key, &hot.server], f64::from(u8::from(hot.is_spread)));
        }
    }
    if let Some(sticky) = &upstream.sticky {
        let total = |cell: fn(&StickyCell) -> &Counter| sum(sticky.cells.iter().map(cell));
        families.value(Id::StickyKept, &[name], total(|c| &c.kept));
        families.value(Id::SessionsBegun, &[name], total(|c| &c.new));
        for (reason, text) in MoveReason::ALL {
            let of = |cell: fn(&StickyCell) -> &[Counter]| sum(sticky.cells.iter().map(|c| &cell(c)[reason as usize]));
            families.value(Id::SessionsMoved, &[name, text], of(|c| &c.moved));
            families.value(Id::SessionsLost, &[name, text], of(|c| &c.lost));
        }
        families.value(Id::CookiesRefused, &[name, "invalid"], total(|c| &c.invalid));
        families.value(Id::CookiesRefused, &[name, "expired"], total(|c| &c.expired));
        let idle = u32::try_from(upstream.plan.drain.sessions_idle.as_secs()).unwrap_or(u32::MAX);
        let live: HashMap<u32, usize> = sticky.ledger.count(now.saturating_sub(idle)).into_iter().collect();
        for server in &upstream.servers {
            let sessions = live.get(&server.uid).copied().unwrap_or(0);
            families.value(Id::ServerSessions, &[name, &server.name], sessions as f64);
        }
    }
    if let Some(experiment) = &upstream.litmus {
        for group in Group::ALL {
            let cells = || experiment.cells.iter().map(|cell| &cell.groups[group as usize]);
            families.value(Id::LitmusUsers, &[name, group.name()], sum(cells().map(|c| &c.users)));
            families.value(Id::LitmusRequests, &[name, group.name()], sum(cells().map(|c| &c.requests)));
            for symptom in experiment.symptoms() {
                let seen = sum(cells().map(|c| &c.symptoms[symptom as usize]));
                families.value(Id::LitmusSymptoms, &[name, group.name(), symptom.name()], seen);
            }
        }
    }
    for server in &upstream.servers {
        self::server(families, name, server);
    }
}

fn server(families: &mut Families, upstream: &str, server: &Server) {
    let labels: &[&str] = &[upstream, &server.name];
    let state = server.state();
    for (operational, text) in [
        (Operational::Starting, "starting"),
        (Operational::Healthy, "healthy"),
        (Operational::Unhealthy, "unhealthy"),
        (Operational::Ejected, "ejected"),
    ] {
        let is = f64::from(u8::from(state.operational == operational));
        families.value(Id::ServerState, &[upstream, &server.name, text], is);
    }
    for (admin, text) in [
        (Admin::Ready, "ready"),
        (Admin::Draining, "draining"),
        (Admin::Drained, "drained"),
        (Admin::Disabled, "disabled"),
    ] {
        let is = f64::from(u8::from(state.admin == admin));
        families.value(Id::ServerAdmin, &[upstream, &server.name, text], is);
    }
    families.value(Id::ServerWeight, labels, f64::from(server.weight()));
    families.value(Id::ServerBackup, labels, f64::from(u8::from(server.is_backup())));
    families.value(Id::ServerShare, labels, f64::from(server.share()) / f64::from(WHOLE_SHARE));
    families.value(Id::ServerInFlight, labels, f64::from(server.in_flight()));
    families.value(Id::ServerMaxRequests, labels, server.gate.limit().map_or(f64::INFINITY, f64::from));
    let cells = || server.cells.iter().map(|cell| &cell.counts);
    let total = |cell: fn(&ServerCell) -> &Counter| sum(cells().map(cell));
    families.value(Id::ServerTunnels, labels, total(|c| &c.tunnels));
    families.value(Id::WebSocketsClosed, labels, total(|c| &c.websockets_closed));
    families.value(Id::ServerIdle, labels, total(|c| &c.idle));
    families.value(Id::ServerPicks, labels, total(|c| &c.picks));
    families.value(Id::ServerPassedOn, labels, total(|c| &c.passed_on));
    for (class, code) in CLASSES.iter().enumerate() {
        let answers = sum(cells().map(|c| &c.answers[class]));
        families.value(Id::ServerAnswers, &[upstream, &server.name, code], answers);
    }
    families.histogram(Id::ServerFirstByte, labels, cells().map(|c| &c.first_byte));
    families.value(Id::ServerFailures, labels, total(|c| &c.failures));
    families.value(Id::ServerFaults, labels, total(|c| &c.faults));
    for (count, reason) in server.ejections.iter().zip(["consecutive", "rate", "trial"]) {
        families.value(Id::ServerEjections, &[upstream, &server.name, reason], sum([count].into_iter()));
    }
    families.value(Id::ServerRetries, labels, total(|c| &c.retries));
    families.value(Id::ServerConnects, labels, total(|c| &c.connects));
    families.value(Id::ServerConnectFailures, labels, total(|c| &c.connect_failures));
    families.value(Id::ServerReused, labels, total(|c| &c.reused));
}

/// Cells wrap, and a gauge may be raised by one core and lowered by another: only the wrapping sum is
/// the truth.
fn sum<'a>(cells: impl Iterator<Item = &'a Counter>) -> f64 {
    cells.map(Counter::get).fold(0, u64::wrapping_add) as f64
}

/// The samples of a scrape, by row of the table.
struct Families(Vec<Vec<proto::Metric>>);

impl Families {
    fn new() -> Self {
        Self(TABLE.iter().map(|_| Vec::new()).collect())
    }

    /// Adds a sample of a counter or a gauge; `labels` in the order of the table.
    fn value(&mut self, id: Id, labels: &[&str], value: f64) {
        let mut sample = sample(id, labels);
        if id.metric().kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.0[id as usize].push(sample);
    }

    /// Adds the sum of histograms.
    fn histogram<'a>(&mut self, id: Id, labels: &[&str], cells: impl Iterator<Item = &'a Histogram>) {
        let mut totals = Totals::default();
        cells.for_each(|cell| cell.add_to(&mut totals));
        let buckets = BOUNDS
            .map(|power| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound((1_u64 << power) as f64 / 1e6);
                bucket.set_cumulative_count(totals.below(1 << power));
                bucket
            })
            .collect();
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(totals.count());
        histogram.set_sample_sum(totals.sum_micros as f64 / 1e6);
        let mut sample = sample(id, labels);
        sample.set_histogram(histogram);
        self.0[id as usize].push(sample);
    }

    fn finish(self) -> Vec<MetricFamily> {
        TABLE
            .iter()
            .zip(self.0)
            .map(|(metric, samples)| {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                family.set_metric(samples);
                family
            })
            .collect()
    }
}

fn sample(id: Id, values: &[&str]) -> proto::Metric {
    let names = id.metric().labels;
    debug_assert_eq!(names.len(), values.len(), "{id:?}");
    let pairs = names.iter().zip(values).map(|(&name, &value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}

#[cfg(test)]
mod tests;
