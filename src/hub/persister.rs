//! The thread that writes the JSON state files. It is handed the newest state when something changed and it is idle;
//! then it rests in proportion to what the writing cost. Its queue holds one job: the hub asks for the next one only
//! after the persister has said that it is idle, so a burst is one write, and an idle daemon wakes nobody. Only the
//! daemon's own state, which rarely changes, does not wait for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};
use log::{error, info};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Message, recent_file};
use crate::config::Paths;
use crate::model::record::{DaemonState, Extra, Identity, Request, Run, Session};
use crate::model::view::EventList;
use crate::store::{StoreError, files};

/// The shortest time from one write of the files to the next.
const REST: Duration = Duration::from_millis(200);
/// Writing takes at most one part in this many of one core, unless one write takes longer than that of the longest rest.
const DUTY: u32 = 20;
/// The longest time from one write to the next, however slow the disk is: the files are not to be long behind.
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
    /// What changed up to this event is in it, or has been in an older one; an urgent job says nothing of that.
    pub(super) applied_seq: Option<u64>,
    pub(super) identity: Option<Identity>,
    pub(super) daemon: Option<DaemonState>,
    pub(super) sessions: Option<Records<Session>>,
    pub(super) runs: Option<Records<Run>>,
    pub(super) requests: Option<Records<Request>>,
    pub(super) recent: Option<Recent>,
}

