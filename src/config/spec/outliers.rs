//! `[upstream.NAME.outliers]`

use serde::Deserialize;

use super::{At, Time, nowhere, seconds};

/// When a server is taken out for what live traffic shows of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct OutliersSpec {
    pub consecutive_failures: At<u32>,
    pub failure_percent: At<u32>,
    pub min_requests: At<u64>,
    pub window: At<Time>,
    pub statuses: Vec<At<u16>>,
    pub ejection: At<Time>,
    pub max_ejection: At<Time>,
    pub max_ejected_percent: At<u32>,
    pub trial_requests: At<u64>,
}

impl Default for OutliersSpec {
    fn default() -> Self {
        Self {
            consecutive_failures: nowhere(5),
            failure_percent: nowhere(50),
            min_requests: nowhere(50),
            window: nowhere(seconds(10)),
            // What stands in front of an app server says when that one is down or too busy. A 500 is often
            // one client's doing.
            statuses: vec![nowhere(502), nowhere(503), nowhere(504)],
            ejection: nowhere(seconds(30)),
            max_ejection: nowhere(seconds(300)),
            max_ejected_percent: nowhere(50),
            trial_requests: nowhere(5),
        }
    }
}
