//! Who may come.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use http::HeaderValue;
use ipnet::IpNet;

use super::Compiler;
use crate::config::plan::{Access, BasicAuthPlan, Users};
use crate::config::spec::{At, BasicAuthSpec, OneOrMany, Secret};

/// What a hash may cost, in powers of two. Above that a request would take seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=14;
/// Credentials are no longer.
const LONGEST_NAME: usize = 255;

/// What is wrong, and what would be right.
type Wrong = (String, String);

impl Compiler<'_> {
    pub(super) fn access(&mut self, allow: Option<&At<OneOrMany>>, deny: Option<&At<OneOrMany>>) -> Access {
        let mut networks =
            |list: Option<&At<OneOrMany>>, key| list.map(|list| self.networks(list, key)).unwrap_or_default();
        Access { allow: networks(allow, "allow"), deny: networks(deny, "deny") }
    }

    /// A list of networks, which may not be empty: that would be everybody as well as nobody.
    pub(super) fn networks(&mut self, list: &At<OneOrMany>, key: &str) -> Vec<IpNet> {
        if list.get_ref().0.is_empty() {
            self.error(list.span(), format!("`{key}` is empty"), "name a network, or leave the key out");
        }
        list.get_ref().0.iter().filter_map(|text| self.any_network(text)).collect()
    }

    pub(super) fn basic_auth(&mut self, entry: &At<BasicAuthSpec>) -> Option<BasicAuthPlan> {
        let spec = entry.get_ref();
        let realm = spec.realm.get_ref();
        // What would have to be escaped is read by clients in more than one way.
        if realm.is_empty() || !realm.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
            let message = format!("`{}` cannot be a realm", realm.escape_debug());
            self.error(spec.realm.span(), message, "write ASCII characters, without quotes and backslashes");
        }
        let challenge = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")).ok();
        let users = match (&spec.users, &spec.users_file) {
            (Some(users), None) => self.named_users(users),
            (None, Some(file)) => self.users_of_file(file)?,
            (Some(users), Some(file)) => {
                let message = "this `basic_auth` has `users` and `users_file`";
                self.twice(file.span(), users.span(), message, "keep one of them");
                return None;
            }
            (None, None) => {
                let hint = "add `users_file = \"/etc/evenkeel/users\"`, which `htpasswd -cB FILE NAME` makes";
                self.lack(Some(entry.span()), "this `basic_auth` lets nobody in", hint);
                return None;
            }
        };
        let (realm, users_file) = (realm.clone(), spec.users_file.as_ref().map(|file| file.get_ref().clone()));
        Some(BasicAuthPlan { realm, challenge: challenge?, users: Arc::new(users), users_file, forward: spec.forward })
    }

    fn named_users(&mut self, users: &At<BTreeMap<At<String>, At<Secret>>>) -> Users {
        if users.get_ref().is_empty() {
            self.lack(Some(users.span()), "`users` is empty", "write `users = { NAME = \"HASH\" }`");
        }
        for (name, hash) in users.get_ref() {
            if let Err((message, hint)) = judge_name(name.get_ref()) {
                self.error(name.span(), message, &hint);
            } else if let Err((message, hint)) = judge_hash(name.get_ref(), &hash.get_ref().0) {
                self.error(hash.span(), message, &hint);
            }
        }
        Users::new(users.get_ref().iter().map(|(name, hash)| (name.get_ref().clone(), hash.get_ref().0.clone())))
    }

    /// Lines of `name:hash`, as `htpasswd` writes them.
    fn users_of_file(&mut self, file: &At<PathBuf>) -> Option<Users> {
        let text = self.file(file, "users_file")?;
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut users = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match user_of_line(line) {
                Ok((name, hash)) => {
                    if let Some(first) = seen.insert(name, number) {
                        let message = format!("user `{name}` is there twice, first in line {first}");
                        self.bad_line(file, number, &message, "remove one of the lines");
                    }
                    users.push((name.to_owned(), hash.to_owned()));
                }
                Err((message, hint)) => self.bad_line(file, number, &message, &hint),
            }
        }
        if users.is_empty() {
            let message = format!("{} has no user", file.get_ref().display());
            self.error(file.span(), message, "add one with `htpasswd -B FILE NAME`");
        }
        Some(Users::new(users))
    }

    fn bad_line(&mut self, file: &At<PathBuf>, number: usize, message: &str, hint: &str) {
        let message = format!("{}, line {number}: {message}", file.get_ref().display());
        self.error(file.span(), message, hint);
    }
}

/// The name and the hash; a comment may follow behind another colon.
fn user_of_line(line: &str) -> Result<(&str, &str), Wrong> {
    let Some((name, rest)) = line.split_once(':') else {
        // It may be a password, so it is not shown.
        return Err(("this is not `name:hash`".to_owned(), "write what `htpasswd -nB NAME` prints".to_owned()));
    };
    let hash = rest.split(':').next().unwrap_or_default();
    judge_name(name)?;
    judge_hash(name, hash)?;
    Ok((name, hash))
}

/// RFC 7617 §2: a name ends at the first colon, and has no control characters.
fn judge_name(name: &str) -> Result<(), Wrong> {
    let is_right = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.trim() == name
        && !name.contains(|c: char| c == ':' || c.is_control());
    if is_right {
        return Ok(());
    }
    let message = format!("`{}` cannot be the name of a user", name.escape_debug());
    Err((message, format!("write 1 to {LONGEST_NAME} bytes without colons, control characters and outer blanks")))
}

fn judge_hash(name: &str, hash: &str) -> Result<(), Wrong> {
    let name = name.escape_debug();
    let Some(cost) = cost_of(hash) else {
        let message = format!("the password of `{name}` is not a bcrypt hash");
        return Err((message, format!("write what `htpasswd -nB {name}` prints behind the colon")));
    };
    if COSTS.contains(&cost) {
        return Ok(());
    }
    let (least, most) = (COSTS.start(), COSTS.end());
    let message = format!("the hash of `{name}` has a cost of {cost}, which is out of range");
    Err((message, format!("make one with a cost from {least} to {most}: `htpasswd -nB -C 12 {name}`")))
}

/// The cost of a bcrypt hash: `$2y$12$`, then 22 characters of salt and 31 of hash. Those that begin with
/// `$2x$` were made by a faulty program and verify nothing reliably.
fn cost_of(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    let (cost, rest) = rest.split_once('$')?;
    if cost.len() != 2 || rest.len() != 53 || !rest.is_ascii() {
        return None;
    }
    let (salt, digest) = rest.split_at(22);
    let decodes = |text, bytes| bcrypt::BASE_64.decode(text).is_ok_and(|decoded| decoded.len() == bytes);
    (decodes(salt, 16) && decodes(digest, 23)).then_some(())?;
    cost.parse().ok()
}
