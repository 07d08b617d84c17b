//! The lab: what a policy does to load, latency and sessions, measured over real sockets.
//!
//! A [`scenario`] says which servers there are, who asks and what happens meanwhile. Its [`arrivals`] are
//! drawn once, from a seed, and then sent to each policy in turn: a [`fleet`] of real processes (the toy
//! [`origin`]s and evenkeel in front of them) is started, [`load`] sends what is due whether or not what came
//! before was answered, and [`report`] says what came of it, by the [`stats`] that are told there.
//!
//! Nothing of the proxy is used for that but its command line, so that a fault of its own cannot hide itself.
//! [`simulate`] works out the same in virtual time, from the policies alone, and [`replay`] what they would have done
//! with the requests of an access log.

pub mod arrivals;
pub mod fleet;
pub mod load;
pub mod origin;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod simulate;
pub mod sockets;
pub mod stats;
pub mod strategies;
