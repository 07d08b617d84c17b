//! What clients and evenkeel say to each other: HTTP/1.1, HTTP/2, WebSocket, bodies, bounds and bad input.

#[path = "../harness/mod.rs"]
mod harness;

mod bad_answers;
mod bad_input;
mod bodies;
mod client_address;
mod compress;
mod http1;
mod http2;
mod limits;
mod real_clients;
mod refused;
mod rfc6455;
mod rfc8441;
mod rfc9110;
mod rfc9112;
mod rfc9113;
mod rfc9113_floods;
mod timeouts;
mod upgrade;
