//! codexd
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api_client;
pub mod app_server;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod duplex;
pub mod http;
pub mod hub;
pub mod ids;
pub mod model;
pub mod ops;
pub mod os;
pub mod process;
pub mod store;
pub mod stream;
pub mod stub;
pub mod supervisor;
pub mod threads;
pub mod timer;
