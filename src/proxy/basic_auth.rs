//! Names and passwords (RFC 7617).
//!
//! Verifying a password takes a tenth of a second on purpose, so it never happens on a core's own thread:
//! it waits for one of a few turns that all cores share, and other requests go on. What was right is
//! remembered by a keyed hash of it together with the user's hash, so that only the first request of a user
//! pays, and a user whose password was changed is verified anew. Nothing that was wrong is remembered.
//!
//! What may wait is bounded, in all and for each client, so that whoever guesses passwords cannot hold the
//! place of all others. Requests with the same credentials wait together and are verified once. A name that
//! nobody has is verified against the hash of somebody else: it takes as long as a wrong password does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hashbrown::HashSet;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::{OnceCell, Semaphore};

use super::census::who;
use super::exchange::Exchange;
use super::forward::guarded;
use super::watch::Phase;
use crate::config::plan::BasicAuthPlan;
use crate::error::{Kind, ProxyError};

/// A password waits for at most this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Different credentials that may wait on one core, and those of one client among them.
const MOST_WAITING: usize = 32;
const MOST_OF_A_CLIENT: usize = 8;
/// Right credentials that one core remembers: up to twice as many, of 32 bytes each.
const REMEMBERED: usize = 2048;
/// The most bytes of a name, a colon and a password.
const LONGEST: usize = 768;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Credentials together with the hash that they are verified against.
type Tag = [u8; 32];

/// What the cores share: whose turn it is to verify a password.
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// Chooses whose hash stands in for that of a name that nobody has; the same on all cores, or how long
    /// it takes would tell.
    secret: foldhash::quality::RandomState,
}

impl Turns {
    /// So many at a time, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most.max(1))), secret: foldhash::quality::RandomState::default() }
    }
}

/// What one core knows of credentials.
pub(super) struct Verifier {
    turns: Arc<Turns>,
    key: hmac::Key,
    known: RefCell<Known>,
    waiting: RefCell<HashMap<Tag, Waiting>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new(Arc::new(Turns::new(1)))
    }
}

/// Credentials that are being verified.
struct Waiting {
    client: u64,
    verdict: Rc<OnceCell<bool>>,
}

/// Tags of what was right, in two generations: when the younger is full it becomes the older one, and what
/// is not asked for again until then is forgotten.
#[derive(Default)]
struct Known {
    young: HashSet<Tag>,
    old: HashSet<Tag>,
}

impl Known {
    fn has(&mut self, tag: &Tag) -> bool {
        if self.young.contains(tag) {
            return true;
        }
        let was_old = self.old.remove(tag);
        if was_old {
            self.add(*tag);
        }
        was_old
    }

    fn add(&mut self, tag: Tag) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tag);
    }
}

/// Keeps credentials among those that wait, until nobody waits for them.
struct Place<'a> {
    verifier: &'a Verifier,
    tag: Tag,
    verdict: Rc<OnceCell<bool>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // One is this, one is in the map.
        if Rc::strong_count(&self.verdict) == 2 {
            self.verifier.waiting.borrow_mut().remove(&self.tag);
        }
    }
}

impl Verifier {
    pub(super) fn new(turns: Arc<Turns>) -> Self {
        let mut secret = [0; 32];
        // It only hides the tags: nobody could forge one without it.
        let _ = aws_lc_rs::rand::fill(&mut secret);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Self { turns, key, known: RefCell::default(), waiting: RefCell::default() }
    }

    fn tag(&self, hash: &str, credentials: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // All hashes have the same length, so nothing of one can pass for the other.
        context.update(hash.as_bytes());
        context.update(credentials);
        let mut tag = Tag::default();
        tag.copy_from_slice(&context.sign().as_ref()[..32]);
        tag
    }

