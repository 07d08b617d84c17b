//! What policies in an upstream's shadow cost a request, by who comes: the hash of the client, a look for its place,
//! three picks, and what is counted.
//!
//! `cargo bench --bench shadow`. `nobody` is what a request pays where nothing is in the shadow. With a hundred
//! thousand clients the places of most are not in the cache, and most are not followed.

#![allow(clippy::expect_used, reason = "a bench that cannot go on ends so")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use evenkeel::balance::{HashBy, Scratch};
use evenkeel::config::plan::UpstreamPlan;
use evenkeel::upstream::shadow::{Asked, Kept};
use evenkeel::upstream::{Admin, Change, Operational, Server, State, Upstream};

const CORES: usize = 2;
const AGENT: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0";
/// Requests of a sample.
const REQUESTS: u32 = 10_000;

fn main() {
    divan::main();
}

fn plan(shadow: &str) -> UpstreamPlan {
    let text = format!("[[listener]]\nbind = ':80'\n[upstream.app]\nservers = ['127.0.0.1:9001']\n{shadow}");
    let mut loaded = evenkeel::config::parse(&text, "bench.toml").expect("it is right");
    loaded.plan.upstreams.remove(0)
}

fn upstream(shadow: &str, servers: u32) -> Upstream {
    let plan = plan(shadow);
    let server = |uid: u32| {
        let address = plan.servers[0].address.clone();
        let server = Server::new(uid, "app".into(), format!("s{uid}").into(), address, 1, CORES);
        server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
        Arc::new(server)
    };
    let servers = (1..=servers).map(server).collect();
    let kept = Kept::new(&plan, CORES, 7, None);
    Upstream::with(Change::default(), 0, Arc::new(plan), servers, None, kept.as_ref(), None)
}

/// A sample of requests of so many clients, in no order.
fn requests(bencher: Bencher<'_, '_>, shadow: &str, clients: u32) {
    let upstream = upstream(shadow, 10);
    let mut scratch: Vec<Scratch> = (0..4).map(|n| Scratch::new(0, n)).collect();
    let mut next = 1_u32;
    bencher.counter(ItemsCount::new(REQUESTS)).bench_local(|| {
        for _ in 0..REQUESTS {
            next = next.wrapping_mul(0x9E37_79B1).wrapping_add(0x85EB_CA6B);
            let client = IpAddr::V4(Ipv4Addr::from_bits(next % clients));
            if let Some(shadow) = black_box(&upstream.shadow) {
                let IpAddr::V4(address) = client else { continue };
                let of = Some(shadow.hash(&address.octets(), black_box(AGENT)));
                let asked = Asked { client, of, key: |_: &HashBy| None, now: 100 };
                let cast = shadow.ask(&upstream, 0, &asked, &mut scratch);
                shadow.sent(&cast, 0, 3);
                shadow.ended(&cast, 0);
            }
            black_box(client);
        }
    });
}

#[divan::bench]
fn nobody(bencher: Bencher<'_, '_>) {
    requests(bencher, "", 1_000);
}

#[divan::bench(args = [1_000, 100_000])]
fn round_robin_ip_hash_sticky_cookie(bencher: Bencher<'_, '_>, clients: u32) {
    requests(bencher, "shadow = ['round_robin', 'ip_hash', 'sticky_cookie']", clients);
}

#[divan::bench(args = [1_000, 100_000])]
fn least_requests_random_two_ip_hash_with_max_load(bencher: Bencher<'_, '_>, clients: u32) {
    requests(bencher, "shadow = ['least_requests', 'random_two', { ip_hash = { max_load = 1.25 } }]", clients);
}
