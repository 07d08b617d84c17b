//! What changes in an upstream and its servers.

use std::time::Duration;

use super::{Diff, Event, Fields, Subject, count, pair};
use crate::config::plan::{
    DrainPlan, OutlierPlan, PoolPlan, QueuePlan, RetryPlan, ServerPlan, ShadowPlan, UpstreamPlan, UpstreamTimeouts,
};
use crate::health::{Check, Hears};
use crate::proxy_protocol::Version;
use crate::units::show_duration;

impl Diff {
    pub(super) fn upstream(&mut self, event: &Event<'_, UpstreamPlan>) {
        let Some((old, new)) = self.both(event, |u| Subject::Upstream(u.name.clone())) else { return };
        let UpstreamPlan {
            name,
            policy,
            shadow,
            protocol,
            tls,
            send_proxy,
            check,
            fail_open,
            slow_start,
            max_requests,
            queue,
            timeouts,
            pool,
            retry,
            outliers,
            litmus,
            drain,
            drain_on,
            max_sessions,
            cookie_keys,
            servers,
        } = old;
        let mut fields = self.of(Subject::Upstream(name.clone()));
        if policy.name() == new.policy.name() {
            fields.key("policy options", *policy == new.policy);
        } else {
            fields.value("policy", &policy.name(), &new.policy.name());
        }
        let shadows = |shadow: &Option<ShadowPlan>| shadow.as_ref().map(|shadow| shadow.policies.clone());
        fields.key("shadow", shadows(shadow) == shadows(&new.shadow));
        let cookie = |shadow: &Option<ShadowPlan>| shadow.as_ref().and_then(|shadow| shadow.cookie.clone());
        fields.key("shadow_cookie", cookie(shadow) == cookie(&new.shadow));
        if protocol.name() == new.protocol.name() {
            fields.key("protocol options", *protocol == new.protocol);
        } else {
            fields.value("protocol", &protocol.name(), &new.protocol.name());
        }
        fields.key("tls", *tls == new.tls);
        let version = |version: Option<Version>| version.map_or("off", Version::name);
        fields.value("send_proxy", &version(*send_proxy), &version(new.send_proxy));
        let check_name = |check: &Option<Check>| check.as_ref().map_or("off", Check::name);
        if check_name(check) == check_name(&new.check) {
            fields.key("check options", *check == new.check);
        } else {
            fields.value("check", &check_name(check), &check_name(&new.check));
        }
        fields.value("fail_open", fail_open, &new.fail_open);
        fields.limit("slow_start", *slow_start, new.slow_start);
        fields.value("max_requests", &count(*max_requests), &count(new.max_requests));
        fields.queue(*queue, new.queue);
        fields.timeouts(*timeouts, new.timeouts);
        fields.pool(*pool, new.pool);
        fields.retry(*retry, new.retry);
        fields.outliers(outliers.as_ref(), new.outliers.as_ref());
        fields.key("litmus", *litmus == new.litmus);
        fields.drain(*drain, new.drain);
        let Hears { check: on_check, header: on_header } = drain_on;
        fields.value("drain.on_check", on_check, &new.drain_on.check);
        fields.value("drain.on_header", on_header, &new.drain_on.header);
        fields.value("max_sessions", max_sessions, &new.max_sessions);
        fields.key("cookie_keys", *cookie_keys == new.cookie_keys);
        pair(servers, &new.servers, |s| &s.name, |event| self.server(name, event));
    }

    fn server(&mut self, upstream: &str, event: &Event<'_, ServerPlan>) {
        let subject =
            |server: &ServerPlan| Subject::Server { upstream: upstream.to_owned(), server: server.name.clone() };
        let Some((old, new)) = self.both(event, subject) else { return };
        let ServerPlan { name: _, address, weight, max_requests, backup } = old;
        let mut fields = self.of(subject(old));
        fields.value("address", address, &new.address);
        fields.value("weight", weight, &new.weight);
        fields.value("max_requests", &count(*max_requests), &count(new.max_requests));
        fields.value("backup", backup, &new.backup);
    }
}

