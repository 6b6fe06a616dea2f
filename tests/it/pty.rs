//! A program at a terminal: what it shows, what is typed, Ctrl-C.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::DEADLINE;
use crate::processes::Process;
use crate::skipped::skipped;

/// Whether this machine can give a program a terminal of its own: setsid(1) of util-linux with `--ctty`.
pub(crate) fn can_or_skip(test: &str) -> bool {
    let can = Command::new("setsid").args(["--wait", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        skipped(test, "there is no setsid --wait to give a program a terminal");
    }
    can
}

/// A program whose standard input, output and error are a terminal.
pub(crate) struct AtTerminal {
    process: Process,
    master: File,
    chunks: Receiver<String>,
    /// Everything shown so far, what was typed included.
    pub(crate) shown: String,
    /// Up to where it was looked at.
    looked: usize,
}

impl AtTerminal {
    /// Starts it; the terminal controls it, so Ctrl-C is a signal.
    pub(crate) fn start(program: &Command) -> AtTerminal {
        let (process, master) = spawn(program);
        let mut reader = master.try_clone().unwrap();
        let (sender, chunks) = bounded(10_000);
        let read = move || {
            let mut chunk = [0; 4096];
            // EIO: nobody has the other side open any more.
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(String::from_utf8_lossy(&chunk[..length]).into_owned()).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("terminal".into()).spawn(read).expect("a thread");
        AtTerminal { process, master, chunks, shown: String::new(), looked: 0 }
    }

    /// Waits until it shows that, beyond what was waited for before.
    pub(crate) fn until(&mut self, text: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.shown[self.looked..].find(text) {
                self.looked += at + text.len();
                return;
            }
            match self.chunks.recv_deadline(until) {
                Ok(chunk) => self.shown.push_str(&chunk),
                Err(error) => panic!("{text:?} is not shown ({error}):\n{}", self.shown),
            }
        }
    }

    /// Types that; `\x03` is Ctrl-C.
    pub(crate) fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Its exit code, and all that was shown. A program that a signal ended is said to have ended not normally.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = self.process.wait(DEADLINE);
        let status = status.unwrap_or_else(|| panic!("it does not end:\n{}", self.shown));
        self.process.sweep();
        self.shown.extend(self.chunks.iter());
        (status.code(), self.shown)
    }
}

/// The program at a terminal of its own, and the terminal's other side.
fn spawn(program: &Command) -> (Process, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    #[cfg(target_os = "linux")] // Where there is no such flag, there is no setsid(1) either.
    let flags = flags | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let name = std::path::Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).to_owned();
    let slave = || Stdio::from(OpenOptions::new().read(true).write(true).open(&name).unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir("/").stdin(slave()).stdout(slave()).stderr(slave());
    let process = Process::spawn(&mut command);
    drop(command);
    (process, File::from(master))
}

/// Runs a program at a terminal, types Ctrl-C that long after it shows `text`, as exactly as a thread can that does
/// not sleep meanwhile, and waits for its end: its exit code, and what was shown.
pub(crate) fn ctrl_c_right_after(program: &Command, text: &str, delay: Duration) -> (Option<i32>, String) {
    let (mut process, mut master) = spawn(program);
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    let (mut shown, mut typed) = (String::new(), false);
    let until = Instant::now() + DEADLINE;
    let mut chunk = [0; 4096];
    loop {
        match master.read(&mut chunk) {
            Ok(length @ 1..) => shown.push_str(&String::from_utf8_lossy(&chunk[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < until, "it does not end:\n{shown}");
            }
            // EIO: nobody has the other side open any more.
            Ok(0) | Err(_) => break,
        }
        if !typed && shown.contains(text) {
            let then = Instant::now() + delay;
            while Instant::now() < then {
                std::hint::spin_loop();
            }
            master.write_all(b"\x03").unwrap();
            typed = true;
        }
    }
    let status = process.wait(DEADLINE).unwrap_or_else(|| panic!("it does not end:\n{shown}"));
    process.sweep();
    (status.code(), shown)
}
