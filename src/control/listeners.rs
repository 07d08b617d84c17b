//! Which addresses are listened on, and the slot that each keeps for the life of the process.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tracing::{error, info};

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
    /// The address it really has, and its sockets, to be handed on; none while nothing listens.
    bound: Option<Bound>,
}

impl Slot {
    fn is_of(&self, plan: &ListenerPlan) -> bool {
        self.bind == plan.bind && self.name.as_deref() == tell_apart(plan)
    }
}

/// A socket that listens already, of the process before this one or of the service manager.
#[derive(Debug)]
pub(super) struct Offered {
    /// As it was configured there; none where nobody knows.
    pub(super) bind: Option<(SocketAddr, Option<String>)>,
    pub(super) address: SocketAddr,
    /// Its slot in the process before.
    pub(super) slot: Option<usize>,
    pub(super) socket: TcpListener,
}

impl Offered {
    fn suits(&self, plan: &ListenerPlan) -> bool {
        match &self.bind {
            Some((bind, name)) => {
                (*bind == plan.bind && name.as_deref() == tell_apart(plan)) || self.address == plan.bind
            }
            None => self.address == plan.bind,
        }
    }
}

fn tell_apart(plan: &ListenerPlan) -> Option<&str> {
    (plan.bind.port() == 0).then_some(&plan.name)
}

/// The listeners in force.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    slots: Vec<Slot>,
    /// What listens already and is not used yet.
    pub(super) offered: Vec<Offered>,
    /// Slots of the process before whose sockets are used here.
    pub(super) taken: Vec<usize>,
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
        self.slot(plan).and_then(|slot| self.slots[slot].bound.as_ref()).map(|bound| bound.address)
    }

    /// Opens what `plans` ask for and is not open yet. Nothing is in force until [`Self::adopt`];
    /// dropped instead, the new sockets are closed and nothing has happened.
    pub(super) fn open(
        &mut self,
        plans: &[ListenerPlan],
        cores: usize,
    ) -> Result<Vec<(ListenerPlan, Bound)>, CommandError> {
        let mut opened: Vec<(ListenerPlan, Bound)> = Vec::new();
        for plan in plans {
            if self.slot(plan).is_some() {
                continue;
            }
            if let Some(bound) = take_offered(&mut self.offered, &mut self.taken, plan)? {
                opened.push((plan.clone(), bound));
                continue;
            }
            let open = self.slots.iter().filter_map(|s| s.bound.as_ref()).map(|bound| bound.address);
            let opened_now = opened.iter().map(|(_, bound)| bound.address);
            let offered = self.offered.iter().map(|offered| offered.address);
            let ours = open.chain(opened_now).chain(offered).any(|address| address.port() == plan.bind.port());
            let bound = bind::listen(plan, cores, ours)?;
            opened.push((plan.clone(), bound));
        }
        Ok(opened)
    }

    /// Puts `plans` in force: gives the sockets just opened their slots and frees those no longer
    /// configured. What the cores have to be told comes back.
    pub(super) fn adopt(&mut self, plans: &[ListenerPlan], opened: Vec<(ListenerPlan, Bound)>, cores: usize) -> Orders {
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
            match bound.spread(cores) {
                Ok(ways) => orders.listen.push(Opened {
                    slot: index,
                    name: plan.name.clone(),
                    address: bound.address,
                    tls: plan.tls.is_some(),
                    ways,
                }),
                Err(error) => {
                    error!(listener = plan.name, %error, "no connection is accepted: its sockets cannot be shared");
                }
            }
            self.slots[index].bound = Some(bound);
        }
        self.plans = plans.iter().cloned().map(Arc::new).collect();
        orders
    }

    /// Lets go of every socket. The cores have theirs, and connections go on.
    pub(super) fn close(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.bound.as_mut()).for_each(|bound| bound.sockets.clear());
    }

    /// Every socket that is listened on, with its slot, and how it was asked for.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (usize, SocketAddr, Option<&str>, &Bound)> {
        let open = self.slots.iter().enumerate();
        open.filter_map(|(at, slot)| Some((at, slot.bind, slot.name.as_deref(), slot.bound.as_ref()?)))
    }

    /// Names and real addresses, in the order of the Plan.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.plans.iter().filter_map(|plan| Some((plan.name.clone(), self.address(plan)?))).collect()
    }
}

/// The sockets offered for `plan`, if there are any.
fn take_offered(
    offered: &mut Vec<Offered>,
    taken: &mut Vec<usize>,
    plan: &ListenerPlan,
) -> Result<Option<Bound>, CommandError> {
    let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(offered).into_iter().partition(|one| one.suits(plan));
    *offered = others;
    let Some(address) = mine.first().map(|one| one.address) else { return Ok(None) };
    taken.extend(mine.iter().filter_map(|one| one.slot));
    Bound::taken(plan, address, mine.into_iter().map(|one| one.socket).collect()).map(Some)
}

/// What the cores have to be told about listeners.
#[derive(Debug, Default)]
pub(super) struct Orders {
    unlisten: Vec<usize>,
    listen: Vec<Opened>,
}

/// A listener whose sockets the cores do not have yet.
#[derive(Debug)]
struct Opened {
    slot: usize,
    name: String,
    address: SocketAddr,
    tls: bool,
    /// A core, and its socket.
    ways: Vec<(usize, TcpListener)>,
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
        for Opened { slot, name, address, tls, ways } in self.listen {
            info!(listener = %name, %address, tls, "listening");
            for (core, socket) in ways {
                if let Some(core) = plane.orders.get(core) {
                    let _ = core.send(Order::Listen { slot, socket });
                }
            }
        }
    }
}
