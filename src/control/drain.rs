//! When it is safe to stop a server: the drain of one server, as a pure core.
//!
//! Two deadlines. While a sticky upstream's server still has live sessions they hold the drain, up to
//! `sessions_max` in all. Requests in flight have `in_flight` from the end of the last session before
//! they are cut; they still hold the server open for their clients, since a first request may be about
//! to begin a session. WebSockets are closed in the last part of that time, and by then nobody may come
//! back to the server. The drain ends as soon as nothing is left.
//!
//! Time is an argument and nothing in here acts: the supervisor steps it and does what it says.
//! Invariants, each with a test of its name: *drain ends*; *nothing is cut before its deadline*;
//! *a drain ends early when nothing is left*.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::plan::DrainPlan;

/// How often a running drain is looked at when nothing else wakes it.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// What has to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing. Look again by the given moment at the latest.
    Wait { until: Duration },
    /// No session holds the drain any more: clients pinned here must move. Then step again.
    Close,
    /// Close the WebSockets, spread over `over`: what is left `within` is cut. Then step again.
    CloseTunnels { over: Duration, within: Duration },
    /// Nothing is left.
    End,
    /// The deadline has passed: cut what is in flight. The drain is over.
    Cut,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// `quiet` since no session was left.
    Sessions {
        quiet: Option<Duration>,
    },
    InFlight {
        since: Duration,
        /// Whether WebSockets are being closed.
        closing: bool,
    },
    Over,
}

/// What a server still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Sessions seen within `sessions_idle`.
    pub sessions: usize,
    /// Requests that are not over, tunnels among them.
    pub in_flight: u32,
    /// Whether any of those is a tunnel.
    pub tunnels: bool,
}

/// One drain. Moments are durations since any fixed point of one clock.
#[derive(Debug, Clone)]
pub struct Drain {
    limits: DrainPlan,
    began: Duration,
    stage: Stage,
}

impl Drain {
    /// A drain that first waits for sessions to end: for servers of a sticky upstream.
    #[must_use]
    pub fn of_sessions(limits: DrainPlan, now: Duration) -> Self {
        Self { limits, began: now, stage: Stage::Sessions { quiet: None } }
    }

    /// A drain that waits for requests in flight alone.
    #[must_use]
    pub fn of_requests(limits: DrainPlan, now: Duration) -> Self {
        Self { limits, began: now, stage: Stage::InFlight { since: now, closing: false } }
    }