    /// A place among those that wait; none where there is no room.
    fn place(&self, tag: Tag, client: IpAddr) -> Option<Place<'_>> {
        let mut waiting = self.waiting.borrow_mut();
        let verdict = match waiting.get(&tag) {
            Some(same) => Rc::clone(&same.verdict),
            None => {
                let client = who(client);
                let of_client = waiting.values().filter(|other| other.client == client).count();
                if waiting.len() >= MOST_WAITING || of_client >= MOST_OF_A_CLIENT {
                    return None;
                }
                let verdict = Rc::<OnceCell<bool>>::default();
                waiting.insert(tag, Waiting { client, verdict: Rc::clone(&verdict) });
                verdict
            }
        };
        Some(Place { verifier: self, tag, verdict })
    }

    /// Waits for a turn and verifies. Whoever gives up while waiting costs nothing more; the next of those
    /// with the same credentials goes on in its stead.
    async fn verify(&self, place: Place<'_>, password: &[u8], hash: &Arc<str>) -> bool {
        let verifying = async || {
            let Ok(turn) = Arc::clone(&self.turns.free).acquire_owned().await else { return false };
            let (password, hash) = (password.to_vec(), Arc::clone(hash));
            let work = move || {
                let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
                // The turn ends with the work, whether or not anybody still waits for it.
                drop(turn);
                is_right
            };
            tokio::task::spawn_blocking(work).await.unwrap_or(false)
        };
        *place.verdict.get_or_init(verifying).await
    }
}

/// A name and a password as they were sent.
struct Credentials<'a> {
    name: &'a str,
    password: &'a [u8],
    whole: &'a [u8],
}

/// Reads the credentials of a request into `room`; none where there are none, or several.
fn read<'a>(headers: &HeaderMap, room: &'a mut [u8]) -> Option<Credentials<'a>> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (scheme, encoded) = line.as_bytes().split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let length = BASE64.decode_slice(encoded.trim_ascii(), room).ok()?;
    let whole = &room[..length];
    // RFC 7617 §2: neither has control characters. With a NUL a hash would cover a part only.
    if whole.iter().any(u8::is_ascii_control) {
        return None;
    }
    let colon = memchr::memchr(b':', whole)?;
    let name = std::str::from_utf8(&whole[..colon]).ok()?;
    Some(Credentials { name, password: &whole[colon + 1..], whole })
}

/// Whether the request may go on: its route asks for nobody's name, or its client is one of the users.
/// Credentials are taken out of it, unless the server gets them, too.
pub(super) async fn admit(exchange: &mut Exchange, headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let view = Rc::clone(&exchange.view);
    let Some(plan) = plan_of(&view, exchange) else { return Ok(()) };
    let mut room = [0; LONGEST];
    let Some(given) = read(headers, &mut room) else { return Err(ProxyError::new(Kind::Unauthorized)) };
    if !is_right(exchange, plan, &given).await? {
        return Err(ProxyError::new(Kind::Unauthorized).because("no such user, or another password"));
    }
    exchange.is_from(given.name);
    if !plan.forward {
        headers.remove(header::AUTHORIZATION);
    }
    Ok(())
}

async fn is_right(exchange: &Exchange, plan: &BasicAuthPlan, given: &Credentials<'_>) -> Result<bool, ProxyError> {
    let (conn, verifier) = (&exchange.conn, &exchange.conn.core.verifier);
    let own = plan.users.hash_of(given.name);
    let stand_in = || plan.users.any_hash(verifier.turns.secret.hash_one(given.name));
    let Some(hash) = own.or_else(stand_in) else { return Ok(false) };
    let tag = verifier.tag(hash, given.whole);
    if own.is_some() && verifier.known.borrow_mut().has(&tag) {
        return Ok(true);
    }
    let busy = || ProxyError::new(Kind::AuthBusy);
    let place = verifier.place(tag, exchange.client).ok_or_else(busy)?;
    conn.watch.enter(Phase::Verify, conn.core.clock.get(), PATIENCE);
    let verifying = guarded(&conn.watch, pin!(verifier.verify(place, given.password, hash))).await;
    let is_right = verifying.map_err(ProxyError::new)? && own.is_some();
    if is_right {
        verifier.known.borrow_mut().add(tag);
    }
    Ok(is_right)
}

