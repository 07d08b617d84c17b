//! Which addresses are listened on, and the slot that each keeps for the life of the process.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::bind::{self, Bound};
use super::error::CommandError;
use crate::config::plan::ListenerPlan;
use crate::upstream::{DataPlane, Order};

/// One address that was ever listened on.
#[derive(Debug)]
struct Slot {
    bind: SocketAddr,
    /// Tells listeners apart that each asked for any free port.
    name: Option<String>,
    /// The address it really has; none while nothing listens.
    bound: Option<SocketAddr>,
}

impl Slot {
    fn is_of(&self, plan: &ListenerPlan) -> bool {
        self.bind == plan.bind && self.name.as_deref() == tell_apart(plan)
    }
}

fn tell_apart(plan: &ListenerPlan) -> Option<&str> {
    (plan.bind.port() == 0).then_some(&plan.name)
}

/// The listeners in force.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    slots: Vec<Slot>,
    /// In the order of the Plan.
    pub(super) plans: Vec<Arc<ListenerPlan>>,
}

impl Listeners {
    /// How many slots there ever were.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The slot on which `plan` is listened on.
    pub(super) fn slot(&self, plan: &ListenerPlan) -> Option<usize> {
        self.slots.iter().position(|s| s.bound.is_some() && s.is_of(plan))
    }

    /// The address that a listener really has.
    pub(super) fn address(&self, plan: &ListenerPlan) -> Option<SocketAddr> {
        self.slot(plan).and_then(|slot| self.slots[slot].bound)
    }

    /// Opens what `plans` ask for and is not open yet. Nothing is in force until [`Self::adopt`];
    /// dropped instead, the new sockets are closed and nothing has happened.
    pub(super) fn open(
        &self,
        plans: &[ListenerPlan],
        cores: usize,
    ) -> Result<Vec<(ListenerPlan, Bound)>, CommandError> {
        let mut opened: Vec<(ListenerPlan, Bound)> = Vec::new();
        for plan in plans.iter().filter(|plan| self.slot(plan).is_none()) {
            let ours = self.slots.iter().filter_map(|s| s.bound).any(|a| a.port() == plan.bind.port())
                || opened.iter().any(|(_, bound)| bound.address.port() == plan.bind.port());
            let bound = bind::listen(plan, cores, ours)?;
            opened.push((plan.clone(), bound));
        }
        Ok(opened)
    }

    /// Puts `plans` in force: gives the sockets just opened their slots and frees those no longer
    /// configured. What the cores have to be told comes back.
    pub(super) fn adopt(&mut self, plans: &[ListenerPlan], opened: Vec<(ListenerPlan, Bound)>) -> Orders {
        let mut orders = Orders::default();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.bound.is_some() && !plans.iter().any(|plan| slot.is_of(plan)) {
                slot.bound = None;
                orders.unlisten.push(index);
            }
        }
        for (plan, bound) in opened {
            let index = self.slots.iter().position(|s| s.is_of(&plan)).unwrap_or_else(|| {
                let name = tell_apart(&plan).map(str::to_owned);
                self.slots.push(Slot { bind: plan.bind, name, bound: None });
                self.slots.len() - 1
            });
            self.slots[index].bound = Some(bound.address);
            orders.listen.push((index, bound.sockets));
        }
        self.plans = plans.iter().cloned().map(Arc::new).collect();
        orders
    }

    /// Names and real addresses, in the order of the Plan.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.plans.iter().filter_map(|plan| Some((plan.name.clone(), self.address(plan)?))).collect()
    }
}

/// What the cores have to be told about listeners.
#[derive(Debug, Default)]
pub(super) struct Orders {
    unlisten: Vec<usize>,
    listen: Vec<(usize, Vec<TcpListener>)>,
}

impl Orders {
    /// Tells the cores to let go, before the Snapshot without those slots is published.
    pub(super) fn unlisten(&self, plane: &DataPlane) {
        for (slot, core) in self.unlisten.iter().flat_map(|slot| plane.orders.iter().map(move |core| (*slot, core))) {
            let _ = core.send(Order::Unlisten { slot });
        }
    }

    /// Hands the sockets to the cores, after the Snapshot that knows their slots was published.
    pub(super) fn listen(self, plane: &DataPlane) {
        for (slot, sockets) in self.listen {
            for (core, socket) in plane.orders.iter().zip(sockets) {
                let _ = core.send(Order::Listen { slot, socket });
            }
        }
    }
}
