//! Sessions in a new life of the app-server: their threads are loaded again before their next turn, and after a crash at
//! once, so that the turn does not have to wait for it. What fails then is tried again by the turn.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};

use super::{OpError, Ops};
use crate::app_server::connection::Connection;
use crate::hub::Core;
use crate::model::record::SessionStatus;
use crate::threads::{self, Thread};

/// Threads loaded at once: a few of the calls that may be in flight, so that clients get theirs through.
const AT_ONCE: usize = 4;

/// Starts the thread that loads threads after each message of `revived`; it ends when the sender is dropped.
///
/// # Errors
/// When the system has no thread.
pub fn start(ops: Arc<Ops>, revived: Receiver<()>) -> io::Result<Thread> {
    threads::spawn("recover", move || {
        while revived.recv().is_ok() {
            if let Err(error) = recover_all(&ops) {
                // Each session's next turn tries again, and tells its client.
                warn!("sessions could not be recovered: {error}");
            }
        }
    })
}

fn recover_all(ops: &Arc<Ops>) -> Result<(), OpError> {
    let connection = ops.client.connect()?;
    let generation = connection.generation();
    let external = connection.pid().is_none();
    let ids = ops.hub.ask(move |core| to_load(core, generation, external))?;
    if ids.is_empty() {
        return Ok(());
    }
    info!("loading the threads of {} sessions again", ids.len());
    let (hand_out, waiting) = bounded(ids.len());
    for id in ids {
        // There is room for all.
        let _ = hand_out.try_send(id);
    }
    drop(hand_out);
    let workers: Vec<Thread> = (0..AT_ONCE.min(waiting.len()))
        .map(|number| {
            let (ops, connection, waiting) = (Arc::clone(ops), Arc::clone(&connection), waiting.clone());
            threads::spawn_contained(format!("recover-{number}"), move || work(&ops, &connection, &waiting))
        })
        .collect::<Result<_, _>>()
        .map_err(|error| OpError::Internal(format!("no thread for the recovery: {error}")))?;
    // Each ends when nothing is waiting, or when the connection is closed.
    for worker in workers {
        worker.join();
    }
    Ok(())
}

fn work(ops: &Ops, connection: &Connection, waiting: &Receiver<String>) {
    while let Ok(id) = waiting.try_recv() {
        if connection.closed().is_some() {
            return;
        }
        if let Err(error) = ops.load_thread(&id, connection) {
            warn!("session {id} is not recovered yet: {error}");
        }
    }
}

/// Active sessions whose thread that life has not loaded, those used last first. An external app-server still has the
/// thread that never ran a turn, but nothing of it to load: it is replaced when its first turn comes, not each time the
/// connection is.
fn to_load(core: &Core, generation: u64, external: bool) -> Vec<String> {
    let mut sessions: Vec<_> = core
        .state()
        .sessions
        .all()
        .iter()
        .filter(|session| {
            session.status == SessionStatus::Active
                && session.thread_id.is_some()
                && session.generation != Some(generation)
                && (!external || session.last_turn_id.is_some())
        })
        .collect();
    sessions.sort_by(|one, other| other.updated_at.cmp(&one.updated_at));
    sessions.into_iter().map(|session| session.session_id.clone()).collect()
}
