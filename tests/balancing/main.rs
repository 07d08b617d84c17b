//! Which server takes a request: policies, stickiness, health, queues, pauses.

#[path = "../harness/mod.rs"]
mod harness;

mod backup;
mod balancing;
mod health;
mod hot_keys;
mod outliers;
mod pause;
mod policies;
mod queue;
mod session_moves;
mod shadow;
mod shares;
mod slow_start;
mod sticky;
mod sticky_application;
