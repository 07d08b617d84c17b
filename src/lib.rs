//! evenkeel: a Layer-7 load balancer and reverse proxy.
//!
//! Most people run the binary and want the README. This page is for those who read the code or embed
//! it: where things are, and what a request meets on its way.
//!
//! # The map
//!
//! Two halves never import each other. The *data plane* ([`proxy`]) moves requests; the *control
//! plane* ([`control`]) decides what is true: which configuration is in force, which server is up, who
//! is drained. They meet in [`upstream`], the only state that both see, and are tied together in
//! [`engine`], which starts both. A test (`tests/walls.rs`) holds who may use whom.
//!
//! | Room | What is in it |
//! |---|---|
//! | [`engine`] | starting and stopping evenkeel as one thing; begin here to embed it |
//! | [`config`] | TOML → Spec (what it says) → Plan (what is true), every problem at once, and the difference of two Plans |
//! | [`proxy`] | listeners, connections, the story of a request, bodies, tunnels, the access log |
//! | [`balance`] | the policies: pure functions from a client and some servers to a pick |
//! | [`upstream`] | servers and their state, claims, routes, the ledger of sessions, the Snapshot |
//! | [`health`] | what a check is, and when a row of results changes a server's state |
//! | [`control`] | the supervisor, probes, drains, reload, upgrade, signals, the service manager, the admin API |
//! | [`metrics`] | the table of names, the cells that cores count in, the text that is scraped |
//! | [`tls`] | certificates, and what a TLS handshake is made from |
//! | [`error`] | what can go wrong with a request, and the one table from that to a status |
//! | [`cli`] | the verbs; everything but `run`, `demo`, `origin`, `lab` and `litmus` is a client of the admin API |
//! | [`lab`] | the toy server that the demo, the tests and the examples put behind the proxy |
//! | [`proxy_protocol`] | the header that says, ahead of a connection, who the client is: read from clients, written to servers |
//! | [`server_stream`] | the bytes of a connection to a server: TCP, a Unix socket, TLS over either |
//! | [`named`], [`units`], [`path`], [`asks`], [`debug_header`] | leaves: how choices, durations and sizes are written; the one form of a path; what a server says of itself; who may be told why |
//!
//! Two rooms are made to grow: a new policy is a file and a variant in [`balance`], a new check is a
//! file and a variant in [`health`]; the compiler asks for the rest.
//!
//! # The path of a request
//!
//! Each core is a thread with a single-threaded runtime, its own listening sockets (`SO_REUSEPORT`),
//! its own idle connections to servers and its own counters. A request stays on the core that accepted
//! its connection, and crosses no lock and no channel.
//!
//! 1. `proxy/listener` accepts. `proxy/admit` settles who is at the other end ([`proxy_protocol`]) and
//!    whether there is room for them (`proxy/census`). `proxy/connection` runs the HTTP parser; a
//!    connection that is idle for a second gives the parser up and waits as a bare socket.
//! 2. `proxy/request` tells the rest in order. It takes the current [`upstream::Snapshot`] and keeps it
//!    to the end, so a reload never changes the rules in the middle of a request.
//! 3. `proxy/check` refuses what could be read in two ways, and [`path`] brings the path to the one form
//!    that is compared and forwarded. [`upstream::Routes`] finds the route by listener, host and path,
//!    `proxy/basic_auth` asks for a name and a password where the route does. `proxy/client` settles who the client is and rewrites the forwarded
//!    headers; `proxy/headers` strips what belongs to one connection only.
//! 4. `proxy/hot` counts addresses where hot ones are looked for. `proxy/canary` draws who meets new servers first, where
//!    a deploy tries some out, and `proxy/litmus` who is moved on purpose, where that is configured.
//!    `proxy/split` says to which upstream, where a route has several; `proxy/sticky` opens the cookie, if the
//!    upstream has one. [`upstream::Upstream::pick`] asks the
//!    policy's table for a server: pinned, or new.
//! 5. [`upstream::Claim`] takes the right to send: it counts the request first and reads the server's
//!    state after, so a drain that has begun is never missed.
//! 6. `proxy/pool` lends a connection or opens one, and `proxy/forward` sends. If that fails,
//!    `proxy/retry` says whether another server may be tried: nothing was sent, or the method is
//!    idempotent and no part of the answer has come, and the budget has something left.
//! 7. `proxy/body` streams the answer, compressed on its way by `proxy/compress` where the route says so,
//!    or `proxy/upgrade` the tunnel. `proxy/exchange` ends it, in the one place that releases the claim,
//!    gives the connection back, counts, and writes the log line.
//!
//! Errors on the way are [`error::ProxyError`]; `proxy/answer` turns them into what the client reads,
//! which never names a server, and `proxy/error_page` lets it wear a page of the user's own. `proxy/mirror`
//! sends copies of requests to a second upstream, beside this path and never in its way. `proxy/explain` notes what
//! was picked and why, where the configuration asks for it ([`upstream::explain`]).
//!
//! # What changes while it runs
//!
//! [`control`] is one task that owns the Plan and the registry of servers. Commands of the admin API,
//! results of checks and signals come to it through one inbox; what follows from them is published as
//! a new Snapshot, in one atomic exchange. A server's state is two fields, what checks say
//! ([`upstream::Operational`]) and what an operator says ([`upstream::Admin`]), in one atomic byte.
//!
//! The process itself may change: `control/upgrade` starts another one, hands over every listening socket and all
//! that is known, and drains once that one serves.
//!
//! # Embedding
//!
//! ```no_run
//! let loaded = evenkeel::config::parse(
//!     "[[listener]]\nbind = \"127.0.0.1:8080\"\n[upstream.app]\nservers = [\"127.0.0.1:9001\"]\n",
//!     "app.toml",
//! )
//! .map_err(|report| report.render(false))?;
//! let evenkeel = evenkeel::engine::start(loaded, evenkeel::engine::Options::default())?;
//! evenkeel.ready();
//! // ... until it is time to stop:
//! evenkeel.stop();
//! let _outcome = evenkeel.wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/embed.rs` does more of it. Nothing in here is a stable interface yet: the version is 0.1.

#![forbid(unsafe_code)]

pub mod asks;
pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod debug_header;
pub mod engine;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod lab;
pub mod metrics;
pub mod named;
pub mod path;
pub mod proxy;
pub mod proxy_protocol;
pub mod server_stream;
pub mod tls;
pub mod units;
pub mod upstream;
