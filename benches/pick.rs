//! What a pick costs, by policy and number of servers, and what a sticky client costs beside it.
//!
//! `cargo bench --bench pick`. Servers lie apart in memory as they do in the proxy, with a state each
//! and a count of requests per core, so that the cost of reaching for one among a thousand is in the
//! figures. A pick at 1,000 servers is to cost at most twice a pick at 10, but for `least_requests`, which
//! looks at all of them.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};

use divan::Bencher;
use evenkeel::balance::sticky_cookie::{self, Keys, Pin};
use evenkeel::balance::{Input, IpHash, MaxLoad, Member, Policy, Scratch, StickyCookie, Table, View, key_of};
use evenkeel::named::Named;
use evenkeel::upstream::Ledger;
use evenkeel::upstream::hot::Counts;

const SERVERS: [usize; 4] = [2, 10, 100, 1000];
const CORES: usize = 2;
const NOW: u64 = 1_800_000_000;

fn main() {
    divan::main();
}

#[derive(Default)]
#[repr(align(128))]
struct Cell {
    in_flight: AtomicU32,
}

/// As large and as far from its neighbours as a server of the proxy.
struct Server {
    _identity: [u64; 16],
    cells: Box<[Cell]>,
    state: AtomicU8,
}

struct Servers(Vec<Arc<Server>>);

impl Servers {
    fn up(n: usize) -> Self {
        let server = || Server {
            _identity: [0; 16],
            cells: (0..CORES).map(|_| Cell::default()).collect(),
            state: AtomicU8::new(1),
        };
        Self((0..n).map(|_| Arc::new(server())).collect())
    }
}

impl View for Servers {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, index: usize) -> bool {
        self.0[index].state.load(SeqCst) == 1
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.takes_new(index)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.0[index].cells.iter().map(|c| c.in_flight.load(SeqCst)).sum()
    }

    fn latency(&self, index: usize) -> Option<f32> {
        Some(1000.0 + index as f32)
    }
}

fn members(n: usize, weight: impl Fn(usize) -> u32) -> Vec<Member> {
    (0..n).map(|i| Member { key: key_of(&format!("server-{i}")), weight: weight(i), takes_new: true }).collect()
}

fn policy(name: &str) -> Policy {
    Policy::by_name(name).unwrap_or(Policy::StickyCookie(StickyCookie::default()))
}

fn bench_pick(bencher: Bencher<'_, '_>, table: &Table, n: usize, pinned: impl Fn(u64) -> Option<usize>) {
    let servers = Servers::up(n);
    let mut scratch = Scratch::new(0, 1);
    let mut clients = Scratch::new(1, 1);
    bencher.bench_local(|| {
        let random = clients.random();
        let client = IpAddr::V4(Ipv4Addr::from_bits(random as u32));
        let input = Input { client, key: Some(random), spread: None, pinned: pinned(random >> 32) };
        table.pick(black_box(&input), &mut scratch, &servers)
    });
}

