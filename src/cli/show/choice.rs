//! Policies and checks in their one shape: a table with one key, from the name to every option.

use toml::{Table, Value};

use crate::balance::{IpHash, LeastRequests, Policy, RoundRobin, SplitAddress, SplitBy, SplitCookie, StickyCookie};
use crate::config::plan::{Http2, Protocol};
use crate::health::{Check, GrpcCheck, HttpCheck, TcpCheck};
use crate::units::show_duration;

/// A name with its options, or a name alone.
pub(super) type Choice = Value;

/// A policy with every option.
pub(super) fn policy(policy: &Policy) -> Choice {
    let options = match policy {
        Policy::RoundRobin(RoundRobin {}) => Table::new(),
        Policy::LeastRequests(LeastRequests {}) => Table::new(),
        Policy::IpHash(IpHash { ipv4_prefix, ipv6_prefix }) => table([
            ("ipv4_prefix", Some(i64::from(*ipv4_prefix).into())),
            ("ipv6_prefix", Some(i64::from(*ipv6_prefix).into())),
        ]),
        Policy::StickyCookie(StickyCookie {
            name,
            new_clients,
            idle,
            max_age,
            path,
            domain,
            same_site,
            secure,
            http_only,
        }) => table([
            ("name", Some(name.as_str().into())),
            ("new_clients", Some(self::policy(new_clients))),
            ("idle", Some(show_duration(*idle).into())),
            ("max_age", Some(show_duration(*max_age).into())),
            ("path", Some(path.as_str().into())),
            ("domain", domain.as_deref().map(Into::into)),
            ("same_site", Some(format!("{same_site:?}").to_lowercase().into())),
            ("secure", Some(format!("{secure:?}").to_lowercase().into())),
            ("http_only", Some((*http_only).into())),
        ]),
    };
    named(policy.name(), options)
}

/// What the users of a split are known by, with every option.
pub(super) fn split_by(by: &SplitBy) -> Choice {
    let options = match by {
        SplitBy::Address(SplitAddress {}) => Table::new(),
        SplitBy::Cookie(SplitCookie { name, max_age }) => {
            table([("name", Some(name.as_str().into())), ("max_age", Some(show_duration(*max_age).into()))])
        }
    };
    named(by.name(), options)
}

/// A protocol with every option.
pub(super) fn protocol(protocol: &Protocol) -> Choice {
    let options = protocol.http2().map_or_else(Table::new, |Http2 { max_streams, ping }| {
        table([
            ("max_streams", Some(i64::from(*max_streams).into())),
            ("ping", Some(ping.0.map_or_else(|| "off".to_owned(), show_duration).into())),
        ])
    });
    named(protocol.name(), options)
}

/// A check with every option.
pub(super) fn check(check: &Check) -> Choice {
    let options = match check {
        Check::Tcp(TcpCheck { port, interval, timeout, jitter, healthy_threshold, unhealthy_threshold }) => table([
            ("port", port.map(|p| i64::from(p).into())),
            ("interval", Some(show_duration(*interval).into())),
            ("timeout", Some(show_duration(*timeout).into())),
            ("jitter", Some(i64::from(*jitter).into())),
            ("healthy_threshold", Some(i64::from(*healthy_threshold).into())),
            ("unhealthy_threshold", Some(i64::from(*unhealthy_threshold).into())),
        ]),
        Check::Grpc(GrpcCheck {
            service,
            host,
            port,
            interval,
            timeout,
            jitter,
            healthy_threshold,
            unhealthy_threshold,
        }) => table([
            ("service", Some(service.as_str().into())),
            ("host", host.as_deref().map(Into::into)),
            ("port", port.map(|p| i64::from(p).into())),
            ("interval", Some(show_duration(*interval).into())),
            ("timeout", Some(show_duration(*timeout).into())),
            ("jitter", Some(i64::from(*jitter).into())),
            ("healthy_threshold", Some(i64::from(*healthy_threshold).into())),
            ("unhealthy_threshold", Some(i64::from(*unhealthy_threshold).into())),
        ]),
        Check::Http(HttpCheck {
            path,
            host,
            port,
            expect_status,
            expect_body,
            interval,
            timeout,
            jitter,
            healthy_threshold,
            unhealthy_threshold,
        }) => table([
            ("path", Some(path.as_str().into())),
            ("host", host.as_deref().map(Into::into)),
            ("port", port.map(|p| i64::from(p).into())),
            ("expect_status", Some(format!("{}-{}", expect_status.first, expect_status.last).into())),
            ("expect_body", expect_body.as_deref().map(Into::into)),
            ("interval", Some(show_duration(*interval).into())),
            ("timeout", Some(show_duration(*timeout).into())),
            ("jitter", Some(i64::from(*jitter).into())),
            ("healthy_threshold", Some(i64::from(*healthy_threshold).into())),
            ("unhealthy_threshold", Some(i64::from(*unhealthy_threshold).into())),
        ]),
    };
    named(check.name(), options)
}

/// No check.
pub(super) fn off() -> Choice {
    "off".into()
}

fn named(name: &str, options: Table) -> Choice {
    Value::Table(Table::from_iter([(name.to_owned(), Value::Table(options))]))
}

/// Options that are not set have no default to show: they are left out.
fn table<const N: usize>(options: [(&str, Option<Value>); N]) -> Table {
    options.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
