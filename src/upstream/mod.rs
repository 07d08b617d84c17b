//! The only state that both planes see: upstreams, their servers, the claims on them, and the
//! [`Snapshot`] that ties them to listeners and routes.
//!
//! The control plane writes (state bytes, addresses, a new Snapshot); the data plane reads and counts.
//! Nothing in here waits.

pub mod bridge;
pub mod canary;
pub mod claim;
pub mod clock;
pub mod explain;
pub mod gate;
pub mod hot;
pub mod litmus;
mod moves;
pub mod route;
pub mod sampler;
pub mod server;
pub mod service;
pub mod sessions;
pub mod shadow;
pub mod snapshot;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use bridge::{DataPlane, Event, Events, Order};
pub use canary::Branch;
pub use claim::{Claim, Refused};
pub use gate::{Gate, Queue};
pub use route::{Asked, Route, Routes};
pub use server::{Admin, Operational, Server, State};
pub use service::{Notice, Pace, Service};
pub use sessions::Ledger;
pub use shadow::Shadow;
pub use snapshot::{Snapshot, Swap};

use crate::balance::canary::Canary;
use crate::balance::sticky_cookie::{Keys, Pin};
use crate::balance::{self, Input, Member, Pick, Policy, Scratch, Table};
use crate::config::plan::UpstreamPlan;
use crate::metrics::cells::StickyCell;
use server::WHOLE_SHARE;

/// What a sticky upstream needs beside its policy; outlives reloads.
#[derive(Debug)]
pub struct Sticky {
    /// Keys that seal and open its cookies; a reload may add and remove some.
    pub keys: ArcSwap<Keys>,
    /// Which sessions are alive, and on which server.
    pub ledger: Ledger,
    /// One cell per core.
    pub cells: Box<[StickyCell]>,
}

/// A group of servers and the policy that picks among them; immutable, rebuilt when a server's
/// state, weight or membership changes.
#[derive(Debug)]
pub struct Upstream {
    /// Position that this name keeps for the life of the process: the index of per-core scratch.
    pub slot: usize,
    pub plan: Arc<UpstreamPlan>,
    pub servers: Vec<Arc<Server>>,
    pub sticky: Option<Arc<Sticky>>,
    /// Whether no server is healthy and requests go to every ready one.
    pub failing_open: bool,
    /// Where requests wait while servers are full.
    pub queue: Arc<Queue>,
    /// What an operator says of it as a whole.
    pub service: Service,
    /// Whether requests may have to wait, or are turned away: it is not open, or a server has a limit.
    pub is_gated: bool,
    /// Whether any server has a limit of requests.
    is_limited: bool,
    /// Whether full servers are passed over: not where the client's address says which one it is.
    passes_full: bool,
    /// How fast averages of latency fade, where the policy looks at them.
    pub decay: Option<Duration>,
    /// New servers that only some users meet.
    pub canary: Option<Box<Branch>>,
    /// What is counted of keys, where hot ones are looked for.
    pub hot: Option<Box<hot::Watch>>,
    /// What other policies would do.
    pub shadow: Option<Box<Shadow>>,
    /// Users who are moved on purpose, if any are.
    pub litmus: Option<Arc<litmus::Experiment>>,
    table: Table,
    /// The same of the backups, for requests that no other server can take.
    backups: Option<Table>,
    /// Keys of the servers, sorted, with their positions: what a pin is looked up in.
    by_key: Box<[(u64, usize)]>,
    /// Their uids, likewise: what the ledger knows them by.
    by_uid: Box<[(u32, usize)]>,
}

impl Upstream {
    /// Builds the upstream from the state its servers are in now. `previous` lends what it can.
    #[must_use]
    pub fn new(
        slot: usize,
        plan: Arc<UpstreamPlan>,
        servers: Vec<Arc<Server>>,
        sticky: Option<Arc<Sticky>>,
        previous: Option<&Upstream>,
    ) -> Self {
        Self::with(Change::default(), slot, plan, servers, sticky, None, previous)
    }