    /// A drain that another process began and has brought to `stage`.
    #[must_use]
    pub fn resumed(limits: DrainPlan, began: Duration, stage: Stage) -> Self {
        Self { limits, began, stage }
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Puts other deadlines in place of the ones it has; what has passed of them counts.
    pub fn limit(&mut self, limits: DrainPlan) {
        self.limits = limits;
    }

    /// The deadlines in force.
    #[must_use]
    pub fn limits(&self) -> DrainPlan {
        self.limits
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Duration {
        self.began
    }

    /// Whether live sessions still hold it.
    #[must_use]
    pub fn waits_for_sessions(&self) -> bool {
        matches!(self.stage, Stage::Sessions { .. })
    }

    /// The moment at which it has ended whatever happens.
    #[must_use]
    pub fn ends_by(&self) -> Duration {
        match self.stage {
            Stage::Sessions { .. } => {
                self.began.saturating_add(self.limits.sessions_max).saturating_add(self.limits.in_flight)
            }
            Stage::InFlight { since, .. } => since.saturating_add(self.limits.in_flight),
            Stage::Over => self.began,
        }
    }

    /// What has to be done at `now`.
    ///
    /// The caller must read what is in flight after it has done what the step before said: a claim taken
    /// before the state was written is then counted.
    pub fn step(&mut self, now: Duration, left: Left) -> Action {
        let Left { sessions, in_flight, tunnels } = left;
        match self.stage {
            Stage::Sessions { quiet } => {
                let end = self.began.saturating_add(self.limits.sessions_max);
                if sessions > 0 && now < end {
                    self.stage = Stage::Sessions { quiet: None };
                    return Action::Wait { until: end };
                }
                let quiet = quiet.unwrap_or(now);
                // Those whose WebSocket is closed come back at once, and not to this server.
                let first = if tunnels { self.limits.closing(self.limits.in_flight).0 } else { self.limits.in_flight };
                let until = end.min(quiet.saturating_add(first));
                if in_flight > 0 && now < until {
                    self.stage = Stage::Sessions { quiet: Some(quiet) };
                    return Action::Wait { until };
                }
                self.stage = Stage::InFlight { since: quiet, closing: false };
                Action::Close
            }
            Stage::InFlight { since, closing } => {
                let end = since.saturating_add(self.limits.in_flight);
                if in_flight > 0 && now < end {
                    let within = end - now;
                    let (first, over) = self.limits.closing(within);
                    if closing || !first.is_zero() {
                        return Action::Wait { until: if closing { end } else { now + first } };
                    }
                    self.stage = Stage::InFlight { since, closing: true };
                    return Action::CloseTunnels { over, within };
                }
                self.stage = Stage::Over;
                if in_flight == 0 { Action::End } else { Action::Cut }
            }
            Stage::Over => Action::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::plan::MoveSessions;
    use proptest::prelude::*;

    use super::*;

    fn limits(in_flight: u64, sessions_max: u64) -> DrainPlan {
        DrainPlan {
            in_flight: Duration::from_millis(in_flight),
            sessions_idle: Duration::from_secs(900),
            sessions_max: Duration::from_millis(sessions_max),
            close_spread: Duration::ZERO,
            move_sessions: MoveSessions::Never,
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn left(sessions: usize, in_flight: u32) -> Left {
        Left { sessions, in_flight, tunnels: false }
    }

    /// A step that is not told of WebSockets.
    fn step(drain: &mut Drain, now: Duration, sessions: usize, in_flight: u32) -> Action {
        match drain.step(now, left(sessions, in_flight)) {
            Action::CloseTunnels { over, within } => {
                assert!(over <= within && in_flight > 0);
                drain.step(now, left(sessions, in_flight))
            }
            action => action,
        }
    }

    #[test]
    fn web_sockets_are_closed_last_and_once() {
        let seconds = Duration::from_secs;
        let limits = DrainPlan { in_flight: seconds(30), close_spread: seconds(10), ..limits(0, 3_600_000) };
        let mut drain = Drain::of_requests(limits, seconds(0));
        assert_eq!(drain.step(seconds(1), left(0, 5)), Action::Wait { until: seconds(19) });
        let close = Action::CloseTunnels { over: seconds(10), within: seconds(11) };
        assert_eq!(drain.step(seconds(19), left(0, 5)), close);
        assert_eq!(drain.step(seconds(19), left(0, 5)), Action::Wait { until: seconds(30) });
        assert_eq!(drain.step(seconds(29), left(0, 0)), Action::End);
        // Where there is less time than that, it begins at once and is done in time.
        let mut drain = Drain::of_requests(DrainPlan { in_flight: seconds(2), ..limits }, seconds(0));
        let close = Action::CloseTunnels { over: Duration::from_millis(1_500), within: seconds(2) };
        assert_eq!(drain.step(seconds(0), left(0, 5)), close);
    }

    #[test]
    fn whoever_loses_a_web_socket_does_not_come_back_to_the_server() {
        let seconds = Duration::from_secs;
        let limits = DrainPlan { in_flight: seconds(30), close_spread: seconds(10), ..limits(0, 3_600_000) };
        let mut drain = Drain::of_sessions(limits, seconds(0));
        let left = Left { tunnels: true, ..left(0, 5) };
        assert_eq!(drain.step(seconds(0), left), Action::Wait { until: seconds(19) });
        assert_eq!(drain.step(seconds(19), left), Action::Close, "pinned clients move first");
        assert!(matches!(drain.step(seconds(19), left), Action::CloseTunnels { .. }));
        assert_eq!(drain.step(seconds(30), left), Action::Cut);
    }

    #[test]
    fn sessions_hold_it_then_requests_then_it_ends() {
        let mut drain = Drain::of_sessions(limits(100, 1_000), at(5));
        assert_eq!(step(&mut drain, at(10), 2, 3), Action::Wait { until: at(1_005) });
        assert_eq!(drain.ends_by(), at(1_105));
        assert_eq!(step(&mut drain, at(20), 0, 3), Action::Wait { until: at(120) });
        // What was in flight has begun a session: it holds the drain like any other.
        assert_eq!(step(&mut drain, at(30), 1, 1), Action::Wait { until: at(1_005) });
        assert_eq!(step(&mut drain, at(40), 0, 1), Action::Wait { until: at(140) });
        assert_eq!(step(&mut drain, at(50), 0, 0), Action::Close);
        // A session that comes back no longer holds it.
        assert_eq!(step(&mut drain, at(50), 7, 1), Action::Wait { until: at(140) });
        assert_eq!(step(&mut drain, at(60), 7, 0), Action::End);
        assert_eq!(step(&mut drain, at(70), 7, 9), Action::End);
    }

    #[test]
    fn deadlines_cut() {
        let mut drain = Drain::of_sessions(limits(100, 1_000), at(0));
        assert_eq!(step(&mut drain, at(1_000), 2, 3), Action::Close);
        assert_eq!(step(&mut drain, at(1_099), 2, 3), Action::Wait { until: at(1_100) });
        assert_eq!(step(&mut drain, at(1_100), 2, 3), Action::Cut);
        let mut drain = Drain::of_sessions(limits(100, 1_000), at(0));
        assert_eq!(step(&mut drain, at(10), 0, 3), Action::Wait { until: at(110) });
        assert_eq!(step(&mut drain, at(110), 0, 3), Action::Close);
        assert_eq!(step(&mut drain, at(110), 0, 3), Action::Cut);
        let mut drain = Drain::of_requests(limits(100, 1_000), at(0));
        assert_eq!(step(&mut drain, at(99), 2, 1), Action::Wait { until: at(100) });
        assert_eq!(step(&mut drain, at(100), 2, 1), Action::Cut);
    }

    #[test]
    fn deadlines_may_change_while_it_runs() {
        let mut drain = Drain::of_sessions(limits(100, 1_000), at(0));
        assert_eq!(step(&mut drain, at(500), 2, 3), Action::Wait { until: at(1_000) });
        drain.limit(limits(100, 400));
        assert_eq!(step(&mut drain, at(501), 2, 3), Action::Close);
    }

    #[derive(Debug, Clone, Copy)]
    struct Look {
        after: u64,
        sessions: usize,
        in_flight: u32,
    }

    fn looks() -> impl Strategy<Value = Vec<Look>> {
        let look = (0u64..300, 0usize..3, 0u32..3).prop_map(|(after, sessions, in_flight)| Look {
            after,
            sessions,
            in_flight,
        });
        prop::collection::vec(look, 1..60)
    }

    proptest! {
        #[test]
        fn drain_ends(looks in looks(), sticky: bool, in_flight in 0u64..2_000, sessions_max in 0u64..2_000) {
            let limits = limits(in_flight, sessions_max);
            let mut drain = if sticky { Drain::of_sessions(limits, at(0)) } else { Drain::of_requests(limits, at(0)) };
            let mut now = 0;
            let mut over = false;
            for look in &looks {
                now += look.after;
                for _ in 0..2 {
                    over |= matches!(step(&mut drain, at(now), look.sessions, look.in_flight), Action::End | Action::Cut);
                }
            }
            // The two deadlines in turn bound it, whatever was left at each look.
            for _ in 0..2 {
                now += in_flight.max(sessions_max);
                over |= matches!(step(&mut drain, at(now), 9, 9), Action::End | Action::Cut);
            }
            prop_assert!(over);
        }

        #[test]
        fn nothing_is_cut_before_its_deadline(looks in looks(), sticky: bool, in_flight in 1u64..2_000, sessions_max in 1u64..2_000) {
            let limits = limits(in_flight, sessions_max);
            let mut drain = if sticky { Drain::of_sessions(limits, at(0)) } else { Drain::of_requests(limits, at(0)) };
            let mut now = 0;
            let mut closed = if sticky { None } else { Some(0) };
            // Since when no session has held it.
            let mut quiet = if sticky { None } else { Some(0) };
            for look in looks {
                now += look.after;
                if closed.is_none() {
                    quiet = if look.sessions > 0 && now < sessions_max { None } else { quiet.or(Some(now)) };
                }
                let by = drain.ends_by();
                match step(&mut drain, at(now), look.sessions, look.in_flight) {
                    Action::Wait { until } => prop_assert!(until > at(now) && until <= by),
                    Action::CloseTunnels { .. } => prop_assert!(false, "once"),
                    Action::Close => {
                        prop_assert!(look.sessions == 0 || now >= sessions_max);
                        prop_assert!(closed.is_none());
                        closed = Some(now);
                    }
                    Action::Cut => {
                        prop_assert!(look.in_flight > 0);
                        prop_assert!(closed.is_some() && now >= quiet.unwrap() + in_flight);
                        break;
                    }
                    Action::End => {
                        prop_assert!(closed.is_some() && look.in_flight == 0);
                        break;
                    }
                }
            }
        }

        #[test]
        fn a_drain_ends_early_when_nothing_is_left(sticky: bool, now in 0u64..1_000) {
            let limits = limits(30_000, 3_600_000);
            let mut drain = if sticky { Drain::of_sessions(limits, at(0)) } else { Drain::of_requests(limits, at(0)) };
            if sticky {
                prop_assert_eq!(step(&mut drain, at(now), 0, 0), Action::Close);
            }
            prop_assert_eq!(step(&mut drain, at(now), 0, 0), Action::End);
        }
    }
}
