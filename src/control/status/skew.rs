//! How evenly requests were spread lately, and how other policies would have spread them.

use crate::control::api::{ShadowPolicyStatus, ShadowStatus, SkewStatus};
use crate::metrics::skew::{Figures, Lately};
use crate::upstream::shadow::Shade;
use crate::upstream::{Upstream, clock};

pub(super) fn skew_status(upstream: &Upstream, figures: &Figures) -> Option<SkewStatus> {
    let skew = figures.own.skew?;
    Some(SkewStatus {
        seconds: figures.seconds,
        requests: figures.own.requests,
        max_over_mean: skew.max_over_mean,
        jain: skew.jain,
        busiest: upstream.servers.get(skew.busiest)?.name.to_string(),
    })
}

pub(super) fn shadow_status(upstream: &Upstream, figures: &Figures) -> Option<ShadowStatus> {
    let shadow = upstream.shadow.as_ref()?;
    let (clients, clients_ratio) = shadow.followed(clock::seconds());
    let policy = |(number, (shade, lately)): (usize, (&Shade, &Lately))| ShadowPolicyStatus {
        policy: if number == 0 { upstream.plan.policy.name().to_owned() } else { shade.label.to_string() },
        live: number == 0,
        approximate: shade.approximate().into_iter().map(str::to_owned).collect(),
        requests: lately.requests,
        unplaced: shade.tally.unplaced(),
        max_over_mean: lately.skew.map(|skew| skew.max_over_mean),
        jain: lately.skew.map(|skew| skew.jain),
        busiest: lately.skew.and_then(|skew| Some(upstream.servers.get(skew.busiest)?.name.to_string())),
        moves_per_thousand: (lately.followed > 0).then(|| lately.moves as f64 * 1000.0 / lately.followed as f64),
    };
    Some(ShadowStatus {
        seconds: figures.seconds,
        known_by: shadow.known_by.name().to_owned(),
        clients,
        clients_ratio,
        policies: shadow.shades.iter().zip(&figures.shades).enumerate().map(policy).collect(),
    })
}
