//! Drives the built `codexd` program as its users do: flags, the first line of output, files, signals.
//!
//! A [`Daemon`] owns its folders, so it can be stopped or killed and started again on the same state. Dropping it kills
//! what runs and fails the test if a process it started, however far removed, outlives it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;
use serde_json::Value;
use std::sync::Mutex;
use tempfile::TempDir;

use crate::DEADLINE;
use crate::client::{Client, Stream};
use crate::processes::Process;
use crate::real_codex::CodexHome;

/// What to start; see [`Daemon::builder`].
#[derive(Clone)]
pub(crate) struct Builder {
    program: PathBuf,
    server: (PathBuf, Vec<String>),
    flags: Vec<String>,
    env: Vec<(String, String)>,
    folder: Arc<TempDir>,
}

/// A daemon and its folders.
pub(crate) struct Daemon {
    builder: Builder,
    life: Option<Life>,
    base: String,
    ws_url: String,
    first_line: String,
}

/// One run of the program.
struct Life {
    process: Process,
    stdout: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    stderr_thread: JoinHandle<()>,
}

/// How a run ended, and what it printed after its first line.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Builder {
    /// Another program than the built codexd.
    pub(crate) fn program(mut self, program: impl Into<PathBuf>) -> Builder {
        self.program = program.into();
        self
    }

    /// The child: its command and arguments. The default is codexd's own `stub-app-server`.
    pub(crate) fn server(mut self, command: impl Into<PathBuf>, args: &[&str]) -> Builder {
        self.server = (command.into(), args.iter().map(|&arg| arg.to_owned()).collect());
        self
    }

    /// The real Codex (`codex.native()` or `codex.wrapper()`) with that home.
    pub(crate) fn codex(mut self, codex: &Path, home: &CodexHome) -> Builder {
        self.env.extend(home.env());
        self.server(codex, &["app-server"])
    }

    /// More flags.
    pub(crate) fn flags(mut self, flags: &[&str]) -> Builder {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// An environment variable; those of BAA_*, CODEX* and OPENAI* are not inherited.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it says where it listens.
    pub(crate) fn start(self) -> Daemon {
        self.try_start().unwrap_or_else(|ended| panic!("codexd did not start: {ended:#?}"))
    }

    /// Starts it; a daemon that ends instead of listening is how it ended.
    pub(crate) fn try_start(self) -> Result<Daemon, Ended> {
        let empty = String::new;
        let mut daemon =
            Daemon { builder: self, life: None, base: empty(), ws_url: empty(), first_line: empty() };
        daemon.begin().map(|()| daemon)
    }

    /// Runs another action (`config`, `status`, `smoke`, `start --run-once`) on the same folders, to its end.
    pub(crate) fn run(&self, action: &[&str]) -> Ended {
        let mut life = Life::spawn(&mut self.command(action));
        let status = life.process.wait(DEADLINE);
        life.ended(status, action.join(" ").as_str())
    }

    fn command(&self, action: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["BAA_", "CODEX", "OPENAI"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(action);
        for (flag, path) in
            [("--repo-root", self.repo()), ("--logs-dir", self.logs()), ("--state-dir", self.state())]
        {
            command.arg(flag).arg(path);
        }
        command.args(["--local-api-base", "http://127.0.0.1:0"]);
        command.arg("--server-command").arg(&self.server.0);
        for arg in &self.server.1 {
            command.arg(format!("--server-arg={arg}"));
        }
        // What a process that is killed leaves there is gone with the test.
        command.env("TMPDIR", self.folder.path().join("tmp"));
        command.args(&self.flags).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.repo()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The repo root, which exists.
    pub(crate) fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    /// The logs root, which codexd makes.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The state root, which codexd makes.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

/// Where the system does not tell whose a connection is, each start without a token says so.
fn without_the_word_on_access(stderr: &str) -> String {
    let word = "this system does not tell which user connects";
    let can_tell = codexd::os::peer::can_tell();
    stderr.split_inclusive('\n').filter(|line| can_tell || !line.contains(word)).collect()
}

impl Life {
    fn spawn(command: &mut Command) -> Life {
        let mut process = Process::spawn(command);
        let stdout = process.child().stdout.take().unwrap();
        let mut stderr = process.child().stderr.take().unwrap();
        let (sender, lines) = bounded(1024);
        let read_lines = move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("daemon-out".into()).spawn(read_lines).expect("a thread");
        let collected = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&collected);
        let read_stderr = move || {
            let mut chunk = [0; 8192];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        };
        let stderr_thread =
            thread::Builder::new().name("daemon-err".into()).spawn(read_stderr).expect("a thread");
        Life { process, stdout: lines, stderr: collected, stderr_thread }
    }

    /// The rest of its output, once it has ended; None as status means that it did not end in time.
    fn ended(mut self, status: Option<ExitStatus>, what: &str) -> Ended {
        let in_time = status.is_some();
        let left = self.process.left(Duration::from_secs(5));
        self.process.sweep(); // also closes the pipes, so that the readers end
        let rest: Vec<String> = self.stdout.iter().collect();
        let _ = self.stderr_thread.join();
        let stderr = without_the_word_on_access(&self.stderr.lock().unwrap());
        assert!(in_time, "{what}: no end in time; stdout: {rest:?}; stderr:\n{stderr}");
        assert!(left.is_empty(), "{what} left processes behind: {left:?}; stderr:\n{stderr}");
        let mut stdout = rest.join("\n");
        if !stdout.is_empty() {
            stdout.push('\n');
        }
        Ended { status: status.unwrap(), stdout, stderr }
    }
}

impl Daemon {
    /// A daemon with fresh folders, on any free port, with the built-in stub as its child.
    pub(crate) fn builder() -> Builder {
        let folder =
            tempfile::Builder::new().prefix("daemon-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["repo", "tmp"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_codexd"));
        let server = (program.clone(), vec!["stub-app-server".to_owned()]);
        Builder { program, server, flags: Vec::new(), env: Vec::new(), folder: Arc::new(folder) }
    }

    fn begin(&mut self) -> Result<(), Ended> {
        assert!(self.life.is_none(), "it runs already");
        let mut life = Life::spawn(&mut self.builder.command(&["start"]));
        let Ok(line) = life.stdout.recv_timeout(DEADLINE) else {
            // Disconnected: it is ending. Timed out: it hangs, and `ended` says so.
            let status = life.process.wait(Duration::from_secs(5));
            return Err(life.ended(status, "start without a line"));
        };
        let value = |key: &str| {
            let found =
                line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {key}= in the first line: {line}")).to_owned()
        };
        (self.base, self.ws_url) = (value("resolved_base"), value("ws_url"));
        self.first_line = line;
        self.life = Some(life);
        Ok(())
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `ws://127.0.0.1:PORT/v1/codexd/events`.
    pub(crate) fn ws_url(&self) -> &str {
        &self.ws_url
    }

    /// The line it printed when it had started.
    pub(crate) fn first_line(&self) -> &str {
        &self.first_line
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.life.as_ref().expect("it runs").process.pid()
    }

    /// What it has started and is still alive, the daemon itself not counted (Linux; elsewhere nothing is seen).
    pub(crate) fn descendants(&self) -> Vec<(u32, String)> {
        // Where no environment is seen they are known by their parents.
        #[cfg(not(target_os = "linux"))]
        return codexd::os::descendants(self.pid().cast_signed(), &codexd::os::list())
            .into_iter()
            .filter(|process| !process.zombie)
            .map(|process| (process.pid.cast_unsigned(), String::new()))
            .collect();
        #[cfg(target_os = "linux")]
        self.marked()
    }

    #[cfg(target_os = "linux")]
    fn marked(&self) -> Vec<(u32, String)> {
        let mut alive = self.life.as_ref().expect("it runs").process.left(Duration::ZERO);
        alive.retain(|(pid, _)| *pid != self.pid());
        alive
    }

    /// What it has written to stderr in this life.
    pub(crate) fn stderr(&self) -> String {
        self.life.as_ref().expect("it runs").stderr.lock().unwrap().clone()
    }

    /// An HTTP client for it.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.base)
    }

    /// Its event stream, without a cursor.
    pub(crate) fn stream(&self) -> Stream {
        Stream::open(&self.ws_url)
    }

    /// Sends it any signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.life.as_ref().expect("it runs").process.signal(signal);
    }

    /// SIGTERM, and waits for its end; fails the test when anything it started is still alive then.
    pub(crate) fn stop(&mut self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// The same, and how long the process itself took from the signal to its end.
    pub(crate) fn stop_timed(&mut self) -> (Duration, Ended) {
        let life = self.life.as_mut().expect("it runs");
        let began = Instant::now();
        life.process.signal(Signal::TERM);
        life.process.wait(DEADLINE);
        let took = began.elapsed();
        (took, self.wait())
    }

    /// Waits until it ends by itself or by a signal sent before.
    pub(crate) fn wait(&mut self) -> Ended {
        let mut life = self.life.take().expect("it runs");
        let status = life.process.wait(DEADLINE);
        life.ended(status, "the daemon")
    }

    /// SIGKILL to the daemon alone, as a crash would be; what it started must end by itself, within 5 s.
    pub(crate) fn kill(&mut self) -> Ended {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// SIGKILL as above, but what it started may live on: the processes that do, for the next life to reap.
    pub(crate) fn crash(&mut self) -> Crashed {
        self.signal(Signal::KILL);
        let mut life = self.life.take().expect("it runs");
        assert!(life.process.wait(DEADLINE).is_some());
        Crashed(life.process)
    }

    /// Starts it again on the same folders, after a stop if it runs.
    pub(crate) fn restart(&mut self) {
        if self.life.is_some() {
            self.stop();
        }
        self.begin().unwrap_or_else(|ended| panic!("codexd did not start again: {ended:#?}"));
    }

    /// The builder it came from, for `run` on the same folders or a second daemon on them.
    pub(crate) fn again(&self) -> Builder {
        self.builder.clone()
    }

    /// The repo root.
    pub(crate) fn repo(&self) -> PathBuf {
        self.builder.repo()
    }

    /// A file of the logs folder, such as `events.jsonl`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.builder.logs().join("codexd").join(name)
    }

    /// A file of the state folder, such as `identity.json`.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.builder.state().join("codexd").join(name)
    }

    /// A state file's JSON.
    pub(crate) fn state_json(&self, name: &str) -> Value {
        let path = self.state(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&bytes).unwrap()
    }

    /// The events of events.jsonl, whole lines only.
    pub(crate) fn log_events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log("events.jsonl")).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// What a crashed daemon left; dropping it kills the rest.
pub(crate) struct Crashed(Process);

impl Crashed {
    /// The processes that are alive once `deadline` has been given to end.
    pub(crate) fn left(&self, deadline: Duration) -> Vec<(u32, String)> {
        self.0.left(deadline)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut life) = self.life.take() else { return };
        life.process.kill_group();
        // A child in a group of its own ends with its input or by its parent-death signal.
        let left = life.process.left(Duration::from_secs(5));
        life.process.sweep();
        if !thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:?}; stderr:\n{}", life.stderr.lock().unwrap());
        }
    }
}
