use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::plan::*;
use super::report::Severity;
use super::*;
use crate::balance::{Hash, IpHash, PeakEwma, Policy, Shuffle, StickyCookie};
use crate::health::{Check, GrpcCheck, HttpCheck, TcpCheck};
use crate::named::Named as _;

fn around() -> Surroundings<'static> {
    Surroundings {
        cores: 4,
        descriptors: 16_128,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &files,
    }
}

/// The files that examples name.
fn files(path: &Path) -> std::io::Result<String> {
    static ISSUED: LazyLock<[String; 4]> = LazyLock::new(|| {
        let mut params = rcgen::CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2036, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let site = rcgen::generate_simple_self_signed(vec!["site.example.com".to_owned()]).unwrap();
        let site = site.cert.pem() + &site.signing_key.serialize_pem();
        [issuer.pem(), issuer.key().serialize_pem(), site, list.signed_by(&issuer).unwrap().pem().unwrap()]
    });
    match path.to_str() {
        Some("/etc/evenkeel/tls/fullchain.pem" | "/etc/evenkeel/tls/clients.pem" | "/etc/evenkeel/tls/ca.pem") => {
            Ok(ISSUED[0].clone())
        }
        Some("/etc/evenkeel/tls/key.pem") => Ok(ISSUED[1].clone()),
        Some("/etc/evenkeel/tls/site.pem") => Ok(ISSUED[2].clone()),
        Some("/etc/evenkeel/tls/revoked.pem") => Ok(ISSUED[3].clone()),
        Some("/etc/evenkeel/users") => {
            Ok("ann:$2b$04$lSC4LR6D83TY8ILJAPbtH.vRcbB5ti5hnIAqnNKRB2YohOZVZXYrq\n".to_owned())
        }
        Some("/etc/evenkeel/ticket_secrets") => Ok("0123456789abcdef0123456789abcdef\n".to_owned()),
        Some("/etc/evenkeel/token") => Ok("0123456789abcdef0123456789abcdef\n".to_owned()),
        Some(page) if page.ends_with(".html") || page.ends_with("error.json") => Ok("a page".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

pub(super) fn good(text: &str) -> Loaded {
    parse_in(text, "test.toml", &around()).unwrap_or_else(|report| panic!("{report}"))
}

const FULL: &str = include_str!("../../config/full.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");
const DEMO: &str = include_str!("../../config/demo.toml");

#[test]
fn the_full_file_holds_the_defaults() {
    let smallest = good("[[listener]]\nbind = \"0.0.0.0:8080\"\n[upstream.app]\nservers = [\"127.0.0.1:9001\"]\n");
    let full = good(FULL);
    assert!(full.warnings.is_empty(), "{}", full.warnings);
    assert_eq!(full.plan, smallest.plan);
}

/// Takes the comment signs off the examples, so that they are judged like the rest.
fn uncommented() -> String {
    let line =
        |line: &'static str| line.strip_prefix('#').filter(|l| !l.is_empty() && !l.starts_with(' ')).unwrap_or(line);
    FULL.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_examples_of_the_full_file_are_right() {
    let text = uncommented().replace("policy = \"round_robin\"", "policy = \"sticky_cookie\"");
    // The file is an alternative to the value, and a cookie of the application to sessions.
    let excluded = |line: &str| line.contains("_file = ") || line.starts_with("shadow_cookie");
    let whole: String = text.lines().filter(|l| !excluded(l)).flat_map(|l| [l, "\n"]).collect();
    let warnings = good(&whole).warnings;
    assert!(warnings.is_empty(), "{warnings}");

    let files = |path: &Path| match files(path) {
        Ok(text) => Ok(text),
        Err(_) => Ok("0123456789abcdef0123456789abcdef".to_owned()),
    };
    let around = Surroundings {
        cores: 4,
        descriptors: 16_128,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &files,
    };
    let values = ["token = ", "cookie_keys = ", "ticket_secrets = ", "key = "];
    let is_value = |l: &&str| !values.iter().any(|value| l.starts_with(value));
    let whole: String = text.lines().filter(is_value).flat_map(|l| [l, "\n"]).collect();
    assert_eq!(
        parse_in(&whole, "full.toml", &around).unwrap().plan.admin.token.as_deref(),
        Some("0123456789abcdef0123456789abcdef")
    );
}

/// The keys that a section knows, by asking it for one that it cannot know.
fn keys_of<T: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
    let text = "'?' = 1";
    let error = T::deserialize(toml::de::Deserializer::parse(text).unwrap()).unwrap_err();
    let (_, known) = error.message().split_once("expected ").unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_occurs_in_the_full_file() {
    let tree = toml::de::DeTable::parse(Box::leak(uncommented().into_boxed_str())).unwrap().into_inner();
    let sections: [(&[&str], Vec<String>); 17] = [
        (&[], keys_of::<spec::Spec>()),
        (&["admin"], keys_of::<spec::AdminSpec>()),
        (&["log"], keys_of::<spec::LogSpec>()),
        (&["access_log"], keys_of::<spec::AccessLogSpec>()),
        (&["shutdown"], keys_of::<spec::ShutdownSpec>()),
        (&["upgrade"], keys_of::<spec::UpgradeSpec>()),
        (&["dns"], keys_of::<spec::DnsSpec>()),
        (&["listener"], keys_of::<spec::ListenerSpec>()),
        (&["listener", "tls"], keys_of::<spec::TlsSpec>()),
        (&["route"], keys_of::<spec::RouteSpec>()),
        (&["upstream", "app"], keys_of::<spec::UpstreamSpec>()),
        (&["upstream", "app", "outliers"], keys_of::<spec::OutliersSpec>()),
        (&["upstream", "app", "server"], keys_of::<spec::ServerSpec>()),
        (&["upstream", "app", "timeouts"], keys_of::<spec::TimeoutsSpec>()),
        (&["upstream", "app", "pool"], keys_of::<spec::PoolSpec>()),
        (&["upstream", "app", "retry"], keys_of::<spec::RetrySpec>()),
        (&["upstream", "app", "drain"], keys_of::<spec::DrainSpec>()),
    ];
    for (section, known) in sections {
        let mut table = &tree;
        let mut shown: BTreeSet<&str> = table.keys().map(|k| k.get_ref().as_ref()).collect();
        for key in section {
            let value = table.get(*key).unwrap_or_else(|| panic!("no [{}]", section.join("."))).get_ref();
            table = value.as_table().or_else(|| value.get(0)?.get_ref().as_table()).unwrap();
            // Several entries of a list may show what excludes each other.
            let entries = value.as_array().into_iter().flatten().filter_map(|entry| entry.get_ref().as_table());
            let keys = entries.chain([table]).flat_map(|table| table.keys());
            shown = keys.map(|k| k.get_ref().as_ref()).collect();
        }
        let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        assert_eq!(shown, known, "[{}]", section.join("."));
    }
    for (section, options) in option_tables() {
        let shown = toml::de::DeTable::parse(&options).unwrap().into_inner();
        let shown: BTreeSet<String> = shown.keys().map(|k| k.get_ref().to_string()).collect();
        let known = match section {
            "policy.ip_hash" => keys_of::<IpHash>(),
            "policy.hash" => keys_of::<Hash>(),
            "policy.shuffle" => keys_of::<Shuffle>(),
            "policy.peak_ewma" => keys_of::<PeakEwma>(),
            "policy.sticky_cookie" => keys_of::<StickyCookie>(),
            "check.http" => keys_of::<HttpCheck>(),
            "check.tcp" => keys_of::<TcpCheck>(),
            "protocol.h2c" | "protocol.h2" => keys_of::<Http2>(),
            "check.grpc" => keys_of::<GrpcCheck>(),
            other => panic!("[upstream.app.{other}] has no struct here"),
        };
        assert_eq!(shown, known.into_iter().collect(), "[upstream.app.{section}]");
    }
}

/// The options of policies and checks, which stand in the full file as comments: each table's name
/// below the upstream, and its lines.
fn option_tables() -> Vec<(&'static str, String)> {
    let mut tables: Vec<(&str, String)> = Vec::new();
    for line in FULL.lines().filter_map(|l| l.strip_prefix("#   ")) {
        match line.strip_prefix("[upstream.app.").and_then(|l| l.strip_suffix(']')) {
            Some(section) => tables.push((section, String::new())),
            None => tables.last_mut().unwrap().1.extend([line, "\n"]),
        }
    }
    tables
}

#[test]
fn every_choice_that_has_options_has_a_table_in_the_full_file() {
    let shown: BTreeSet<&str> = option_tables().into_iter().map(|(section, _)| section).collect();
    for (key, names) in [("policy", Policy::NAMES), ("check", Check::NAMES), ("protocol", Protocol::NAMES)] {
        for name in names {
            // An option that nobody knows is refused with the list of those that are known, if any.
            let refused = parse(&format!("{MINIMAL}{key}.{name}.'?' = 1"), "test.toml").unwrap_err();
            let unknown = refused.problems().iter().find(|problem| problem.severity == Severity::Error).unwrap();
            let has_options = unknown.hint.is_some();
            let section = format!("{key}.{name}");
            assert_eq!(shown.contains(section.as_str()), has_options, "[upstream.app.{section}]: {refused}");
        }
    }
}

#[test]
fn the_options_in_the_full_file_are_the_defaults() {
    for (section, options) in option_tables() {
        // Those without a default are examples.
        let without = ["host", "port", "expect_body", "domain", "learn", "route"];
        let has_default = |key: &str| !without.contains(&key) && (section, key) != ("policy.shuffle", "by");
        let is_default = |l: &&str| l.split_once(" = ").is_some_and(|(key, _)| has_default(key));
        let defaults: Vec<&str> = options.lines().filter(is_default).collect();
        let (key, name) = section.split_once('.').unwrap();
        // HTTP/2 over TLS is refused without TLS.
        let minimal =
            if section == "protocol.h2" { format!("{MINIMAL}tls.verify = false\n") } else { MINIMAL.to_owned() };
        let written = good(&format!("{minimal}\n[upstream.app.{section}]\n{}\n", defaults.join("\n")));
        let by_name = good(&format!("{minimal}{key} = '{name}'"));
        assert_eq!(written.plan, by_name.plan, "[upstream.app.{section}]");
        // The examples are right, too, each by itself: some exclude each other.
        for example in options.lines().filter(|line| !defaults.contains(line)) {
            good(&format!("{minimal}\n[upstream.app.{section}]\n{}\n{example}\n", defaults.join("\n")));
        }
    }
}

#[test]
fn the_split_in_the_full_file_says_the_defaults() {
    let text = uncommented();
    let said: String = text.lines().filter(|line| line.starts_with("split")).flat_map(|line| [line, "\n"]).collect();
    let plan = |keys: &str| {
        good(&format!("[[listener]]\nbind = ':1'\n[[route]]\n{keys}\n[upstream.app]\nservers = ['a:1']\n")).plan
    };
    assert_eq!(plan(&said), plan("split = [{ upstream = 'app' }]"));
}

#[test]
fn the_configurations_in_the_readme_are_right() {
    let blocks = include_str!("../../README.md").split("```toml\n").skip(1);
    let mut whole = 0;
    for block in blocks.map(|b| b.split_once("```").unwrap().0) {
        if block.contains("[[listener]]") {
            // Examples about listeners leave out what they serve.
            let rest =
                if block.contains("[upstream.") { "" } else { "[upstream.app]\nservers = [\"127.0.0.1:9001\"]\n" };
            let block = &format!("{block}{rest}");
            let warnings = good(block).warnings;
            assert!(warnings.is_empty(), "{warnings}");
            whole += 1;
        } else if block.starts_with("[[route]]") {
            // The upstreams that it leads to are left to the reader.
            let mut file = format!("[[listener]]\nbind = ':8080'\n{block}");
            for name in ["app", "beta", "registry"].iter().filter(|name| block.contains(&format!("\"{name}\""))) {
                file += &format!("[upstream.{name}]\nservers = ['127.0.0.1:9001']\n");
            }
            let warnings = good(&file).warnings;
            assert!(warnings.is_empty(), "{warnings}");
        } else if block.starts_with('[') {
            // Tables to add to a whole file.
            good(&format!("{MINIMAL}\n{block}"));
        } else {
            // Keys of an upstream.
            good(&format!("{MINIMAL}{block}"));
        }
    }
    assert!(whole > 1);
}

#[test]
fn the_minimal_file_serves_two_servers() {
    let loaded = good(MINIMAL);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let plan = loaded.plan;
    assert_eq!(plan.cores, 4);
    assert_eq!(plan.listeners[0].name, "0.0.0.0:8080");
    assert_eq!(plan.upstreams[0].servers.len(), 2);
    assert_eq!(plan.upstreams[0].servers[1].name, "127.0.0.1:9002");
    assert_eq!(
        (plan.routes.len(), plan.routes[0].host.clone(), plan.routes[0].path.clone()),
        (1, HostPattern::Any, "/".into())
    );
}

#[test]
fn the_demo_file_shows_turns_and_stickiness() {
    let loaded = good(DEMO);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let plan = loaded.plan;
    assert_eq!(plan.listeners[0].bind.to_string(), "127.0.0.1:8080");
    assert_eq!(plan.admin.bind.unwrap().to_string(), "127.0.0.1:9191");
    assert!(matches!(plan.upstreams[0].policy, Policy::RoundRobin(_)));
    assert!(matches!(plan.upstreams[1].policy, Policy::StickyCookie(_)));
    assert_eq!(plan.upstreams[0].servers, plan.upstreams[1].servers);
    let route = &plan.routes[1];
    assert_eq!(route.path, "/sticky/".into());
    assert_eq!((&route.rewrite, &route.action), (&Rewrite::Strip, &Action::Upstream(1)));
}

#[test]
fn flags_make_a_plan_without_a_file() {
    let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let plan = from_flags(&texts(&["127.0.0.1:8080", ":0"]), &texts(&["127.0.0.1:9001", "app:9002"])).unwrap().plan;
    assert_eq!(plan.listeners.len(), 2);
    assert_eq!(plan.upstreams[0].servers[1].address, Address::Host { host: "app".to_owned(), port: 9002 });
    assert_eq!(plan.upstreams[0].policy.name(), "round_robin");
    assert_eq!(plan.upstreams[0].check.as_ref().map(Check::name), Some("tcp"));
    assert_eq!(plan.routes[0].listeners, [0, 1]);

    let report = from_flags(&texts(&["127.0.0.1:80800"]), &texts(&["http://127.0.0.1:9001"])).unwrap_err();
    assert_eq!(
        report.to_string(),
        "\
error: `80800` is not a port
 --> command line:1:23
  |
1 | evenkeel run --listen 127.0.0.1:80800 --to http://127.0.0.1:9001
  |                       ^^^^^^^^^^^^^^^
  |
  = help: write a number from 0 to 65535

error: an address has no scheme, `http://` is one
 --> command line:1:44
  |
1 | evenkeel run --listen 127.0.0.1:80800 --to http://127.0.0.1:9001
  |                                            ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write \"127.0.0.1:9001\", \"app.internal:9001\" or \"unix:/run/app.sock\"

2 errors in command line"
    );
    assert!(from_flags(&[], &[]).unwrap_err().has_errors());
}

#[test]
fn a_file_that_cannot_be_read_is_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let report = load(&missing).unwrap_err();
    assert!(report.to_string().contains("cannot read the configuration"), "{report}");
    assert!(report.to_string().contains("none.toml"), "{report}");
    assert_eq!(report.entries()[0].line, None);

    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, b"a = 1\nb = \"\xff\"").unwrap();
    assert!(load(&binary).unwrap_err().to_string().contains("not UTF-8 text, first in line 2"));

    let fine = dir.path().join("fine.toml");
    std::fs::write(&fine, MINIMAL).unwrap();
    assert!(load(&fine).is_ok());
    assert!(load(Path::new("/")).is_err());
}

#[test]
fn key_and_token_files_are_read() {
    let files = |path: &Path| match path.to_str() {
        Some("/token") => Ok("  0123456789abcdef\n".to_owned()),
        Some("/keys") => Ok("# keys\nfirst-first-first-first\n\nsecond-second-second\n".to_owned()),
        _ => Err(std::io::ErrorKind::PermissionDenied.into()),
    };
    let around = Surroundings {
        cores: 1,
        descriptors: 1024,
        cookie_keys: Some("env-env-env-env-env, b-b-b-b-b-b-b-b-b-b".into()),
        ticket_secrets: None,
        now: 0,
        read: &files,
    };
    let text = format!("[admin]\nbind = '0.0.0.0:9191'\ntoken_file = '/token'\n{MINIMAL}policy = 'sticky_cookie'\n");
    let plan = parse_in(&text, "t", &around).unwrap().plan;
    assert_eq!(plan.admin.token.as_deref(), Some("0123456789abcdef"));
    assert_eq!(plan.upstreams[0].cookie_keys, ["env-env-env-env-env", "b-b-b-b-b-b-b-b-b-b"]);
    let plan = parse_in(&format!("{text}cookie_key_file = '/keys'\n"), "t", &around).unwrap().plan;
    assert_eq!(plan.upstreams[0].cookie_keys, ["first-first-first-first", "second-second-second"]);
    let report = parse_in(&format!("{text}cookie_key_file = '/other'\n"), "t", &around).unwrap_err();
    assert!(report.to_string().contains("cannot read `cookie_key_file` /other: permission denied"), "{report}");
}

#[test]
fn policies_take_options_and_checks_can_be_off() {
    let plan = good(&format!(
        "{MINIMAL}policy = {{ sticky_cookie = {{ new_clients = 'ip_hash' }} }}\ncheck = 'off'\n\
         cookie_keys = ['0123456789abcdef']"
    ));
    let upstream = &plan.plan.upstreams[0];
    assert_eq!(upstream.policy.sticky().unwrap().new_clients.name(), "ip_hash");
    assert_eq!(upstream.check, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        render(&text);
    }

    #[test]
    fn a_damaged_file_never_panics(at in 0..FULL.len(), length in 0usize..40, junk in "[\\[\\]{}=\"'a-z0-9é\u{0}\n\r\t #.,\\\\-]{0,12}") {
        let text = uncommented();
        let start = text.floor_char_boundary(at);
        let end = text.ceil_char_boundary((at + length).min(text.len())).max(start);
        render(&format!("{}{junk}{}", &text[..start], &text[end..]));
    }

    #[test]
    fn arbitrary_addresses_never_panic(text in "[0-9a-z:.\\[\\]*/é-]{0,24}") {
        let text = format!("[[listener]]\nbind = '{text}'\n[[route]]\nhost = '{text}'\npath = '{text}'\nupstream = 'a'\n[upstream.a]\nservers = ['{text}']\n");
        render(&text);
    }
}

fn render(text: &str) {
    let report = match parse_in(text, "t", &around()) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    };
    let _ = (report.render(true), report.render(false), report.lines(), serde_json::to_string(&report).unwrap());
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["a = ".to_owned() + &"[".repeat(100_000), format!("{} = 1", ["a"; 5_000].join("."))] {
        assert!(parse_in(&text, "t", &around()).is_err());
    }
}
