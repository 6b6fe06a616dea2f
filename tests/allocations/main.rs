//! How often the hot path asks for memory: per delta, from the child's pipe to one client's socket.
//!
//! A program of its own, because it counts for the whole process: daemon and client run in it, the child is this same
//! program called again (`--child`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails says so by panicking")]
#![allow(clippy::print_stdout, reason = "its figures are for whoever runs it")]
#![allow(clippy::disallowed_methods, reason = "the child is no daemon and waits as it likes")]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "parts of the benchmark, of which not all is used"
)]

#[path = "../bench/child.rs"]
mod child;
#[path = "../bench/clients.rs"]
mod clients;

use std::alloc::System;

use codexd::daemon::Daemon;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use self::clients::{Http, open_stream};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: usize = 20_000;
const EVENTS: usize = 100_000;
/// What the design allows an event of the hot path.
const MOST_PER_EVENT: f64 = 3.0;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--child") => child::run(&[]),
        // What a runner that asks for the tests first wants to hear.
        Some("--list") => println!("allocations_per_event: test"),
        _ => {
            // A panic would wait for the daemon's threads, which nobody has told to stop.
            let says = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                says(panic);
                std::process::exit(101);
            }));
            allocations_per_event();
        }
    }
}

fn allocations_per_event() {
    let folder = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let words = [
        "start",
        "--local-api-base=http://127.0.0.1:0",
        "--server-command",
        this.to_str().unwrap(),
        "--server-arg=--child",
    ];
    let config = codexd::cli::config_of(&words, &|_| None, folder.path()).unwrap().unwrap();
    let daemon = Daemon::start(config).unwrap();
    let address = daemon.ops().service.view().resolved_base_url.unwrap();
    let address = address.strip_prefix("http://").unwrap().parse().unwrap();
    let mut http = Http::new(address);
    let session = http.post("/v1/codexd/sessions", "{}")["session"]["sessionId"].as_str().unwrap().to_owned();
    let mut burst = |count: usize, size: usize| {
        let reader = open_stream(address).count_deltas(count, false);
        let body = serde_json::json!({ "sessionId": session, "input": format!("burst {count} {size}") });
        http.post("/v1/codexd/turn", &body.to_string());
        reader.join().unwrap();
    };
    burst(WARM_UP, 64);
    let measured = [64, 4096].map(|size| {
        let region = Region::new(ALLOCATOR);
        burst(EVENTS, size);
        let used = region.change();
        println!(
            "{size} B deltas: {:.2} allocations, {:.2} of them in place, each",
            per_event(used.allocations + used.reallocations),
            per_event(used.reallocations)
        );
        used
    });
    daemon.stop().unwrap();
    for used in measured {
        assert!(per_event(used.allocations + used.reallocations) <= MOST_PER_EVENT, "{used:?}");
        // Were nothing counted, this test could not fail.
        assert!(used.allocations > 100, "{used:?}");
    }
}

fn per_event(count: usize) -> f64 {
    count as f64 / EVENTS as f64
}
