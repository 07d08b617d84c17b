//! The toy server: what stands behind evenkeel in the demo, the tests and the lab.
//!
//! It behaves like a small application that keeps its sessions in memory, or in another of the ways that there are,
//! over real sockets, and it says what it was asked: every answer names the server in `X-Server`, every request is in
//! its log.
//! It is not a product: no TLS, no files, no tuning, and nothing of the proxy may depend on it. It
//! uses nothing of the proxy either, so that a fault there cannot hide itself here.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page that names the server and counts the visits of the session, which it starts |
//! | `/healthz` | 200 `ok`, or 503 where the test says so |
//! | `/login?user=&life_ms=` | starts a session: sets `sid` |
//! | `/count` | counts the session's visits; 401 for a session this server does not know |
//! | `/sessions` | JSON: how many sessions it holds, their bytes, and what it has sent to others |
//! | `/sessions/revoke?user=` | POST: ends the sessions of a user |
//! | `/item?key=` | an item: from a cache in front of a store, where it has one (`X-Cache` says `hit` or `miss`) |
//! | `/slow?ms=` | 200 after that time |
//! | `/bytes?n=` | so many bytes of [`pattern`]; `&chunked=1` without a length; `&cut=` ends the connection after so many |
//! | `/echo` | JSON: method, target, every header, the body's length and trailers |
//! | `/mirror` | the request's body as it arrives, and its trailers |
//! | `/sink` | reads a POST or PUT and logs its `X-Request-Id` |
//! | `/status?code=` | that status |
//! | `/drop` | ends the connection without an answer |
//! | `/ws` | WebSocket echo |
//! | `/tunnel` | switches to whatever `Upgrade` asks for and echoes bytes |
//!
//! Anything else is 404.

mod answers;
mod behaviour;
mod body;
mod cache;
mod in_process;
mod journal;
mod operator;
mod server;
mod sessions;
#[cfg(test)]
mod tests;
mod tunnel;

pub use behaviour::Behaviour;
pub use body::pattern;
pub use cache::CacheOptions;
pub use in_process::Origin;
pub use journal::Served;
pub use server::{Options, Server, serve};
pub use sessions::{Keep, SessionOptions, StoreAddress};