    /// The same in the middle of a change.
    #[must_use]
    pub fn with(
        change: Change<'_>,
        slot: usize,
        plan: Arc<UpstreamPlan>,
        servers: Vec<Arc<Server>>,
        sticky: Option<Arc<Sticky>>,
        shadow: Option<&shadow::Kept>,
        previous: Option<&Upstream>,
    ) -> Self {
        let state = |s: &Server| {
            let state = s.state();
            if change.outgoing.contains(&s.uid) { State { admin: Admin::Draining, ..state } } else { state }
        };
        let any = servers.iter().any(|s| state(s).takes_new(false) && s.weight() > 0);
        // Where every server was taken out by order, nothing has failed and nothing is open.
        let failing_open = plan.fail_open && !any && servers.iter().any(|s| state(s).admin == Admin::Ready);
        // Only where somebody is in its slow start do weights count tenths, so that a share can be less
        // than the least weight.
        let slows = servers.iter().any(|s| s.share() < WHOLE_SHARE);
        let members_for = |policy: &Policy| -> Vec<Member> {
            let slow = slows && policy.spreads_anew();
            let weight = |s: &Server| if slow { s.weight() * s.share() } else { s.weight() };
            let member =
                |s: &Server| Member { key: s.key, weight: weight(s), takes_new: state(s).takes_new(failing_open) };
            servers.iter().map(|s| member(s)).collect()
        };
        let mut members = members_for(&plan.policy);
        let is_new = |new: &[u32]| -> Box<[bool]> { servers.iter().map(|s| new.contains(&s.uid)).collect() };
        let canary = change
            .canary
            .map(|(canary, new)| Box::new(Branch::new(Arc::clone(canary), is_new(new), &plan.policy, &mut members)));
        let (table, backups) = tables(
            &plan.policy,
            &members,
            &servers,
            previous.map(|p| &p.table),
            previous.and_then(|p| p.backups.as_ref()),
        );
        let is_limited = servers.iter().any(|s| s.gate.limit().is_some());
        let shadow = shadow.map(|kept| {
            let before = previous.and_then(|p| p.shadow.as_deref());
            Box::new(Shadow::new(kept, &servers, is_limited, before, |policy, table, backups| {
                let mut members = members_for(policy);
                // New servers of a canary have traffic of their own.
                for (member, server) in members.iter_mut().zip(&servers) {
                    if change.canary.is_some_and(|(_, new)| new.contains(&server.uid)) {
                        *member = out(*member);
                    }
                }
                tables(policy, &members, &servers, table, backups)
            }))
        });
        let mut by_key: Box<[(u64, usize)]> = members.iter().enumerate().map(|(i, m)| (m.key, i)).collect();
        by_key.sort_unstable();
        let mut by_uid: Box<[(u32, usize)]> = servers.iter().enumerate().map(|(i, server)| (server.uid, i)).collect();
        by_uid.sort_unstable();
        let passes_full = is_limited && !plan.policy.belongs();
        let queue = Arc::default();
        let shaded = || plan.shadow.iter().flat_map(|shadow| &shadow.policies).find_map(Policy::decay);
        let decay = plan.policy.decay().or_else(shaded);
        Self {
            slot,
            plan,
            servers,
            sticky,
            failing_open,
            queue,
            service: Service::Open,
            is_gated: is_limited,
            is_limited,
            passes_full,
            decay,
            canary,
            hot: None,
            shadow,
            litmus: None,
            table,
            backups,
            by_key,
            by_uid,
        }
    }

    /// The same with the queue of its name, and what an operator said of it.
    #[must_use]
    pub fn behind(self, queue: Arc<Queue>, service: Service) -> Self {
        let is_gated = self.is_limited || !service.is_open();
        Self { queue, service, is_gated, ..self }
    }

    /// The same with what is counted of keys.
    #[must_use]
    pub fn watched(self, hot: Option<hot::Watch>) -> Self {
        Self { hot: hot.map(Box::new), ..self }
    }

    /// Whether a client for whom `pick` was made waits for that server rather than for any.
    #[must_use]
    pub fn insists(&self, pick: Pick) -> bool {
        pick.pinned || !self.passes_full
    }

