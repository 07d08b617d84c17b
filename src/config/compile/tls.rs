//! TLS of listeners: what the files hold is judged here, so that `evenkeel check` knows.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::Compiler;
use crate::config::plan::{CertificatePlan, Certificates, ClientAuthPlan, Hsts, RedirectToHttps, TlsPlan};
use crate::config::spec::{
    At, CertificateSpec, ClientAuthModeSpec, ClientAuthSpec, HstsSpec, RedirectToHttpsSpec, SELF_SIGNED, TlsSpec,
    TlsVersionSpec,
};
use crate::tls::{Certificate, Clients, Lists, Secrets};

const LACKS: &str = "add `certificate = { chain = \"/path/fullchain.pem\", key = \"/path/key.pem\" }`";
const MAKE_SECRET: &str = "make one with `openssl rand -hex 32`";
/// RFC 8446 §4.6.1: a ticket is good for a week at most, and ours for up to two periods.
const LONGEST_TICKETS: Duration = Duration::from_secs(7 * 86_400 / 2);
const SHORTEST_TICKETS: Duration = Duration::from_secs(60);
/// How long before its end a certificate is complained about.
const SOON: i64 = 14 * 86_400;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

impl Compiler<'_> {
    pub(super) fn tls(&mut self, entry: &At<TlsSpec>) -> TlsPlan {
        let spec = entry.get_ref();
        let handshake_timeout = self.positive(&spec.handshake_timeout, "handshake_timeout");
        TlsPlan {
            certificates: self.certificates(entry),
            tls13_only: spec.min_version == TlsVersionSpec::Tls13,
            handshake_timeout,
            tickets: self.tickets(spec),
            ticket_secrets: self.ticket_secrets(spec),
            client_auth: spec.client_auth.as_ref().and_then(|auth| self.client_auth(auth)),
        }
    }

    fn certificates(&mut self, entry: &At<TlsSpec>) -> Certificates {
        let given = entry.get_ref().certificate.as_ref();
        let list = given.map_or(&[][..], |list| &list.get_ref().0);
        let is_made = |one: &At<CertificateSpec>| {
            one.get_ref().chain.as_ref().is_some_and(|chain| chain.get_ref().as_os_str() == SELF_SIGNED)
        };
        if let [only] = list
            && is_made(only)
        {
            return Certificates::SelfSigned;
        }
        if list.is_empty() {
            self.lack(Some(given.map_or(entry.span(), At::span)), "this listener has no certificate", LACKS);
        }
        let mut seen = HashMap::new();
        Certificates::Files(list.iter().filter_map(|one| self.certificate(one, &mut seen)).collect())
    }

    fn certificate(
        &mut self,
        entry: &At<CertificateSpec>,
        seen: &mut HashMap<(String, &'static str), Range<usize>>,
    ) -> Option<CertificatePlan> {
        let spec = entry.get_ref();
        let Some(chain) = &spec.chain else {
            self.lack(Some(entry.span()), "this certificate has no `chain`", "name the file that holds it");
            return None;
        };
        let key = spec.key.as_ref().unwrap_or(chain);
        if let Some(certificate) = self.judge(chain, key) {
            self.judge_time(chain, &certificate);
            for name in &certificate.names {
                let place = chain.span();
                if let Some(first) = seen.insert((name.clone(), certificate.algorithm), place.clone()) {
                    let message =
                        format!("two certificates with {} keys are for `{name}`", certificate.algorithm.to_uppercase());
                    self.twice(
                        place,
                        first,
                        message,
                        "keep one of them; one with an ECDSA and one with an RSA key may stand side by side",
                    );
                    break;
                }
            }
        }
        Some(CertificatePlan { chain: chain.get_ref().clone(), key: key.get_ref().clone() })
    }

    /// Reads a certificate and says what is wrong with it.
    fn judge(&mut self, chain: &At<PathBuf>, key: &At<PathBuf>) -> Option<Certificate> {
        let chain_pem = self.file(chain, "chain");
        let key_pem = if key == chain { chain_pem.clone() } else { self.file(key, "key") };
        match Certificate::read(&chain_pem?, &key_pem?) {
            Ok(certificate) => Some(certificate),
            Err(wrong) => {
                let file = if wrong.in_key { key } else { chain };
                let message = format!("{}: {wrong}", file.get_ref().display());
                self.error(file.span(), message, wrong.hint);
                None
            }
        }
    }

    fn judge_time(&mut self, chain: &At<PathBuf>, certificate: &Certificate) {
        let (now, file) = (self.around.now, chain.get_ref().display());
        let message = if now >= certificate.not_after {
            format!("{file}: the certificate has expired {} ago", days(now - certificate.not_after))
        } else if now < certificate.not_before {
            format!("{file}: the certificate is not valid yet")
        } else if certificate.not_after - now < SOON {
            format!("{file}: the certificate expires in {}", days(certificate.not_after - now))
        } else {
            return;
        };
        self.warn(chain.span(), message, "renew it; evenkeel takes the new files by itself");
    }

    fn tickets(&mut self, spec: &TlsSpec) -> Option<Duration> {
        let time = spec.tickets.get_ref().0?;
        if !(SHORTEST_TICKETS..=LONGEST_TICKETS).contains(&time) {
            self.error(
                spec.tickets.span(),
                "`tickets` is out of range",
                "write a time from \"1m\" to \"84h\", or \"off\"",
            );
        }
        Some(time)
    }

    fn ticket_secrets(&mut self, spec: &TlsSpec) -> Secrets {
        if let (Some(secrets), Some(file)) = (&spec.ticket_secrets, &spec.ticket_secret_file) {
            let message = "`ticket_secrets` and `ticket_secret_file` are both set";
            self.twice(file.span(), secrets.span(), message, "keep one of them");
        }
        let (place, secrets): (_, Vec<String>) = if let Some(secrets) = &spec.ticket_secrets {
            (secrets.span(), secrets.get_ref().iter().map(|secret| secret.get_ref().0.clone()).collect())
        } else if let Some(file) = &spec.ticket_secret_file {
            let Some(text) = self.file(file, "ticket_secret_file") else { return Secrets(Vec::new()) };
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            (file.span(), lines.map(str::to_owned).collect())
        } else if let Some(secrets) = &self.around.ticket_secrets {
            (0..0, secrets.split(',').map(|secret| secret.trim().to_owned()).collect())
        } else {
            // Without a state directory a restart costs every client a whole handshake, and no more.
            return Secrets(Vec::new());
        };
        if secrets.is_empty() {
            self.error(place.clone(), "no ticket secret is in here", MAKE_SECRET);
        }
        if secrets.iter().any(|secret| secret.len() < 32) {
            self.error(place, "a ticket secret has fewer than 32 characters", MAKE_SECRET);
        }
        Secrets(secrets)
    }

    fn client_auth(&mut self, entry: &At<ClientAuthSpec>) -> Option<ClientAuthPlan> {
        let spec = entry.get_ref();
        let required = spec.mode == ClientAuthModeSpec::Required;
        let Some(ca) = &spec.ca else {
            let hint = "add `ca = \"/path/ca.pem\"`: the authorities that issue the certificates of clients";
            self.lack(Some(entry.span()), "`client_auth` has no `ca`", hint);
            return None;
        };
        let ca_pem = self.file(ca, "ca");
        let crl_pem = spec.crl.as_ref().map(|crl| self.file(crl, "crl"));
        if let Some(ca_pem) = ca_pem
            && !matches!(crl_pem, Some(None))
        {
            match Clients::new(&ca_pem, crl_pem.flatten().as_deref(), required, self.around.now) {
                Ok(clients) => self.judge_lists(spec, clients.lists),
                Err((in_crl, why)) => self.no_clients(spec, ca, in_crl, &why),
            }
        }
        let crl = spec.crl.as_ref().map(|crl| crl.get_ref().clone());
        Some(ClientAuthPlan { ca: ca.get_ref().clone(), required, crl })
    }

    fn no_clients(&mut self, spec: &ClientAuthSpec, ca: &At<PathBuf>, in_crl: bool, why: &str) {
        let file = spec.crl.as_ref().filter(|_| in_crl).unwrap_or(ca);
        let hint = if in_crl {
            "the file must hold `-----BEGIN X509 CRL-----`"
        } else {
            "the file must hold certificates in PEM form"
        };
        self.error(file.span(), format!("{}: {why}", file.get_ref().display()), hint);
    }

    fn judge_lists(&mut self, spec: &ClientAuthSpec, lists: Option<Lists>) {
        let (Some(crl), Some(lists)) = (&spec.crl, lists) else { return };
        let file = crl.get_ref().display();
        let message = if lists.have_ended(self.around.now) {
            format!("{file}: a revocation list has expired, so clients of its authority are refused")
        } else if lists.are_overdue(self.around.now) {
            format!("{file}: a revocation list expires soon")
        } else {
            return;
        };
        self.warn(crl.span(), message, "put the next one in its place; evenkeel takes it by itself");
    }

    pub(super) fn hsts(&mut self, entry: &At<HstsSpec>, has_tls: bool) -> Hsts {
        let HstsSpec { max_age, include_subdomains, preload } = entry.get_ref();
        if !has_tls {
            self.error(
                entry.span(),
                "`hsts` on a listener without TLS",
                "set it on the listener that has `tls`; browsers ignore it elsewhere",
            );
        }
        let max_age = self.time(max_age, "hsts");
        if *preload && (!include_subdomains || max_age < YEAR) {
            let message = "`preload` without `include_subdomains` or with a `max_age` below 365 days";
            self.error(entry.span(), message, "preload lists take neither");
        }
        Hsts { max_age, include_subdomains: *include_subdomains, preload: *preload }
    }

    pub(super) fn redirect_to_https(
        &mut self,
        entry: &At<RedirectToHttpsSpec>,
        has_tls: bool,
    ) -> Option<RedirectToHttps> {
        let spec = entry.get_ref();
        if !spec.on {
            return None;
        }
        if has_tls {
            self.error(
                entry.span(),
                "`redirect_to_https` on a listener with TLS",
                "set it on the listener for plain HTTP",
            );
        }
        let status = *spec.status.get_ref();
        if !matches!(status, 301 | 302 | 307 | 308) {
            let message = format!("`status` is {status}, which does not redirect");
            self.error(spec.status.span(), message, "write 301, 302, 307 or 308");
        }
        let port = self.within(&spec.port, "port", &(1..=u16::MAX));
        Some(RedirectToHttps { port, status, acme: spec.acme })
    }
}

fn days(seconds: i64) -> String {
    match seconds / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}
