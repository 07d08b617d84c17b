//! Who would come to another server if the servers of an upstream changed: pure, over two Plans.
//!
//! The tables are those that requests are picked by, so what is foretold is what happens. It is foretold for
//! now: a server that is out keeps its clients elsewhere, one that comes is taken to do well, and bounds on
//! load are left aside, since nobody knows the load of tomorrow.

use std::net::{IpAddr, Ipv4Addr};

use crate::balance::{Input, Member, Policy, Scratch, Table, View, key_of};
use crate::config::plan::UpstreamPlan;
use crate::upstream::sampler::{Sample, Sampled};

/// Made-up clients where there are no real ones.
const SYNTHETIC: u32 = 20_000;

/// A server as it is, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) name: String,
    pub(super) weight: u32,
    pub(super) takes_new: bool,
    pub(super) is_backup: bool,
    /// Whether it is not one that is there now, whatever its name.
    pub(super) is_new: bool,
}

/// The clients that would move.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moved {
    pub(super) is_live: bool,
    pub(super) clients: u64,
    pub(super) requests: u64,
    /// Parts of one.
    pub(super) share: f64,
    pub(super) margin: f64,
    pub(super) share_of_requests: f64,
}

/// Whether the policy keeps each client on a server of its own.
pub(super) fn keeps_apart(policy: &Policy) -> bool {
    matches!(policy, Policy::IpHash(_) | Policy::Hash(_))
}

/// One side of the comparison.
struct Side<'a> {
    servers: &'a [Standing],
    table: Table,
    takes: Vec<bool>,
}

impl View for Side<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, index: usize) -> bool {
        self.takes[index]
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.takes[index]
    }

    fn in_flight(&self, _: usize) -> u32 {
        0
    }

    fn latency(&self, _: usize) -> Option<f32> {
        None
    }
}

impl<'a> Side<'a> {
    fn new(plan: &UpstreamPlan, servers: &'a [Standing]) -> Self {
        let takes = |server: &Standing| server.takes_new && server.weight > 0;
        // Backups where nobody else is, and everybody where nobody is at all, as with requests.
        let some_primary = servers.iter().any(|server| takes(server) && !server.is_backup);
        let nobody = plan.fail_open && !servers.iter().any(takes);
        let is_meant = |server: &Standing| nobody || server.is_backup != some_primary;
        let members: Vec<Member> = servers
            .iter()
            .map(|server| Member {
                key: key_of(&server.name),
                weight: if is_meant(server) { server.weight } else { 0 },
                takes_new: is_meant(server) && (nobody || server.takes_new),
            })
            .collect();
        let takes = members.iter().map(|member| member.takes_new).collect();
        Self { servers, table: plan.policy.table(&members, None), takes }
    }

    /// The name of a client's server, and whether it is a new one.
    fn owner(&self, client: &Sampled, scratch: &mut Scratch) -> Option<(&'a str, bool)> {
        let input = Input { client: client.client, key: client.key, spread: None, pinned: None };
        self.table.pick(&input, scratch, self).map(|pick| {
            let server = &self.servers[pick.index];
            (server.name.as_str(), server.is_new)
        })
    }
}

/// Which of the clients in `sample` would come to another server. None where the old policy keeps nobody
/// apart: then nobody has a server to lose.
pub(super) fn moved(
    (old, before): (&UpstreamPlan, &[Standing]),
    (new, after): (&UpstreamPlan, &[Standing]),
    sample: &Sample,
    seed: u64,
) -> Option<Moved> {
    if !keeps_apart(&old.policy) {
        return None;
    }
    let is_live = sample.requests() > 0;
    let clients: Vec<Sampled> =
        if is_live { sample.clients().copied().collect() } else { synthetic(&old.policy, seed).collect() };
    // By another key, or none, everybody is placed anew: who stays does so by chance.
    let same_key = keeps_apart(&new.policy) && old.policy.keyed() == new.policy.keyed();
    let (before, after) = (Side::new(old, before), Side::new(new, after));
    let mut scratch = Scratch::new(0, seed);
    let (mut moved, mut of_requests, mut requests) = (0u64, 0u64, 0u64);
    for client in &clients {
        requests += client.requests;
        let was = before.owner(client, &mut scratch);
        if was.is_some() && (!same_key || was != after.owner(client, &mut scratch)) {
            moved += 1;
            of_requests += client.requests;
        }
    }
    let part = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };
    let share = part(moved, clients.len() as u64);
    let is_part = !is_live || sample.is_part();
    Some(Moved {
        is_live,
        clients: if is_live { sample.distinct() } else { clients.len() as u64 },
        requests: if is_live { sample.requests() } else { clients.len() as u64 },
        share,
        // Of the normal approximation; what was counted as a whole is not off.
        margin: if is_part { 1.96 * (share * (1.0 - share) / clients.len().max(1) as f64).sqrt() } else { 0.0 },
        share_of_requests: part(of_requests, requests),
    })
}

