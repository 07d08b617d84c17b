//! Text → Spec, with every problem of syntax and type at once.
//!
//! serde stops at its first error. So the text is parsed to a tree with places, and serde reads the
//! tree: what it stumbles over is noted and cut out, and it reads again, until it is content. That
//! way the structs of [`super::spec`] (and of the policies and checks) are the only list of keys and
//! types that exists. What was cut out is remembered as [`Gaps`], so that nobody complains about
//! the lack of what is there but wrong.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::report::{Problem, Severity};
use super::spec::Spec;
use super::suggest;

/// More problems than this help nobody, and bound the work for a file that is not a configuration.
const MOST: usize = 64;

/// What of the file is missing from the Spec because it was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// Something is: that a key is absent is no news.
    pub(super) any: bool,
    /// A name or a whole section is: references may lead there.
    pub(super) names: bool,
}

pub(super) struct Reading<'t> {
    /// None when the syntax is so wrong that nothing more can be said.
    pub(super) spec: Option<Spec>,
    pub(super) gaps: Gaps,
    /// The whole tree, for places inside values that serde reads without them.
    pub(super) tree: DeTable<'t>,
    pub(super) problems: Vec<Problem>,
    /// The text with its secrets blotted out, byte for byte as long as the original.
    pub(super) shown: String,
}

/// Reads a whole file.
pub(super) fn read(text: &str) -> Reading<'_> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let tree = root.into_inner();
    let shown = without_secrets(text, &tree);
    if !errors.is_empty() {
        let problems = syntax(text, &errors);
        return Reading { spec: None, gaps: Gaps::default(), tree, problems, shown };
    }
    let mut rest = tree.clone();
    let mut problems = Vec::new();
    let mut gaps = Gaps::default();
    let spec = loop {
        let error = match Spec::deserialize(Deserializer::from(Spanned::new(0..text.len(), rest.clone()))) {
            Ok(spec) => break Some(spec),
            Err(error) => error,
        };
        let cut = error.span().and_then(|span| cut(&mut rest, &span));
        let problem = explain(text, &error, cut.as_ref());
        // A list of tables stands where its first table stands: it takes a second cut to remove it.
        // And a choice whose options were cut out is empty only because of that.
        if problems.last() != Some(&problem) && !is_echo(&problem, &problems) {
            problems.push(problem);
        }
        let Some(cut) = cut else { break None };
        gaps.any = true;
        gaps.names |= cut.path.len() == 1 || cut.path.last().is_some_and(|key| key == "name");
        if problems.len() == MOST {
            break None;
        }
    };
    Reading { spec, gaps, tree, problems, shown }
}

/// Whether a problem is only there because an earlier one, inside it, was cut out.
fn is_echo(problem: &Problem, earlier: &[Problem]) -> bool {
    let Some(whole) = problem.span.as_ref().filter(|_| problem.message.ends_with(" is missing")) else { return false };
    let inside = |span: &Range<usize>| span != whole && whole.start <= span.start && span.end <= whole.end;
    earlier.iter().any(|problem| problem.span.as_ref().is_some_and(inside))
}

/// The place of a value inside the tree, by its keys.
pub(super) fn place_of(tree: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (last, parents) = path.split_last()?;
    let mut table = tree;
    for key in parents {
        table = table.get(*key)?.get_ref().as_table()?;
    }
    table.get(*last).map(Spanned::span)
}

/// The parser recovers and goes on, and then often stumbles over the same line again: only the
/// first error of a line tells something.
fn syntax(text: &str, errors: &[Error]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut lines = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let (line, _) = super::report::line_and_column(text, span.start);
        if lines.contains(&line) || problems.len() == MOST {
            continue;
        }
        lines.push(line);
        let (message, hint) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message, Some(format!("expected {expected}"))),
            None => (error.message(), None),
        };
        let message =
            if message.is_empty() { "not valid TOML".to_owned() } else { format!("not valid TOML: {message}") };
        problems.push(Problem { severity: Severity::Error, message, span: Some(span), hint, related: None });
    }
    problems
}

/// What was taken out of the tree.
struct Cut {
    /// Keys from the root; positions of list entries are left out.
    path: Vec<String>,
    /// The places of the keys of the value that was cut out, where it is a table.
    keys: Vec<(String, Range<usize>)>,
}

/// Takes out the innermost key or value with that span.
fn cut(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Cut> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        if let Some(mut inner) = cut_inside(value.get_mut(), span) {
            inner.path.insert(0, key.get_ref().to_string());
            return Some(inner);
        }
        if key.span() == *span || value.span() == *span {
            found = Some((key.get_ref().to_string(), keys_of(value.get_ref())));
            break;
        }
    }
    let (key, keys) = found?;
    table.remove(key.as_str());
    Some(Cut { path: vec![key], keys })
}

fn cut_inside(value: &mut DeValue<'_>, span: &Range<usize>) -> Option<Cut> {
    match value {
        DeValue::Table(table) => cut(table, span),
        DeValue::Array(list) => {
            for (at, entry) in list.iter_mut().enumerate() {
                if let Some(inner) = cut_inside(entry.get_mut(), span) {
                    return Some(inner);
                }
                if entry.span() == *span {
                    let keys = keys_of(entry.get_ref());
                    let all = std::mem::replace(list, DeArray::new());
                    all.into_iter().enumerate().filter(|(i, _)| *i != at).for_each(|(_, entry)| list.push(entry));
                    return Some(Cut { path: Vec::new(), keys });
                }
            }
            None
        }
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            None
        }
    }
}