    /// Whether a new client may wait for some server: one that takes it, but for its limit.
    #[must_use]
    pub fn may_wait(&self, tried: &Tried) -> bool {
        self.is_limited && self.servers.iter().enumerate().any(|(i, server)| self.takes(server) && !tried.has(i))
    }

    /// Whether one who waits should look again: there is room for it, or nothing left to wait for.
    #[must_use]
    pub fn has_news_for(&self, wish: &Wish) -> bool {
        match self.service {
            Service::Paused { .. } => return false,
            Service::Closed(_) => return true,
            Service::Open | Service::Releasing { .. } => {}
        }
        let wanted = wish.server.and_then(|uid| self.servers.iter().find(|server| server.uid == uid));
        if let Some(server) = wanted
            && if wish.pinned { server.state().takes_pinned(self.failing_open) } else { self.takes(server) }
        {
            return !server.gate.is_full_for(wish.pinned);
        }
        let is_other = |server: &Server| self.takes(server) && !wish.not.contains(&server.uid);
        // Who waits for a server that is full does not want a backup.
        let spares_backups =
            self.backups.is_some() && self.servers.iter().any(|server| is_other(server) && !server.is_backup());
        let mut others =
            self.servers.iter().filter(|server| is_other(server) && !(spares_backups && server.is_backup()));
        let mut hopeless = true;
        others.any(|server| {
            hopeless = false;
            !server.gate.is_full()
        }) || hopeless
    }

    /// What one waits for who was refused, or would be, where `insists` is the pick it insists on.
    #[must_use]
    pub fn wish(&self, insists: Option<Pick>, tried: &Tried) -> Wish {
        let not = if tried.count() == 0 {
            Vec::new()
        } else {
            self.servers.iter().enumerate().filter(|(i, _)| tried.has(*i)).map(|(_, server)| server.uid).collect()
        };
        match insists {
            Some(pick) => Wish { server: Some(self.servers[pick.index].uid), pinned: pick.pinned, not },
            None => Wish { server: None, pinned: false, not },
        }
    }

    fn takes(&self, server: &Server) -> bool {
        server.state().takes_new(self.failing_open) && server.weight() > 0
    }

    /// Picks a server for a request. Allocates nothing, locks nothing.
    pub fn pick(&self, asker: &Asker<'_>, tried: &Tried, scratch: &mut Scratch) -> Option<Pick> {
        if let Some(part) = &asker.litmus
            && let Some(index) = self.pick_part(part, tried, scratch)
        {
            return Some(Pick { index, pinned: false });
        }
        let Asker { client, key, spread, pin, .. } = *asker;
        let pinned = pin.and_then(|pin| self.position_of(pin));
        let (input, live) = (Input { client, key, spread, pinned }, Live { upstream: self, tried });
        let pick = match &self.canary {
            None => self.table.pick(&input, scratch, &live),
            Some(branch) => self.pick_side(branch, asker.to_new, &input, scratch, &live),
        };
        match &self.backups {
            Some(backups) if pick.is_none() && !self.has_primary(tried) => backups.pick(&input, scratch, &live),
            _ => pick,
        }
    }

    /// Picks among the new servers of a canary or the others; where nobody there can take the request, among
    /// the rest.
    #[cold]
    fn pick_side(
        &self,
        branch: &Branch,
        to_new: bool,
        input: &Input,
        scratch: &mut Scratch,
        live: &Live<'_>,
    ) -> Option<Pick> {
        if branch.is_for(input.pinned, to_new) {
            branch.pick(input, scratch, live).or_else(|| self.table.pick(input, scratch, live))
        } else {
            self.table.pick(input, scratch, live).or_else(|| branch.pick(input, scratch, live))
        }
    }

    /// Whether some server that is no backup takes new clients and was not tried. It may be full: then it
    /// is waited for.
    #[cold]
    fn has_primary(&self, tried: &Tried) -> bool {
        let mut servers = self.servers.iter().enumerate();
        servers.any(|(i, server)| !server.is_backup() && self.takes(server) && !tried.has(i))
    }

