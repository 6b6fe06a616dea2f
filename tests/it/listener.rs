//! The real `codex app-server --listen ws://127.0.0.1:0`: an app-server that is not codexd's child.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use crossbeam_channel::bounded;
use rustix::process::Signal;

use crate::DEADLINE;
use crate::processes::Process;
use crate::real_codex::{CodexHome, RealCodex};

/// A running listener; dropping it kills it.
pub(crate) struct Listener {
    process: Process,
    authority: String,
}

impl Listener {
    /// Starts one and waits until it says where it listens.
    pub(crate) fn start(codex: &RealCodex, home: &CodexHome, args: &[&str]) -> Listener {
        let mut command = Command::new(codex.native());
        command.args(["app-server", "--listen", "ws://127.0.0.1:0"]).args(args);
        command.envs(home.env()).env_remove("OPENAI_API_KEY").current_dir(home.work());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stderr = process.child().stderr.take().unwrap();
        let (sender, listening) = bounded(1);
        let read = move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, authority)) = line.split_once("listening on: ws://") {
                    let _ = sender.try_send(authority.trim().to_owned());
                }
            }
        };
        thread::Builder::new().name("listener-err".into()).spawn(read).expect("a thread");
        let authority = listening.recv_timeout(DEADLINE).expect("it says where it listens");
        Listener { process, authority }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// `ws://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.authority)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.signal(Signal::KILL);
        assert!(self.process.wait(DEADLINE).is_some());
        self.process.sweep();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.process.kill_group();
        self.process.sweep();
    }
}
