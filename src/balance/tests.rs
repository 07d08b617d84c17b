//! What every policy keeps, and a [`View`] for the tests of each.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// Servers whose state a test sets.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    pub(super) tried: Vec<bool>,
    pub(super) takes_new: Vec<bool>,
    pub(super) takes_pinned: Vec<bool>,
    pub(super) in_flight: Vec<u32>,
    pub(super) latency: Vec<Option<f32>>,
}

impl Servers {
    pub(super) fn up(n: usize) -> Self {
        Self {
            tried: vec![false; n],
            takes_new: vec![true; n],
            takes_pinned: vec![true; n],
            in_flight: vec![0; n],
            latency: vec![None; n],
        }
    }
}

impl View for Servers {
    fn tried(&self, index: usize) -> bool {
        self.tried[index]
    }

    fn takes_new(&self, index: usize) -> bool {
        self.takes_new[index]
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.takes_pinned[index]
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }

    fn latency(&self, index: usize) -> Option<f32> {
        self.latency[index]
    }
}

pub(super) fn members(weights: &[u32]) -> Vec<Member> {
    let member =
        |(i, weight): (usize, &u32)| Member { key: key_of(&format!("s{i}")), weight: *weight, takes_new: true };
    weights.iter().enumerate().map(member).collect()
}

pub(super) fn client(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(n))
}

fn from(n: u32) -> Input {
    Input { client: client(n), key: None, spread: None, pinned: None }
}

fn policies() -> Vec<Policy> {
    Policy::NAMES.iter().filter_map(|name| Policy::by_name(name)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// A pick ends, and names a server that can take the request; it names none only if there is none.
    #[test]
    fn a_pick_ends_at_a_usable_server_or_none(
        servers in prop::collection::vec((0u32..5, any::<bool>(), any::<bool>(), any::<bool>(), 0u32..3), 0..24),
        seed: u64,
        address: u32,
    ) {
        let weights: Vec<u32> = servers.iter().map(|s| s.0).collect();
        let view = Servers {
            tried: servers.iter().map(|s| s.1).collect(),
            takes_new: servers.iter().map(|s| s.2).collect(),
            takes_pinned: servers.iter().map(|s| s.3).collect(),
            in_flight: servers.iter().map(|s| s.4).collect(),
            latency: vec![None; servers.len()],
        };
        let usable = |i: usize| weights[i] > 0 && !view.tried[i] && view.takes_new[i];
        for policy in policies() {
            let table = policy.table(&members(&weights), None);
            let mut scratch = Scratch::new(0, seed);
            for n in 0..20 {
                match table.pick(&from(address.wrapping_add(n)), &mut scratch, &view) {
                    Some(pick) => prop_assert!(usable(pick.index) && !pick.pinned, "{}: {pick:?}", policy.name()),
                    None => prop_assert!(!(0..weights.len()).any(usable), "{}", policy.name()),
                }
            }
        }
    }

    /// A pin is followed exactly when its server takes pinned clients and was not tried.
    #[test]
    fn a_pin_is_followed_while_its_server_takes_it(tried: bool, takes_pinned: bool, takes_new: bool, seed: u64) {
        let mut view = Servers::up(3);
        (view.tried[1], view.takes_pinned[1], view.takes_new[1]) = (tried, takes_pinned, takes_new);
        for policy in policies() {
            let table = policy.table(&members(&[1, 1, 1]), None);
            let input = Input { client: client(7), key: None, spread: None, pinned: Some(1) };
            let pick = table.pick(&input, &mut Scratch::new(0, seed), &view);
            if takes_pinned && !tried {
                prop_assert_eq!(pick, Some(Pick { index: 1, pinned: true }));
            } else {
                prop_assert!(pick.is_some_and(|p| !p.pinned && (p.index != 1 || (takes_new && !tried))));
            }
        }
    }

    /// Cores start at different entries as long as there are as many.
    #[test]
    fn cursors_of_cores_start_apart(seed: u64, servers in 2usize..64) {
        let table = Policy::RoundRobin(RoundRobin {}).table(&members(&vec![1; servers]), None);
        let first = |core| table.pick(&from(0), &mut Scratch::new(core, seed), &Servers::up(servers)).map(|p| p.index);
        let mut picks: Vec<_> = (0..servers).map(first).collect();
        picks.sort_unstable();
        prop_assert_eq!(picks, (0..servers).map(Some).collect::<Vec<_>>());
    }

    /// Over whole rounds round robin is exact, whatever the weights and wherever the cursor stands.
    #[test]
    fn round_robin_is_exact_over_a_round(weights in prop::collection::vec(0u32..20, 1..10), seed: u64) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let table = Policy::RoundRobin(RoundRobin {}).table(&members(&weights), None);
        let mut scratch = Scratch::new(3, seed);
        let mut got = vec![0; weights.len()];
        for _ in 0..weights.iter().sum() {
            if let Some(pick) = table.pick(&from(0), &mut scratch, &Servers::up(weights.len())) {
                got[pick.index] += 1;
            }
        }
        prop_assert_eq!(got, weights);
    }
}

