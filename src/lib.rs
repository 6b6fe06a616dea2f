//! codexd
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod clock;
pub mod config;
pub mod duplex;
pub mod http;
pub mod hub;
pub mod ids;
pub mod model;
pub mod stream;
pub mod threads;
