//! A policy, and what it has made of a log so far.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Server;
use super::line::Logged;
use crate::balance::peak_ewma::Average;
use crate::balance::{Input, Member, Policy, Scratch, Table, View, key_of};

/// What is in flight at once under one policy; beyond that the request that ends soonest has ended.
pub(super) const MOST_IN_FLIGHT: usize = 1 << 20;

/// A policy and what it has done so far.
#[derive(Debug)]
pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) table: Table,
    scratch: Scratch,
    pub(super) servers: Vec<State>,
    /// What ends when, soonest first.
    pub(super) ends: BinaryHeap<Reverse<(Duration, u16, Duration)>>,
    pub(super) followed: u64,
    pub(super) moves: u64,
    /// Requests without the key that it goes by.
    pub(super) keyless: bool,
}

#[derive(Debug, Default, Clone)]
pub(super) struct State {
    pub(super) in_flight: u32,
    pub(super) requests: u64,
    average: Option<Average>,
}

pub(super) struct Now<'a> {
    pub(super) servers: &'a [State],
    pub(super) at: Duration,
    pub(super) decay: Option<Duration>,
}

impl View for Now<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, _: usize) -> bool {
        true
    }

    fn takes_pinned(&self, _: usize) -> bool {
        true
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.servers[index].in_flight
    }

    fn latency(&self, index: usize) -> Option<f32> {
        Some(self.servers[index].average?.latency_at(self.at.as_millis() as u32, self.decay?))
    }
}

impl World {
    pub(super) fn new(policy: &Policy, servers: &[Server]) -> Self {
        let member = |server: &Server| Member { key: key_of(&server.name), weight: server.weight, takes_new: true };
        let members: Vec<Member> = servers.iter().map(member).collect();
        Self {
            table: policy.table(&members, None),
            policy: policy.clone(),
            scratch: Scratch::new(0, 1),
            servers: vec![State::default(); servers.len()],
            ends: BinaryHeap::new(),
            followed: 0,
            moves: 0,
            keyless: false,
        }
    }

    /// Ends what has ended by then.
    fn settle(&mut self, now: Duration) {
        while let Some(Reverse((at, server, took))) = self.ends.peek().copied().filter(|end| end.0.0 <= now) {
            self.ends.pop();
            let state = &mut self.servers[usize::from(server)];
            state.in_flight -= 1;
            if let Some(decay) = self.policy.decay() {
                let average = Average::after(state.average, took, false, at.as_millis() as u32, decay);
                state.average = Some(average);
            }
        }
    }

    /// Forgets what is in flight, but not how long servers take.
    pub(super) fn clear(&mut self) {
        self.ends.clear();
        self.servers.iter_mut().for_each(|state| state.in_flight = 0);
    }

    /// Sends a request of a client that was last at `last`; where to.
    pub(super) fn send(
        &mut self,
        logged: &Logged<'_>,
        now: Duration,
        took: Duration,
        last: Option<usize>,
    ) -> Option<usize> {
        let waits = self.policy.reads_load();
        if waits {
            self.settle(now);
        }
        let key =
            self.policy.keyed().and_then(|by| by.key(&logged.path, logged.query.as_deref(), &http::HeaderMap::new()));
        self.keyless |= self.policy.keyed().is_some() && key.is_none();
        let pinned = last.filter(|_| self.policy.sticky().is_some());
        let input = Input { client: logged.client, key, spread: None, pinned };
        let view = Now { servers: &self.servers, at: now, decay: self.policy.decay() };
        let index = self.table.pick(&input, &mut self.scratch, &view)?.index;
        let state = &mut self.servers[index];
        state.requests += 1;
        if waits {
            state.in_flight += 1;
            if self.ends.len() >= MOST_IN_FLIGHT
                && let Some(Reverse((_, server, _))) = self.ends.pop()
            {
                self.servers[usize::from(server)].in_flight -= 1;
            }
            self.ends.push(Reverse((now.saturating_add(took), u16::try_from(index).unwrap_or(u16::MAX), took)));
        }
        Some(index)
    }
}
