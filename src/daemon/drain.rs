//! The end of work: nothing new is taken, what runs gets `--drain-timeout-ms` to end by itself, and is interrupted then.

use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use log::{info, warn};

use crate::hub::batch::Batch;
use crate::hub::{Core, HubError};
use crate::model::event::EventType;
use crate::model::record::RunStatus;
use crate::ops::Ops;

/// How long the stop waits for the end of turns it has interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// Takes no new work, and returns when there is none any more, or when it was interrupted.
pub(super) fn finish_work(ops: &Ops) {
    ops.drain();
    let patience = ops.config.drain_timeout;
    if !patience.is_zero() {
        match wait_for_quiet(ops, busy, patience) {
            Ok(true) => return,
            Ok(false) => info!("work is still going on after {} ms and is interrupted", patience.as_millis()),
            Err(error) => warn!("running work is not waited for: {error}"),
        }
    }
    interrupt_turns(ops);
}

/// Work that is worth waiting for: turns, and runs whose process runs. Queued runs have not begun.
fn busy(core: &Core) -> bool {
    turn_runs(core) || core.state().runs.all().iter().any(|run| run.status == RunStatus::Running)
}

fn turn_runs(core: &Core) -> bool {
    core.state().sessions.all().iter().any(|session| session.current_turn_id.is_some())
}

/// Waits until `busy` says no, for at most `patience`; whether it did.
fn wait_for_quiet(ops: &Ops, busy: fn(&Core) -> bool, patience: Duration) -> Result<bool, HubError> {
    let deadline = Instant::now() + patience;
    loop {
        let (now_busy, events) = ops.hub.ask(move |core| (busy(core), core.subscribe()))?;
        if !now_busy {
            return Ok(true);
        }
        loop {
            match events.receiver().recv_deadline(deadline) {
                Ok(batch) => {
                    if ends_work(&events.taken(batch)) && !ops.hub.ask(move |core| busy(core))? {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                // Too much happened at once to keep up with: look again.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }
}

fn ends_work(batch: &Batch) -> bool {
    use EventType as T;
    let ends =
        [T::TurnCompleted, T::TurnError, T::TurnMissing, T::SessionClosed, T::RunCompleted, T::RunFailed];
    batch.entries().iter().any(|entry| ends.contains(&entry.kind))
}

/// Asks the app-server to interrupt the turns in flight, and waits a moment for them to end. What has not ended then
/// ends with the app-server; the daemon's last event counts it as interrupted.
fn interrupt_turns(ops: &Ops) {
    let Some(connection) = ops.client.present() else { return };
    let in_flight = ops.hub.ask(|core| {
        let sessions = core.state().sessions.all().iter();
        sessions
            .filter_map(|session| Some((session.thread_id.clone()?, session.current_turn_id.clone()?)))
            .collect::<Vec<_>>()
    });
    let deadline = Instant::now() + INTERRUPT_GRACE;
    let mut interrupted = false;
    for (thread, turn) in in_flight.unwrap_or_default() {
        let params = serde_json::json!({ "threadId": thread, "turnId": turn });
        let left = deadline.saturating_duration_since(Instant::now());
        match connection.call("turn/interrupt", &params, left) {
            Ok(_) => interrupted = true,
            Err(error) => warn!("turn {turn} could not be interrupted: {error}"),
        }
    }
    if interrupted {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(error) = wait_for_quiet(ops, turn_runs, left) {
            warn!("interrupted turns are not waited for: {error}");
        }
    }
}
