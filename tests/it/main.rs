//! The one test crate: drivers for codexd and for the real Codex, a fake of the model behind it, and the tests.
//!
//! No test sleeps in order to pass: each waits for an event, with a deadline that only a fault reaches.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "nothing of this crate is reached from outside")]

mod app_server;
mod app_server_facts;
mod cli_errors;
mod cli_flags;
mod cli_golden;
mod cli_status;
mod cli_support;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod client;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod daemon;
mod directives;
mod drivers;
mod exec_facts;
mod external;
mod listener;
mod model_server;
mod processes;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod real_codex;
mod relay;
mod tidy;

/// How long a test waits for what must happen. Long, because the machine may be busy.
pub(crate) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
