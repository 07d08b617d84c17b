//! The raw bytes of HTTP/1 requests, looked at before the parser gets them.
//!
//! The parser is lenient where a proxy must not be, and what it forgives it also hides: a length beside a
//! transfer coding is dropped, a repeated length is one, a line may end with LF alone, a fragment is cut
//! off. Whoever stands in front of this proxy may have read the same bytes in the other way. So they are
//! refused here ([`Inspector::feed`]), before a server sees anything of the request.
//!
//! # What is seen
//!
//! Every byte of every request passes through [`Inspector::feed`], in the order of arrival and however it
//! was cut into reads. It follows the framing of messages (RFC 9112 §6), and so knows what is head and
//! what is body: a body that looks like a head is never taken for one, and a head that begins in the
//! middle of a read, behind the body of the request before, is never missed. Following costs little,
//! because the bytes of a body are skipped by their number. Where the parser would frame in another way
//! than this room, the message is refused; so the two always agree where a message ends.
//!
//! What follows a request with `Upgrade` is either another protocol or the next request, and only the
//! answer tells which. The bytes are held back until then ([`Verdict::Hold`]), and looked at after that.
//!
//! # What is refused
//!
//! In heads: more than one `Content-Length`, one that is not a plain decimal number, one beside
//! `Transfer-Encoding`, a `Transfer-Encoding` other than one `chunked` (RFC 9112 §6.1 to §6.3), a line that
//! does not end with CRLF (§2.2), `#` in the request line (§3.2), a request line or a number of header
//! lines beyond the listener's limits. In chunked bodies: what is not a chunk, and trailer lines that do
//! not end with CRLF (§7.1).
//!
//! # What is not
//!
//! What the parser refuses itself, with the same answer to the client: bytes that may not be in names,
//! values and targets, blanks before the colon, before the first header and in folded lines (§5.1, §5.2,
//! §2.2), other versions, a head that is too large. What is refused with all that is known of the request
//! is left to [`super::check`]. Nothing here waits, allocates, or keeps more than the start of one line.

use memchr::{memchr, memchr_iter, memchr2};

use crate::config::plan::ListenerPlan;
use crate::error::Kind;

/// How much of a line is kept when it comes in pieces: enough for the names that count, their values and
/// some blanks. One of them in a longer line is refused, however it comes.
const KEPT: usize = 64;

/// What may become of bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The parser may have all of them.
    Pass,
    /// The parser may have the first `pass`, and nothing that comes after: the head, or the body, that
    /// follows is refused.
    Refuse { pass: usize, kind: Kind, in_body: bool },
    /// The parser may have the first `pass`; the rest has to wait until [`Inspector::resume`].
    Hold { pass: usize },
}

/// Where in a message the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the request line, or in empty lines before it (RFC 9112 §2.2).
    RequestLine,
    Headers,
    /// So many bytes of the body are to come.
    Length(u64),
    Chunk(Chunk),
    Trailers,
    /// Behind a request to switch protocols that was not answered yet.
    Waiting,
}

/// Where in a chunk the next byte is (RFC 9112 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    FirstDigit,
    Digit,
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
}

/// What was found in the head that is being read.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    headers: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// The part of a line that came in earlier reads.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Its first bytes.
    start: [u8; KEPT],
    /// Length of all of it; 0 at the start of a line.
    len: usize,
    last: u8,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Inspector {
    longest_line: usize,
    most_headers: usize,
    state: State,
    found: Found,
    kept: Kept,
    /// Of the chunk that is being read: what is left of it.
    size: u64,
}

impl Inspector {
    /// For a connection, or what is left of one, that begins with a request.
    pub(super) fn new(plan: &ListenerPlan) -> Self {
        Self {
            longest_line: plan.max_request_line,
            most_headers: plan.max_headers,
            state: State::RequestLine,
            found: Found::default(),
            kept: Kept { start: [0; KEPT], len: 0, last: 0 },
            size: 0,
        }
    }

    /// Whether the next byte is behind a request to switch protocols that was not answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// Protocols were not switched: the next byte is of a request.
    pub(super) fn resume(&mut self) {
        if self.is_waiting() {
            self.state = State::RequestLine;
        }
    }

