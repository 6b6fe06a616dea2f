//! What the operating system knows of processes: groups, start times, descendants. The only module with unsafe code.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Starts a command in a process group of its own that dies with this process (Linux: SIGTERM by prctl(2)
/// PR_SET_PDEATHSIG when the calling *thread* ends, so that thread must live as long as the child).
///
/// Descriptors other than the three given are closed on exec; the standard library resets SIGPIPE and the signal mask.
///
/// # Errors
/// What fork(2), chdir(2) or execve(2) say.
pub fn spawn_group(command: &mut Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    die_with_parent(command);
    command.spawn()
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl(2) is async-signal-safe and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

/// Makes orphaned descendants children of this process instead of init's, so that they can be found (prctl(2)
/// PR_SET_CHILD_SUBREAPER). Elsewhere than on Linux there is no such thing.
///
/// # Errors
/// What prctl(2) says.
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Waits until a child has ended, without reaping it: its pid and group stay reserved until the owner waits for it.
///
/// # Errors
/// `ECHILD` when it is no child of this process, or already reaped.
pub fn wait_ended(pid: Pid) -> io::Result<()> {
    loop {
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|_| ()).map_err(io::Error::from),
        }
    }
}

/// Reaps a child that has ended, if it has. For orphans that were reparented to this process.
pub fn reap_if_ended(pid: Pid) {
    // ECHILD means that it is not ours or gone: nothing to do either way.
    let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// Sends a signal to every process of a group; a group that is empty is no error.
///
/// # Errors
/// `EPERM` when none of them may be signalled.
pub fn signal_group(group: Pid, signal: Signal) -> io::Result<()> {
    ignore_gone(rustix::process::kill_process_group(group, signal))
}

/// Sends a signal to one process; one that is gone is no error.
///
/// # Errors
/// `EPERM`.
pub fn signal_process(pid: Pid, signal: Signal) -> io::Result<()> {
    ignore_gone(rustix::process::kill_process(pid, signal))
}

fn ignore_gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => result.map_err(io::Error::from),
    }
}

/// Whether a process of that pid exists (a zombie counts).
pub fn exists(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// One process as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its group's.
    pub group: i32,
    /// When it started, in a form that is equal only for the same process (Linux: clock ticks since boot).
    pub started: String,
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
}

/// Looks up one process; `None` if there is none.
pub fn look_up(pid: Pid) -> Option<Listed> {
    #[cfg(target_os = "linux")]
    return listed_in_proc(pid.as_raw_nonzero().get());
    #[cfg(not(target_os = "linux"))]
    return ps(&["-p", &pid.as_raw_nonzero().to_string()]).pop();
}

/// All processes this user may see.
pub fn list() -> Vec<Listed> {
    #[cfg(target_os = "linux")]
    return std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(listed_in_proc)
        .collect();
    #[cfg(not(target_os = "linux"))]
    return ps(&["-A"]);
}

/// The descendants of a process among those listed, children before grandchildren.
pub fn descendants(of: i32, listed: &[Listed]) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for process in listed.iter().filter(|process| process.parent == parent) {
            if process.pid != of && found.iter().all(|known| known.pid != process.pid) {
                parents.push(process.pid);
                found.push(process.clone());
            }
        }
    }
    found
}

/// `/proc/PID/stat` (proc_pid_stat(5)): the command in parentheses may itself hold parentheses and spaces.
#[cfg(target_os = "linux")]
fn listed_in_proc(pid: i32) -> Option<Listed> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // The start time is field 22; group was field 5.
    let started = fields.nth(16)?.to_owned();
    Some(Listed { pid, parent, group, started, zombie: state == "Z" || state == "X" })
}

#[cfg(not(target_os = "linux"))]
fn ps(which: &[&str]) -> Vec<Listed> {
    let output = Command::new("/bin/ps")
        .args(["-o", "pid=,ppid=,pgid=,stat=,lstart="])
        .args(which)
        .env("LC_ALL", "C")
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            Some(Listed {
                pid: fields.next()?.parse().ok()?,
                parent: fields.next()?.parse().ok()?,
                group: fields.next()?.parse().ok()?,
                zombie: fields.next()?.starts_with('Z'),
                started: fields.collect::<Vec<_>>().join(" "),
            })
        })
        .collect()
}

/// Whether a process was started with this variable in its environment (Linux: `/proc/PID/environ`; elsewhere this
/// cannot be told and the answer is no).
pub fn has_variable(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Waits for input; `false` when the other end of `cancel` is gone.
///
/// # Errors
/// What poll(2) says.
pub fn ready(input: &impl AsFd, cancel: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(input, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
    }
}

/// Whether reading would not wait now.
///
/// # Errors
/// What poll(2) says.
pub fn readable(input: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(input, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec::default()))?;
    Ok(!fds[0].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed_and_its_children_are_descendants() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = spawn_group(Command::new("sleep").arg("60")).unwrap();
        let pid = Pid::from_child(&child);
        let listed = list();
        assert!(descendants(own, &listed).iter().any(|process| process.pid == pid.as_raw_nonzero().get()));
        let found = look_up(pid).unwrap();
        assert_eq!(found.parent, own);
        assert_eq!(found.group, found.pid);
        assert!(!found.zombie);
        signal_group(pid, Signal::KILL).unwrap();
        wait_ended(pid).unwrap();
        assert!(look_up(pid).unwrap().zombie);
        child.wait().unwrap();
        assert!(signal_process(pid, Signal::TERM).is_ok());
    }
}
