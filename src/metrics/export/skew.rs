//! How evenly requests are spread, and how evenly other policies would spread them.

use super::Families;
use crate::metrics::Id;
use crate::metrics::skew::{Figures, Lately};
use crate::upstream::Upstream;

/// The policy of what really happened.
const LIVE: &str = "live";

pub(super) fn collect(families: &mut Families, upstream: &Upstream, figures: Option<&Figures>, now: u32) {
    let name = upstream.name();
    if let Some(Figures { own: Lately { requests, skew: Some(skew), .. }, .. }) = figures {
        families.value(Id::SkewMaxOverMean, &[name], skew.max_over_mean);
        families.value(Id::SkewJain, &[name], skew.jain);
        families.value(Id::SkewRequests, &[name], *requests as f64);
    }
    let Some(shadow) = &upstream.shadow else { return };
    let (clients, share) = shadow.followed(now);
    families.value(Id::ShadowClients, &[name], clients as f64);
    families.value(Id::ShadowShare, &[name], share);
    for (number, shade) in shadow.shades.iter().enumerate() {
        let policy = if number == 0 { LIVE } else { &*shade.label };
        for (server, requests) in upstream.servers.iter().zip(shade.requests()) {
            families.value(Id::ShadowRequests, &[name, policy, &server.name], requests as f64);
        }
        let (followed, moves) = shade.tally.moves();
        families.value(Id::ShadowUnplaced, &[name, policy], shade.tally.unplaced() as f64);
        families.value(Id::ShadowFollowed, &[name, policy], followed as f64);
        families.value(Id::ShadowMoves, &[name, policy], moves as f64);
        if let Some(skew) = figures.and_then(|figures| figures.shades.get(number)?.skew) {
            families.value(Id::ShadowMaxOverMean, &[name, policy], skew.max_over_mean);
            families.value(Id::ShadowJain, &[name, policy], skew.jain);
        }
    }
}
