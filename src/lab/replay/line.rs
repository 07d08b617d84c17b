//! One line of an access log: evenkeel's JSON, or what begins as the common log format does (evenkeel's and nginx's
//! combined, nginx's common).
//!
//! A log is full of what strangers have sent. Nothing in a line is trusted to be what it should: what cannot be read
//! is a bad line, and never a panic.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

/// What a line is.
#[derive(Debug, Clone, PartialEq)]
pub enum Line<'a> {
    Request(Logged<'a>),
    /// Nothing was sent to a server.
    Unsent,
    /// So many lines were lost before it.
    Lost(u64),
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged<'a> {
    /// Since 1970. Of a line without a time when the request began, when it ended.
    pub at: Duration,
    /// How long it took, where the log says so.
    pub took: Option<Duration>,
    pub client: IpAddr,
    pub agent: Cow<'a, str>,
    pub path: Cow<'a, str>,
    pub query: Option<Cow<'a, str>>,
    pub upstream: Option<Cow<'a, str>>,
    pub server: Option<Cow<'a, str>>,
}

/// Reads a line.
///
/// # Errors
/// Why it cannot be read.
pub fn read(line: &[u8]) -> Result<Line<'_>, &'static str> {
    let line = line.trim_ascii();
    match line.first() {
        None => Ok(Line::Unsent),
        Some(b'{') => json(line),
        Some(b'#') => Ok(Line::Lost(lost(line))),
        Some(_) => common(line),
    }
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    client: Option<IpAddr>,
    #[serde(borrow, default)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    query: Option<Cow<'a, str>>,
    duration_ms: Option<f64>,
    #[serde(borrow, default)]
    upstream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    server: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_agent: Option<Cow<'a, str>>,
    lines_lost: Option<u64>,
}

fn json(line: &[u8]) -> Result<Line<'_>, &'static str> {
    let json: Json<'_> = serde_json::from_slice(line).map_err(|_| "it is no JSON object with `time` and `client`")?;
    if let Some(lost) = json.lines_lost {
        return Ok(Line::Lost(lost));
    }
    let at = rfc3339(json.time.as_bytes()).ok_or("`time` is no time such as 2026-11-21T20:15:00.123Z")?;
    let client = json.client.ok_or("it has no `client`")?;
    // What evenkeel has answered itself went to no server.
    if json.upstream.is_none() || json.server.is_none() {
        return Ok(Line::Unsent);
    }
    let took = json.duration_ms.filter(|ms| (0.0..1e12).contains(ms));
    Ok(Line::Request(Logged {
        at,
        took: took.map(|ms| Duration::from_secs_f64(ms / 1000.0)),
        client: client.to_canonical(),
        agent: json.user_agent.unwrap_or(Cow::Borrowed("-")),
        path: json.path.unwrap_or(Cow::Borrowed("/")),
        query: json.query,
        upstream: json.upstream,
        server: json.server,
    }))
}

/// `%h %l %u [%t] "%r" %>s %b`, and perhaps `"%{Referer}i" "%{User-Agent}i"` and more.
fn common(line: &[u8]) -> Result<Line<'_>, &'static str> {
    let text = |bytes: &'_ [u8]| -> Option<IpAddr> { std::str::from_utf8(bytes).ok()?.parse().ok() };
    let end = memchr::memchr(b' ', line).ok_or("it has no space")?;
    let client = text(&line[..end]).ok_or("it does not begin with an address")?;
    // Before the time comes the user, with any spaces and brackets, but no quote that is not escaped.
    let close = memchr::memmem::find(line, b"] \"").ok_or("it has no time in brackets before a request")?;
    let open = close.checked_sub(CLF_LEN).filter(|open| line[..*open].ends_with(b" ["));
    let at = open.and_then(|open| clf(&line[open..close]));
    let at = at.ok_or("its time is none such as 21/Nov/2026:20:15:00 +0000")?;
    let (request, rest) = quoted(&line[close + 2..]).ok_or("its request has no end")?;
    let rest = rest.trim_ascii_start();
    if rest.len() < 3 || !rest[..3].iter().all(u8::is_ascii_digit) {
        return Err("it has no status behind its request");
    }
    let mut words = request.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let (Some(_), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
        // `-`, or bytes that were no request: no server has seen it.
        return Ok(Line::Unsent);
    };
    let agent = memchr::memchr(b'"', rest).and_then(|at| {
        let (_, rest) = quoted(&rest[at..])?;
        let (agent, _) = quoted(rest.trim_ascii_start())?;
        Some(String::from_utf8_lossy(agent))
    });
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    Ok(Line::Request(Logged {
        at,
        took: None,
        client: client.to_canonical(),
        agent: agent.unwrap_or(Cow::Borrowed("-")),
        path: String::from_utf8_lossy(path),
        query: query.map(String::from_utf8_lossy),
        upstream: None,
        server: None,
    }))
}