/// The share of a server that is out goes to all others alike, not to the next in the order.
#[test]
fn round_robin_spreads_the_share_of_a_server_that_is_out() {
    let table = Policy::RoundRobin(RoundRobin {}).table(&members(&[1; 5]), None);
    let mut view = Servers::up(5);
    view.takes_new[2] = false;
    let mut scratch = Scratch::new(0, 11);
    let mut got = [0u32; 5];
    for _ in 0..50_000 {
        got[table.pick(&from(0), &mut scratch, &view).unwrap().index] += 1;
    }
    assert_eq!(got[2], 0);
    for i in [0, 1, 3, 4] {
        assert!((12_000..13_000).contains(&got[i]), "{got:?}");
    }
}

/// Servers that answer in a random order, `width` requests at a time.
fn shares_under_load(policy: &Policy, weights: &[u32], width: usize, picks: usize) -> Vec<f64> {
    let table = policy.table(&members(weights), None);
    let mut view = Servers::up(weights.len());
    let mut scratch = Scratch::new(0, 0x5EED);
    let mut open = Vec::new();
    let mut got = vec![0u32; weights.len()];
    for n in 0..picks {
        let index = table.pick(&from(n as u32), &mut scratch, &view).unwrap().index;
        got[index] += 1;
        view.in_flight[index] += 1;
        open.push(index);
        if open.len() >= width {
            let ended = open.swap_remove(scratch.below(open.len() as u32) as usize);
            view.in_flight[ended] -= 1;
        }
    }
    got.into_iter().map(|n| f64::from(n) / picks as f64).collect()
}

fn those_that_count_requests() -> [Policy; 2] {
    [Policy::LeastRequests(LeastRequests {}), Policy::RandomTwo(RandomTwo {})]
}

/// On idle servers shares follow the weights; under load they do within the few points that whole
/// requests allow when a server of weight 1 is due less than one of them.
#[test]
fn policies_that_count_requests_honour_weights() {
    for policy in those_that_count_requests() {
        for weights in [&[1u32, 1][..], &[3, 1], &[1, 2, 3, 4], &[1000, 1], &[1000, 1, 1, 1], &[10; 20]] {
            let sum = f64::from(weights.iter().sum::<u32>());
            for (width, bound) in [(1, 0.01), (2, 0.06), (8, 0.03), (100, 0.01)] {
                for (weight, share) in weights.iter().zip(shares_under_load(&policy, weights, width, 40_000)) {
                    let due = f64::from(*weight) / sum;
                    let what = policy.name();
                    assert!((share - due).abs() < bound, "{what}, {weights:?}, {width}: {share} instead of {due}");
                }
            }
        }
    }
}

#[test]
fn the_less_busy_of_two_is_preferred() {
    for policy in those_that_count_requests() {
        let table = policy.table(&members(&[1, 1]), None);
        let mut view = Servers::up(2);
        view.in_flight = vec![2, 1];
        let mut scratch = Scratch::new(0, 1);
        assert!((0..1000).all(|_| table.pick(&from(0), &mut scratch, &view).unwrap().index == 1));
    }
}

/// The busiest of many is picked by nobody: two different servers are compared.
#[test]
fn the_busiest_is_picked_by_nobody() {
    for policy in those_that_count_requests() {
        for weights in [[1; 8].as_slice(), &[1000, 1, 1]] {
            let table = policy.table(&members(weights), None);
            let mut view = Servers::up(weights.len());
            view.in_flight[0] = 1_000_000;
            let mut scratch = Scratch::new(0, 2);
            assert!((0..5000).all(|_| table.pick(&from(0), &mut scratch, &view).unwrap().index != 0), "{weights:?}");
        }
    }
}

/// Where two are drawn, one idle server of many may be missed; where all are looked at, never.
#[test]
fn least_requests_finds_the_one_that_is_idle() {
    let table = Policy::LeastRequests(LeastRequests {}).table(&members(&[1; 50]), None);
    let mut view = Servers::up(50);
    view.in_flight = (0..50).map(|i| u32::from(i != 37)).collect();
    let mut scratch = Scratch::new(0, 1);
    assert!((0..100).all(|_| table.pick(&from(0), &mut scratch, &view).unwrap().index == 37));
}

#[test]
fn first_fills_one_server_after_the_other() {
    let table = Policy::First(First {}).table(&members(&[1, 0, 1, 1]), None);
    let mut view = Servers::up(4);
    let mut scratch = Scratch::new(0, 1);
    let mut pick = |view: &Servers| table.pick(&from(0), &mut scratch, view).map(|pick| pick.index);
    assert_eq!(pick(&view), Some(0));
    view.takes_new[0] = false;
    assert_eq!(pick(&view), Some(2));
    view.takes_new[2] = false;
    view.tried[3] = true;
    assert_eq!(pick(&view), None);
}

