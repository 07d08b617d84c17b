//! How many new clients each server gets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use std::collections::BTreeMap;

use crate::harness::Proxy;

/// How many of `n` new clients each server answered with success.
#[track_caller]
pub(crate) fn who(proxy: &Proxy, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let answer = proxy.get("/echo");
        assert_eq!(answer.status, 200, "{}", answer.text());
        *counts.entry(answer.server().to_owned()).or_default() += 1;
    }
    counts
}

pub(crate) fn shares(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
    list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}
