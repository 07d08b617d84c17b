//! evenkeel: a Layer-7 load balancer and reverse proxy that measures stickiness.

#![forbid(unsafe_code)]

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
pub mod error;
pub mod health;
pub mod lab;
pub mod metrics;
pub mod named;
pub mod proxy;
pub mod units;
pub mod upstream;
