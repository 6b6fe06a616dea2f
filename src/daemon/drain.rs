//! The end of work: nothing new is taken, what runs gets `--drain-timeout-ms` to end by itself, and is interrupted then.

use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use log::{info, warn};

use crate::hub::batch::Batch;
use crate::hub::{Core, HubError};
use crate::model::event::EventType;
use crate::ops::Ops;

/// How long the stop waits for the end of turns it has interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// Takes no new work, and returns when there is none any more, or when it was interrupted.
pub(super) fn finish_work(ops: &Ops) {
    ops.drain();
    ops.runs.hold();
    let patience = ops.config.drain_timeout;
    let deadline = Instant::now() + patience;
    if !patience.is_zero() {
        let quiet = wait_for_turns(ops, patience).unwrap_or_else(|error| {
            warn!("running turns are not waited for: {error}");
            false
        });
        if !(ops.runs.wait_idle(deadline.saturating_duration_since(Instant::now())) && quiet) {
            info!("work is still going on after {} ms and is interrupted", patience.as_millis());
        }
    }
    // What nobody has answered by now nobody will: it is orphaned before the interrupt could withdraw it.
    if let Err(error) = ops.inbox.close() {
        warn!("the requests left open could not be recorded: {error}");
    }
    interrupt_turns(ops);
    ops.runs.stop();
}

fn turn_runs(core: &Core) -> bool {
    core.state().sessions.all().iter().any(|session| session.current_turn_id.is_some())
}

/// Waits until no turn runs, for at most `patience`; whether that came about.
fn wait_for_turns(ops: &Ops, patience: Duration) -> Result<bool, HubError> {
    let deadline = Instant::now() + patience;
    loop {
        let (busy, events) = ops.hub.ask(|core| (turn_runs(core), core.subscribe()))?;
        if !busy {
            return Ok(true);
        }
        loop {
            match events.receiver().recv_deadline(deadline) {
                Ok(batch) => {
                    if ends_a_turn(&events.taken(batch)) && !ops.hub.ask(|core| turn_runs(core))? {
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

fn ends_a_turn(batch: &Batch) -> bool {
    use EventType as T;
    let ends = [T::TurnCompleted, T::TurnError, T::TurnMissing, T::SessionClosed];
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
        if let Err(error) = wait_for_turns(ops, left) {
            warn!("interrupted turns are not waited for: {error}");
        }
    }
}