fn plan_of<'a>(view: &'a super::core::View, exchange: &Exchange) -> Option<&'a BasicAuthPlan> {
    let listening = view.listeners.get(exchange.conn.slot)?.as_ref()?;
    listening.routes.all.get(exchange.route?)?.plan.basic_auth.as_ref()
}

/// Whether the route of the request asks for a name and a password.
pub(super) fn is_asked(exchange: &Exchange) -> bool {
    exchange.route().is_some_and(|route| route.plan.basic_auth.is_some())
}

/// Says what is asked for in the answer to a request without it.
pub(super) fn tell(error: &ProxyError, exchange: &Exchange, headers: &mut HeaderMap<HeaderValue>) {
    if error.kind == Kind::Unauthorized
        && let Some(plan) = plan_of(&exchange.view, exchange)
    {
        headers.insert(header::WWW_AUTHENTICATE, plan.challenge.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(lines: &[&[u8]]) -> Option<(String, Vec<u8>)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(line).unwrap());
        }
        read(&headers, &mut [0; LONGEST]).map(|c| (c.name.to_owned(), c.password.to_vec()))
    }

    #[test]
    fn credentials_are_read_and_what_is_none_is_not() {
        let ann = |password: &[u8]| Some(("ann".to_owned(), password.to_vec()));
        assert_eq!(given(&[b"Basic YW5uOm9wZW4="]), ann(b"open"));
        assert_eq!(given(&[b"bAsIc   YW5uOm9wZW4 "]), ann(b"open"));
        assert_eq!(given(&[b"Basic YW5uOmE6Yg=="]), ann(b"a:b"));
        assert_eq!(given(&[b"Basic YW5uOg=="]), ann(b""));
        // The password in Latin-1.
        assert_eq!(given(&[b"Basic YW5uOv8="]), ann(b"\xff"));
        let none: [&[&[u8]]; 10] = [
            &[],
            &[b"Basic"],
            &[b"Basic "],
            &[b"BasicYW5uOm9wZW4="],
            &[b"Bearer YW5uOm9wZW4="],
            &[b"Basic YW5u"],
            &[b"Basic ***"],
            &[b"Basic /zpv"],
            // A NUL in the password.
            &[b"Basic YW5uOm8AcA=="],
            &[b"Basic YW5uOm9wZW4=", b"Basic YW5uOm9wZW4="],
        ];
        for none in none {
            assert_eq!(given(none), None, "{none:?}");
        }
        let long = format!("Basic {}", BASE64.encode(format!("ann:{}", "x".repeat(LONGEST))));
        assert_eq!(given(&[long.as_bytes()]), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let mut known = Known::default();
        let tag = |n: usize| {
            let mut tag = Tag::default();
            tag[..8].copy_from_slice(&n.to_ne_bytes());
            tag
        };
        for n in 0..10 * REMEMBERED {
            known.add(tag(n));
            assert!(known.has(&tag(0)), "{n}");
            assert!(known.young.len() <= REMEMBERED && known.old.len() <= REMEMBERED);
        }
        assert!(!known.has(&tag(1)) && known.has(&tag(10 * REMEMBERED - 1)));
    }

    #[test]
    fn those_who_wait_are_bounded_in_all_and_for_each_client() {
        let verifier = Verifier::default();
        let client = |n: u8| IpAddr::from([192, 0, 2, n]);
        let of_one: Vec<_> = (0..MOST_OF_A_CLIENT as u8).map(|n| verifier.place([n; 32], client(1)).unwrap()).collect();
        assert!(verifier.place([100; 32], client(1)).is_none());
        let same = verifier.place([0; 32], client(1));
        assert!(same.is_some(), "the same credentials wait together");
        let left = (MOST_WAITING - MOST_OF_A_CLIENT) as u8;
        let others: Vec<_> = (0..left).map(|n| verifier.place([50 + n; 32], client(2 + n)).unwrap()).collect();
        assert!(verifier.place([101; 32], client(200)).is_none());
        drop(of_one);
        assert_eq!(verifier.waiting.borrow().len(), MOST_WAITING - MOST_OF_A_CLIENT + 1);
        drop((same, others));
        assert!(verifier.waiting.borrow().is_empty());
    }
}
