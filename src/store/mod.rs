//! What is on disk.

pub mod lock;
