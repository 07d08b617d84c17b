//! The control plane: one thread, one runtime, one inbox.

pub mod api;
pub mod default_socket;