impl Fields<'_> {
    fn limit(&mut self, key: &'static str, old: Option<Duration>, new: Option<Duration>) {
        let limit = |time: Option<Duration>| time.map_or_else(|| "off".to_owned(), show_duration);
        self.value(key, &limit(old), &limit(new));
    }

    fn timeouts(&mut self, old: UpstreamTimeouts, new: UpstreamTimeouts) {
        let UpstreamTimeouts { connect, first_byte, between_bytes, request, tunnel_idle, tunnel_half_closed } = old;
        self.time("timeouts.connect", connect, new.connect);
        self.time("timeouts.first_byte", first_byte, new.first_byte);
        self.time("timeouts.between_bytes", between_bytes, new.between_bytes);
        self.limit("timeouts.request", request, new.request);
        self.time("timeouts.tunnel_idle", tunnel_idle, new.tunnel_idle);
        self.time("timeouts.tunnel_half_closed", tunnel_half_closed, new.tunnel_half_closed);
    }

    fn queue(&mut self, old: QueuePlan, new: QueuePlan) {
        let QueuePlan { size, timeout } = old;
        self.value("queue.size", &size, &new.size);
        self.time("queue.timeout", timeout, new.timeout);
    }

    fn pool(&mut self, old: PoolPlan, new: PoolPlan) {
        let PoolPlan { max_idle, idle_timeout, max_age, max_requests } = old;
        self.value("pool.max_idle", &max_idle, &new.max_idle);
        self.time("pool.idle_timeout", idle_timeout, new.idle_timeout);
        self.time("pool.max_age", max_age, new.max_age);
        self.value("pool.max_requests", &count(max_requests), &count(new.max_requests));
    }

    fn retry(&mut self, old: RetryPlan, new: RetryPlan) {
        let RetryPlan { attempts, budget_percent, budget_floor } = old;
        self.value("retry.attempts", &attempts, &new.attempts);
        self.value("retry.budget_percent", &budget_percent, &new.budget_percent);
        self.value("retry.budget_floor", &budget_floor, &new.budget_floor);
    }

    fn outliers(&mut self, old: Option<&OutlierPlan>, new: Option<&OutlierPlan>) {
        let (Some(old), Some(new)) = (old, new) else {
            let word = |plan: Option<&OutlierPlan>| if plan.is_some() { "on" } else { "off" };
            return self.value("outliers", &word(old), &word(new));
        };
        let OutlierPlan {
            consecutive_failures,
            failure_percent,
            min_requests,
            window,
            statuses,
            ejection,
            max_ejection,
            max_ejected_percent,
            trial_requests,
        } = old;
        self.value("outliers.consecutive_failures", consecutive_failures, &new.consecutive_failures);
        self.value("outliers.failure_percent", failure_percent, &new.failure_percent);
        self.value("outliers.min_requests", min_requests, &new.min_requests);
        self.time("outliers.window", *window, new.window);
        self.key("outliers.statuses", *statuses == new.statuses);
        self.time("outliers.ejection", *ejection, new.ejection);
        self.time("outliers.max_ejection", *max_ejection, new.max_ejection);
        self.value("outliers.max_ejected_percent", max_ejected_percent, &new.max_ejected_percent);
        self.value("outliers.trial_requests", trial_requests, &new.trial_requests);
    }

    fn drain(&mut self, old: DrainPlan, new: DrainPlan) {
        let DrainPlan { in_flight, sessions_idle, sessions_max, close_spread, move_sessions } = old;
        self.time("drain.in_flight", in_flight, new.in_flight);
        self.time("drain.sessions_idle", sessions_idle, new.sessions_idle);
        self.time("drain.sessions_max", sessions_max, new.sessions_max);
        self.time("drain.close_spread", close_spread, new.close_spread);
        self.value("drain.move_sessions", &move_sessions.name(), &new.move_sessions.name());
    }
}
