//! What the operating system knows of processes: groups, start times, descendants. The only module with unsafe code.

pub mod descriptors;
pub mod notify;
pub mod peer;
#[cfg(not(target_os = "linux"))]
mod ps;
pub mod socket;
mod waiting;

use std::cmp::Ordering;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

pub use self::waiting::{dont_wait, readable, reader_is_gone, ready, write_all};

use crate::threads::answer::{Reply, answer};
use crate::threads::{self, Thread};

/// Told of a process that was forked and has not run its command yet; an error keeps it from ever doing so.
pub type Announce = Box<dyn FnOnce(Pid) -> io::Result<()> + Send>;

/// Starts a command in a process group of its own that dies with this process (Linux: SIGTERM by prctl(2)
/// PR_SET_PDEATHSIG when the calling *thread* ends, so that thread must live as long as the child). With `announce`,
/// the child waits between fork and exec until that has returned: what it wrote down was there before the command
/// could do anything.
///
/// Descriptors other than the three given are closed on exec, no signal is blocked; the standard library resets SIGPIPE.
/// Calls must not overlap (see [`crate::process`]): a child forked meanwhile would hold the other's gate open.
///
/// # Errors
/// What fork(2), chdir(2) or execve(2) say, or `announce`.
pub fn spawn_group(mut command: Command, announce: Option<Announce>) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    prepare(&mut command);
    let Some(announce) = announce else { return command.spawn() };
    let (refusal, refused) = answer();
    let announcer = hold_at_gate(&mut command, announce, refusal)?;
    let spawned = command.spawn();
    // This side's copies of the child's ends: a child that was never born is then seen as the end of its pipe.
    drop(command);
    announcer.join();
    match (spawned, refused.take()) {
        (Err(_), Some(refusal)) => Err(refusal),
        (spawned, _) => spawned,
    }
}

/// Both ends of a pipe, the one to read from first; a child inherits neither. By the standard library, as pipe2(2) is
/// not on every system.
///
/// # Errors
/// What pipe(2) says when there is no descriptor left.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Makes the command's process say its pid and wait for a byte before it goes on to exec.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec")]
fn hold_at_gate(command: &mut Command, announce: Announce, refusal: Reply<io::Error>) -> io::Result<Thread> {
    use std::os::unix::process::CommandExt;
    let (born_here, born_there) = pipe()?;
    let (go_there, go_here) = pipe()?;
    let inherited = go_here.as_raw_fd();
    let gate = move || {
        // SAFETY: in the forked child this descriptor is a copy that nobody else uses. While it were open, the end of
        // the parent would not show at the other end of the pipe.
        unsafe { rustix::io::close(inherited) };
        rustix::io::write(&born_there, &rustix::process::getpid().as_raw_pid().to_ne_bytes())?;
        let mut byte = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(&go_there, &mut byte))? {
            0 => Err(rustix::io::Errno::CANCELED.into()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(gate) };
    threads::spawn_contained("announce", move || {
        let mut pid = [0; 4];
        // The end of the pipe: the child was never born.
        if !rustix::io::retry_on_intr(|| rustix::io::read(&born_here, &mut pid)).is_ok_and(|read| read == 4) {
            return;
        }
        let Some(pid) = Pid::from_raw(i32::from_ne_bytes(pid)) else { return };
        let told = announce(pid).and_then(|()| Ok(rustix::io::write(&go_here, &[1])?));
        if let Err(error) = told {
            refusal.give(error);
        }
    })
}

/// What the child does between fork and exec.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec")]
fn prepare(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl(2), setrlimit(2), fcntl(2) and pthread_sigmask(3) are plain system calls, and the closure only reads memory of
    // the parent that was written before, without a lock.
    unsafe {
        command.pre_exec(|| {
            #[cfg(target_os = "linux")]
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            change_mask(libc::SIG_SETMASK, &[])?;
            // macOS makes pipes and sockets that are inherited, and only the next call has them closed on exec: of one
            // that another thread makes meanwhile this process has a copy. There are no more, see `raise_limit`.
            #[cfg(target_vendor = "apple")]
            (3..10_240).for_each(close_on_exec);
            descriptors::restore_limit()
        });
    }
}

#[expect(unsafe_code, reason = "whose descriptor it is is not known")]
fn close_on_exec(descriptor: i32) {
    // SAFETY: fcntl(2) touches no memory here; of a number that is not open any more it says EBADF.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Unblocks the signals that stop this process and those that tell of its children, in this thread and those it starts
/// from then on: what the process that started this one has blocked stays so across fork(2) and execve(2).
///
/// # Errors
/// What pthread_sigmask(3) says.
pub fn unblock_signals() -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, &[Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD])
}

