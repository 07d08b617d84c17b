use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use http::Version;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn entry() -> Entry<'static> {
    Entry {
        unix_millis: 971_211_336_042,
        client: IpAddr::from([192, 0, 2, 200]),
        user: None,
        method: "GET",
        target: "/a/b?c=d&e=%20",
        version: Version::HTTP_11,
        tls: None,
        sni: None,
        host: Some(b"shop.example.com"),
        status: 200,
        bytes_in: 0,
        bytes_out: 2326,
        duration: Duration::from_micros(12_034),
        first_byte: Some(Duration::from_micros(999)),
        route: Some("shop"),
        upstream: Some("shop"),
        server: Some("a"),
        retries: 0,
        sticky: Some("kept"),
        reason: None,
        request_id: Some(b"0123456789abcdef"),
        referer: Some(b"https://example.com/start"),
        user_agent: Some(b"Mozilla/4.08 [en] (Win98; I ;Nav)"),
    }
}

fn format(format: AccessLogFormat, entry: &Entry<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Formatter::new(format).line(&mut out, entry);
    out
}

fn plan(path: &Path, format: AccessLogFormat) -> AccessLogPlan {
    AccessLogPlan { file: Some(path.to_owned()), format }
}

/// Requests told and lines confessed as lost, in a JSON log.
fn tally(log: &[u8]) -> (u64, u64) {
    assert!(log.is_empty() || log.ends_with(b"\n"));
    let (mut told, mut lost) = (0, 0);
    for line in log.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let value: Value = serde_json::from_slice(line).expect("a whole line of JSON");
        match value["lines_lost"].as_u64() {
            Some(n) => lost += n,
            None => told += u64::from(value["status"] == 200),
        }
    }
    (told, lost)
}

/// A disk that takes nothing until it is opened, may fail, and remembers what it took.
#[derive(Default)]
struct Disk {
    open: Mutex<bool>,
    opened: Condvar,
    taken: Mutex<Vec<u8>>,
    /// Bytes left before it is full.
    space: Mutex<Option<usize>>,
}

impl Disk {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn space(&self, space: Option<usize>) {
        *self.space.lock().unwrap() = space;
    }
}

struct Handle(Arc<Disk>);

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.0.opened.wait_while(self.0.open.lock().unwrap(), |open| !*open).unwrap());
        let mut space = self.0.space.lock().unwrap();
        let take = space.unwrap_or(usize::MAX).min(bytes.len());
        if take == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *space = space.map(|left| left - take);
        self.0.taken.lock().unwrap().extend_from_slice(&bytes[..take]);
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_on(disk: &Arc<Disk>) -> AccessLog {
    let sink = Sink { path: None, out: Box::new(Handle(Arc::clone(disk))) };
    AccessLog::with(sink, AccessLogFormat::Json, PATIENCE).unwrap()
}

/// Waits for what another thread does, without a fixed sleep.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn combined_is_the_line_that_log_readers_know() {
    assert_eq!(
        String::from_utf8(format(AccessLogFormat::Combined, &entry())).unwrap(),
        "192.0.2.200 - - [10/Oct/2000:20:55:36 +0000] \"GET /a/b?c=d&e=%20 HTTP/1.1\" 200 2326 \
         \"https://example.com/start\" \"Mozilla/4.08 [en] (Win98; I ;Nav)\"\n"
    );
    let bare = Entry { referer: None, user_agent: Some(b"a\"b\\\xff\n"), version: Version::HTTP_2, ..entry() };
    let line = String::from_utf8(format(AccessLogFormat::Combined, &bare)).unwrap();
    assert!(line.ends_with("HTTP/2.0\" 200 2326 \"-\" \"a\\x22b\\x5C\\xFF\\x0A\"\n"), "{line}");
}

