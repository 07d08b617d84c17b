//! Which certificate a client gets: by the name it asks for, then by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

/// Certificates for the same name, cheapest to sign with first.
type Alternatives = Vec<(Rank, Arc<CertifiedKey>)>;

/// Signing with RSA costs about ten times as much, so it is for clients that can do nothing else.
type Rank = bool;

/// The certificates of a listener, by name.
#[derive(Debug, Default)]
pub(super) struct Choice {
    exact: HashMap<String, Alternatives>,
    /// By what follows the star, without the dot.
    wildcard: HashMap<String, Alternatives>,
    default: Alternatives,
}

impl Choice {
    pub(super) fn new(certificates: impl Iterator<Item = Certificate>) -> Self {
        let mut choice = Self::default();
        let mut first: Option<Vec<String>> = None;
        for certificate in certificates {
            let entry = (certificate.algorithm == "rsa", Arc::clone(&certificate.certified));
            // Whoever gets the first certificate may also get its twin of another kind.
            if first.get_or_insert_with(|| certificate.names.clone()) == &certificate.names {
                add(&mut choice.default, &entry);
            }
            for name in certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut choice.wildcard, parent.to_owned()),
                    None => (&mut choice.exact, name),
                };
                add(names.entry(name).or_default(), &entry);
            }
        }
        choice
    }

    /// RFC 6125 §6.4.3: a star stands for one label.
    fn alternatives(&self, name: Option<&str>) -> &Alternatives {
        let Some(name) = name else { return &self.default };
        if let Some(found) = self.exact.get(name) {
            return found;
        }
        name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)).unwrap_or(&self.default)
    }
}

fn add(alternatives: &mut Alternatives, entry: &(Rank, Arc<CertifiedKey>)) {
    alternatives.push(entry.clone());
    alternatives.sort_by_key(|(rank, _)| *rank);
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The library gives the name in lower case.
        let alternatives = self.alternatives(hello.server_name());
        let usable = alternatives.iter().find(|(_, key)| key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(alternatives.first()).map(|(_, key)| Arc::clone(key))
    }
}
