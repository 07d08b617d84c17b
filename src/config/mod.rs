//! Configuration: text → Spec → Plan.

pub mod plan;

pub use plan::Plan;
