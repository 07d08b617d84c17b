//! Filters of a route as they are written.

use serde::Serialize;

use super::show_size;
use crate::config::plan::{CompressPlan, Encoding};

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