#[test]
fn json_has_stable_keys_and_leaves_out_what_is_not_there() {
    let full: Value = serde_json::from_slice(&format(AccessLogFormat::Json, &entry())).unwrap();
    assert_eq!(
        full,
        serde_json::json!({
            "time": "2000-10-10T20:55:36.042Z", "client": "192.0.2.200", "method": "GET",
            "host": "shop.example.com", "path": "/a/b", "query": "c=d&e=%20", "version": "HTTP/1.1",
            "status": 200, "bytes_in": 0, "bytes_out": 2326, "duration_ms": 12.034, "first_byte_ms": 0.999,
            "route": "shop", "upstream": "shop", "server": "a", "retries": 0, "sticky": "kept",
            "request_id": "0123456789abcdef", "referer": "https://example.com/start",
            "user_agent": "Mozilla/4.08 [en] (Win98; I ;Nav)",
        })
    );
    let bare = Entry {
        client: "::ffff:192.0.2.1".parse().unwrap(),
        target: "*",
        host: None,
        first_byte: None,
        route: None,
        upstream: None,
        server: None,
        sticky: None,
        reason: Some("no_route"),
        request_id: None,
        referer: None,
        user_agent: None,
        ..entry()
    };
    let bare: Value = serde_json::from_slice(&format(AccessLogFormat::Json, &bare)).unwrap();
    let keys: Vec<&str> = bare.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "bytes_in",
            "bytes_out",
            "client",
            "duration_ms",
            "method",
            "path",
            "reason",
            "retries",
            "status",
            "time",
            "version"
        ]
    );
    assert_eq!(bare["client"], "192.0.2.1");
    let secure = Entry { tls: Some("TLSv1.3"), sni: Some("shop.example.com"), ..entry() };
    let line: Value = serde_json::from_slice(&format(AccessLogFormat::Json, &secure)).unwrap();
    assert_eq!((line["tls"].as_str(), line["sni"].as_str()), (Some("TLSv1.3"), Some("shop.example.com")));
    let combined = |entry: &Entry<'_>| format(AccessLogFormat::Combined, entry);
    assert_eq!(combined(&secure), combined(&entry()));
}

/// Splits a combined line into its nine fields; quoted ones are unescaped.
fn read_combined(line: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = line.strip_suffix(b"\n").expect("a line end");
    let mut fields = Vec::new();
    loop {
        let (field, used) = match rest.first() {
            Some(b'"') => {
                let (mut field, mut at) = (Vec::new(), 1);
                while rest[at] != b'"' {
                    if rest[at] == b'\\' {
                        assert_eq!(rest[at + 1], b'x');
                        let digits = std::str::from_utf8(&rest[at + 2..at + 4]).unwrap();
                        field.push(u8::from_str_radix(digits, 16).unwrap());
                        at += 4;
                    } else {
                        assert!((b' '..=b'~').contains(&rest[at]));
                        field.push(rest[at]);
                        at += 1;
                    }
                }
                (field, at + 1)
            }
            Some(b'[') => {
                let end = rest.iter().position(|&b| b == b']').unwrap();
                (rest[1..end].to_vec(), end + 1)
            }
            _ => {
                let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
                (rest[..end].to_vec(), end)
            }
        };
        fields.push(field);
        rest = &rest[used..];
        if rest.is_empty() {
            return fields;
        }
        rest = rest.strip_prefix(b" ").expect("one space between fields");
    }
}

/// Undoes the `\xHH` of bytes that are not UTF-8, in text where no backslash was sent.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn nasty() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        any::<String>().prop_map(String::into_bytes),
        proptest::collection::vec(
            prop_oneof![Just(b'"'), Just(b'\\'), Just(b'\n'), Just(0), Just(0x7f), Just(0xc2), Just(0x9b), Just(b'x')],
            0..40
        ),
    ]
}