    /// Looks at the bytes that have arrived.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        // Where the head that is being read began, as far as it is in these bytes.
        let mut begun = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Headers if self.kept.len == 0 => match self.headers(rest) {
                    Ok(read) => at += read,
                    Err(kind) => return Verdict::Refuse { pass: begun, kind, in_body: false },
                },
                State::RequestLine | State::Headers | State::Trailers => {
                    if self.state != State::Headers && self.kept.len == 0 {
                        begun = at;
                    }
                    let step = if let Some(end) = memchr(b'\n', rest) {
                        at += end + 1;
                        self.end_of_line(&rest[..end])
                    } else {
                        at = bytes.len();
                        self.part_of_line(rest)
                    };
                    if let Err(kind) = step {
                        return Verdict::Refuse { pass: begun, kind, in_body: self.state == State::Trailers };
                    }
                }
                State::Length(left) => {
                    let skipped = left.min(rest.len() as u64);
                    at += skipped as usize;
                    self.state = State::Length(left - skipped);
                    if skipped == left {
                        self.end_of_message();
                    }
                }
                State::Chunk(part) => match self.chunk(part, rest) {
                    Ok(read) => at += read,
                    Err(good) => {
                        return Verdict::Refuse { pass: at + good, kind: Kind::BadRequest, in_body: true };
                    }
                },
                State::Waiting => return Verdict::Hold { pass: at },
            }
        }
        Verdict::Pass
    }

    /// Reads header lines as long as they are whole; most requests are read by this alone.
    fn headers(&mut self, bytes: &[u8]) -> Result<usize, Kind> {
        let mut at = 0;
        for end in memchr_iter(b'\n', bytes) {
            match &bytes[at..end] {
                [b'\r'] => {
                    self.end_of_head();
                    return Ok(end + 1);
                }
                [line @ .., b'\r'] => self.header(line, line.len())?,
                _ => return Err(Kind::BadRequest),
            }
            at = end + 1;
        }
        self.part_of_line(&bytes[at..])?;
        Ok(bytes.len())
    }

    /// A part of a line has come, without its end.
    fn part_of_line(&mut self, part: &[u8]) -> Result<(), Kind> {
        self.check_target(part)?;
        let kept = &mut self.kept;
        if kept.len < KEPT {
            let room = part.len().min(KEPT - kept.len);
            kept.start[kept.len..kept.len + room].copy_from_slice(&part[..room]);
        }
        kept.len += part.len();
        kept.last = part.last().copied().unwrap_or(kept.last);
        // One more for the CR that may be the last of them.
        if self.state == State::RequestLine && kept.len > self.longest_line + 1 {
            return Err(Kind::UriTooLong);
        }
        Ok(())
    }

    /// The rest of a line has come, up to its LF.
    fn end_of_line(&mut self, rest: &[u8]) -> Result<(), Kind> {
        if self.kept.len == 0 {
            self.check_target(rest)?;
            let Some((b'\r', line)) = rest.split_last() else { return Err(Kind::BadRequest) };
            return self.line(line, line.len());
        }
        self.part_of_line(rest)?;
        let Kept { start, len, last } = self.kept;
        self.kept.len = 0;
        if last != b'\r' {
            return Err(Kind::BadRequest);
        }
        self.line(&start[..KEPT.min(len - 1)], len - 1)
    }

    /// The parser would cut a fragment off, and route and forward the rest.
    fn check_target(&self, part: &[u8]) -> Result<(), Kind> {
        if self.state == State::RequestLine && memchr(b'#', part).is_some() {
            return Err(Kind::BadRequest);
        }
        Ok(())
    }

    /// A line of `len` bytes, of which these are the first, or all.
    fn line(&mut self, line: &[u8], len: usize) -> Result<(), Kind> {
        match self.state {
            State::RequestLine if len > self.longest_line => return Err(Kind::UriTooLong),
            State::RequestLine if len > 0 => {
                self.found = Found::default();
                self.state = State::Headers;
            }
            State::Headers if len > 0 => return self.header(line, len),
            State::Headers => self.end_of_head(),
            State::Trailers if len == 0 => self.end_of_message(),
            _ => {}
        }
        Ok(())
    }

    /// Counts a header line. Its first letter tells most from the few that matter here.
    #[inline]
    fn header(&mut self, line: &[u8], len: usize) -> Result<(), Kind> {
        let found = &mut self.found;
        found.headers += 1;
        if found.headers > self.most_headers {
            return Err(Kind::HeadersTooLarge);
        }
        match line.first() {
            Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U') => self.framing(line, len),
            _ => Ok(()),
        }
    }

    /// Notes what says how the message is framed, and what comes after it.
    fn framing(&mut self, line: &[u8], len: usize) -> Result<(), Kind> {
        let found = &mut self.found;
        if let Some(value) = value_of(line, b"content-length:") {
            if found.length.is_some() || found.chunked || len > KEPT {
                return Err(Kind::BadRequest);
            }
            found.length = Some(decimal(value).ok_or(Kind::BadRequest)?);
        } else if let Some(value) = value_of(line, b"transfer-encoding:") {
            if found.length.is_some() || found.chunked || len > KEPT || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Kind::BadRequest);
            }
            found.chunked = true;
        } else if value_of(line, b"upgrade:").is_some() {
            found.upgrade = true;
        }
        Ok(())
    }

    fn end_of_head(&mut self) {
        match (self.found.chunked, self.found.length) {
            (true, _) => {
                self.size = 0;
                self.state = State::Chunk(Chunk::FirstDigit);
            }
            (false, Some(length @ 1..)) => self.state = State::Length(length),
            (false, _) => self.end_of_message(),
        }
    }

    fn end_of_message(&mut self) {
        self.state = if self.found.upgrade { State::Waiting } else { State::RequestLine };
    }

    /// Follows chunks up to the trailers or the end of `bytes`. Tells how many bytes were read, or how
    /// many are good.
    fn chunk(&mut self, mut part: Chunk, bytes: &[u8]) -> Result<usize, usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            part = match (part, byte) {
                (Chunk::FirstDigit | Chunk::Digit, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    self.size = self.size.checked_mul(16).ok_or(at)? + u64::from(digit);
                    Chunk::Digit
                }
                (Chunk::Digit | Chunk::Blank, b' ' | b'\t') => Chunk::Blank,
                (Chunk::Digit | Chunk::Blank, b';') => Chunk::Extension,
                (Chunk::Digit | Chunk::Blank, b'\r') => Chunk::SizeLf,
                (Chunk::Extension, _) => match memchr2(b'\r', b'\n', &bytes[at..]) {
                    None => {
                        at = bytes.len();
                        break;
                    }
                    Some(n) if bytes[at + n] == b'\r' => {
                        at += n;
                        Chunk::SizeLf
                    }
                    Some(n) => return Err(at + n),
                },
                (Chunk::SizeLf, b'\n') if self.size == 0 => {
                    self.state = State::Trailers;
                    return Ok(at + 1);
                }
                (Chunk::SizeLf, b'\n') => Chunk::Data,
                (Chunk::Data, _) => {
                    let skipped = self.size.min((bytes.len() - at) as u64);
                    self.size -= skipped;
                    at += skipped as usize;
                    part = if self.size == 0 { Chunk::DataCr } else { Chunk::Data };
                    continue;
                }
                (Chunk::DataCr, b'\r') => Chunk::DataLf,
                (Chunk::DataLf, b'\n') => Chunk::FirstDigit,
                _ => return Err(at),
            };
            at += 1;
        }
        self.state = State::Chunk(part);
        Ok(at)
    }
}

/// The value in a header line, if it is of that name. `name` is in lower case and ends with the colon.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let colon = name.len() - 1;
    (line.get(colon) == Some(&b':') && line[..=colon].eq_ignore_ascii_case(name))
        .then(|| without_blanks(&line[colon + 1..]))
}

/// Spaces and tabs are the only blanks around a value (RFC 9110 §5.6.3).
fn without_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A number written with digits alone (RFC 9110 §8.6).
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        // Further than any length that the parser can count.
        number.checked_mul(10)?.checked_add(digit).filter(|n| *n <= i64::MAX as u64)
    })
}

#[cfg(test)]
mod tests;
