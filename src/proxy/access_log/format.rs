//! What a line looks like, as bytes: no `fmt`, no allocation, no lock.
//!
//! Text of strangers is escaped so that a line stays one line, JSON stays JSON and a terminal that
//! shows the log obeys nobody. A byte that is not UTF-8 becomes the four characters `\xHH`.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::Version;

use crate::config::plan::AccessLogFormat;

/// One request as the log tells it. What came from a client in a header is bytes, as HTTP has it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// When the request's head was there, in Unix milliseconds.
    pub unix_millis: u64,
    /// The client's address after trusted proxies.
    pub client: IpAddr,
    /// Who it is, where a password has shown it.
    pub user: Option<&'a str>,
    /// Empty where the head could not be read: then nothing of the request line is known.
    pub method: &'a str,
    /// Path and query as the client sent them.
    pub target: &'a str,
    pub version: Version,
    /// The version of TLS; none in clear.
    pub tls: Option<&'static str>,
    /// The name that the client asked for in the TLS handshake.
    pub sni: Option<&'a str>,
    pub host: Option<&'a [u8]>,
    /// What the client got; 499 when it left before.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the last byte of its answer.
    pub duration: Duration,
    /// From the head of the request to the head of the answer, where there was one.
    pub first_byte: Option<Duration>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// Name of the server that answered or was tried last.
    pub server: Option<&'a str>,
    /// Further tries after the first.
    pub retries: u32,
    /// What became of a sticky session: `kept`, `new`, `moved`.
    pub sticky: Option<&'static str>,
    /// Why evenkeel itself answered or gave up ([`crate::error::Kind::reason`]).
    pub reason: Option<&'static str>,
    pub request_id: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
}

/// Writes lines of one format.
#[derive(Debug)]
pub(super) struct Formatter {
    format: AccessLogFormat,
    stamp: Stamp,
}

impl Formatter {
    pub(super) fn new(format: AccessLogFormat) -> Self {
        Self { format, stamp: Stamp::new() }
    }

    /// Appends the line of a request.
    pub(super) fn line(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        self.stamp.set(entry.unix_millis / 1000);
        match self.format {
            AccessLogFormat::Json => self.json(out, entry),
            AccessLogFormat::Combined => self.combined(out, entry),
        }
    }

    /// Appends the line that says how many lines were lost.
    pub(super) fn lost(&mut self, out: &mut Vec<u8>, unix_millis: u64, lost: u64) {
        self.stamp.set(unix_millis / 1000);
        match self.format {
            AccessLogFormat::Json => {
                out.extend_from_slice(b"{\"time\":\"");
                self.time(out, unix_millis);
                out.extend_from_slice(b"\",\"lines_lost\":");
                number(out, lost);
                out.extend_from_slice(b"}\n");
            }
            AccessLogFormat::Combined => {
                out.extend_from_slice(b"# [");
                out.extend_from_slice(&self.stamp.clf);
                out.extend_from_slice(b"] ");
                number(out, lost);
                out.extend_from_slice(b" lines lost\n");
            }
        }
    }

    /// Keys are stable and in snake case; one without a value is left out.
    fn json(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.time(out, entry.unix_millis);
        out.extend_from_slice(b"\",\"client\":\"");
        address(out, entry.client);
        out.push(b'"');
        json_field(out, b",\"user\":\"", entry.user.map(str::as_bytes));
        if !entry.method.is_empty() {
            Self::json_request(out, entry);
        }
        if entry.tls.is_some() {
            json_field(out, b",\"tls\":\"", entry.tls.map(str::as_bytes));
            json_field(out, b",\"sni\":\"", entry.sni.map(str::as_bytes));
        }
        out.extend_from_slice(b",\"status\":");
        number(out, u64::from(entry.status));
        out.extend_from_slice(b",\"bytes_in\":");
        number(out, entry.bytes_in);
        out.extend_from_slice(b",\"bytes_out\":");
        number(out, entry.bytes_out);
        out.extend_from_slice(b",\"duration_ms\":");
        millis(out, entry.duration);
        if let Some(first_byte) = entry.first_byte {
            out.extend_from_slice(b",\"first_byte_ms\":");
            millis(out, first_byte);
        }
        json_field(out, b",\"route\":\"", entry.route.map(str::as_bytes));
        json_field(out, b",\"upstream\":\"", entry.upstream.map(str::as_bytes));
        json_field(out, b",\"server\":\"", entry.server.map(str::as_bytes));
        out.extend_from_slice(b",\"retries\":");
        number(out, u64::from(entry.retries));
        json_field(out, b",\"sticky\":\"", entry.sticky.map(str::as_bytes));
        json_field(out, b",\"reason\":\"", entry.reason.map(str::as_bytes));
        json_field(out, b",\"request_id\":\"", entry.request_id);
        json_field(out, b",\"referer\":\"", entry.referer);
        json_field(out, b",\"user_agent\":\"", entry.user_agent);
        out.extend_from_slice(b"}\n");
    }

