//! Names, and that each is used once.

use std::collections::HashMap;
use std::ops::Range;

use super::Compiler;
use crate::config::spec::At;

/// Names stand in URLs of the admin API, in labels of metrics and in log lines.
const LONGEST: usize = 100;

/// Names that were seen, with their places.
#[derive(Default)]
pub(super) struct Seen(HashMap<String, Range<usize>>);

impl Seen {
    /// Remembers a name; the place of the first where there was one already.
    pub(super) fn insert(&mut self, name: &str, place: Range<usize>) -> Option<Range<usize>> {
        if let Some(first) = self.0.get(name) {
            return Some(first.clone());
        }
        self.0.insert(name.to_owned(), place);
        None
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl Compiler<'_> {
    /// Judges a name that a user gave.
    pub(super) fn name(&mut self, name: &At<String>, what: &str) {
        if let Err((message, hint)) = judge(name.get_ref(), what) {
            self.error(name.span(), message, hint);
        }
    }
}

fn one(what: &str) -> String {
    format!("{} {what}", if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

/// Whether this may be a name; otherwise what is wrong with it and what would be right.
pub(super) fn judge(name: &str, what: &str) -> Result<(), (String, &'static str)> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:@[]".contains(c);
    if name.is_empty() {
        return Err((format!("{} has an empty name", one(what)), "write a name, or leave the key out"));
    }
    if name.len() > LONGEST {
        let message = format!("the name of {} is longer than {LONGEST} characters", one(what));
        return Err((message, "write a shorter name"));
    }
    match name.chars().find(|c| !allowed(*c)) {
        Some(bad) => {
            let message = format!("`{}` cannot be in the name of {}", bad.escape_debug(), one(what));
            Err((message, "use letters, digits and . _ - : @ [ ]"))
        }
        None => Ok(()),
    }
}
