//! TLS: certificates, and what a handshake is made from.
//!
//! The control plane reads files and makes these objects, the configuration judges with the same code
//! what the files hold, and the data plane only uses what was made. So that the TLS library can be
//! exchanged, its types stay in here and in the places of the data plane that speak TLS. Nothing in
//! here opens a file or a socket, and no message in here says anything of a private key.

mod certificate;
mod choice;
mod client;
mod clients;
mod server;
mod tickets;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::{Certificate, Wrong, self_signed};
pub use client::{Client, ClientSettings, ClientWrong};
pub use clients::{ClientIdentity, Clients, Lists};
pub use server::{InUse, Material, Resumption, Server, Settings};
pub use tickets::{Secrets, fresh_secret};

/// The cryptography of every connection. There is no process-wide default: a program that embeds
/// evenkeel may have its own.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