    fn json_request(out: &mut Vec<u8>, entry: &Entry<'_>) {
        json_field(out, b",\"method\":\"", Some(entry.method.as_bytes()));
        json_field(out, b",\"host\":\"", entry.host);
        let (path, query) = match memchr::memchr(b'?', entry.target.as_bytes()) {
            Some(at) => (&entry.target.as_bytes()[..at], Some(&entry.target.as_bytes()[at + 1..])),
            None => (entry.target.as_bytes(), None),
        };
        json_field(out, b",\"path\":\"", Some(path));
        json_field(out, b",\"query\":\"", query);
        json_field(out, b",\"version\":\"", Some(version(entry.version)));
    }

    /// `%h - %u [%t] "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`, escaped as nginx does. Times are UTC.
    fn combined(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        address(out, entry.client);
        out.extend_from_slice(b" - ");
        match entry.user {
            Some(user) => combined_word(out, user.as_bytes()),
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" [");
        out.extend_from_slice(&self.stamp.clf);
        out.extend_from_slice(b"] \"");
        if entry.method.is_empty() {
            out.push(b'-');
        } else {
            combined_text(out, entry.method.as_bytes());
            out.push(b' ');
            combined_text(out, entry.target.as_bytes());
            out.push(b' ');
            out.extend_from_slice(version(entry.version));
        }
        out.extend_from_slice(b"\" ");
        number(out, u64::from(entry.status));
        out.push(b' ');
        number(out, entry.bytes_out);
        out.extend_from_slice(b" \"");
        combined_text(out, entry.referer.unwrap_or(b"-"));
        out.extend_from_slice(b"\" \"");
        combined_text(out, entry.user_agent.unwrap_or(b"-"));
        out.extend_from_slice(b"\"\n");
    }

    /// RFC 3339 in UTC with milliseconds.
    fn time(&self, out: &mut Vec<u8>, unix_millis: u64) {
        out.extend_from_slice(&self.stamp.rfc3339);
        thousandths(out, (unix_millis % 1000) as u32);
        out.push(b'Z');
    }
}

fn version(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => b"HTTP/0.9",
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2.0",
        Version::HTTP_3 => b"HTTP/3.0",
        _ => b"HTTP/1.1",
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `.` and three digits.
fn thousandths(out: &mut Vec<u8>, n: u32) {
    let digit = |n: u32| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(n / 100), digit(n / 10), digit(n)]);
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = duration.as_micros() as u64;
    number(out, micros / 1000);
    thousandths(out, (micros % 1000) as u32);
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let mut digits = itoa::Buffer::new();
            out.extend_from_slice(digits.format(a).as_bytes());
            for octet in [b, c, d] {
                out.push(b'.');
                out.extend_from_slice(digits.format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{address}");
        }
    }
}

/// `key` is everything from the comma to the opening quote.
fn json_field(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        json_text(out, value);
        out.push(b'"');
    }
}

/// Whether every byte stands for itself in both formats: printable ASCII but for `"` and `\`.
/// Without an early exit, so that it runs on whole vectors.
fn is_plain(text: &[u8]) -> bool {
    !text.iter().fold(false, |odd, &b| odd | (b.wrapping_sub(b' ') >= 0x7f - b' ') | (b == b'"') | (b == b'\\'))
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

fn json_text(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        json_escaped(out, text);
    }
}

#[cold]
fn json_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // Also DEL, the C1 controls that terminals obey, and the two separators that some
                // readers take for line ends.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                    let [high, low] = (c as u16).to_be_bytes();
                    out.extend_from_slice(b"\\u");
                    hex(out, high);
                    hex(out, low);
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for &byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            hex(out, byte);
        }
    }
}

fn combined_text(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        combined_escaped(out, text);
    }
}

#[cold]
fn combined_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        if is_plain(&[byte]) {
            out.push(byte);
        } else {
            out.extend_from_slice(b"\\x");
            hex(out, byte);
        }
    }
}

