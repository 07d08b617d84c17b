//! Who comes, for as long as somebody wants to know: a sample of the clients of each upstream.
//!
//! It is in the Snapshot only while a sample is taken, so at other times a request pays a look at an
//! `Option`. Of all clients those are kept whose hash is among the smallest, so each has the same chance
//! however often it comes, memory is bounded, and parts from several cores can be put together; and since
//! who is kept at the end was kept from its first request on, its requests are counted exactly.
//!
//! A core never waits: while its part is being read, what comes is not counted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Clients of an upstream that are kept.
const KEPT: usize = 4_096;

/// What the policies that keep clients apart know of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampled {
    pub client: IpAddr,
    /// The hash of what the upstream's policy goes by, where it does and the request has it.
    pub key: Option<u64>,
    /// Requests while the sample was taken.
    pub requests: u64,
}

/// A sample that is being taken.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    /// One per core.
    parts: Box<[Part]>,
}

/// By slot of the upstream.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(Mutex<HashMap<usize, Sample>>);

/// Some of the clients of an upstream.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// By hash; the smallest are kept.
    kept: BTreeMap<u64, Sampled>,
    requests: u64,
    /// Whether there were more than could be kept.
    is_part: bool,
}

impl Sampler {
    /// Nobody yet. `seed` decides who is kept where there are too many.
    #[must_use]
    pub fn new(cores: usize, seed: u64) -> Self {
        Self { seed, parts: (0..cores).map(|_| Part::default()).collect() }
    }

    /// Counts one request.
    #[cold]
    pub fn note(&self, core: usize, slot: usize, client: IpAddr, key: Option<u64>) {
        let hash = match (key, client) {
            (Some(key), _) => xxh3_64_with_seed(&key.to_le_bytes(), self.seed),
            (None, IpAddr::V4(address)) => xxh3_64_with_seed(&address.octets(), self.seed),
            (None, IpAddr::V6(address)) => xxh3_64_with_seed(&address.octets(), self.seed),
        };
        if let Some(Ok(mut part)) = self.parts.get(core).map(|part| part.0.try_lock()) {
            part.entry(slot).or_default().add(hash, Sampled { client, key, requests: 1 });
        }
    }

    /// What was seen so far of the upstream in `slot`, on all cores.
    #[must_use]
    pub fn sample(&self, slot: usize) -> Sample {
        let mut all = Sample::default();
        for part in &self.parts {
            let part = part.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Some(sample) = part.get(&slot) else { continue };
            all.requests += sample.requests;
            all.is_part |= sample.is_part;
            for (hash, sampled) in &sample.kept {
                all.keep(*hash, *sampled);
            }
        }
        all
    }
}

impl Sample {
    fn add(&mut self, hash: u64, sampled: Sampled) {
        self.requests += sampled.requests;
        self.keep(hash, sampled);
    }

    fn keep(&mut self, hash: u64, sampled: Sampled) {
        if let Some(known) = self.kept.get_mut(&hash) {
            known.requests += sampled.requests;
            return;
        }
        if self.kept.len() == KEPT && self.kept.last_key_value().is_some_and(|(largest, _)| *largest < hash) {
            self.is_part = true;
            return;
        }
        self.kept.insert(hash, sampled);
        if self.kept.len() > KEPT {
            self.is_part = true;
            self.kept.pop_last();
        }
    }

    /// The clients that were kept.
    pub fn clients(&self) -> impl Iterator<Item = &Sampled> {
        self.kept.values()
    }

    /// How many there were: exact, or as many as the share of hashes in use says.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        match self.kept.last_key_value() {
            Some((largest, _)) if self.is_part => {
                let share = *largest as f64 / u64::MAX as f64;
                ((self.kept.len() - 1) as f64 / share.max(f64::MIN_POSITIVE)) as u64
            }
            _ => self.kept.len() as u64,
        }
    }

    /// Requests of all of them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether there were more than could be kept.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.is_part
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn few_clients_are_counted_exactly_over_all_cores() {
        let sampler = Sampler::new(2, 7);
        for i in 0..300 {
            sampler.note(i as usize % 2, 3, client(i % 100), None);
        }
        sampler.note(0, 4, client(1), Some(9));
        let sample = sampler.sample(3);
        assert_eq!((sample.distinct(), sample.requests(), sample.is_part()), (100, 300, false));
        assert!(sample.clients().all(|sampled| sampled.requests == 3));
        assert_eq!(sampler.sample(5).distinct(), 0);
        let keyed: Vec<Sampled> = sampler.sample(4).clients().copied().collect();
        assert_eq!(keyed, [Sampled { client: client(1), key: Some(9), requests: 1 }]);
    }

    #[test]
    fn of_many_each_has_the_same_chance_however_often_it_comes() {
        let sampler = Sampler::new(1, 42);
        // A tenth of 50,000 clients comes ten times as often.
        for round in 0..10 {
            for i in 0..50_000 {
                if round == 0 || i % 10 == 0 {
                    sampler.note(0, 0, client(i), None);
                }
            }
        }
        let sample = sampler.sample(0);
        assert_eq!((sample.clients().count(), sample.is_part(), sample.requests()), (KEPT, true, 95_000));
        let estimate = sample.distinct() as f64 / 50_000.0;
        assert!((0.9..1.1).contains(&estimate), "{estimate}");
        let often = sample.clients().filter(|sampled| sampled.requests == 10).count();
        assert!((330..490).contains(&often), "a tenth of {KEPT}: {often}");
        assert!(sample.clients().all(|sampled| matches!(sampled.requests, 1 | 10)), "counted from the first on");
    }
}