fn keys_of(value: &DeValue<'_>) -> Vec<(String, Range<usize>)> {
    let keys = value.as_table().into_iter().flat_map(|table| table.keys());
    keys.map(|key| (key.get_ref().to_string(), key.span())).collect()
}

/// serde's error in words for people who do not know serde.
fn explain(text: &str, error: &Error, cut: Option<&Cut>) -> Problem {
    let mut span = error.span();
    let raw = error.message();
    let key = cut.and_then(|cut| cut.path.last()).map_or("value", String::as_str);
    let (message, hint) = if let Some((word, known)) = unknown(raw, "unknown field `") {
        (format!("unknown key `{word}`"), suggest::hint(word, "keys here", &known))
    } else if let Some((word, known)) = unknown(raw, "unknown variant `") {
        // A table's key is a better place than the table.
        if let Some((_, place)) = cut.and_then(|cut| cut.keys.iter().find(|(key, _)| key == word)) {
            span = Some(place.clone());
        }
        (format!("unknown {key} `{word}`"), suggest::hint(word, "names", &known))
    } else if let Some((what, expected)) = mismatch(raw) {
        (
            format!(
                "`{key}` cannot be {}",
                kind(what, cut.is_some_and(|cut| cut.path.iter().any(|key| SECRETS.contains(&&**key))))
            ),
            Some(brackets(text, span.as_ref(), what, expected, key)),
        )
    } else if let Some(missing) = raw.strip_prefix("missing field `") {
        (format!("key `{}` is missing", missing.trim_end_matches('`')), None)
    } else if let Some((message, advice)) = raw.split_once(": write ") {
        (message.to_owned(), Some(format!("write {advice}")))
    } else {
        (raw.to_owned(), None)
    };
    Problem { severity: Severity::Error, message, span, hint, related: None }
}

/// The unknown word of serde's message, and the words it lists as known.
fn unknown<'a>(raw: &'a str, prefix: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = raw.strip_prefix(prefix)?;
    if let Some((word, known)) = rest.rsplit_once("`, expected ") {
        return Some((word, known.split('`').skip(1).step_by(2).collect()));
    }
    Some((rest.rsplit_once("`, there are no")?.0, Vec::new()))
}

fn mismatch(raw: &str) -> Option<(&str, &str)> {
    let rest = raw.strip_prefix("invalid type: ").or_else(|| raw.strip_prefix("invalid value: "))?;
    rest.rsplit_once(", expected ")
}

/// What serde found, in plain words: `integer `5`` is `the number 5`.
fn kind(found: &str, secret: bool) -> String {
    let (kind, value) = match found.find(['`', '"']) {
        Some(at) => (found[..at].trim(), Some(found[at..].trim_matches('`'))),
        None => (found, None),
    };
    let kind = match kind {
        "map" => "table",
        "sequence" => "list",
        "integer" | "floating point" => "number",
        "string" => "text",
        other => other,
    };
    match value.filter(|_| !secret) {
        Some(value) => format!("the {kind} {value}"),
        None => format!("a {kind}"),
    }
}

/// What to write instead.
fn brackets(text: &str, span: Option<&Range<usize>>, what: &str, expected: &str, key: &str) -> String {
    let header = span.and_then(|span| text.get(span.clone())).unwrap_or_default();
    if what == "map" && expected == "a sequence" && header.starts_with('[') {
        return format!("write `[{header}]`, with double brackets: there may be several");
    }
    if what == "sequence" && header.starts_with("[[") {
        let name = if key == "upstream" { "upstream.NAME" } else { key };
        return format!("write `[{name}]`, with single brackets");
    }
    let expected = match expected {
        "a string" | "a borrowed string" | "path string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list, such as [\"...\", \"...\"]",
        "a map" => "a table",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("write {expected}")
}

/// Keys whose values no report shows.
const SECRETS: [&str; 4] = ["token", "cookie_keys", "ticket_secrets", "users"];
/// How hashes of passwords begin, wherever they stand.
const HASH: &str = "$2";

fn without_secrets(text: &str, tree: &DeTable<'_>) -> String {
    let mut spans = Vec::new();
    secret_places(tree, &mut spans);
    // A line that the parser gave up on is not in the tree.
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((key, value)) = line.split_once('=')
            && SECRETS.contains(&key.trim())
        {
            spans.push(start + line.len() - value.len()..start + line.len());
        }
        start += line.len();
    }
    for (at, _) in text.match_indices(HASH) {
        let length = text[at..].find(['"', '\'', '\n']).unwrap_or(text.len() - at);
        spans.push(at..at + length);
    }
    let mut bytes = text.as_bytes().to_vec();
    for secret in spans.into_iter().filter_map(|span| text.get(span.clone()).map(|_| span)) {
        for byte in &mut bytes[secret] {
            if !b"\"'[], \t\r\n".contains(byte) {
                *byte = b'*';
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn secret_places(table: &DeTable<'_>, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        if !SECRETS.contains(&key.get_ref().as_ref()) {
            secret_places_inside(value.get_ref(), spans);
        } else if let DeValue::Table(table) = value.get_ref() {
            // What its keys are is none.
            spans.extend(table.values().map(Spanned::span));
        } else {
            spans.push(value.span());
        }
    }
}

fn secret_places_inside(value: &DeValue<'_>, spans: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => secret_places(table, spans),
        DeValue::Array(list) => list.iter().for_each(|entry| secret_places_inside(entry.get_ref(), spans)),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}