#[divan::bench(args = SERVERS)]
fn round_robin(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("round_robin").table(&members(n, |_| 1), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn round_robin_weighted(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("round_robin").table(&members(n, |i| 1 + i as u32 % 7), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn least_requests(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("least_requests").table(&members(n, |_| 1), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn random_two_weighted(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("random_two").table(&members(n, |i| 1 + i as u32 % 7), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn random_two(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("random_two").table(&members(n, |_| 1), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn peak_ewma(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("peak_ewma").table(&members(n, |_| 1), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn hash(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("hash").table(&members(n, |_| 1), None), n, |_| None);
}

#[divan::bench(args = SERVERS)]
fn ip_hash(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("ip_hash").table(&members(n, |_| 1), None), n, |_| None);
}

/// What `hot_keys` adds to a request: an office among the homes of a city, each at an address of its own.
#[divan::bench]
fn hot_keys_note(bencher: Bencher<'_, '_>) {
    let counts = Counts::new(1);
    let table = policy("ip_hash").table(&members(10, |_| 1), None);
    let mut clients = Scratch::new(1, 1);
    bencher.bench_local(|| {
        let random = clients.random();
        let address = if random & 3 == 0 { 7 } else { random as u32 >> 8 };
        if let Some(key) = table.hot_key(None, IpAddr::V4(Ipv4Addr::from_bits(black_box(address)))) {
            counts.note(0, key);
        }
    });
}

/// The same where an office is all there is.
#[divan::bench]
fn hot_keys_note_known(bencher: Bencher<'_, '_>) {
    let counts = Counts::new(1);
    let table = policy("ip_hash").table(&members(10, |_| 1), None);
    bencher.bench_local(|| {
        if let Some(key) = table.hot_key(None, IpAddr::V4(Ipv4Addr::from_bits(black_box(7)))) {
            counts.note(0, key);
        }
    });
}

/// With a bound on every server's load.
#[divan::bench(args = SERVERS)]
fn ip_hash_bounded(bencher: Bencher<'_, '_>, n: usize) {
    let policy = Policy::IpHash(IpHash { max_load: MaxLoad::from_thousandths(1250), ..IpHash::default() });
    bench_pick(bencher, &policy.table(&members(n, |_| 1), None), n, |_| None);
}

/// A client with a valid pin, its cookie aside.
#[divan::bench(args = SERVERS)]
fn sticky_cookie_pinned(bencher: Bencher<'_, '_>, n: usize) {
    let table = policy("sticky_cookie").table(&members(n, |_| 1), None);
    bench_pick(bencher, &table, n, |random| Some(random as usize % n));
}

/// A client without a cookie.
#[divan::bench(args = SERVERS)]
fn sticky_cookie_new(bencher: Bencher<'_, '_>, n: usize) {
    bench_pick(bencher, &policy("sticky_cookie").table(&members(n, |_| 1), None), n, |_| None);
}

/// What the control plane pays when names or weights change.
#[divan::bench(args = SERVERS, sample_count = 10)]
fn build_ip_hash(bencher: Bencher<'_, '_>, n: usize) {
    let members = members(n, |_| 1);
    bencher.bench_local(|| policy("ip_hash").table(&members, None));
}

#[divan::bench(args = SERVERS, sample_count = 10)]
fn build_ip_hash_weighted(bencher: Bencher<'_, '_>, n: usize) {
    let members = members(n, |i| 1 + i as u32 % 1000);
    bencher.bench_local(|| policy("ip_hash").table(&members, None));
}

#[divan::bench(args = SERVERS, sample_count = 10)]
fn build_round_robin_weighted(bencher: Bencher<'_, '_>, n: usize) {
    let members = members(n, |i| 1 + i as u32 % 1000);
    bencher.bench_local(|| policy("round_robin").table(&members, None));
}

fn sealed(cookie: &StickyCookie) -> Option<(Keys, Pin, String)> {
    let keys = Keys::new(&["a secret of enough bytes".to_owned()]).ok()?;
    let pin = Pin { server: key_of("a"), session: 77, issued: NOW - 60, seen: NOW - 5 };
    let value = keys.seal(cookie, "shop", &pin, [3; 12]);
    Some((keys, pin, value))
}

#[divan::bench]
fn cookie_open(bencher: Bencher<'_, '_>) {
    let cookie = StickyCookie::default();
    if let Some((keys, _, value)) = sealed(&cookie) {
        bencher.bench_local(|| keys.open(&cookie, "shop", black_box(value.as_bytes()), NOW));
    }
}

#[divan::bench]
fn cookie_seal(bencher: Bencher<'_, '_>) {
    let cookie = StickyCookie::default();
    if let Some((keys, pin, _)) = sealed(&cookie) {
        bencher.bench_local(|| keys.seal(&cookie, "shop", black_box(&pin), [3; 12]));
    }
}

#[divan::bench]
fn cookie_find(bencher: Bencher<'_, '_>) {
    let header = header();
    bencher.bench_local(|| sticky_cookie::find([black_box(header.as_bytes())], "evenkeel").map(<[u8]>::len));
}

#[divan::bench]
fn cookie_strip(bencher: Bencher<'_, '_>) {
    let header = header();
    bencher.bench_local(|| sticky_cookie::strip(black_box(header.as_bytes()), "evenkeel"));
}

/// As a browser sends it: two cookies of analytics, a session, ours.
fn header() -> String {
    format!("_ga=GA1.2.1234567890.1234567890; _gid=GA1.2.987654321.1234567890; sid={:032x}; evenkeel={:0>72}", 7, "")
}

/// A session that was noted in this second already.
#[divan::bench(args = [1_000, 100_000])]
fn ledger_touch_again(bencher: Bencher<'_, '_>, sessions: u64) {
    let ledger = Ledger::new(sessions as usize);
    let mut scratch = Scratch::new(0, 1);
    let numbers: Vec<u64> = (0..sessions).map(|_| scratch.random()).collect();
    numbers.iter().for_each(|n| ledger.touch(*n, 1, 1));
    bencher.bench_local(|| ledger.touch(numbers[scratch.below(sessions as u32) as usize], 1, 1));
}

/// A session in a later second.
#[divan::bench(args = [1_000, 100_000])]
fn ledger_touch_later(bencher: Bencher<'_, '_>, sessions: u64) {
    let ledger = Ledger::new(sessions as usize);
    let mut scratch = Scratch::new(0, 1);
    let numbers: Vec<u64> = (0..sessions).map(|_| scratch.random()).collect();
    let mut now = 1;
    bencher.bench_local(|| {
        now += 1;
        ledger.touch(numbers[scratch.below(sessions as u32) as usize], 1, now);
    });
}

#[divan::bench(args = [100_000])]
fn ledger_count(bencher: Bencher<'_, '_>, sessions: u64) {
    let ledger = Ledger::new(sessions as usize);
    let mut scratch = Scratch::new(0, 1);
    (0..sessions).for_each(|n| ledger.touch(scratch.random(), n as u32 % 10, 1));
    bencher.bench_local(|| ledger.count(0));
}
