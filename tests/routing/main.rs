//! Where a request goes, and what answers without a server.

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod error_pages;
mod matching;
mod mirror;
mod names;
mod paths;
mod redirects;
mod routing;
mod split;
