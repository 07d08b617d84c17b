//! The lab: toy servers, load, reports.
