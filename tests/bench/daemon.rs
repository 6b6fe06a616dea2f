//! A codexd of the release build (or the one of `CODEXD_BENCH_BIN`, to compare two) in a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::clients::Http;

pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process to its first line, when it serves.
    pub started_in: Duration,
    pub folder: tempfile::TempDir,
}

impl Daemon {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), flags)
    }

    /// One whose child is the real Codex.
    pub fn start_codex(codex: &Path, env: &[(String, String)], cwd: &Path) -> Self {
        let flags = ["--server-command", codex.to_str().unwrap(), "--server-arg=app-server"];
        Self::start_with(tempfile::tempdir().unwrap(), &flags, env, Some(cwd))
    }

    pub fn start_in(folder: tempfile::TempDir, flags: &[&str]) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut all = vec!["--server-command", this.to_str().unwrap(), "--server-arg=--child"];
        all.extend(["--codex-command", "/nonexistent/codex"]);
        all.extend(flags);
        Self::start_with(folder, &all, &[], None)
    }

    fn start_with(
        folder: tempfile::TempDir,
        flags: &[&str],
        env: &[(String, String)],
        cwd: Option<&Path>,
    ) -> Self {
        let began = Instant::now();
        let built = env!("CARGO_BIN_EXE_codexd");
        let mut child = Command::new(std::env::var("CODEXD_BENCH_BIN").as_deref().unwrap_or(built))
            .arg("start")
            .arg("--repo-root")
            .arg(folder.path())
            .args(["--local-api-base", "http://127.0.0.1:0", "--log-level", "warn"])
            .args(flags)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(cwd.unwrap_or(folder.path()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let started_in = began.elapsed();
        let base = line.split("resolved_base=http://").nth(1).expect("the start line");
        let address = base.split(' ').next().unwrap().parse().unwrap();
        Self { child, address, started_in, folder }
    }

    pub fn http(&self) -> Http {
        Http::new(self.address)
    }

    pub fn session(&self) -> String {
        let data = self.http().post("/v1/codexd/sessions", "{}");
        data["session"]["sessionId"].as_str().unwrap().to_owned()
    }

    pub fn turn(&self, session: &str, prompt: &str) {
        let body = serde_json::json!({ "sessionId": session, "input": prompt }).to_string();
        self.http().post("/v1/codexd/turn", &body);
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux of today (proc_pid_stat(5)).
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory now, in KiB (`VmRSS` of proc_pid_status(5)).
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Bytes it had written to storage so far (`write_bytes` of proc_pid_io(5)).
    pub fn written(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let line = io.lines().find(|line| line.starts_with("write_bytes:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How often its threads have waited for something so far (`voluntary_ctxt_switches` of proc_pid_status(5)).
    pub fn wake_ups(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_thread = |path: std::path::PathBuf| {
            let status = std::fs::read_to_string(path.join("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        tasks.map(|task| of_thread(task.unwrap().path())).sum()
    }

    /// The most it ever was.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// SIGTERM; how long the end took, and the folder.
    pub fn stop(mut self) -> (Duration, tempfile::TempDir) {
        let began = Instant::now();
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        assert!(self.child.wait().unwrap().success());
        let took = began.elapsed();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (took, folder)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended after stop().
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
