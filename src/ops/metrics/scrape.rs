//! What the metrics are made of, gathered once an answer.

use std::path::Path;

use super::counters::Streams;
use crate::hub::tally::Tally;
use crate::hub::{Core, Waiting};
use crate::model::record::{ChildStatus, RequestStatus, RunStatus, SessionStatus};
use crate::ops::Ops;
use crate::ops::ready::{Checks, HUB_DEADLINE};
use crate::store::usage::{self, Usage};
use crate::threads;

/// Everything that an answer says.
#[derive(Debug)]
pub struct Scrape {
    pub(super) started_seconds: f64,
    pub(super) ready: [(&'static str, bool); Checks::ALL.len()],
    /// Nothing when the hub does not answer.
    pub(super) hub: Option<Hub>,
    /// Nothing when the folder cannot be read.
    pub(super) logs: Option<Usage>,
    pub(super) free: [(&'static str, Option<u64>); 2],
    pub(super) waiting: Waiting,
    pub(super) streams: [(&'static str, Streams); 2],
    pub(super) answers: [(&'static str, u64); 5],
    pub(super) panics: u64,
}

/// What the hub knows.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) tally: Tally,
    pub(super) seq: u64,
    pub(super) oldest_seq: u64,
    pub(super) stalled: bool,
    pub(super) child_up: bool,
    pub(super) child_generation: u64,
    pub(super) child_restarts: u64,
    pub(super) sessions: Vec<(&'static str, u64)>,
    pub(super) turns: u64,
    pub(super) runs: Vec<(&'static str, u64)>,
    pub(super) requests: Vec<(&'static str, u64)>,
}

impl Scrape {
    /// Now.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 do not come near 2^53")]
    pub fn take(ops: &Ops) -> Self {
        let checks = ops.readiness().checks;
        let ready = checks.named().map(|named| (named.name, named.check.ok));
        // One that has just kept us waiting is not asked again.
        let hub = checks.hub.ok.then(|| ops.hub.ask_within(HUB_DEADLINE, |core| Hub::take(core)));
        let paths = &ops.config.paths;
        let free = |folder: &Path| usage::free(folder).ok();
        Self {
            started_seconds: ops.service.counters.started() as f64 / 1000.0,
            ready,
            hub: hub.and_then(Result::ok),
            logs: Usage::of(&paths.logs_dir).ok(),
            free: [("logs", free(&paths.logs_dir)), ("state", free(&paths.state_dir))],
            waiting: ops.hub.waiting(),
            streams: ops.service.counters.streams(),
            answers: ops.service.counters.answers(),
            panics: threads::contained_panics(),
        }
    }
}

impl Hub {
    /// In the hub's thread: one look at each record, nothing is copied but numbers.
    fn take(core: &Core) -> Self {
        let state = core.state();
        let child = &state.daemon.child;
        let turns = state.sessions.all().iter().filter(|session| session.current_turn_id.is_some()).count();
        Self {
            tally: core.tally(),
            seq: core.latest_seq(),
            oldest_seq: core.oldest_seq().unwrap_or(0),
            stalled: core.stalled().is_some(),
            child_up: matches!(child.status, ChildStatus::Running | ChildStatus::External),
            child_generation: child.generation,
            child_restarts: child.restarts,
            sessions: by_word(SessionStatus::ALL, state.sessions.all().iter().map(|session| session.status)),
            turns: turns as u64,
            runs: by_word(RunStatus::ALL, state.runs.all().iter().map(|run| run.status)),
            requests: by_word(RequestStatus::ALL, state.requests.all().iter().map(|request| request.status)),
        }
    }
}

/// How many there are of each, under its word; also of those of which there is none.
fn by_word<T: Copy + PartialEq>(
    all: &[(&'static str, T)],
    values: impl Iterator<Item = T>,
) -> Vec<(&'static str, u64)> {
    let mut counts: Vec<(&'static str, u64)> = all.iter().map(|(word, _)| (*word, 0)).collect();
    for value in values {
        if let Some(at) = all.iter().position(|(_, known)| *known == value) {
            counts[at].1 += 1;
        }
    }
    counts
}
