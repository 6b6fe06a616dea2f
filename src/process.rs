//! One process that codexd has started, with everything it started in turn. Whoever owns the [`Process`] is the only
//! one that signals it, and never after it was reaped: until then its pid and its group cannot be anybody else's.
//!
//! [`Ledger::spawn`](ledger::Ledger::spawn) is how the daemon starts one: on disk before it runs, so that the next life
//! finds what this one could not end ([`orphans`]).

mod kinship;
pub mod ledger;
pub mod orphans;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::warn;
use rustix::process::{Pid, Signal};

use self::ledger::Recorded;
use crate::os::{self, Announce, Listed};
use crate::threads::{self, Thread};

/// The variable by which what a process started can be told from everything else; its value is the process's own.
pub const MARK: &str = "CODEXD_PROCESS";

/// How long a process may outlive SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Looks for left-over descendants before giving up: each kills what the one before has found.
const SWEEPS: usize = 100;

/// The processes started here and not reaped yet, each the leader of its group.
static SPAWNED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Held while a process is being started, and while orphans are reaped: a child that is not in [`SPAWNED`] yet must not
/// be taken for an orphan.
static SPAWNING: Mutex<()> = Mutex::new(());

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// The command; looked up on this process's PATH when it has no slash.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Variables added to or, with `None`, removed from this process's environment.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Its standard input.
    pub stdin: Input,
}

/// What a process reads.
#[derive(Debug, Clone, Default)]
pub enum Input {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// A pipe, see [`Process::take_stdin`].
    Pipe,
    /// A file, from its beginning.
    File(PathBuf),
}

