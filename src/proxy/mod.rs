//! The data plane: everything a request meets, and nothing else.
//!
//! Read the files in the order of a request: [`listener`] accepts, [`connection`] parses, [`request`]
//! tells the story: [`prepare`] makes the request that servers get, [`forward`] sends it, [`body`]
//! streams the answer and [`exchange`] ends it. This half never imports the control plane, never waits
//! for it, and takes no lock on a request's path.

pub mod access_log;
mod admit;
mod answer;
mod asked;
mod basic_auth;
mod body;
mod canary;
mod census;
mod check;
mod client;
mod client_cert;
mod complaint;
mod compress;
mod connection;
mod core;
mod edits;
mod error_page;
mod exchange;
mod explain;
mod fault;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod head;
mod headers;
mod hot;
mod http2;
mod https;
mod inbound;
mod listener;
mod litmus;
mod mirror;
mod pool;
mod prepare;
mod queue;
mod reply;
mod request;
mod request_id;
mod respond;
mod retry;
mod rewrite;
mod server_body;
mod shadow;
mod split;
mod sticky;
mod stream;
mod tls;
mod trailers;
mod tunnels;
mod underscores;
mod upgrade;
mod watch;
mod websocket;

pub use self::core::{Cores, Settings, start};
