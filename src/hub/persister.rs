//! The thread that writes the JSON state files. It is handed the newest state when something changed and it is idle;
//! then it rests in proportion to what the writing cost. Its queue holds one job: the hub asks for the next one only
//! after the persister has said that it is idle, so a burst is one write, and an idle daemon wakes nobody. Only the
//! daemon's own state, which rarely changes, does not wait for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{error, info};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Message;
use crate::config::Paths;
use crate::model::record::{DaemonState, Extra, Identity, Request, Run, Session};
use crate::model::view::EventList;
use crate::store::files;

/// The shortest time from one write of the files to the next.
const REST: Duration = Duration::from_millis(200);
/// Writing takes at most one part in this many of one core.
const DUTY: u32 = 20;
/// The longest time from one write to the next, however slow the disk is.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// How long a failed write waits before the next try: as long as one of the log, so that both are well again together.
const RETRY: Duration = super::actor::LOG_RETRY;

/// The records of one registry with the time of their last change.
#[derive(Debug)]
pub(super) struct Records<T> {
    pub(super) updated_at: Option<String>,
    pub(super) records: Vec<Arc<T>>,
}

/// What has changed; `None` where nothing has.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) applied_seq: u64,
    pub(super) identity: Option<Identity>,
    pub(super) daemon: Option<DaemonState>,
    pub(super) sessions: Option<Records<Session>>,
    pub(super) runs: Option<Records<Run>>,
    pub(super) requests: Option<Records<Request>>,
    pub(super) recent: Option<Recent>,
}

impl Job {
    /// With what an older job has not written, where this one has nothing newer.
    fn or(self, older: Self) -> Self {
        Self {
            // What is taken over is older than what this one knows.
            applied_seq: if older.is_done() {
                self.applied_seq
            } else {
                self.applied_seq.min(older.applied_seq)
            },
            identity: self.identity.or(older.identity),
            daemon: self.daemon.or(older.daemon),
            sessions: self.sessions.or(older.sessions),
            runs: self.runs.or(older.runs),
            requests: self.requests.or(older.requests),
            recent: self.recent.or(older.recent),
        }
    }

    /// Whether everything in it was written.
    pub(super) fn is_done(&self) -> bool {
        let Self { applied_seq: _, identity, daemon, sessions, runs, requests, recent } = self;
        identity.is_none()
            && daemon.is_none()
            && sessions.is_none()
            && runs.is_none()
            && requests.is_none()
            && recent.is_none()
    }
}

/// The last events.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) max_entries: usize,
    pub(super) updated_at: Option<String>,
    pub(super) events: EventList,
}

/// Top-level fields of the registry files that this version does not know.
#[derive(Debug, Default)]
pub struct FileExtras {
    /// Of session-registry.json.
    pub sessions: Extra,
    /// Of run-registry.json.
    pub runs: Extra,
    /// Of request-registry.json.
    pub requests: Extra,
    /// Of recent-events.json.
    pub recent: Extra,
}

/// Runs until the hub's end of `jobs` is dropped; what is queued by then is still written.
pub(super) fn run(paths: &Paths, extras: &FileExtras, jobs: &Receiver<Job>, hub: &Sender<Message>) {
    let mut failing: Option<String> = None;
    let mut next = jobs.recv();
    while let Ok(mut job) = next {
        let began = Instant::now();
        // With the recent events come all registries that have changed; an urgent job says nothing of those.
        let covers = job.recent.is_some().then_some(job.applied_seq);
        let result = write(paths, extras, &mut job);
        let rest = match result {
            Ok(()) => {
                if failing.take().is_some() {
                    info!("the state files can be written again");
                }
                (began.elapsed() * DUTY).clamp(REST, LONGEST_REST)
            }
            Err(error) => {
                let reason = error.to_string();
                if failing.is_none() {
                    error!("{reason}; trying again");
                }
                failing = Some(reason);
                RETRY
            }
        };
        // While resting, only the final job or an urgent one can come: the hub has not been told yet that we are idle.
        next = match jobs.recv_timeout(rest) {
            Ok(newer) => Ok(newer.or(job)),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let outcome = failing.clone().map_or(Ok(covers), |reason| Err((Box::new(job), reason)));
                if hub.send(Message::PersisterIdle(outcome)).is_err() {
                    return;
                }
                jobs.recv()
            }
        };
    }
}

/// A registry file; they differ in the name of their records (see [`files::RegistryFile`] for reading them).
struct Registry<'a, T> {
    name: &'static str,
    records: &'a Records<T>,
    seq: u64,
    extra: &'a Extra,
}

impl<T: Serialize> Serialize for Registry<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut file = serializer.serialize_map(None)?;
        file.serialize_entry("updatedAt", &self.records.updated_at)?;
        file.serialize_entry(self.name, &self.records.records)?;
        file.serialize_entry("appliedSeq", &self.seq)?;
        for (name, value) in self.extra {
            file.serialize_entry(name, value)?;
        }
        file.end()
    }
}

/// Writes each file of the job, taking it out when it is safe on disk. recent-events.json changes with every event and
/// comes after the registries: its `appliedSeq` says up to where all of them are on disk, and start-up replays the log
/// from there.
fn write(paths: &Paths, extras: &FileExtras, job: &mut Job) -> Result<(), crate::store::StoreError> {
    if let Some(identity) = &job.identity {
        files::replace(&paths.identity(), identity)?;
        job.identity = None;
    }
    if let Some(daemon) = &job.daemon {
        files::replace(&paths.daemon_state(), daemon)?;
        job.daemon = None;
    }
    let seq = job.applied_seq;
    if let Some(sessions) = &job.sessions {
        let file = Registry { name: "sessions", records: sessions, seq, extra: &extras.sessions };
        files::replace(&paths.session_registry(), &file)?;
        job.sessions = None;
    }
    if let Some(runs) = &job.runs {
        let file = Registry { name: "runs", records: runs, seq, extra: &extras.runs };
        files::replace(&paths.run_registry(), &file)?;
        job.runs = None;
    }
    if let Some(requests) = &job.requests {
        let file = Registry { name: "requests", records: requests, seq, extra: &extras.requests };
        files::replace(&paths.request_registry(), &file)?;
        job.requests = None;
    }
    if let Some(recent) = &job.recent {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct File<'a> {
            max_entries: usize,
            updated_at: &'a Option<String>,
            events: &'a EventList,
            applied_seq: u64,
            #[serde(flatten)]
            extra: &'a Extra,
        }
        let file = File {
            max_entries: recent.max_entries,
            updated_at: &recent.updated_at,
            events: &recent.events,
            applied_seq: job.applied_seq,
            extra: &extras.recent,
        };
        files::replace(&paths.recent_events(), &file)?;
        job.recent = None;
    }
    Ok(())
}