/// What stands between quotes at the beginning, and what follows. A quote within is escaped by a backslash.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        match inside.get(at)? {
            b'"' => return Some((&inside[..at], &inside[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// `# [time] 12 lines lost`, as evenkeel writes it.
fn lost(line: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(line);
    let number = text.split_once("] ").and_then(|(_, rest)| rest.strip_suffix(" lines lost")?.parse().ok());
    number.unwrap_or(0)
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// How long a time of the common log format is.
const CLF_LEN: usize = 26;

/// `21/Nov/2026:20:15:00 +0000`
fn clf(text: &[u8]) -> Option<Duration> {
    if text.len() != CLF_LEN || [text[2], text[6], text[11], text[14], text[17], text[20]] != *b"//::: " {
        return None;
    }
    let month = MONTHS.iter().position(|month| **month == text[3..6])? as u64 + 1;
    let zone = zone(text[21], number(&text[22..24])?, number(&text[24..26])?)?;
    moment([number(&text[7..11])?, month, number(&text[..2])?], &text[12..20], zone)
}

/// `2026-11-21T20:15:00.123Z`, with any number of decimals and any offset (RFC 3339 §5.6).
fn rfc3339(text: &[u8]) -> Option<Duration> {
    if text.len() < 20 || [text[4], text[7], text[10]] != *b"--T" {
        return None;
    }
    let (mut rest, mut nanos) = (&text[19..], 0);
    if let Some(decimals) = rest.strip_prefix(b".") {
        let end = decimals.iter().position(|byte| !byte.is_ascii_digit())?;
        let digits = decimals[..end].iter().chain(b"000000000").take(9);
        nanos = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        rest = &decimals[end..];
    }
    let zone = match rest {
        b"Z" => 0,
        [sign, a, b, b':', c, d] => zone(*sign, number(&[*a, *b])?, number(&[*c, *d])?)?,
        _ => return None,
    };
    let date = [number(&text[..4])?, number(&text[5..7])?, number(&text[8..10])?];
    Some(moment(date, &text[11..19], zone)? + Duration::from_nanos(nanos.into()))
}

/// Seconds east of Greenwich.
fn zone(sign: u8, hours: u64, minutes: u64) -> Option<i64> {
    let seconds = i64::try_from(hours * 3600 + minutes * 60).ok().filter(|_| hours < 24 && minutes < 60)?;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

/// A date, `20:15:00` and an offset, as time since 1970.
fn moment([year, month, day]: [u64; 3], clock: &[u8], zone: i64) -> Option<Duration> {
    let is_clock = clock.len() == 8 && clock[2] == b':' && clock[5] == b':';
    let (hour, minute, second) = (number(clock.get(..2)?)?, number(clock.get(3..5)?)?, number(clock.get(6..8)?)?);
    let fits = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_clock || !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1 March of year 0, when leap days come last (Hinnant, *chrono-compatible low-level date algorithms*).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = i64::try_from((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    u64::try_from(seconds - zone).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Logged<'_> {
        match read(line.as_bytes()) {
            Ok(Line::Request(logged)) => logged,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // `date -u -d … +%s` says so.
        let at = |text: &str| clf(text.as_bytes()).map(|at| at.as_secs());
        assert_eq!(at("21/Nov/2026:20:15:00 +0000"), Some(1_795_292_100));
        assert_eq!(at("01/Jan/1970:01:00:00 +0100"), Some(0));
        assert_eq!(at("29/Feb/2024:23:59:59 -0330"), Some(1_709_263_799));
        assert_eq!(at("01/Mar/2100:00:00:00 +0000"), Some(4_107_542_400));
        for wrong in [
            "",
            "21/Nov/2026:20:15:00",
            "21/Nof/2026:20:15:00 +0000",
            "00/Nov/2026:20:15:00 +0000",
            "21/Nov/2026:24:15:00 +0000",
            "01/Jan/1970:00:00:00 +0100",
            "é1/Nov/2026:20:15:00 +000",
        ] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
        let at = |text: &str| rfc3339(text.as_bytes()).map(|at| at.as_millis());
        assert_eq!(at("2026-11-21T20:15:00.123Z"), Some(1_795_292_100_123));
        assert_eq!(at("2026-11-21T22:15:00+02:00"), Some(1_795_292_100_000));
        for wrong in ["2026-11-21T20:15:00", "2026-11-21T20:15:00.", "2026-11-21T20:15:00.1", "2026-11-21 20:15:00Z"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nginx_s_formats_are_read() {
        let common = "203.0.113.9 - - [21/Nov/2026:20:15:00 +0000] \"GET /a/b?c=d HTTP/1.1\" 200 612";
        let logged = request(common);
        assert_eq!(
            (logged.client.to_string().as_str(), &*logged.path, logged.query.as_deref()),
            ("203.0.113.9", "/a/b", Some("c=d"))
        );
        assert_eq!((&*logged.agent, logged.took), ("-", None));
        let combined = "2001:db8::7 - Jane Doe [21/Nov/2026:20:15:00 +0000] \"POST /x\\x22 HTTP/2.0\" 302 0 \"https://a/?q=\\\"1\\\"\" \"Mozilla/5.0 (\\x22)\" \"198.51.100.1\"";
        let logged = request(combined);
        assert_eq!((&*logged.path, &*logged.agent), ("/x\\x22", "Mozilla/5.0 (\\x22)"));
        assert_eq!(
            request("::ffff:10.0.0.1 - - [21/Nov/2026:20:15:00 +0000] \"GET / HTTP/1.0\" 200 -").client.to_string(),
            "10.0.0.1"
        );
        for no_request in ["\"-\" 400 0 \"-\" \"-\"", "\"\\x16\\x03\\x01\" 400 157", "\"\" 400 0"] {
            let line = format!("203.0.113.9 - - [21/Nov/2026:20:15:00 +0000] {no_request}");
            assert_eq!(read(line.as_bytes()), Ok(Line::Unsent), "{line}");
        }
    }

    /// The user is what a client says it is.
    #[test]
    fn no_user_hides_the_time() {
        for user in ["x [y:", "x [y] z", "[", "a] b [21/Nov/2025:20:15:00 +0000]", "x] \\x22", "x] \\\"y"] {
            let line = format!("203.0.113.9 - {user} [21/Nov/2026:20:15:00 +0000] \"GET /a HTTP/1.1\" 200 6");
            let logged = request(&line);
            assert_eq!((logged.at.as_secs(), &*logged.path), (1_795_292_100, "/a"), "{line}");
        }
    }

    #[test]
    fn evenkeel_s_own_json_is_read() {
        let line = r#"{"time":"2026-11-21T20:15:00.500Z","client":"10.0.0.1","method":"GET","path":"/\"","query":"a=b","status":200,"bytes_in":0,"bytes_out":3,"duration_ms":12.345,"route":"r","upstream":"shop","server":"a","retries":0,"user_agent":"curl"}"#;
        let logged = request(line);
        assert_eq!(
            (&*logged.path, logged.took, logged.server.as_deref()),
            ("/\"", Some(Duration::from_micros(12_345)), Some("a"))
        );
        let unsent = r#"{"time":"2026-11-21T20:15:00.500Z","client":"10.0.0.1","status":404,"reason":"no_route"}"#;
        assert_eq!(read(unsent.as_bytes()), Ok(Line::Unsent));
        assert_eq!(read(br#"{"time":"2026-11-21T20:15:00.500Z","lines_lost":7}"#), Ok(Line::Lost(7)));
        assert_eq!(read(b"# [21/Nov/2026:20:15:00 +0000] 12 lines lost\n"), Ok(Line::Lost(12)));
    }

    #[test]
    fn a_bad_line_says_why() {
        for (line, why) in [
            ("hello", "no space"),
            ("hello world", "begin with an address"),
            ("10.0.0.1 - -", "no time"),
            ("10.0.0.1 - - [yesterday] \"GET / HTTP/1.1\" 200 1", "its time"),
            ("10.0.0.1 - - [21/Nov/2026:20:15:00 +0000] \"GET / HTTP/1.1", "no end"),
            ("10.0.0.1 - - [21/Nov/2026:20:15:00 +0000] \"GET / HTTP/1.1\" ok", "no status"),
            ("{\"time\":1}", "JSON"),
            ("{\"time\":\"now\",\"client\":\"10.0.0.1\"}", "`time`"),
            ("{\"time\":\"2026-11-21T20:15:00Z\"}", "`client`"),
        ] {
            let error = read(line.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    /// Whatever a line is cut to, it is read or refused.
    #[test]
    fn no_line_is_a_fault() {
        let line = b"203.0.113.9 - - [21/Nov/2026:20:15:00 +0000] \"GET /\\\" HTTP/1.1\" 200 612 \"-\" \"x\\";
        for end in 0..line.len() {
            let _ = read(&line[..end]);
            let mut wild = line.to_vec();
            wild[end] = 0xff;
            let _ = read(&wild);
        }
    }
}
