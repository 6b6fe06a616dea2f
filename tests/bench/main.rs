//! The benchmark: codexd under load on loopback, beside a relay that does nothing but copy (the physical limit here).
//!
//! `make bench` prints one table with the medians of interleaved repeats and writes it as JSON. Everything is bounded:
//! each scenario has a number of events and a deadline. The load generator is this same program, called again as the
//! child (`--child`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails says so by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "no daemon here: threads end with the process, files are scratch"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "what it shares with the tests has more than it needs"
)]

mod child;
mod clients;
mod crowded;
mod daemon;
mod model_server;
mod real;
#[path = "../it/real_codex.rs"]
mod real_codex;
mod relay;
mod report;
mod scenarios;
#[path = "../it/skipped.rs"]
mod skipped;

use report::Report;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().map(String::as_str) == Some("--child") {
        return child::run(&words[1..]);
    }
    let chosen = words.iter().find(|word| !word.starts_with('-'));
    let repeats = std::env::var("CODEXD_BENCH_REPEATS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let mut report = Report::new(repeats);
    for (name, run) in scenarios::ALL {
        if chosen.is_none_or(|chosen| name.contains(chosen.as_str())) {
            eprintln!("{name} …");
            run(&mut report);
        }
    }
    report.print();
    let path = std::env::var("CODEXD_BENCH_JSON").unwrap_or_else(|_| "target/bench.json".to_owned());
    report.write(path.as_ref());
    if words.iter().any(|word| word == "--check") && !report.check("tests/bench/baseline.json".as_ref()) {
        std::process::exit(1);
    }
}
