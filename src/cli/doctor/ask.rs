//! External commands, each with a deadline: what they start ends with them.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ids;
use crate::process::{Process, Spec};
use crate::threads;

/// How long a command may take; `codex --version` of the npm wrapper needs about a second on a small machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of each output that are looked at.
const MOST: usize = 64 * 1024;
/// How long the end of what a process wrote is waited for once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The beginning of its standard output.
    pub stdout: String,
    /// The beginning of its standard error.
    pub stderr: String,
}

impl Asked {
    /// The last line it said that is not blank, on whichever output: what comes before may be warnings.
    pub fn last_line(&self) -> &str {
        let mut lines = self.stderr.lines().rev().chain(self.stdout.lines().rev()).map(str::trim);
        lines.find(|line| !line.is_empty()).unwrap_or("nothing")
    }

    /// The first line it said that is not blank, on whichever output.
    pub fn first_line(&self) -> &str {
        let mut lines = self.stdout.lines().chain(self.stderr.lines()).map(str::trim);
        lines.find(|line| !line.is_empty()).unwrap_or("nothing")
    }
}

/// Runs a command to its end or the deadline, and ends all that it has started.
///
/// # Errors
/// That it cannot be started, or does not end in time, for a person.
pub(super) fn ask(spec: &Spec, deadline: Duration) -> Result<Asked, String> {
    let shown = spec.command.display();
    let mut process =
        Process::spawn(spec, ids::daemon_id()).map_err(|error| format!("{shown} does not start: {error}"))?;
    let stdout = process.take_stdout().map(collect);
    let stderr = process.take_stderr().map(collect);
    let in_time = process.ended().recv_timeout(deadline) != Err(crossbeam_channel::RecvTimeoutError::Timeout);
    // Whatever holds the pipes open ends here, and with it the threads that read them.
    let exit = process.finish();
    let text = |reader: Option<Reader>| reader.map(Reader::text).unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !in_time {
        return Err(format!("{shown} did not answer within {} s", deadline.as_secs()));
    }
    Ok(Asked { code: exit.code, stdout, stderr })
}

/// Whether a command can be run at all is for the caller to find out; this only makes the [`Spec`].
pub(super) fn spec(command: &Path, args: &[&str], cwd: &Path) -> Spec {
    Spec {
        command: command.to_owned(),
        args: args.iter().map(Into::into).collect(),
        cwd: cwd.to_owned(),
        ..Spec::default()
    }
}

struct Reader {
    thread: std::io::Result<threads::Thread>,
    read: Arc<Mutex<Vec<u8>>>,
}

/// Reads a pipe to its end in a thread of its own; the owner ends the process that writes.
fn collect(mut pipe: impl Read + Send + 'static) -> Reader {
    let read = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&read);
    let thread = threads::spawn_contained("doctor-out", move || {
        let mut piece = [0; 4096];
        loop {
            match pipe.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    let mut kept = threads::lock(&kept);
                    // The rest is taken, not kept: a command that writes on must not wait for us.
                    let room = MOST.saturating_sub(kept.len());
                    kept.extend_from_slice(&piece[..length.min(room)]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    Reader { thread, read }
}

impl Reader {
    /// What was read once the process has ended.
    fn text(self) -> String {
        if let Ok(thread) = self.thread
            && !thread.wait(LAST_WORDS)
        {
            // Whoever has left the process's group may hold its output open for ever.
            thread.leave();
        }
        String::from_utf8_lossy(&threads::lock(&self.read)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Result<Asked, String> {
        ask(&spec(Path::new("/bin/sh"), &["-c", script], Path::new("/")), deadline)
    }

    #[test]
    fn what_a_command_says() {
        let asked = shell("echo; echo out; echo err >&2; exit 3", DEADLINE).unwrap();
        assert_eq!(asked, Asked { code: Some(3), stdout: "\nout\n".to_owned(), stderr: "err\n".to_owned() });
        assert_eq!(asked.first_line(), "out");
        let flood = shell("head -c 1000000 /dev/zero", DEADLINE).unwrap();
        assert_eq!((flood.code, flood.stdout.len()), (Some(0), MOST));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_holds_the_output_open_is_not_waited_for() {
        use rustix::fs::{Mode, OFlags};

        // What has a session and an environment of its own is not ended with it; it ends when somebody opens the pipe.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let script = format!(
            "cd {}; mkfifo pipe ready; setsid env -i /bin/sh -c 'echo out; echo >ready; read x <pipe' & read x <ready",
            folder.path().display()
        );
        let asked = shell(&script, DEADLINE).unwrap();
        assert_eq!((asked.code, asked.first_line()), (Some(0), "out"));
        let (flags, mode) = (OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
        assert!(rustix::fs::open(&pipe, flags, mode).is_ok(), "nobody is left who held the output open");
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_all_it_started() {
        let refusal = shell("sleep 300 & sleep 300", Duration::from_secs(1)).unwrap_err();
        assert_eq!(refusal, "/bin/sh did not answer within 1 s");
        let missing = ask(&spec(Path::new("/nowhere/codex"), &[], Path::new("/")), DEADLINE).unwrap_err();
        assert!(missing.starts_with("/nowhere/codex does not start: "), "{missing}");
    }
}