/// Whether this process was started with a signal ignored, as nohup(1) does with SIGHUP. To be asked before anybody
/// handles the signal.
///
/// # Errors
/// What sigaction(2) says.
#[expect(unsafe_code, reason = "rustix leaves what a signal does to libc")]
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action sigaction(2) only fills in the present one, which nobody else has.
    let action = unsafe {
        if libc::sigaction(signal.as_raw(), std::ptr::null(), action.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        action.assume_init()
    };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Neither locks nor allocates: it is also for the time between fork and exec.
#[expect(unsafe_code, reason = "rustix leaves the signal mask to libc")]
fn change_mask(how: i32, signals: &[Signal]) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) fills the set before anything else looks at it, and nobody else has it.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// Has the allocator give large blocks back to the system when they are freed. Left to itself glibc takes the first one
/// that is freed for a sign that more will come, and from then on keeps what each thread has freed (mallopt(3)): a few
/// bodies of 4 MB, refused, and the daemon holds 200 MB for good.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set_allocator();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "rustix has no mallopt")]
fn set_allocator() {
    // Beyond what a batch of events takes: those that come and go with each batch stay with the allocator.
    const LARGE: i32 = 2 * 1024 * 1024;
    const FREE_AT_THE_END: i32 = 1024 * 1024;
    // SAFETY: mallopt(3) takes its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_AT_THE_END);
    }
}

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

/// Sends a signal to every process of a group; a group that is empty, or in which all have ended, is no error.
///
/// # Errors
/// `EPERM` when none of them may be signalled.
pub fn signal_group(group: Pid, signal: Signal) -> io::Result<()> {
    let alive = |process: &Listed| process.group == group.as_raw_pid() && !process.zombie;
    match ignore_gone(rustix::process::kill_process_group(group, signal)) {
        // macOS also says so where all that is left of the group waits to be reaped.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !list().iter().any(alive) => Ok(()),
        result => result,
    }
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

/// The process id in a number that somebody else wrote down; `None` for what is none. [`Pid::from_raw`] takes a negative
/// number for one.
pub fn process_id(written: i32) -> Option<Pid> {
    Pid::from_raw(written.max(0))
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
    /// Its session's.
    pub session: i32,
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
    return ps::listed(&["-p", &pid.as_raw_nonzero().to_string()]).pop();
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
    return ps::listed(&["-A"]);
}

/// Which of two [`Listed::started`] of one boot was first; `None` where they cannot be compared.
pub fn compare_started(one: &str, other: &str) -> Option<Ordering> {
    let ticks = |started: &str| if cfg!(target_os = "linux") { started.parse::<u64>().ok() } else { None };
    Some(ticks(one)?.cmp(&ticks(other)?))
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
    let stat = read_proc(pid, "stat").ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // The start time is field 22; session was field 6.
    let started = fields.nth(15)?.to_owned();
    Some(Listed { pid, parent, group, session, started, zombie: state == "Z" || state == "X" })
}

/// A file of `/proc/PID`. They have no size, so [`std::fs::read`] would begin with 32 bytes and double: five calls of the
/// system for what one brings.
fn read_proc(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    std::fs::File::open(format!("/proc/{pid}/{name}"))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The session of a process, 0 where it cannot be told: so it is with one that was made outside of the pid namespace,
/// which rustix takes for impossible.
#[cfg(any(test, not(target_os = "linux")))]
#[expect(unsafe_code, reason = "rustix has no getsid that may give 0")]
fn session_of(pid: i32) -> i32 {
    // SAFETY: getsid(2) touches no memory.
    unsafe { libc::getsid(pid) }.max(0)
}

/// The value of a variable in the environment a process was started with (Linux: `/proc/PID/environ`, of this user's
/// processes; elsewhere this cannot be told and there is none).
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environ = read_proc(pid, "environ").ok()?;
    environ.split(|&byte| byte == 0).find_map(|entry| {
        let value = std::str::from_utf8(entry).ok()?.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.to_owned())
    })
}

/// The command lines of all processes that have not ended, as far as they can be seen, each with its process id.
pub fn command_lines() -> Vec<(i32, Vec<String>)> {
    #[cfg(not(target_os = "linux"))]
    return ps::command_lines();
    #[cfg(target_os = "linux")]
    list()
        .iter()
        .filter(|process| !process.zombie)
        .filter_map(|process| Some((process.pid, read_proc(process.pid, "cmdline").ok()?)))
        .filter(|(_, line)| !line.is_empty())
        .map(|(pid, line)| {
            let line = line.strip_suffix(&[0]).unwrap_or(&line);
            (
                pid,
                line.split(|&byte| byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect(),
            )
        })
        .collect()
}

/// Names the time since the system was last started; [`Listed::started`] of two processes can be compared only within
/// one. Empty where start times are those of the calendar.
pub fn boot() -> String {
    if cfg!(target_os = "linux") {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        return id.trim().to_owned();
    }
    String::new()
}

#[cfg(test)]
mod tests;
