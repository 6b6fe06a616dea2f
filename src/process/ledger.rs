//! `processes.json`: what was started and is not known to have ended, on disk before it can do anything.
//!
//! Whatever way a life of the daemon ends, the next one reads here what may be left of it ([`super::orphans`]). An
//! entry is believed only together with the process's start time, within one boot of the system: a pid alone may be
//! a stranger's by then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::warn;
use rustix::process::{Pid, getpid};
use serde::{Deserialize, Serialize};

use super::{Process, Spec};
use crate::store::files;
use crate::store::{Repair, StoreError};
use crate::{clock, os};

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The app-server.
    AppServer,
    /// The plain child of exec mode.
    Child,
    /// A one-shot run.
    Run,
}

impl Purpose {
    /// As it stands in the file and in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppServer => "app-server",
            Self::Child => "child",
            Self::Run => "run",
        }
    }
}

/// One process, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its process id.
    pub pid: i32,
    /// When it started, as [`os::Listed::started`].
    pub start_time: String,
    /// Its group.
    pub group: i32,
    /// The session it was started in; `None` in what older versions wrote.
    #[serde(default)]
    pub session: Option<i32>,
    /// What it is for.
    pub purpose: Purpose,
    /// Which life of the child it is, or which run.
    pub owner: String,
    /// What stands in its environment as [`super::MARK`].
    pub mark: String,
    /// When it was started, for people.
    pub created_at: String,
    /// The daemon that started it.
    pub daemon: DaemonProcess,
    /// As [`os::boot`].
    #[serde(default)]
    pub boot: String,
}

/// A codexd, told from any other process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonProcess {
    /// Its process id.
    pub pid: i32,
    /// When it started, as [`os::Listed::started`].
    pub start_time: String,
}

impl Entry {
    /// Whether the process itself still runs: same pid, same start, same boot of the system.
    pub fn is_alive(&self) -> bool {
        let process = DaemonProcess { pid: self.pid, start_time: self.start_time.clone() };
        self.boot == os::boot() && process.is_alive()
    }
}

/// Whether a mark was made by the daemon process of that pid and start time, whatever its id.
pub(super) fn is_mark_of(mark: &str, pid: i32, started: &str) -> bool {
    mark.split('/').nth(1) == Some(&format!("{pid}-{}", started.replace(' ', "_")))
}

/// What stands in the file, which is not changed; nothing when there is none.
///
/// # Errors
/// Why it cannot be read.
pub fn entries(path: &Path) -> Result<Vec<Entry>, String> {
    match files::peek::<File>(path).map_err(|error| error.to_string())? {
        files::Peeked::Missing => Ok(Vec::new()),
        files::Peeked::Whole(file) => Ok(file.processes),
        files::Peeked::Damaged(problem) => Err(problem),
    }
}

impl DaemonProcess {
    fn own() -> Self {
        let pid = getpid();
        let start_time = os::look_up(pid).map(|listed| listed.started).unwrap_or_default();
        Self { pid: pid.as_raw_pid(), start_time }
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        let listed = os::process_id(self.pid).and_then(os::look_up);
        listed.is_some_and(|listed| !listed.zombie && listed.started == self.start_time)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    processes: Vec<Entry>,
}

/// The file and what it says. One in a daemon, shared by all that start processes.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    daemon_id: String,
    daemon: DaemonProcess,
    boot: String,
    entries: Mutex<Vec<Entry>>,
}

/// What an earlier life of the daemon has left in the file.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The file was not there or could not be read: there may be processes that no entry names.
    pub unknown: bool,
}

