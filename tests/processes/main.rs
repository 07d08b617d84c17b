//! evenkeel as a process: the demo, a service manager, certificates in files, upgrades that fail.

#[path = "../harness/mod.rs"]
mod harness;

mod binary_upgrade_failures;
mod demo;
mod measured;
mod service_manager;
mod tls_process;