    /// Where everything has failed and the Snapshot does not say so yet: a ready server that was not
    /// tried, whatever its health. None where the upstream does not fail open, or a server is healthy.
    pub fn last_resort(&self, tried: &Tried, scratch: &mut Scratch) -> Option<usize> {
        let len = self.servers.len();
        if !self.plan.fail_open || len == 0 || self.servers.iter().any(|s| s.state().takes_new(false)) {
            return None;
        }
        let from = scratch.below(len as u32) as usize;
        let mut turn = (0..len).map(|i| (from + i) % len);
        turn.find(|i| !tried.has(*i) && self.servers[*i].state().takes_new(true))
    }

    /// The name of the upstream.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }
}

/// One who is not meant.
fn out(member: Member) -> Member {
    Member { weight: 0, takes_new: false, ..member }
}

/// The table of a policy, and that of the backups if there are any. Positions are the same in both; who is not
/// meant has no weight there. `table` and `backups` are those before.
fn tables(
    policy: &Policy,
    members: &[Member],
    servers: &[Arc<Server>],
    table: Option<&Table>,
    backups: Option<&Table>,
) -> (Table, Option<Table>) {
    if !servers.iter().any(|server| server.is_backup()) {
        return (policy.table(members, table), None);
    }
    let only = |backup: bool| -> Vec<Member> {
        let both = members.iter().zip(servers);
        both.map(|(member, server)| if server.is_backup() == backup { *member } else { out(*member) }).collect()
    };
    (policy.table(&only(false), table), Some(policy.table(&only(true), backups)))
}

/// Whose request a server is picked for.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The client's address after trusted proxies.
    pub client: IpAddr,
    /// The hash of what the policy goes by ([`crate::balance::HashBy::key`]), if it does and it is there.
    pub key: Option<u64>,
    /// What stands for the user, where the address or the key is spread.
    pub spread: Option<u64>,
    /// What a valid sticky cookie says.
    pub pin: Option<&'a Pin>,
    /// Whether it belongs to the new servers of a canary, if there is one.
    pub to_new: bool,
    /// What it is in the experiment, if it takes part.
    pub litmus: Option<litmus::Part>,
}

/// What an upstream is in the middle of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Servers, by uid, that are about to drain: nobody new is sent there. This may be put in force before
    /// they do. Who still has the Snapshot before goes to them meanwhile, and at no moment is there nobody
    /// to go to.
    pub outgoing: &'a [u32],
    /// Servers, by uid, that only some users meet.
    pub canary: Option<(&'a Arc<Canary>, &'a [u32])>,
}

/// What one who waits wants.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wish {
    /// This server, by uid, as long as it takes the client; none is any.
    pub server: Option<u32>,
    /// Whether its client is pinned to it.
    pub pinned: bool,
    /// None of these: it was tried on them.
    pub not: Vec<u32>,
}

/// Servers that one request was tried on: few, so a small inline list.
#[derive(Debug, Default, Clone)]
pub struct Tried {
    list: [u16; 8],
    len: u8,
}

impl Tried {
    /// Remembers a server by its position. Beyond eight tries the oldest is forgotten.
    pub fn add(&mut self, index: usize) {
        self.list[usize::from(self.len) % self.list.len()] = index as u16;
        self.len = self.len.saturating_add(1);
    }

    /// Whether that server was tried.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        let len = usize::from(self.len).min(self.list.len());
        self.list[..len].contains(&(index as u16))
    }

    /// How many tries there were.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.len)
    }
}

struct Live<'a> {
    upstream: &'a Upstream,
    tried: &'a Tried,
}

impl balance::View for Live<'_> {
    fn tried(&self, index: usize) -> bool {
        self.tried.len > 0 && self.tried.has(index)
    }

    fn takes_new(&self, index: usize) -> bool {
        let server = &self.upstream.servers[index];
        server.state().takes_new(self.upstream.failing_open) && !(self.upstream.passes_full && server.gate.is_full())
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.upstream.servers[index].state().takes_pinned(self.upstream.failing_open)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.upstream.servers[index].in_flight()
    }

    fn latency(&self, index: usize) -> Option<f32> {
        self.upstream.servers[index].latency(self.upstream.decay?)
    }

    fn passes_on(&self, index: usize, core: usize) {
        if let Some(cell) = self.upstream.servers[index].cells.get(core) {
            cell.counts.passed_on.inc();
        }
    }
}
