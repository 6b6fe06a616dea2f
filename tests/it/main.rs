//! One test crate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails says so by panicking")]
#![allow(unreachable_pub, reason = "nothing of this crate is reached from outside")]

mod cli_errors;
mod cli_flags;
mod cli_golden;
mod cli_status;
mod cli_support;
