//! Deploys of an app's servers, in turn, side by side and by parts, and what goes on meanwhile.

#[path = "../harness/mod.rs"]
mod harness;

mod blue_green;
mod canary;
mod deploy;
mod deploy_during;
mod deploy_ledger;
mod reload_during;