/// The same without blanks, which would begin the next field.
fn combined_word(out: &mut Vec<u8>, text: &[u8]) {
    for word in text.split_inclusive(|b| *b == b' ') {
        combined_text(out, word.strip_suffix(b" ").unwrap_or(word));
        if word.ends_with(b" ") {
            out.extend_from_slice(b"\\x20");
        }
    }
}

/// The last second of the year 9999, after which the fields no longer fit.
const LAST_SECOND: u64 = 253_402_300_799;
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// One second as text, kept until another second is asked for.
#[derive(Debug)]
struct Stamp {
    second: u64,
    /// `2026-01-31T23:59:59`
    rfc3339: [u8; 19],
    /// `31/Jan/2026:23:59:59 +0000`
    clf: [u8; 26],
}

impl Stamp {
    fn new() -> Self {
        let (rfc3339, clf) = (*b"0000-00-00T00:00:00", *b"00/Jan/0000:00:00:00 +0000");
        let mut stamp = Self { second: u64::MAX, rfc3339, clf };
        stamp.set(0);
        stamp
    }

    fn set(&mut self, second: u64) {
        if second != self.second {
            self.second = second;
            self.rebuild(second.min(LAST_SECOND));
        }
    }

    fn rebuild(&mut self, second: u64) {
        let (days, time) = (second / 86_400, (second % 86_400) as u32);
        let (year, month, day) = civil(days as u32);
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        put2(&mut self.rfc3339, 0, year / 100);
        put2(&mut self.rfc3339, 2, year % 100);
        put2(&mut self.clf, 7, year / 100);
        put2(&mut self.clf, 9, year % 100);
        put2(&mut self.rfc3339, 5, month);
        let name = (month as usize - 1) * 3;
        self.clf[3..6].copy_from_slice(&MONTHS[name..name + 3]);
        for (rfc3339, clf, n) in [(8, 0, day), (11, 12, hour), (14, 15, minute), (17, 18, second)] {
            put2(&mut self.rfc3339, rfc3339, n);
            put2(&mut self.clf, clf, n);
        }
    }
}

fn put2(text: &mut [u8], at: usize, n: u32) {
    text[at] = b'0' + (n / 10 % 10) as u8;
    text[at + 1] = b'0' + (n % 10) as u8;
}

/// Year, month and day of a day since 1970-01-01 (`civil_from_days`, Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html>). The year begins in March there, so that
/// the leap day comes last.
fn civil(days: u32) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_known_moments() {
        // Checked with date(1).
        for (second, rfc3339, clf) in [
            (0, "1970-01-01T00:00:00", "01/Jan/1970:00:00:00 +0000"),
            (951_782_400, "2000-02-29T00:00:00", "29/Feb/2000:00:00:00 +0000"),
            (971_211_336, "2000-10-10T20:55:36", "10/Oct/2000:20:55:36 +0000"),
            (1_709_251_199, "2024-02-29T23:59:59", "29/Feb/2024:23:59:59 +0000"),
            (1_709_251_200, "2024-03-01T00:00:00", "01/Mar/2024:00:00:00 +0000"),
            (4_107_542_399, "2100-02-28T23:59:59", "28/Feb/2100:23:59:59 +0000"),
            (4_107_542_400, "2100-03-01T00:00:00", "01/Mar/2100:00:00:00 +0000"),
            (LAST_SECOND, "9999-12-31T23:59:59", "31/Dec/9999:23:59:59 +0000"),
            (u64::MAX, "9999-12-31T23:59:59", "31/Dec/9999:23:59:59 +0000"),
        ] {
            let mut stamp = Stamp::new();
            stamp.set(second);
            assert_eq!(std::str::from_utf8(&stamp.rfc3339), Ok(rfc3339));
            assert_eq!(std::str::from_utf8(&stamp.clf), Ok(clf));
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for day in 1..=2_932_896 {
            let (y, m, d) = civil(day);
            let follows = match before {
                (year, 12, 31) => (y, m, d) == (year + 1, 1, 1),
                (year, month, last) if d == 1 => y == year && m == month + 1 && last >= 28,
                (year, month, last) => (y, m, d) == (year, month, last + 1),
            };
            assert!(follows && d <= 31, "{before:?} then {:?}", (y, m, d));
            before = (y, m, d);
        }
        assert_eq!(before, (9999, 12, 31));
    }

    #[test]
    fn plain_is_what_needs_no_escape() {
        for byte in 0..=u8::MAX {
            let plain = (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
            assert_eq!(is_plain(&[byte]), plain, "{byte:#x}");
        }
    }
}
