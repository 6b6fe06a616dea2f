//! The hub: the one thread that owns the state.

pub mod batch;
pub mod subscription;
