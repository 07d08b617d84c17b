//! What strangers send, as functions from bytes that assert what must hold whatever they are.
//!
//! `fuzz/` makes inputs for them, and `tests/fuzz_corpus.rs` replays those it has kept. No interface for
//! anybody else, and nothing that the proxy uses.

use std::sync::OnceLock;

use crate::balance::sticky_cookie::{Keys, Pin, StickyCookie, find, strip};
use crate::config;
pub use crate::proxy::fuzzing::{forwarded, http2, proxy_protocol, request};

/// What takes an input and panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target with its name, which is that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("request", request),
    ("http2", http2),
    ("cookie", cookie),
    ("proxy_protocol", proxy_protocol),
    ("forwarded", forwarded),
    ("configuration", configuration),
];

/// When the sealed cookie was made, Unix seconds.
const NOW: u64 = 1_800_000_000;
const PIN: Pin = Pin { server: 7, session: 8, issued: NOW, seen: NOW };
const UPSTREAM: &str = "app";

/// Keys, and the one cookie that they have sealed.
fn sealed() -> &'static (Keys, StickyCookie, String) {
    static SEALED: OnceLock<(Keys, StickyCookie, String)> = OnceLock::new();
    SEALED.get_or_init(|| {
        let keys = Keys::new(&["a secret that everybody knows".to_owned()]);
        let keys = keys.unwrap_or_else(|error| unreachable!("{error}"));
        let cookie = StickyCookie::default();
        let value = keys.seal(&cookie, UPSTREAM, &PIN, [9; 12]);
        (keys, cookie, value)
    })
}

/// `Cookie` headers, one on each line: nothing but what was sealed is honoured, and what is honoured is
/// hidden from servers.
pub fn cookie(data: &[u8]) {
    let (keys, cookie, value) = sealed();
    let lines = || data.split(|b| *b == b'\n');
    if let Some(found) = find(lines(), &cookie.name) {
        let opened = keys.open(cookie, UPSTREAM, found, NOW);
        assert_eq!(opened.is_ok(), found == value.as_bytes(), "{opened:?}");
        assert!(opened.is_err() || opened == Ok(PIN));
        assert!(keys.open(cookie, "another", found, NOW).is_err(), "good for one place only");
    }
    for line in lines() {
        let has = find([line], &cookie.name).is_some();
        let stripped = strip(line, &cookie.name);
        assert_eq!(stripped.is_some(), has);
        if let Some(rest) = stripped {
            assert!(find([&rest[..]], &cookie.name).is_none(), "{:?}", String::from_utf8_lossy(&rest));
        }
    }
}

/// The text of a configuration: judged, and what is wrong with it shown, without a fault.
pub fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match config::parse_alone(text) {
        Ok(loaded) => {
            assert!(config::diff(&loaded.plan, &loaded.plan).is_empty(), "a Plan is no other than itself");
            let _ = loaded.warnings.render(true);
        }
        Err(report) => {
            assert!(report.entries().iter().any(|entry| entry.severity == config::Severity::Error));
            let _ = (report.render(true), report.render(false), report.lines());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing changes a sealed value from.
    #[test]
    fn the_corpus_has_a_cookie_that_opens() {
        let (keys, cookie, value) = sealed();
        let kept = include_bytes!("../fuzz/corpus/cookie/sealed").split(|b| *b == b'\n');
        let found = find(kept, &cookie.name).expect("one of that name");
        assert_eq!(keys.open(cookie, UPSTREAM, found, NOW), Ok(PIN), "it would be {value}");
    }
}
