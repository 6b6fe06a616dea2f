//! The stand-in as a process of its own: standard streams and signals.

use super::behaviour::Behaviour;
use super::server::app_server;
use crossbeam_channel::{Sender, bounded};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::fs::Permissions;
use std::io::{self, Stdout, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// `codexd stub-app-server [FOLDER]`: `app_server` on the standard streams, with the behaviour `CODEXD_STUB` asks for; SIGTERM ends it with exit code 0, as it ends the real Codex. Without a
/// folder for the threads they are kept in one that lasts as long as the process.
pub fn app_server_stdio(rollouts: Option<&Path>) -> u8 {
    let behaviour = Behaviour::from_env();
    let (stop, stopped) = bounded(1);
    if let Err(error) = obey_signals(stop, behaviour.ignore_sigterm) {
        let _ = writeln!(io::stderr(), "stub: no signal handler: {error}");
        return 1;
    }
    let output = ProcessOutput { stream: io::stdout(), close: behaviour.close_stdout };
    if let Some(rollouts) = rollouts {
        return app_server(io::stdin(), output, rollouts, &behaviour, &stopped);
    }
    // Made only now that a signal does not end the process without removing it.
    let private = Permissions::from_mode(0o700);
    match tempfile::Builder::new().prefix("codexd-stub-").permissions(private).tempdir() {
        Ok(folder) => app_server(io::stdin(), output, folder.path(), &behaviour, &stopped),
        Err(error) => {
            let _ = writeln!(io::stderr(), "stub: no temporary folder for its threads: {error}");
            1
        }
    }
}

fn obey_signals(stop: Sender<u8>, ignore: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM])?;
    let watch = move || {
        for _ in signals.forever() {
            if !ignore {
                let _ = stop.try_send(0);
            }
        }
    };
    std::thread::Builder::new().name("stub-signals".into()).spawn(watch)?;
    Ok(())
}

/// Standard output; dropping it can close it for real.
struct ProcessOutput {
    stream: Stdout,
    close: bool,
}

impl Write for ProcessOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for ProcessOutput {
    fn drop(&mut self) {
        if self.close {
            // The standard library never closes descriptor 1, and doing it by hand is unsafe code. A process that
            // turns into another program loses it: `cat` goes on reading until the end, as the stand-in would.
            let error = Command::new("cat").stdout(Stdio::null()).exec();
            let _ = writeln!(io::stderr(), "stub: {error}");
        }
    }
}
