use proptest::prelude::*;

use super::*;
use crate::balance::key_of;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

fn keys(secrets: &[&str]) -> Keys {
    Keys::new(&secrets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn old() -> Keys {
    keys(&["the old secret, long enough"])
}

fn pin() -> Pin {
    Pin { server: key_of("a"), session: 0x0123_4567_89AB_CDEF, issued: NOW - HOUR, seen: NOW - 60 }
}

fn sealed() -> String {
    old().seal(&StickyCookie::default(), "shop", &pin(), [7; 12])
}

fn open(keys: &Keys, value: &[u8]) -> Result<Pin, Refused> {
    keys.open(&StickyCookie::default(), "shop", value, NOW)
}

fn read(options: &str) -> Result<StickyCookie, String> {
    #[derive(Debug, serde::Deserialize)]
    struct File {
        cookie: StickyCookie,
    }
    toml::from_str::<File>(&format!("cookie = {{ {options} }}")).map(|f| f.cookie).map_err(|e| e.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_sealed_opens(server: u64, session: u64, age in 0..12 * HOUR, idle in 0..30 * 60u64, nonce: [u8; 12]) {
        let pin = Pin { server, session, issued: NOW - age.max(idle), seen: NOW - idle };
        let value = old().seal(&StickyCookie::default(), "shop", &pin, nonce);
        prop_assert!(value.len() < 100 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(open(&old(), value.as_bytes()), Ok(pin));
    }

    #[test]
    fn garbage_is_refused(value in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(open(&old(), &value), Err(Refused::Invalid));
    }

    #[test]
    fn garbage_of_the_right_form_is_refused(value in "[A-Za-z0-9_-]{72}") {
        prop_assert_eq!(open(&old(), value.as_bytes()), Err(Refused::Invalid));
    }

    /// Whatever stands in the header: nothing is lost but our cookie, and afterwards it is not found.
    #[test]
    fn stripping_leaves_the_others(header in "([a-c]{1,2}=?[a-c;= ]{0,3}; ?){0,6}") {
        let before: Vec<&str> = header.split(';').map(str::trim).filter(|p| !p.is_empty()).collect();
        let ours = |p: &&str| p.split_once('=').is_some_and(|(name, _)| name.trim() == "a");
        let others: Vec<&str> = before.iter().filter(|p| !ours(p)).copied().collect();
        match strip(header.as_bytes(), "a") {
            None => prop_assert_eq!(others.len(), before.len()),
            Some(rest) => {
                prop_assert!(others.len() < before.len());
                prop_assert_eq!(find([&rest[..]], "a"), None);
                prop_assert_eq!(String::from_utf8(rest).unwrap(), others.join("; "));
            }
        }
        prop_assert_eq!(find([header.as_bytes()], "a").is_some(), others.len() < before.len());
    }
}

#[test]
fn any_bit_flip_is_refused() {
    let value = sealed().into_bytes();
    assert!(open(&old(), &value).is_ok());
    for i in 0..value.len() * 8 {
        let mut forged = value.clone();
        forged[i / 8] ^= 1 << (i % 8);
        assert_eq!(open(&old(), &forged), Err(Refused::Invalid), "bit {i}");
    }
    for len in [0, 71, 73, 512, 513, 1 << 20] {
        assert_eq!(open(&old(), &vec![b'A'; len]), Err(Refused::Invalid));
    }
}

#[test]
fn another_name_upstream_or_key_is_refused() {
    let value = sealed();
    let at = |name: &str, upstream: &str, keys: &Keys| {
        let cookie = StickyCookie { name: name.to_owned(), ..StickyCookie::default() };
        keys.open(&cookie, upstream, value.as_bytes(), NOW)
    };
    assert_eq!(at("evenkeel", "shop", &old()), Ok(pin()));
    for (name, upstream) in [("evenkeeL", "shop"), ("evenkeel", "shoP"), ("evenkeels", "hop"), ("evenkee", "lshop")] {
        assert_eq!(at(name, upstream, &old()), Err(Refused::Invalid), "{name} {upstream}");
    }
    assert_eq!(at("evenkeel", "shop", &keys(&["some other secret, long"])), Err(Refused::Invalid));
}

#[test]
fn names_of_any_length_are_bound() {
    let long = "u".repeat(1000);
    let value = old().seal(&StickyCookie::default(), &long, &pin(), [1; 12]);
    assert!(old().open(&StickyCookie::default(), &long, value.as_bytes(), NOW).is_ok());
    assert!(old().open(&StickyCookie::default(), &long[1..], value.as_bytes(), NOW).is_err());
}

#[test]
fn keys_rotate() {
    let both = keys(&["the new secret, long enough", "the old secret, long enough"]);
    let new = keys(&["the new secret, long enough"]);
    assert_eq!(open(&both, sealed().as_bytes()), Ok(pin()));
    let fresh = both.seal(&StickyCookie::default(), "shop", &pin(), [8; 12]);
    assert_eq!(open(&new, fresh.as_bytes()), Ok(pin()));
    assert_eq!(open(&old(), fresh.as_bytes()), Err(Refused::Invalid));
    assert_eq!(open(&new, sealed().as_bytes()), Err(Refused::Invalid));
}

/// Cookies outlive an update of evenkeel: this value may never change.
#[test]
fn the_form_of_the_value_never_changes() {
    assert_eq!(sealed(), "KgcHBwcHBwcHBwcHB83iTE8B3OOcqNNRBCuxsm3A3U78BTUCmDkVh7oq1Dy3XgD0ZdUM9WbF");
}

#[test]
fn keys_with_one_id_are_all_tried() {
    let id = |secret: &str| {
        let value = keys(&[secret]).seal(&StickyCookie::default(), "shop", &pin(), [0; 12]);
        value[..1].to_owned() + &value[1..2]
    };
    let first = "a secret of a certain length 0".to_owned();
    let twin = (1..).map(|n| format!("a secret of a certain length {n}")).find(|s| id(s) == id(&first)).unwrap();
    let value = keys(&[&twin]).seal(&StickyCookie::default(), "shop", &pin(), [0; 12]);
    assert_eq!(open(&keys(&[&first, &twin]), value.as_bytes()), Ok(pin()));
}

#[test]
fn secrets_that_are_no_good_are_named() {
    let new = |secrets: &[&str]| Keys::new(&secrets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).map(|_| ());
    let good = "0123456789abcdef";
    assert_eq!(new(&[]), Err(KeyError::None));
    assert_eq!(new(&[good, "short\n"]), Err(KeyError::Short { position: 2, bytes: 5 }));
    assert_eq!(new(&[good, "0123456789abcdef\n"]), Err(KeyError::Repeated { position: 2, first: 1 }));
    assert_eq!(new(&[good]), Ok(()));
    let (a, b) = (Keys::fresh_secret().unwrap(), Keys::fresh_secret().unwrap());
    assert!(a.len() == 64 && a != b && new(&[&a, &b]).is_ok());
    assert!(!format!("{:?}", keys(&[&a])).contains(&a));
}

#[test]
fn times_are_enforced() {
    let cookie = StickyCookie::default();
    let at = |issued: u64, seen: u64| {
        let pin = Pin { issued, seen, ..pin() };
        open(&old(), old().seal(&cookie, "shop", &pin, [9; 12]).as_bytes()).map(|_| ())
    };
    assert_eq!(at(NOW - HOUR, NOW - 1800), Ok(()));
    assert_eq!(at(NOW - HOUR, NOW - 1801), Err(Refused::Expired));
    assert_eq!(at(NOW - 12 * HOUR, NOW), Ok(()));
    assert_eq!(at(NOW - 12 * HOUR - 1, NOW), Err(Refused::Expired));
    assert_eq!(at(NOW + 24 * HOUR, NOW + 24 * HOUR), Ok(()));
    assert_eq!(at(NOW + 24 * HOUR + 1, NOW + 24 * HOUR + 1), Err(Refused::Expired));
    assert_eq!(at(NOW, NOW + 24 * HOUR + 1), Err(Refused::Expired));
    assert_eq!(at(u64::MAX, u64::MAX), Err(Refused::Expired));
}

#[test]
fn a_cookie_is_renewed_after_a_quarter_of_idle() {
    let cookie = StickyCookie { idle: Duration::from_secs(400), ..StickyCookie::default() };
    let pin = Pin { seen: NOW - 100, ..pin() };
    assert!(!cookie.needs_renewal(&pin, NOW));
    assert!(cookie.needs_renewal(&pin, NOW + 1));
    assert!(!cookie.needs_renewal(&pin, 0));
}

#[test]
fn the_first_cookie_of_the_name_is_found() {
    let found = |headers: &[&str]| {
        find(headers.iter().map(|h| h.as_bytes()), "evenkeel").map(|v| String::from_utf8(v.to_vec()).unwrap())
    };
    assert_eq!(found(&[]), None);
    assert_eq!(found(&["a=1; evenkeel=x; b=2"]).as_deref(), Some("x"));
    assert_eq!(found(&["a=1", "evenkeel=x; evenkeel=y", "evenkeel=z"]).as_deref(), Some("x"));
    assert_eq!(found(&["a=evenkeel=no; xevenkeel=no; evenkeelx=no; evenkeel; EVENKEEL=no"]), None);
    assert_eq!(found(&[";;; \t evenkeel = x=y ;"]).as_deref(), Some("x=y"));
    assert_eq!(found(&["evenkeel="]).as_deref(), Some(""));
}

#[test]
fn our_cookie_is_hidden() {
    let stripped = |header: &str| strip(header.as_bytes(), "evenkeel").map(|v| String::from_utf8(v).unwrap());
    assert_eq!(stripped("a=1; b=2"), None);
    assert_eq!(stripped("evenkeel=x").as_deref(), Some(""));
    assert_eq!(stripped("a=1; evenkeel=x; b=2").as_deref(), Some("a=1; b=2"));
    assert_eq!(stripped("evenkeel=x;a=1;evenkeel=y").as_deref(), Some("a=1"));
    assert_eq!(strip(b"\xFF=\x80; evenkeel=x", "evenkeel").as_deref(), Some(&b"\xFF=\x80"[..]));
}

#[test]
fn set_cookie_says_what_was_configured() {
    let plain = StickyCookie::default();
    assert_eq!(plain.set_cookie("v", false), "evenkeel=v; Path=/; SameSite=Lax; HttpOnly");
    assert_eq!(plain.set_cookie("v", true), "evenkeel=v; Path=/; SameSite=Lax; Secure; HttpOnly");
    let other = read("name = 'lb', path = '/app', domain = 'example.com', same_site = 'strict', http_only = false");
    assert_eq!(other.unwrap().set_cookie("v", false), "lb=v; Path=/app; Domain=example.com; SameSite=Strict");
    let set = |options: &str, tls| read(options).unwrap().set_cookie("v", tls);
    assert!(set("secure = 'always'", false).contains("; Secure"));
    assert!(!set("secure = 'never'", true).contains("Secure"));
    assert!(set("same_site = 'none'", false).contains("; SameSite=None; Secure"));
}

#[test]
fn options_are_read_and_checked() {
    assert_eq!(read(""), Ok(StickyCookie::default()));
    let cookie = read("new_clients = 'ip_hash', idle = '5m', max_age = '1h30m'").unwrap();
    assert_eq!(cookie.new_clients.name(), "ip_hash");
    assert_eq!((cookie.idle.as_secs(), cookie.max_age.as_secs()), (300, 5400));
    for (options, says) in [
        ("new_clients = 'sticky_cookie'", "cannot place new clients"),
        ("new_clients = { sticky_cookie = {} }", "cannot place new clients"),
        ("same_site = 'none', secure = 'never'", "browsers refuse such a cookie"),
        ("name = ''", "no name for a cookie"),
        ("name = 'a b'", "no name for a cookie"),
        ("name = '__Host-lb', path = '/app'", "must have no `domain`"),
        ("name = '__secure-lb', secure = 'never'", "has to be secure"),
        ("idle = '10ms'", "too short"),
        ("max_age = '5 parsecs'", "is not a duration"),
        ("path = 'app'", "no path for a cookie"),
        ("path = '/; Secure'", "no path for a cookie"),
        ("domain = '.example.com'", "no domain for a cookie"),
        ("domain = 'a;b'", "no domain for a cookie"),
        ("same_site = 'loose'", "unknown variant `loose`"),
        ("ttl = '1h'", "unknown field `ttl`"),
    ] {
        let error = read(options).unwrap_err();
        assert!(error.contains(says), "{options}: {error}");
    }
}

/// A message points at the option that is wrong.
#[test]
fn errors_know_their_place() {
    let text = "[cookie]\nname = 'lb'\npath = 'app'\n";
    let error = toml::from_str::<std::collections::BTreeMap<String, StickyCookie>>(text).unwrap_err();
    assert_eq!(error.span().map(|s| &text[s]), Some("'app'"));
}
