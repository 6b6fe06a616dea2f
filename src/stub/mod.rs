//! A built-in stand-in for Codex.
//!
//! `codex app-server` and `codex exec` need a network and an account, so the tests of this program and a first
//! try of an installation run against this module instead. It speaks the protocol recorded from the real Codex
//! (the transcripts in `tests/transcripts`); the first line of a prompt tells it what to do
//! (`directive.rs`), and the environment variable `CODEXD_STUB` how to misbehave (`behaviour.rs`).

mod approvals;
mod behaviour;
mod directive;
mod exec;
mod output;
mod process;
mod requests;
mod rollout;
mod server;
mod shapes;
mod speech;
mod state;
#[cfg(test)]
mod tests;
mod tools;
mod turn;

pub use exec::exec;
pub use process::app_server_stdio;
