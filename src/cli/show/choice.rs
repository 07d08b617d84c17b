//! Policies and checks in their one shape: a table with one key, from the name to every option.

use toml::{Table, Value};

use crate::balance::hot::{HotKeys, Report, Spread};
use crate::balance::{
    First, Hash, HashBy, IpHash, LeastRequests, MaxLoad, PeakEwma, Policy, RandomTwo, RoundRobin, Shuffle,
    SplitAddress, SplitBy, SplitCookie, StickyCookie, sticky_cookie::RouteCookie,
};
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
        Policy::RandomTwo(RandomTwo {}) => Table::new(),
        Policy::First(First {}) => Table::new(),
        Policy::Shuffle(Shuffle { by }) => table([("by", by.as_ref().map(hash_by))]),
        Policy::PeakEwma(PeakEwma { decay }) => table([("decay", Some(show_duration(*decay).into()))]),
        Policy::Hash(Hash { by, max_load, hot_keys }) => table([
            ("by", Some(hash_by(by))),
            ("max_load", Some(bound(*max_load))),
            ("hot_keys", Some(self::hot_keys(hot_keys))),
        ]),
        Policy::IpHash(IpHash { ipv4_prefix, ipv6_prefix, max_load, hot_keys }) => table([
            ("ipv4_prefix", Some(i64::from(*ipv4_prefix).into())),
            ("ipv6_prefix", Some(i64::from(*ipv6_prefix).into())),
            ("max_load", Some(bound(*max_load))),
            ("hot_keys", Some(self::hot_keys(hot_keys))),
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
            learn,
            route,
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
            ("learn", learn.as_deref().map(Into::into)),
            ("route", route.as_ref().map(route_cookie)),
        ]),
    };
    named(policy.name(), options)
}

fn route_cookie(RouteCookie { cookie, after }: &RouteCookie) -> Value {
    table([("cookie", Some(cookie.as_str().into())), ("after", Some(after.to_string().into()))]).into()
}

fn bound(max_load: Option<MaxLoad>) -> Value {
    max_load.map_or_else(|| "off".into(), |bound| bound.factor().into())
}

/// What is done about hot keys, with every option.
fn hot_keys(hot_keys: &HotKeys) -> Value {
    let options = match hot_keys {
        HotKeys::Off => return hot_keys.name().into(),
        HotKeys::Report(Report { share }) => table([("share", Some(share.factor().into()))]),
        HotKeys::Spread(Spread { share, cookie, max_age }) => table([
            ("share", Some(share.factor().into())),
            ("cookie", Some(cookie.as_str().into())),
            ("max_age", Some(show_duration(*max_age).into())),
        ]),
    };
    named(hot_keys.name(), options)
}

/// What requests are known by.
fn hash_by(by: &HashBy) -> Value {
    let option: Value = match by {
        HashBy::Path => return by.name().into(),
        HashBy::PathSegment(number) => i64::from(*number).into(),
        HashBy::Header(name) => name.as_str().into(),
        HashBy::Query(name) | HashBy::Cookie(name) => name.as_str().into(),
    };
    Value::Table(Table::from_iter([(by.name().to_owned(), option)]))
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