impl Job {
    /// With what an older job has not written, where this one has nothing newer: that has not changed since.
    fn or(self, older: Self) -> Self {
        Self {
            applied_seq: self.applied_seq.or(older.applied_seq),
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
        let states = identity.is_none() && daemon.is_none() && recent.is_none();
        states && sessions.is_none() && runs.is_none() && requests.is_none()
    }
}

/// The last events.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) max_entries: usize,
    pub(super) updated_at: Option<String>,
    /// The last one's seq.
    pub(super) latest_seq: u64,
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

/// Runs until the hub's end of `jobs` is dropped; what is queued by then, and what could not be written before, is still
/// written.
pub(super) fn run(paths: &Paths, extras: &FileExtras, jobs: &Receiver<Job>, hub: &Sender<Message>) {
    let mut failing: Option<String> = None;
    // What could not be written: it is tried again with the next job.
    let mut left = Job::default();
    let mut next = jobs.recv();
    while let Ok(newer) = next {
        let mut job = newer.or(left);
        let began = Instant::now();
        // With the recent events come all registries that have changed; an urgent job says nothing of those.
        let covers = job.recent.as_ref().and(job.applied_seq);
        let result = write(paths, extras, &mut job);
        left = job;
        let rest = match result {
            // The hub is told after the rest, and the daemon is not ready before.
            Ok(()) if failing.take().is_some() => {
                info!("the state files can be written again");
                REST
            }
            Ok(()) => (began.elapsed() * DUTY).clamp(REST, LONGEST_REST),
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
            Ok(newer) => Ok(newer),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let outcome = failing.clone().map_or(Ok(covers), Err);
                // A hub that ends takes no more messages, and its last job must not wait for that.
                select! {
                    send(hub, Message::PersisterIdle(outcome)) -> _ => jobs.recv(),
                    recv(jobs) -> job => job,
                }
            }
        };
    }
    if !left.is_done()
        && let Err(error) = write(paths, extras, &mut left)
    {
        error!("{error}; the log has what the state files have not");
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
pub(super) fn write(paths: &Paths, extras: &FileExtras, job: &mut Job) -> Result<(), StoreError> {
    let seq = job.applied_seq.unwrap_or(0);
    save(&mut job.identity, |identity| files::replace(&paths.identity(), identity))?;
    save(&mut job.daemon, |daemon| files::replace(&paths.daemon_state(), daemon))?;
    save(&mut job.sessions, |records| {
        let file = Registry { name: "sessions", records, seq, extra: &extras.sessions };
        files::replace(&paths.session_registry(), &file)
    })?;
    save(&mut job.runs, |records| {
        let file = Registry { name: "runs", records, seq, extra: &extras.runs };
        files::replace(&paths.run_registry(), &file)
    })?;
    save(&mut job.requests, |records| {
        let file = Registry { name: "requests", records, seq, extra: &extras.requests };
        files::replace(&paths.request_registry(), &file)
    })?;
    save(&mut job.recent, |recent| recent_file::replace(&paths.recent_events(), recent, seq, &extras.recent))
}

fn save<T>(part: &mut Option<T>, write: impl FnOnce(&T) -> Result<(), StoreError>) -> Result<(), StoreError> {
    if let Some(value) = part {
        write(value)?;
        *part = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    fn runs() -> Option<Records<Run>> {
        Some(Records { updated_at: None, records: Vec::new() })
    }

    #[test]
    fn an_older_job_fills_what_a_newer_one_leaves_open() {
        let older = || Job { applied_seq: Some(5), runs: runs(), ..Job::default() };
        let urgent = Job::default().or(older());
        assert_eq!((urgent.applied_seq, urgent.runs.is_some(), urgent.is_done()), (Some(5), true, false));
        // It would have the runs, had they changed since.
        let newer = || Job { applied_seq: Some(9), ..Job::default() };
        let both = newer().or(older());
        assert_eq!((both.applied_seq, both.runs.is_some(), both.requests.is_some()), (Some(9), true, false));
        let nothing = newer().or(Job::default());
        assert_eq!((nothing.applied_seq, nothing.is_done()), (Some(9), true));
    }

    fn paths(root: &std::path::Path) -> Paths {
        Paths {
            repo_root: root.to_owned(),
            logs_root: root.to_owned(),
            state_root: root.to_owned(),
            logs_dir: root.join("logs"),
            state_dir: root.join("state"),
        }
    }

    #[test]
    fn an_urgent_job_says_nothing_of_how_far_the_other_files_have_come() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        std::fs::create_dir(&paths.state_dir).unwrap();
        let (jobs, inbox) = bounded(1);
        let (to_hub, hub) = bounded(1);
        let daemon =
            serde_json::from_str(include_str!("../../tests/fixtures/file-daemon-state.json")).unwrap();
        let recent =
            Recent { max_entries: 1, updated_at: None, latest_seq: 9, events: EventList::new(Vec::new()) };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| run(&paths, &FileExtras::default(), &inbox, &to_hub));
            let covered = |job: Job| {
                jobs.send(job).unwrap();
                match hub.recv_timeout(Duration::from_secs(20)) {
                    Ok(Message::PersisterIdle(Ok(covered))) => covered,
                    _ => panic!("it was not written"),
                }
            };
            assert_eq!(covered(Job { daemon: Some(daemon), ..Job::default() }), None);
            assert_eq!(
                covered(Job { applied_seq: Some(9), recent: Some(recent), ..Job::default() }),
                Some(9)
            );
            drop(jobs);
            thread.join().unwrap();
        });
    }

    #[test]
    fn what_could_not_be_written_is_written_at_the_end_though_the_hub_has_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        for last in [true, false] {
            let (jobs, inbox) = bounded(1);
            let (to_hub, hub) = bounded(1);
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| run(&paths, &FileExtras::default(), &inbox, &to_hub));
                jobs.send(Job { runs: runs(), ..Job::default() }).unwrap();
                let Ok(Message::PersisterIdle(Err(_))) = hub.recv_timeout(Duration::from_secs(20)) else {
                    panic!("there is no folder to write to");
                };
                std::fs::create_dir(&paths.state_dir).unwrap();
                if last {
                    let requests = Some(Records { updated_at: None, records: Vec::new() });
                    jobs.send(Job { requests, ..Job::default() }).unwrap();
                }
                drop(jobs);
                thread.join().unwrap();
            });
            assert!(paths.run_registry().exists());
            assert_eq!(paths.request_registry().exists(), last);
            std::fs::remove_dir_all(&paths.state_dir).unwrap();
        }
    }
}