proptest! {
    #[test]
    fn json_is_one_valid_line_whatever_strangers_send(
        target in any::<String>(), host in nasty(), agent in nasty(), id in nasty(), route in any::<String>(),
        millis in any::<u64>(), micros in any::<u64>(), bytes in any::<u64>(), client in any::<IpAddr>(),
    ) {
        let entry = Entry {
            unix_millis: millis, target: &target, host: Some(&host), user_agent: Some(&agent), request_id: Some(&id),
            route: Some(&route), duration: Duration::from_micros(micros), bytes_in: bytes, client, ..entry()
        };
        let line = format(AccessLogFormat::Json, &entry);
        prop_assert_eq!(lines(&line), 1);
        prop_assert_eq!(line.last(), Some(&b'\n'));
        prop_assert!(line[..line.len() - 1].iter().all(|&b| b >= b' ' && b != 0x7f));
        let value: Value = serde_json::from_slice(&line).unwrap();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target.as_str(), None),
        };
        prop_assert_eq!(value["path"].as_str(), Some(path));
        prop_assert_eq!(value["query"].as_str(), query);
        prop_assert_eq!(value["route"].as_str(), Some(route.as_str()));
        prop_assert_eq!(value["bytes_in"].as_u64(), Some(bytes));
        let told: IpAddr = value["client"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(told, client.to_canonical());
        for (key, sent) in [("host", &host), ("user_agent", &agent), ("request_id", &id)] {
            let told = value[key].as_str().unwrap();
            if let Ok(text) = std::str::from_utf8(sent) {
                prop_assert_eq!(told, text);
            } else if !sent.contains(&b'\\') {
                prop_assert_eq!(&bytes_of(told), sent);
            }
        }
    }

    #[test]
    fn combined_reads_back_whatever_strangers_send(
        target in any::<String>(), referer in nasty(), agent in nasty(), status in 100u16..600, bytes in any::<u64>(),
    ) {
        let entry = Entry {
            target: &target, referer: Some(&referer), user_agent: Some(&agent), status, bytes_out: bytes, ..entry()
        };
        let line = format(AccessLogFormat::Combined, &entry);
        prop_assert_eq!(lines(&line), 1);
        let fields = read_combined(&line);
        let expected: Vec<Vec<u8>> = vec![
            b"192.0.2.200".to_vec(), b"-".to_vec(), b"-".to_vec(), b"10/Oct/2000:20:55:36 +0000".to_vec(),
            format!("GET {target} HTTP/1.1").into_bytes(), status.to_string().into_bytes(),
            bytes.to_string().into_bytes(), referer.clone(), agent.clone(),
        ];
        prop_assert_eq!(fields, expected);
    }
}

#[test]
fn lines_arrive_in_a_file_that_only_owner_and_group_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::start(&plan(&path, AccessLogFormat::Json)).unwrap();
    let mut buffers = [log.buffer(), log.buffer()];
    for buffer in &mut buffers {
        assert!(buffer.is_empty());
        for _ in 0..1000 {
            buffer.write(&entry());
        }
    }
    // One is flushed by hand, the other by its drop.
    buffers[0].flush();
    assert!(buffers[0].is_empty());
    assert_eq!(buffers[0].take_lost(), 0);
    drop(buffers);
    log.close();
    assert_eq!(tally(&fs::read(&path).unwrap()), (2000, 0));
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
    // A second start appends.
    let log = AccessLog::start(&plan(&path, AccessLogFormat::Json)).unwrap();
    log.buffer().write(&entry());
    drop(log);
    assert_eq!(tally(&fs::read(&path).unwrap()), (2001, 0));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/access.log");
    let error = AccessLog::start(&plan(&path, AccessLogFormat::Json)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("no/such/access.log"), "{error}");
}

#[test]
fn reopen_follows_a_rotation_and_keeps_the_old_file_where_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let (path, rotated) = (logs.join("access.log"), logs.join("access.log.1"));
    let log = AccessLog::start(&plan(&path, AccessLogFormat::Json)).unwrap();
    let mut buffer = log.buffer();
    let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());

    buffer.write(&entry());
    buffer.flush();
    eventually("the first line", || size(&path) > 0);
    fs::rename(&path, &rotated).unwrap();
    log.reopen();
    eventually("the new file", || path.exists());
    buffer.write(&entry());
    buffer.write(&entry());
    buffer.flush();
    eventually("lines in the new file", || size(&path) > 0);

    // The folder is gone from its place: the path cannot be opened, the file that is open still can
    // be written.
    let moved = dir.path().join("moved");
    fs::rename(&logs, &moved).unwrap();
    log.reopen();
    buffer.write(&entry());
    drop(buffer);
    log.close();
    assert_eq!(tally(&fs::read(moved.join("access.log.1")).unwrap()), (1, 0));
    assert_eq!(tally(&fs::read(moved.join("access.log")).unwrap()), (3, 0));
}

#[test]
fn a_writer_that_is_behind_loses_lines_counts_them_and_never_blocks() {
    let disk = Arc::new(Disk::default());
    let log = log_on(&disk);
    let mut buffer = log.buffer();
    // The disk takes nothing until after the loop: if a write waited for it, the loop would not end.
    let (mut written, mut lost) = (0, 0);
    while lost < 1000 {
        buffer.write(&entry());
        written += 1;
        lost += buffer.take_lost();
    }
    assert!(written - lost > 500, "the buffers hold something: {}", written - lost);
    disk.open();
    // Recovered: blocks come home, and lines are taken again.
    eventually("recovery", || {
        buffer.write(&entry());
        written += 1;
        let more = buffer.take_lost();
        lost += more;
        more == 0
    });
    drop(buffer);
    log.close();
    let taken = disk.taken.lock().unwrap();
    assert_eq!(tally(&taken), (written - lost, lost));
}

