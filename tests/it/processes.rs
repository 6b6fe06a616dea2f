//! Processes of the tests: started in a group of their own, waited for with a deadline, and never left behind.
//!
//! Every process gets a mark in its environment, which its descendants inherit, whatever groups they make for
//! themselves. On Linux [`left_of`] finds them by it; elsewhere only the group is looked at.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// The environment variable that carries the mark.
pub(crate) const MARK: &str = "CODEXD_TEST_MARK";

/// A child process, leader of its group. Dropping it kills the group.
pub(crate) struct Process {
    child: Child,
    ended: Receiver<()>,
    status: Option<ExitStatus>,
    mark: String,
}

impl Process {
    /// Spawns `command` in a group of its own.
    pub(crate) fn spawn(command: &mut Command) -> Process {
        let mark = uuid::Uuid::new_v4().to_string();
        let child = command.env(MARK, &mark).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (sender, ended) = bounded(1);
        let pid = Pid::from_child(&child);
        let watch = move || {
            // NOWAIT leaves the zombie, so the pid stays ours until `wait` collects it.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), options).err() == Some(rustix::io::Errno::INTR) {}
            let _ = sender.send(());
        };
        thread::Builder::new().name("test-wait".into()).spawn(watch).expect("a thread");
        Process { child, ended, status: None, mark }
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process alone; nothing happens when it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Its exit status, or None when it is still there at the deadline.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.ended.recv_timeout(deadline).ok()?;
            self.status = self.child.wait().ok();
        }
        self.status
    }

    /// SIGKILL to the whole group, and waits for the leader. Safe to call twice.
    pub(crate) fn kill_group(&mut self) -> Option<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.wait(Duration::from_secs(10))
    }

    /// What is still alive of it and of its descendants, once `deadline` has been given to end.
    pub(crate) fn left(&self, deadline: Duration) -> Vec<(u32, String)> {
        let until = Instant::now() + deadline;
        let mut empty = 0;
        loop {
            // Twice, for in the middle of an exec a process shows no environment.
            let left = left_of(&self.mark);
            empty = if left.is_empty() { empty + 1 } else { 0 };
            if empty == 2 || (empty == 0 && Instant::now() > until) {
                return left;
            }
            thread::park_timeout(Duration::from_millis(10)); // an absence announces itself to nobody
        }
    }

    /// Kills what is left; to be called when a test is over anyway.
    pub(crate) fn sweep(&mut self) {
        self.kill_group();
        let until = Instant::now() + Duration::from_secs(5);
        // Again until nothing is left: what was in the middle of a fork or an exec shows up later.
        loop {
            let left = self.left(Duration::ZERO);
            if left.is_empty() || Instant::now() > until {
                return;
            }
            for (pid, _) in left {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// Pids and command lines of the living processes that carry this mark.
pub(crate) fn left_of(mark: &str) -> Vec<(u32, String)> {
    carrying(MARK, mark)
}

/// Pids and command lines of the living processes that were started with this variable.
#[cfg(target_os = "linux")]
pub(crate) fn carrying(name: &str, value: &str) -> Vec<(u32, String)> {
    let wanted = format!("{name}={value}");
    let carries = |pid: u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| carries(*pid)) // a zombie has no environment any more
        .map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned())
        })
        .collect()
}

/// Elsewhere the environment of others cannot be read.
#[cfg(not(target_os = "linux"))]
pub(crate) fn carrying(_name: &str, _value: &str) -> Vec<(u32, String)> {
    Vec::new()
}

/// Writes a program for a test to start. Another process does it: while this one had the file open for writing, a process
/// that another test forks just then could keep it open for a moment, and to start it would be refused (ETXTBSY).
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "there is setsid(1) on Linux only")]
    fn a_descendant_in_a_session_of_its_own_is_found_and_killed() {
        let script = "setsid sh -c 'echo up; sleep 600; :' & read line";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut line = String::new();
        BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        let deadline = Duration::from_secs(10);
        drop(process.child().stdin.take());
        assert!(process.wait(deadline).is_some(), "sh ends with its input");
        assert!(!process.left(Duration::ZERO).is_empty());
        process.sweep();
        assert!(process.left(deadline).is_empty());
    }
}
