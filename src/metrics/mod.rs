//! What is counted, by what name, and how it is read.

pub mod cells;
