//! Is a service stateless? Clients that are moved on purpose, beside clients that stay.

#[path = "../harness/mod.rs"]
mod harness;

mod live;
mod places;
mod script;
