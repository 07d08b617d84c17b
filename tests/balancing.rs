//! Who gets the request, seen from outside.

mod harness;

use std::collections::BTreeMap;

use harness::{Proxy, origins};

#[test]
fn round_robin_takes_turns() {
    let origins = origins(3);
    let proxy = Proxy::start(&format!("cores = 1\n{}", harness::app("\"round_robin\"", &origins)));
    let mut client = proxy.client();
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(client.get("/").server().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
}