impl Input {
    fn open(&self) -> io::Result<Stdio> {
        Ok(match self {
            Self::Null => Stdio::null(),
            Self::Pipe => Stdio::piped(),
            Self::File(path) => File::open(path)?.into(),
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The name of the signal that ended it.
    pub signal: Option<String>,
}

/// A running process, or one that has ended and is not reaped yet.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    mark: String,
    /// Disconnected once the process has ended.
    ended: Receiver<()>,
    watcher: Option<Thread>,
    reaped: Option<Exit>,
    recorded: Option<Recorded>,
    survived: bool,
}

impl Process {
    /// Starts it, in a group of its own, without a record on disk; see [`Ledger::spawn`](ledger::Ledger::spawn).
    ///
    /// # Errors
    /// What the system says; nothing runs then.
    pub fn spawn(spec: &Spec, mark: String) -> io::Result<Self> {
        Self::announced(spec, mark, None)
    }

    fn announced(spec: &Spec, mark: String, announce: Option<Announce>) -> io::Result<Self> {
        let mut command = Command::new(&spec.command);
        command
            .args(&spec.args)
            .current_dir(&spec.cwd)
            .stdin(spec.stdin.open()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in os::notify::VARIABLES {
            command.env_remove(name);
        }
        for (name, value) in &spec.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(MARK, &mark);
        let spawning = spawning();
        let child = os::spawn_group(command, announce)?;
        let pid = Pid::from_child(&child);
        spawned().push(pid);
        drop(spawning);
        let (sender, ended) = bounded::<()>(0);
        let mut process =
            Self { child, pid, mark, ended, watcher: None, reaped: None, recorded: None, survived: false };
        process.watcher = Some(threads::spawn(format!("wait-{}", process.id()), move || {
            if let Err(error) = os::wait_ended(pid) {
                warn!("cannot wait for process {}: {error}", pid.as_raw_nonzero());
            }
            drop(sender);
        })?);
        Ok(process)
    }

    /// Its process id, which is also its group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Nothing is ever sent here; it is disconnected when the process has ended.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Sends a signal to its group, unless it was reaped.
    pub fn signal(&self, signal: Signal) {
        if self.reaped.is_none()
            && let Err(error) = os::signal_group(self.pid, signal)
        {
            warn!("cannot send {signal:?} to process group {}: {error}", self.id());
        }
    }

    /// SIGTERM to the group, SIGKILL after `grace`, then whatever is left of its descendants; returns when it is reaped.
    pub fn terminate(&mut self, grace: Duration) -> Exit {
        // Found before anything dies: a descendant is told by its parents, and SIGTERM may be enough for those.
        let family = self.family(&[]);
        self.signal(Signal::TERM);
        // An error other than a timeout is what is waited for: the end.
        let _ = self.ended.recv_timeout(grace);
        self.end(&family)
    }

    /// Kills what is left of its group and descendants and reaps it; at once if it has ended, else after SIGKILL.
    pub fn finish(&mut self) -> Exit {
        self.end(&[])
    }

    /// As [`Process::finish`]; `known`: descendants that were found earlier.
    fn end(&mut self, known: &[Listed]) -> Exit {
        if let Some(exit) = &self.reaped {
            return exit.clone();
        }
        // As before SIGTERM: those by whom they are told are about to go.
        let family = self.family(known);
        self.signal(Signal::KILL);
        if self.ended.recv_timeout(KILLED_WITHIN) == Err(RecvTimeoutError::Timeout) {
            return self.give_up();
        }
        kill_verified(&family);
        // What was born while the others died; a process in the middle of execve(2) shows no environment and can be
        // missed by one look.
        let mut clean = 0;
        for _ in 0..SWEEPS {
            let left = self.family(&family);
            clean = if left.is_empty() { clean + 1 } else { 0 };
            if clean == 2 {
                break;
            }
            kill_verified(&left);
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.join();
        }
        let exit = match self.child.wait() {
            Ok(status) => Exit {
                code: status.code(),
                signal: status.signal().map(|number| {
                    signal_hook::low_level::signal_name(number)
                        .map_or_else(|| format!("SIG{number}"), str::to_owned)
                }),
            },
            Err(error) => {
                warn!("cannot reap process {}: {error}", self.id());
                Exit { code: None, signal: None }
            }
        };
        spawned().retain(|spawned| *spawned != self.pid);
        // Off the disk only now: until it was reaped it may have left something.
        self.recorded = None;
        self.reaped = Some(exit.clone());
        exit
    }

    /// It outlives SIGKILL: stuck in the kernel, or another user's. It stays on record for the next start.
    fn give_up(&mut self) -> Exit {
        warn!("process {} cannot be killed", self.id());
        // Waiting for either would never end; whoever reaps orphans gets it when it does end.
        if let Some(watcher) = self.watcher.take() {
            watcher.leave();
        }
        std::mem::forget(self.recorded.take());
        spawned().retain(|spawned| *spawned != self.pid);
        self.survived = true;
        let unknown = Exit { code: None, signal: None };
        self.reaped = Some(unknown.clone());
        unknown
    }

    /// Whether it could not be killed.
    pub fn survived(&self) -> bool {
        self.survived
    }

    /// Descendants, by their parents or, where those are gone, by their mark, or because they are `known`. One that has
    /// nothing of that is ours when there is no other process whose it could be.
    fn family(&self, known: &[Listed]) -> Vec<Listed> {
        // What is being started has no mark before its execve(2), and is in no list yet: it is not to be taken for adopted.
        let spawning = spawning();
        let listed = os::list();
        let alone = spawned().as_slice() == [self.pid];
        drop(spawning);
        let own = self.pid.as_raw_nonzero().get();
        let mut family = os::descendants(own, &listed);
        let is_known = |process: &&Listed| {
            known.iter().any(|known| known.pid == process.pid && known.started == process.started)
        };
        for process in listed.iter().filter(is_known) {
            family.push(process.clone());
            family.extend(os::descendants(process.pid, &listed));
        }
        let adopted = if alone { orphans::adopted(&listed) } else { Vec::new() };
        for process in &listed {
            let known = process.pid == own || family.iter().any(|member| member.pid == process.pid);
            if known || process.zombie {
                continue;
            }
            let ours = match os::variable(process.pid, MARK) {
                Some(mark) => mark == self.mark,
                None => adopted.contains(&process.pid),
            };
            if ours {
                family.push(process.clone());
            }
        }
        family.retain(|process| !process.zombie);
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The flags by which a command and its folder were chosen, for complaints.
#[derive(Debug, Clone, Copy)]
pub struct Flags {
    /// That of the command.
    pub command: &'static str,
    /// That of the folder.
    pub folder: &'static str,
}

/// The file a command stands for: itself when it has a slash (relative to `cwd`), else the first executable of that name
/// on this process's PATH.
///
/// # Errors
/// Where it was looked for and what to do, for a person.
pub fn find(command: &str, cwd: &Path, flags: Flags) -> Result<PathBuf, String> {
    if !cwd.is_dir() {
        return Err(format!("the working directory {} is no folder: see {}", cwd.display(), flags.folder));
    }
    if command.contains('/') {
        let path = cwd.join(command);
        return match executable(&path) {
            true => Ok(path),
            false => Err(format!("{} is no executable file: see {}", path.display(), flags.command)),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    which(&path, command).ok_or_else(|| {
        format!(
            "{command} is not installed: looked in {}. Install Codex with `npm install -g @openai/codex`, or name the \
             command with {}",
            shown_path(&path),
            flags.command
        )
    })
}

/// A PATH for a person: each folder once.
pub fn shown_path(path: &OsStr) -> String {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(path) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.iter().map(|folder| folder.to_string_lossy()).collect::<Vec<_>>().join(":")
}

/// The first executable of that name on a PATH.
pub fn which(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| executable(file))
}

/// Whether it is a file that may be run.
pub fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Kills processes that are still the ones listed, and reaps those that have become our children.
pub fn kill_verified(listed: &[Listed]) {
    for process in listed {
        let Some(pid) = Pid::from_raw(process.pid) else { continue };
        let same = os::look_up(pid).is_some_and(|now| now.started == process.started);
        if !same {
            continue;
        }
        if let Err(error) = os::signal_process(pid, Signal::KILL) {
            warn!("cannot kill left-over process {}: {error}", process.pid);
        }
        os::reap_if_ended(pid);
    }
}

fn spawned() -> MutexGuard<'static, Vec<Pid>> {
    // A list of pids is sound whatever happened to the thread that held it.
    SPAWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawning() -> MutexGuard<'static, ()> {
    SPAWNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