#[test]
fn shuffle_never_meets_the_server_of_the_last_request() {
    let policy = Policy::by_name("shuffle").unwrap();
    let table = policy.table(&members(&[1, 0, 3, 2]), None);
    let mut view = Servers::up(4);
    // Each core has a scratch of its own, and all of them remember the same clients.
    let mut cores = [Scratch::new(0, 1), Scratch::new(1, 1)];
    let mut counts = [0; 4];
    let mut last = [None; 50];
    for n in 0..5_000 {
        let client = n * 7 % 50;
        let pick = table.pick(&from(client as u32), &mut cores[n % 2], &view).unwrap();
        assert_ne!(last[client].replace(pick.index), Some(pick.index), "client {client}");
        assert!(!pick.pinned);
        counts[pick.index] += 1;
    }
    // A server of half the weight is at half of all turns at the most: who leaves it, leaves it for another.
    assert_eq!(counts[1], 0, "{counts:?}");
    assert!(counts[0] < counts[3] && counts[3] < counts[2], "{counts:?}");
    // A table that takes the place of this one knows them still; servers have other positions now.
    let server = |table: &Table, n: u32, scratch: &mut Scratch, view: &Servers| {
        table.pick(&from(n), scratch, view).map(|pick| pick.index)
    };
    let next = policy.table(&members(&[1, 0, 3, 2]), Some(&table));
    for n in 0..50 {
        assert_ne!(server(&next, n, &mut cores[0], &view), last[n as usize]);
    }
    // The only one that is left is met again; where none is, nobody.
    view.takes_new = vec![false, true, true, false];
    assert_eq!([0; 2].map(|_| server(&next, 1, &mut cores[0], &view)), [Some(2); 2]);
    view.tried[2] = true;
    assert_eq!(server(&next, 1, &mut cores[0], &view), None);
    // By key, where there is one.
    view = Servers::up(4);
    let by_key = |key: Option<u64>, scratch: &mut Scratch| {
        next.pick(&Input { client: client(1), key, spread: None, pinned: None }, scratch, &view).unwrap().index
    };
    let other = by_key(Some(7), &mut cores[0]);
    let mine = by_key(None, &mut cores[0]);
    assert_ne!(by_key(Some(7), &mut cores[0]), other);
    assert_ne!(by_key(None, &mut cores[0]), mine);
    // Where two share a place, the one that comes is not taken for the other.
    let pair = |n: u64, scratch: &mut Scratch| (by_key(Some(n), scratch), by_key(Some(n | 1 << 32), scratch));
    let met = (100..200).filter(|n| matches!(pair(*n, &mut cores[0]), (a, b) if a == b)).count();
    assert!(met > 10, "{met} of 100");
}

#[test]
fn the_same_key_goes_to_the_same_server_and_none_goes_by_its_client() {
    let policy = Policy::by_name("hash").unwrap();
    let table = policy.table(&members(&[1; 10]), None);
    let by_address = Policy::by_name("ip_hash").unwrap().table(&members(&[1; 10]), None);
    let view = Servers::up(10);
    let mut scratch = Scratch::new(0, 1);
    let mut pick = |table: &Table, key: Option<u64>, n: u32| {
        table.pick(&Input { client: client(n), key, spread: None, pinned: None }, &mut scratch, &view).unwrap().index
    };
    let mut used = std::collections::BTreeSet::new();
    for room in 0..200u32 {
        let key = Some(hash::hash(&room.to_be_bytes()));
        let home = pick(&table, key, 0);
        used.insert(home);
        assert!((1..20).all(|n| pick(&table, key, n) == home));
        assert_eq!(pick(&table, None, room), pick(&by_address, None, room));
    }
    assert_eq!(used.len(), 10);
}

/// Cookies of one version are read by the next: these numbers may never change.
#[test]
fn keys_of_names_never_change() {
    assert_eq!(key_of(""), 0x2D06_8005_38D3_94C2);
    assert_eq!(key_of("a"), 0xE6C6_32B6_1E96_4E1F);
    assert_eq!(key_of("127.0.0.1:9001"), 0x1E01_CA79_1738_A079);
}

#[test]
fn a_policy_is_read_by_name_or_with_options() {
    #[derive(Debug, serde::Deserialize)]
    struct File {
        policy: Policy,
    }
    let read = |text: &str| toml::from_str::<File>(text).map(|f| f.policy).map_err(|e| e.to_string());
    assert_eq!(read("policy = 'ip_hash'"), Ok(Policy::IpHash(IpHash::default())));
    assert_eq!(
        read("policy = { ip_hash = { ipv4_prefix = 24 } }"),
        Ok(Policy::IpHash(IpHash { ipv4_prefix: 24, ..IpHash::default() }))
    );
    for (text, says) in [
        ("policy = { ip_hash = { ipv4_prefix = 33 } }", "a prefix of 33 bits: write 1 to 32"),
        ("policy = { ip_hash = { ipv6_prefix = 0 } }", "a prefix of 0 bits: write 1 to 128"),
        ("policy = { round_robin = { weight = 1 } }", "unknown field `weight`"),
        ("policy = { ip_hash = { max_load = 0.9 } }", "a bound of 0.9 times the share: write 1 to 100"),
        ("policy = { peak_ewma = { decay = '10ms' } }", "a decay of 10ms: write \"100ms\" to \"10m\""),
        ("policy = 'random'", "unknown variant `random`"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}