/// Addresses, or keys, drawn evenly.
fn synthetic(policy: &Policy, seed: u64) -> impl Iterator<Item = Sampled> {
    let mut random = Scratch::new(0, seed);
    let by_key = policy.keyed().is_some();
    (0..SYNTHETIC).map(move |_| {
        let number = random.random();
        let client = IpAddr::V4(Ipv4Addr::from_bits((number >> 32) as u32));
        Sampled { client, key: by_key.then_some(number), requests: 1 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Hash, HashBy, IpHash, RoundRobin};
    use crate::upstream::sampler::Sampler;

    fn plan(policy: Policy) -> UpstreamPlan {
        UpstreamPlan { policy, ..UpstreamPlan::example() }
    }

    fn ip_hash() -> UpstreamPlan {
        plan(Policy::IpHash(IpHash::default()))
    }

    fn up(names: &str) -> Vec<Standing> {
        let standing = |name: char| Standing {
            name: name.to_string(),
            weight: 1,
            takes_new: true,
            is_backup: false,
            is_new: false,
        };
        names.chars().map(standing).collect()
    }

    fn nobody() -> Sample {
        Sampler::new(1, 0).sample(0)
    }

    fn share(old: (&UpstreamPlan, &[Standing]), new: (&UpstreamPlan, &[Standing])) -> Option<f64> {
        moved(old, new, &nobody(), 7).map(|moved| moved.share)
    }

    #[test]
    fn adding_the_fourth_moves_a_quarter_and_removing_one_its_own() {
        let (plan, three, four) = (ip_hash(), up("abc"), up("abcd"));
        let added = moved((&plan, &three), (&plan, &four), &nobody(), 7).unwrap();
        assert!((added.share - 0.25).abs() < 0.02, "{added:?}");
        assert!(!added.is_live && added.margin > 0.0 && added.margin < 0.01, "{added:?}");
        let removed = share((&plan, &four), (&plan, &three)).unwrap();
        assert!((removed - 0.25).abs() < 0.02, "{removed}");
        assert_eq!(share((&plan, &four), (&plan, &four)), Some(0.0));
        let mut heavy = up("abcd");
        heavy[3].weight = 3;
        let weighed = share((&plan, &four), (&plan, &heavy)).unwrap();
        // From a quarter to a half.
        assert!((weighed - 0.25).abs() < 0.02, "{weighed}");
    }

    #[test]
    fn clients_of_a_server_that_is_out_are_elsewhere_already() {
        let (plan, mut before) = (ip_hash(), up("abc"));
        before[2].takes_new = false;
        // Its third of them is spread over the others, and half of these by another rule once it is gone.
        let again = share((&plan, &before), (&plan, &up("ab"))).unwrap();
        assert!((again - 1.0 / 6.0).abs() < 0.02, "{again}");
        assert_eq!(share((&plan, &before), (&plan, &before)), Some(0.0));
        // All out: with fail_open everybody serves, as before.
        before.iter_mut().for_each(|server| server.takes_new = false);
        assert_eq!(share((&plan, &before), (&plan, &before)), Some(0.0));
        // A backup that comes gets nobody.
        let mut after = up("abz");
        after[2].is_backup = true;
        assert_eq!(share((&plan, &up("ab")), (&plan, &after)), Some(0.0));
    }

    #[test]
    fn another_policy_or_key_places_everybody_anew() {
        let servers = up("ab");
        let (rr, by_path) = (plan(Policy::RoundRobin(RoundRobin::default())), plan(Policy::Hash(Hash::default())));
        let by_room = plan(Policy::Hash(Hash { by: HashBy::Query("room".to_owned()), ..Hash::default() }));
        assert_eq!(share((&ip_hash(), &servers), (&rr, &servers)), Some(1.0));
        assert_eq!(share((&by_path, &servers), (&by_room, &servers)), Some(1.0));
        assert_eq!(share((&by_path, &servers), (&by_path, &servers)), Some(0.0));
        assert_eq!(share((&rr, &servers), (&ip_hash(), &servers)), None, "nobody had a server of its own");
        let third = share((&by_path, &servers), (&by_path, &up("abc"))).unwrap();
        assert!((third - 1.0 / 3.0).abs() < 0.02, "{third}");
    }

    #[test]
    fn live_clients_count_and_so_does_how_often_they_come() {
        let sampler = Sampler::new(1, 3);
        let client = |i: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, i));
        let plan = ip_hash();
        let (before, after) = (up("ab"), up("b"));
        let mut scratch = Scratch::new(0, 1);
        let servers = Side::new(&plan, &before);
        let of_a = |i: &u8| {
            let sampled = Sampled { client: client(*i), key: None, requests: 1 };
            servers.owner(&sampled, &mut scratch) == Some(("a", false))
        };
        let (mine, others): (Vec<u8>, Vec<u8>) = (0..40).partition(of_a);
        mine.iter().for_each(|i| (0..3).for_each(|_| sampler.note(0, 0, client(*i), None)));
        others.iter().for_each(|i| sampler.note(0, 0, client(*i), None));
        let told = moved((&plan, &before), (&plan, &after), &sampler.sample(0), 7).unwrap();
        assert!(told.is_live && told.clients == 40 && told.margin == 0.0, "{told:?}");
        assert!((told.share - mine.len() as f64 / 40.0).abs() < 1e-9, "{told:?}");
        let requests = (3 * mine.len() + others.len()) as f64;
        assert!((told.share_of_requests - 3.0 * mine.len() as f64 / requests).abs() < 1e-9, "{told:?}");
    }
}
