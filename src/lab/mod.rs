//! The lab: toy servers, load, reports.

pub mod origin;
