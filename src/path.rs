//! The one rule by which paths are compared and forwarded. A leaf, like [`crate::units`].
//!
//! A path has many spellings, and a proxy that compares one spelling while the server behind it reads
//! another can be led past its own routes. So every path is brought to one form before a route is
//! looked up, that form is what the server gets, and what no form can make safe is refused:
//!
//! - Escapes of letters, digits and `-._~` are decoded, other escapes get upper-case digits, and bytes
//!   that a URI may not carry are escaped (RFC 3986 §6.2.2).
//! - Then empty segments are merged and dot segments resolved. Leaving the root is refused.
//! - Control characters, escapes that are no escapes, and dot segments that only some servers would
//!   see (`..;x`, `..%2F`) are refused.
//! - What is harmless to a server that decodes once and splits at `/` alone, and to no other, is
//!   reported as [`Escapes`]: it is for a route to allow.
//!
//! Some spellings have to be kept because they mean something to the server, and still say the same to
//! a route: escaped punctuation (`%40` and `@`), and parameters (`/a;v=1`), which servlet containers
//! take off before they compare. Where there are any, what routes compare is a second text,
//! [`Cleaned::compared`]: without parameters, with that punctuation decoded.
//!
//! Nothing in here knows routes or requests. A clean path costs one pass and no allocation.
//!
//! What people are shown of a path that is evidence is decided here as well: [`shown`].

use std::fmt;

/// Kinds of escapes that servers do not agree on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Escapes(u8);

impl Escapes {
    /// `%2F`, `%5C` and a backslash: a separator to some, a character to others.
    pub const SLASH: Self = Self(1);
    /// `%25` and two hexadecimal digits: another escape to whoever decodes twice.
    pub const DOUBLE: Self = Self(2);
    /// Bytes that are not UTF-8.
    pub const BYTES: Self = Self(4);

    /// Every kind with its name in the configuration.
    pub const NAMES: [(Self, &'static str); 3] =
        [(Self::SLASH, "slash"), (Self::DOUBLE, "double"), (Self::BYTES, "bytes")];

    /// The names of those that are there.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(escapes, _)| escapes.is_within(self)).map(|(_, name)| name)
    }

    /// Both together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none that `allowed` lacks.
    #[must_use]
    pub const fn is_within(self, allowed: Self) -> bool {
        self.0 & !allowed.0 == 0
    }
}

impl fmt::Display for Escapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// What became of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The path to forward, where it is not the one that came.
    pub path: Option<String>,
    /// The path to compare, where it is not the one to forward.
    pub compared: Option<String>,
    /// What a route has to allow.
    pub escapes: Escapes,
}

/// Why a path is refused.
pub type Refused = &'static str;

const LEAVES: Refused = "the path leaves its root";
const CONTROL: Refused = "the path has a control character";
const BROKEN: Refused = "the path has a percent sign without two hexadecimal digits";
const DOTS: Refused = "the path has a dot segment that not every server would see";
const NAMELESS: Refused = "the path has parameters without a name";
const OVERLONG: Refused = "the path has an overlong character";
const ROOTLESS: Refused = "the path does not begin with a slash";

/// Brings a path to its one form. `merge` says whether empty segments go.
///
/// # Errors
/// Why it has none.
pub fn clean(path: &str, merge: bool) -> Result<Cleaned, Refused> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(ROOTLESS);
    }
    if is_clean(bytes, merge) {
        return Ok(Cleaned::default());
    }
    let mut writer = Writer { out: String::with_capacity(bytes.len() + 16), ..Writer::default() };
    let mut segments = bytes[1..].split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        writer.segment(segment, segments.peek().is_none(), merge)?;
    }
    let compared = compared(&writer.out);
    Ok(Cleaned { path: (writer.out != path).then_some(writer.out), compared, escapes: writer.escapes })
}

/// What a byte of a path needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// May stand as it is.
    Plain,
    Slash,
    Percent,
    /// Begins parameters, or must be escaped.
    Other,
}

static CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Other; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        if byte == b'/' {
            classes[b] = Class::Slash;
        } else if byte == b'%' {
            classes[b] = Class::Percent;
        } else if is_unreserved(byte) || is_punctuation(byte) {
            classes[b] = Class::Plain;
        }
        b += 1;
    }
    classes
}

/// RFC 3986 §2.3: means the same escaped or not.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What else a segment may hold (RFC 3986 §3.3), `;` aside.
const fn is_punctuation(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

/// Whether a path is in its form already, and is compared as it stands.
fn is_clean(path: &[u8], merge: bool) -> bool {
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match CLASSES[usize::from(*byte)] {
            Class::Plain => at += 1,
            Class::Slash => {
                at += 1;
                match &path[at..] {
                    [b'/', ..] if merge => return false,
                    [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => return false,
                    _ => {}
                }
            }
            Class::Percent => match clean_escapes(&path[at..]) {
                Some(length) => at += length,
                None => return false,
            },
            Class::Other => return false,
        }
    }
    true
}

/// The length of the escaped character that `rest` begins with, if it is written as it should be.
fn clean_escapes(rest: &[u8]) -> Option<usize> {
    let upper = |at: usize| {
        let digits = rest.get(at..at + 3).filter(|d| d[0] == b'%' && !d[1..].iter().any(u8::is_ascii_lowercase))?;
        unescape(digits)
    };
    let first = upper(0)?;
    let length = match first {
        0..=0x1f | 0x7f | b'/' | b'\\' | b';' => return None,
        b'%' if is_double(rest) => return None,
        _ if is_unreserved(first) || is_punctuation(first) => return None,
        0..=0x7f => return Some(3),
        0x80..=0xc1 | 0xf5..=0xff => return None,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
    };
    let mut character = [first, 0, 0, 0];
    for (at, byte) in character.iter_mut().enumerate().take(length).skip(1) {
        *byte = upper(3 * at)?;
    }
    std::str::from_utf8(&character[..length]).ok().map(|_| 3 * length)
}

/// The byte that an escape at the beginning of `rest` stands for.
fn unescape(rest: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = rest else { return None };
    let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Whether the escaped percent sign at the beginning of `rest` stands before two hexadecimal digits.
fn is_double(rest: &[u8]) -> bool {
    rest.get(3..5).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Writes a path segment by segment.
#[derive(Default)]
struct Writer {
    out: String,
    escapes: Escapes,
    /// What the segment at hand means, decoded once.
    decoded: Vec<u8>,
}

impl Writer {
    fn segment(&mut self, segment: &[u8], is_last: bool, merge: bool) -> Result<(), Refused> {
        if segment.is_empty() {
            if is_last || !merge {
                self.out.push('/');
            }
            return Ok(());
        }
        let start = self.out.len();
        self.out.push('/');
        self.decoded.clear();
        self.characters(segment)?;
        self.check_text()?;
        let written = &self.out[start + 1..];
        // Looked for in what was written: the digits may have been escaped themselves.
        if written.match_indices("%25").any(|(at, _)| is_double(&written.as_bytes()[at..])) {
            self.escapes = self.escapes.or(Escapes::DOUBLE);
        }
        match written {
            "." => self.out.truncate(start),
            ".." => {
                let parent = self.out[..start].rfind('/').ok_or(LEAVES)?;
                self.out.truncate(parent);
            }
            _ => return check_name(written, is_last),
        }
        if is_last {
            self.out.push('/');
        }
        Ok(())
    }

    /// Writes the characters of a segment, each in its one spelling.
    fn characters(&mut self, segment: &[u8]) -> Result<(), Refused> {
        let mut at = 0;
        while let Some(&literal) = segment.get(at) {
            let (byte, is_escape) = match literal {
                b'%' => (unescape(&segment[at..]).ok_or(BROKEN)?, true),
                _ => (literal, false),
            };
            if byte.is_ascii_control() {
                return Err(CONTROL);
            }
            if matches!(byte, b'/' | b'\\') {
                self.escapes = self.escapes.or(Escapes::SLASH);
            }
            let stays = !is_escape && (is_punctuation(byte) || byte == b';');
            if is_unreserved(byte) || stays {
                self.out.push(char::from(byte));
            } else {
                escape(byte, &mut self.out);
            }
            self.decoded.push(byte);
            at += if is_escape { 3 } else { 1 };
        }
        Ok(())
    }

    /// Looks at the segment as text. An overlong character is one that a careless decoder takes for
    /// ASCII (RFC 3629 §10).
    fn check_text(&mut self) -> Result<(), Refused> {
        if std::str::from_utf8(&self.decoded).is_ok() {
            return Ok(());
        }
        self.escapes = self.escapes.or(Escapes::BYTES);
        let overlong = |pair: &[u8]| {
            matches!((pair[0], pair[1]), (0xc0 | 0xc1, 0x80..=0xbf) | (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f))
        };
        if self.decoded.windows(2).any(overlong) { Err(OVERLONG) } else { Ok(()) }
    }
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Refuses a segment in which a server that takes off parameters, or splits at escaped slashes, would
/// find a dot segment or an empty one.
fn check_name(segment: &str, is_last: bool) -> Result<(), Refused> {
    let mut parts = segment.split("%2F").flat_map(|part| part.split("%5C"));
    if parts.any(|part| matches!(name(part), "." | "..")) {
        return Err(DOTS);
    }
    if name(segment).is_empty() && !is_last {
        return Err(NAMELESS);
    }
    Ok(())
}

/// A segment without its parameters. Some servers decode before they take them off.
fn name(segment: &str) -> &str {
    let end = segment.find(';').unwrap_or(segment.len());
    let end = segment[..end].find("%3B").unwrap_or(end);
    &segment[..end]
}

/// What routes compare, where it differs from a path in its one form.
fn compared(path: &str) -> Option<String> {
    let escaped = |at: usize| unescape(&path.as_bytes()[at..]).is_some_and(|b| is_punctuation(b) || b == b';');
    if !path.contains(';') && !path.match_indices('%').any(|(at, _)| escaped(at)) {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    for segment in path[1..].split('/') {
        out.push('/');
        let mut rest = name(segment);
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            match unescape(&rest.as_bytes()[at..]) {
                Some(byte) if is_punctuation(byte) => out.push(char::from(byte)),
                _ => out.push_str(&rest[at..at + 3]),
            }
            rest = &rest[at + 3..];
        }
        out.push_str(rest);
    }
    Some(out)
}

/// Characters that a part of a path has which is shown as it is; longer ones may be secrets.
const MOST_SHOWN: usize = 24;

/// A path without what may let somebody in: parameters (RFC 3986 §3.3) such as `;jsessionid=`, the session that ASP.NET
/// has in the path ([`is_session`]), and parts as long as a token.
#[must_use]
pub fn shown(path: &str) -> String {
    let (plain, cut) = match path.split_once(';') {
        Some((plain, _)) => (plain, ";…"),
        None => (path, ""),
    };
    let short = |part: &str| match part {
        part if is_session(part) => "(…)".to_owned(),
        part if part.chars().nth(MOST_SHOWN).is_some() => "…".to_owned(),
        part => part.to_owned(),
    };
    plain.split('/').map(short).collect::<Vec<_>>().join("/") + cut
}

/// Whether a part of a path is what ASP.NET keeps for a client without cookies: `(S(…))` is a session, `(A(…))` an anonymous
/// user and `(F(…))` somebody who has logged in, one behind the other in one pair of brackets.
#[must_use]
pub fn is_session(part: &str) -> bool {
    let plain = part.replace("%28", "(").replace("%29", ")");
    let inner = plain.strip_prefix('(').and_then(|rest| rest.strip_suffix("))"));
    inner.is_some_and(|inner| matches!(inner.as_bytes(), [kind, b'(', ..] if kind.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests;
