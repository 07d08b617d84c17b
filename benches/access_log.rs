//! What one access log line costs the core that writes it: format, buffer, hand over. The writer
//! thread writes to `/dev/null` meanwhile. The median of `alloc` is 0: the rare allocation in a slow
//! sample is a block that a core makes, once, when the writer falls further behind than ever before.
//!
//! `cargo bench --bench access_log`

#![allow(clippy::expect_used)]

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use divan::{AllocProfiler, Bencher};
use evenkeel::config::plan::{AccessLogFormat, AccessLogPlan};
use evenkeel::proxy::access_log::{AccessLog, Buffer, Entry};
use http::Version;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";

fn main() {
    divan::main();
}

fn entry() -> Entry<'static> {
    Entry {
        unix_millis: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        client: IpAddr::from([203, 0, 113, 27]),
        user: None,
        method: "GET",
        target: "/api/v1/products/12345?fields=name,price&currency=EUR",
        version: Version::HTTP_11,
        tls: None,
        sni: None,
        host: Some(b"shop.example.com"),
        status: 200,
        bytes_in: 0,
        bytes_out: 18_231,
        duration: Duration::from_micros(12_345),
        first_byte: Some(Duration::from_micros(11_801)),
        route: Some("shop.example.com/api/"),
        upstream: Some("shop"),
        server: Some("shop-3"),
        retries: 0,
        sticky: Some("kept"),
        reason: None,
        request_id: Some(b"6f1c2a9be0d74c558f0e3a7712ab90cd"),
        referer: Some(b"https://shop.example.com/products/chairs"),
        user_agent: Some(AGENT.as_bytes()),
    }
}

/// A log to `/dev/null` that has made the blocks it needs, so that what is measured is steady state.
fn warm(format: AccessLogFormat) -> (AccessLog, Buffer) {
    let log = AccessLog::start(&AccessLogPlan { file: Some("/dev/null".into()), format }).expect("/dev/null opens");
    let mut buffer = log.buffer();
    for _ in 0..200_000 {
        buffer.write(&entry());
    }
    let _ = buffer.take_lost();
    (log, buffer)
}

/// Losing a line is cheaper than writing one: a run that lost many has not measured what it says.
fn report(name: &str, mut buffer: Buffer) {
    let lost = buffer.take_lost();
    if lost > 0 {
        eprintln!("{name}: {lost} lines lost while measuring");
    }
}

#[divan::bench(args = ["json", "combined"], sample_size = 1000, sample_count = 500)]
fn write(bencher: Bencher<'_, '_>, format: &str) {
    let (_log, mut buffer) = warm(if format == "json" { AccessLogFormat::Json } else { AccessLogFormat::Combined });
    let entry = entry();
    bencher.bench_local(|| buffer.write(divan::black_box(&entry)));
    report(format, buffer);
}

#[divan::bench(sample_size = 1000, sample_count = 500)]
fn write_json_that_needs_escapes(bencher: Bencher<'_, '_>) {
    let (_log, mut buffer) = warm(AccessLogFormat::Json);
    let entry = Entry { user_agent: Some("\"quoted\" Größe \\ \u{1b}[31m".as_bytes()), ..entry() };
    bencher.bench_local(|| buffer.write(divan::black_box(&entry)));
    report("escapes", buffer);
}

#[divan::bench(sample_size = 1000, sample_count = 500)]
fn write_json_ipv6(bencher: Bencher<'_, '_>) {
    let (_log, mut buffer) = warm(AccessLogFormat::Json);
    let entry = Entry { client: "2001:db8:85a3::8a2e:370:7334".parse().expect("an address"), ..entry() };
    bencher.bench_local(|| buffer.write(divan::black_box(&entry)));
    report("ipv6", buffer);
}
