//! The one test crate: drivers for codexd and for the real Codex, a fake of the model behind it, and the tests.
//!
//! No test sleeps in order to pass: each waits for an event, with a deadline that only a fault reaches.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "tables, and why a test was skipped")]
#![allow(unreachable_pub, reason = "nothing of this crate is reached from outside")]

mod answers;
mod app_server;
mod app_server_facts;
mod backbone;
mod bad_input;
mod cli_ask;
mod cli_errors;
mod cli_flags;
mod cli_golden;
mod cli_hostile;
mod cli_lists;
mod cli_log;
mod cli_shells;
mod cli_status;
mod cli_support;
mod cli_tail;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod client;
mod clock;
mod conversation;
mod crash;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod daemon;
#[cfg(target_os = "linux")] // Elsewhere nobody can change another process's limits.
mod descriptors;
mod directives;
mod disk_full;
mod dist;
mod doctor;
mod doctor_paths;
mod drain;
mod drift;
mod drivers;
mod ending;
mod exec_facts;
mod external;
mod external_errors;
mod external_tls;
mod failed_start;
mod fake_app_server;
#[cfg(target_os = "linux")] // Elsewhere nobody can change another process's limits.
mod file_limit;
mod forced;
mod fuzz;
mod golden_shapes;
#[cfg(target_os = "linux")] // Elsewhere nobody can see that a thread waits.
mod greeting;
mod handlers;
mod hostile;
mod hub;
mod inbox;
mod inbox_reconnect;
mod inbox_support;
mod large_bodies;
mod lines;
mod listener;
mod log;
mod log_removed;
mod lone_hub;
mod matrix;
mod metrics;
mod misbehaviour;
mod model_server;
#[path = "../mutate/mod.rs"]
mod mutate;
mod no_poll;
#[cfg(target_os = "linux")] // As file_limit.
mod not_logged;
mod notify;
mod older_codex;
mod older_state;
mod openapi;
mod orphans;
mod page;
mod processes;
mod pty;
mod readme;
mod readme_operation;
mod readme_start;
mod real_backbone;
#[allow(dead_code, reason = "the tests of codexd itself use the rest")]
mod real_codex;
mod real_inbox;
mod real_messages;
mod real_runs;
mod recording;
mod relay;
mod repairs;
mod replay;
mod rfc6455;
mod run_bench;
mod run_cli;
mod run_input;
mod run_record;
mod runs;
mod same_scenario;
mod schema;
mod schema_events;
mod schema_record;
mod schema_requests;
mod service;
mod skipped;
mod sse;
mod status_now;
#[cfg(target_os = "linux")] // Elsewhere nobody tells whose a port is.
mod strange_daemons;
mod strange_servers;
mod strangers;
mod stuck_stderr;
mod supervision;
mod talk;
mod tidy;
mod unsaved;
mod watch;

/// How long a test waits for what must happen. Long, because the machine may be busy.
pub(crate) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