impl Ledger {
    /// Opens the ledger of the daemon with this id. A damaged file is set aside and reported in `repairs`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(
        path: &Path,
        daemon_id: &str,
        repairs: &mut Vec<Repair>,
    ) -> Result<(Arc<Self>, Leftovers), StoreError> {
        let leftovers = match files::load::<File>(path, repairs)? {
            Some(file) => Leftovers { entries: file.processes, unknown: false },
            None => Leftovers { entries: Vec::new(), unknown: true },
        };
        let ledger = Self {
            path: path.to_owned(),
            daemon_id: daemon_id.to_owned(),
            daemon: DaemonProcess::own(),
            boot: os::boot(),
            // Until they are dealt with, they stay in whatever is written.
            entries: Mutex::new(leftovers.entries.clone()),
        };
        Ok((Arc::new(ledger), leftovers))
    }

    /// Forgets what an earlier life has left, but for what is still there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settle(&self, still_there: &[Entry]) -> Result<(), StoreError> {
        let mut entries = self.lock();
        entries.retain(|entry| entry.daemon == self.daemon || still_there.contains(entry));
        self.write(&entries)
    }

    /// Starts a process, recorded before it runs its first instruction and until it is reaped. `owner` (which life of
    /// the child, or which run) must be given to no other process at the same time.
    ///
    /// # Errors
    /// What the system says, or that the record cannot be written; nothing runs then.
    pub fn spawn(self: &Arc<Self>, spec: &Spec, purpose: Purpose, owner: &str) -> io::Result<Process> {
        let mark = self.mark(owner);
        let (ledger, owner, noted) = (Arc::clone(self), owner.to_owned(), mark.clone());
        // Whatever happens from here on, the entry goes when this does.
        let recorded = Recorded { ledger: Arc::clone(self), mark: mark.clone() };
        let mut process = Process::announced(
            spec,
            mark,
            Some(Box::new(move |pid| ledger.add(pid, purpose, owner, noted).map_err(io::Error::other))),
        )?;
        process.recorded = Some(recorded);
        Ok(process)
    }

    /// The daemon's id, its process and the owner: from the mark alone can be told whether that daemon still runs.
    fn mark(&self, owner: &str) -> String {
        format!("{}/{}-{}/{owner}", self.daemon_id, self.daemon.pid, self.daemon.start_time.replace(' ', "_"))
    }

    /// The daemon process in a mark made by a daemon with this id; `None` for any other mark.
    pub fn marked_by(&self, mark: &str) -> Option<DaemonProcess> {
        let (daemon, _) = mark.strip_prefix(&self.daemon_id)?.strip_prefix('/')?.split_once('/')?;
        let (pid, start_time) = daemon.split_once('-')?;
        Some(DaemonProcess { pid: pid.parse().ok()?, start_time: start_time.replace('_', " ") })
    }

    fn add(&self, pid: Pid, purpose: Purpose, owner: String, mark: String) -> Result<(), String> {
        let listed = os::look_up(pid).ok_or("the new process cannot be looked up")?;
        let entry = Entry {
            pid: listed.pid,
            start_time: listed.started,
            // It has made the group already; it leads it.
            group: listed.pid,
            session: Some(listed.session),
            purpose,
            owner,
            mark,
            created_at: clock::now_iso(),
            daemon: self.daemon.clone(),
            boot: self.boot.clone(),
        };
        let mut entries = self.lock();
        entries.push(entry);
        self.write(&entries).map_err(|error| {
            entries.pop();
            error.to_string()
        })
    }

    fn remove(&self, mark: &str) {
        let mut entries = self.lock();
        let before = entries.len();
        entries.retain(|entry| entry.mark != mark);
        if entries.len() < before
            && let Err(error) = self.write(&entries)
        {
            // The next start will find that no such process exists.
            warn!("a process that has ended stays on record: {error}");
        }
    }

    fn write(&self, entries: &[Entry]) -> Result<(), StoreError> {
        files::replace(&self.path, &File { processes: entries.to_vec() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // A list that is changed in one step is sound whatever happened to the thread that held it; and ending the
        // daemon over it, as `threads::lock` would, needs this very lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry in the ledger; dropping it removes it.
#[derive(Debug)]
pub(super) struct Recorded {
    ledger: Arc<Ledger>,
    mark: String,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.ledger.remove(&self.mark);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ledger(folder: &Path) -> (Arc<Ledger>, Leftovers) {
        let mut repairs = Vec::new();
        let opened = Ledger::open(&folder.join("processes.json"), "some-daemon", &mut repairs).unwrap();
        assert!(repairs.is_empty());
        opened
    }

    fn shell(script: &str) -> Spec {
        Spec {
            command: "sh".into(),
            args: vec!["-c".into(), script.into()],
            cwd: "/".into(),
            ..Spec::default()
        }
    }

    #[test]
    fn a_process_is_on_disk_before_it_runs_and_until_it_is_reaped() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, before) = ledger(folder.path());
        assert!(before.unknown && before.entries.is_empty());
        // The process itself looks: were it started first and recorded then, it would at times find nothing.
        let script = format!("cp {0}/processes.json {0}/seen", folder.path().display());
        let mut process = mine.spawn(&shell(&script), Purpose::Run, "run-1").unwrap();
        process.ended().recv().unwrap_err();
        let seen: File = serde_json::from_slice(&std::fs::read(folder.path().join("seen")).unwrap()).unwrap();
        let [entry] = seen.processes.as_slice() else { panic!("{seen:?}") };
        assert_eq!((entry.pid.cast_unsigned(), entry.purpose), (process.id(), Purpose::Run));
        let listed = os::look_up(Pid::from_raw(entry.pid).unwrap()).unwrap();
        assert_eq!(entry.start_time, listed.started);
        assert_eq!((entry.group, entry.owner.as_str()), (entry.pid, "run-1"));
        assert_eq!(mine.marked_by(&entry.mark), Some(entry.daemon.clone()));
        let daemon = &entry.daemon;
        assert!(is_mark_of(&entry.mark, daemon.pid, &daemon.start_time));
        assert!(!is_mark_of(&entry.mark, daemon.pid, "1") && !is_mark_of("", daemon.pid, &daemon.start_time));
        assert!(entry.daemon.is_alive());
        assert_eq!(ledger(folder.path()).1.entries.first(), Some(entry));

        process.finish();
        let (_, after) = ledger(folder.path());
        assert!(after.entries.is_empty() && !after.unknown);
    }

    #[test]
    fn what_cannot_be_recorded_is_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, _) = ledger(&folder.path().join("not-there"));
        let script = format!("touch {}/ran", folder.path().display());
        let error = mine.spawn(&shell(&script), Purpose::Run, "run-1").unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert!(!folder.path().join("ran").exists());
    }

    #[test]
    fn what_does_not_start_leaves_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, _) = ledger(folder.path());
        let spec = Spec { command: "/no/such/command".into(), cwd: "/".into(), ..Spec::default() };
        mine.spawn(&spec, Purpose::Child, "1").unwrap_err();
        assert!(ledger(folder.path()).1.entries.is_empty());
    }

    #[test]
    fn processes_started_side_by_side_are_all_on_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, _) = ledger(folder.path());
        std::thread::scope(|scope| {
            for number in 0..8 {
                let mine = &mine;
                scope.spawn(move || {
                    for turn in 0..5 {
                        let mut process = mine
                            .spawn(&shell("exec sleep 60"), Purpose::Run, &format!("{number}-{turn}"))
                            .unwrap();
                        let there = ledger(folder_of(mine)).1.entries;
                        assert!(there.iter().any(|entry| entry.pid.cast_unsigned() == process.id()));
                        process.terminate(Duration::from_secs(10));
                    }
                });
            }
        });
        assert!(ledger(folder.path()).1.entries.is_empty());
    }

    fn folder_of(ledger: &Ledger) -> &Path {
        ledger.path.parent().unwrap()
    }
}
