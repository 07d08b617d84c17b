//! Filters of a route as they are written.

use serde::Serialize;

use crate::config::Plan;
use crate::config::plan::{CompressPlan, Encoding, ErrorPagePlan, MirrorPlan};
use crate::units::show_size;

#[derive(Serialize)]
pub(super) struct Compress<'a> {
    encodings: Vec<&'static str>,
    level: &'static str,
    min_size: String,
    types: &'a [String],
}

impl<'a> Compress<'a> {
    pub(super) fn of(CompressPlan { encodings, level, min_size, types }: &'a CompressPlan) -> Self {
        Self {
            encodings: encodings.iter().map(|encoding: &Encoding| encoding.name()).collect(),
            level: level.name(),
            min_size: show_size(*min_size),
            types,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ErrorPage {
    status: Vec<String>,
    file: String,
    content_type: String,
    intercept: bool,
}

impl ErrorPage {
    pub(super) fn of(ErrorPagePlan { statuses, file, pieces: _, content_type, intercept }: &ErrorPagePlan) -> Self {
        let status = |range: &std::ops::RangeInclusive<u16>| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}xx", range.start() / 100),
        };
        Self {
            status: statuses.iter().map(status).collect(),
            file: file.display().to_string(),
            content_type: content_type.clone(),
            intercept: *intercept,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Mirror<'a> {
    to: &'a str,
    percent: u32,
    max_body: String,
    max_in_flight: usize,
}

impl<'a> Mirror<'a> {
    pub(super) fn of(mirror: &MirrorPlan, plan: &'a Plan) -> Self {
        let MirrorPlan { upstream, percent, max_body, max_in_flight } = *mirror;
        let to = plan.upstreams.get(upstream).map_or("", |u| u.name.as_str());
        Self { to, percent, max_body: show_size(max_body), max_in_flight }
    }
}