#[test]
fn a_full_queue_loses_lines_too_and_the_last_word_is_said_at_the_end() {
    let disk = Arc::new(Disk::default());
    let log = log_on(&disk);
    let (mut written, mut lost) = (0, 0);
    // Many cores, each with few lines: the queue fills before any core runs out of blocks.
    let mut buffers: Vec<Buffer> = (0..QUEUE + 10).map(|_| log.buffer()).collect();
    for buffer in &mut buffers {
        buffer.write(&entry());
        written += 1;
        buffer.flush();
        lost += buffer.take_lost();
    }
    assert!(buffers.iter().filter(|b| !b.is_empty()).count() >= 9);
    drop(buffers);
    lost += log.shared.lost.load(Relaxed);
    assert!(lost >= 9, "{lost}");
    disk.open();
    log.close();
    let taken = disk.taken.lock().unwrap();
    assert_eq!(tally(&taken), (written - lost, lost));
}

#[test]
fn a_full_disk_tears_one_line_at_most_and_is_confessed() {
    let disk = Arc::new(Disk::default());
    disk.open();
    let line = format(AccessLogFormat::Json, &entry()).len();
    disk.space(Some(2 * line + line / 2));
    let log = log_on(&disk);
    let mut buffer = log.buffer();
    for _ in 0..5 {
        buffer.write(&entry());
    }
    buffer.flush();
    let mut lost = 0;
    eventually("the loss is counted", || {
        lost += buffer.take_lost();
        lost == 3
    });
    for _ in 0..4 {
        buffer.write(&entry());
    }
    buffer.flush();
    eventually("all of a block is lost while the disk is full", || {
        lost += buffer.take_lost();
        lost == 7
    });
    disk.space(None);
    buffer.write(&entry());
    drop(buffer);
    log.close();
    let taken = disk.taken.lock().unwrap();
    let all: Vec<&[u8]> = taken.split(|&b| b == b'\n').collect();
    assert_eq!(all.len(), 6, "two whole lines, the torn one, the confession, the last one, the end");
    assert!(serde_json::from_slice::<Value>(all[2]).is_err());
    assert_eq!(serde_json::from_slice::<Value>(all[3]).unwrap()["lines_lost"], 7);
    assert_eq!(serde_json::from_slice::<Value>(all[4]).unwrap()["status"], 200);
}

#[test]
fn a_pipe_that_nobody_reads_blocks_neither_start_nor_requests() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let log = AccessLog::start(&plan(&path, AccessLogFormat::Json)).unwrap();
    let mut buffer = log.buffer();
    let (mut written, mut lost) = (0, 0);
    while lost < 100 {
        buffer.write(&entry());
        written += 1;
        lost += buffer.take_lost();
    }
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    // The reader must hold its end before the log lets go of its own.
    eventually("the reader drains the pipe", || {
        buffer.write(&entry());
        written += 1;
        let more = buffer.take_lost();
        lost += more;
        more == 0
    });
    drop(buffer);
    log.close();
    assert_eq!(tally(&reader.join().unwrap()), (written - lost, lost));
}

#[test]
fn closing_gives_up_on_a_writer_that_is_stuck() {
    let disk = Arc::new(Disk::default());
    let sink = Sink { path: None, out: Box::new(Handle(Arc::clone(&disk))) };
    let log = AccessLog::with(sink, AccessLogFormat::Json, Duration::from_millis(20)).unwrap();
    let mut buffer = log.buffer();
    buffer.write(&entry());
    buffer.flush();
    // The disk is never opened before this returns.
    log.close();
    disk.open();
    // A buffer that outlives the log counts its lines as lost.
    eventually("the writer ends", || {
        buffer.write(&entry());
        buffer.flush();
        buffer.take_lost() > 0
    });
}

#[test]
fn the_confession_is_one_line_in_either_format() {
    for (format, expected) in [
        (AccessLogFormat::Json, "{\"time\":\"2000-10-10T20:55:36.042Z\",\"lines_lost\":12}\n"),
        (AccessLogFormat::Combined, "# [10/Oct/2000:20:55:36 +0000] 12 lines lost\n"),
    ] {
        let mut out = Vec::new();
        Formatter::new(format).lost(&mut out, 971_211_336_042, 12);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
