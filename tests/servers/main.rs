//! Connections to servers: pools, retries, HTTP/2 and gRPC, TLS on both sides, PROXY protocol.

#[path = "../harness/mod.rs"]
mod harness;

mod grpc;
mod grpc_calls;
mod h2_streams;
mod h2_upstream;
mod pool;
mod proxy_protocol;
mod retry;
mod send_proxy;
mod tls;
mod tls_clients;
mod tls_upstream;
