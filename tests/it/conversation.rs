//! Sessions and turns of a daemon as a test holds them: posted, watched to their end, and asked about.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::client::{Answer, Client, Stream};
use crate::daemon::{Builder, Daemon};
use crate::processes;
use crate::real_codex::CodexHome;

/// How often something is done: `short` usually, `long` when CODEXD_TEST_LONG=1 asks for the full proof.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    if std::env::var_os("CODEXD_TEST_LONG").is_some_and(|value| value == "1") { long } else { short }
}

/// A daemon on the built-in stub whose threads outlive its process.
pub(crate) fn on_stub(flags: &[&str]) -> (Builder, tempfile::TempDir) {
    let threads =
        tempfile::Builder::new().prefix("threads-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = threads.path().to_str().unwrap();
    let builder =
        Daemon::builder().server(env!("CARGO_BIN_EXE_codexd"), &["stub-app-server", folder]).flags(flags);
    (builder, threads)
}

/// A daemon whose child is a shell script.
pub(crate) fn on_script(script: &str, flags: &[&str]) -> Builder {
    Daemon::builder().server("/bin/sh", &["-c", script]).flags(flags)
}

/// A file that runs this script as `codex exec` would be run.
pub(crate) fn fake_codex(script: &str) -> tempfile::TempPath {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = tempfile::Builder::new().prefix("codex-").suffix(".sh").tempfile_in(folder).unwrap();
    let path = file.into_temp_path();
    processes::write_program(&path, &format!("#!/bin/sh\n{script}"));
    path
}

/// A new run's id, once its process runs.
pub(crate) fn run(client: &Client, stream: &Stream, body: &Value) -> String {
    let answer = client.post("/v1/codexd/runs", body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["data"]["run"]["runId"].as_str().unwrap().to_owned();
    stream
        .wait_for(|event| event["type"] == "run.started" && event["detail"]["runId"] == *id, crate::DEADLINE);
    id
}

/// What a session of the real Codex needs to run anything without asking.
pub(crate) fn full_access(home: &CodexHome) -> Value {
    json!({"cwd": home.work(), "approvalPolicy": "never", "sandbox": "danger-full-access"})
}

/// A new session's id.
pub(crate) fn session(client: &Client, body: &Value) -> String {
    let answer = client.post("/v1/codexd/sessions", body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned()
}

/// The session as it is.
pub(crate) fn look(client: &Client, session: &str) -> Value {
    client.get(&format!("/v1/codexd/sessions/{session}")).json()["data"]["session"].take()
}

/// The answer to a turn's POST.
pub(crate) fn post_turn(client: &Client, session: &str, prompt: &str) -> Answer {
    client.post("/v1/codexd/turn", &json!({"sessionId": session, "input": prompt}))
}

/// A new turn's id.
pub(crate) fn turn(client: &Client, session: &str, prompt: &str) -> String {
    let answer = post_turn(client, session, prompt);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["data"]["turnId"].as_str().unwrap().to_owned()
}

/// Waits for the end of a turn; its status.
pub(crate) fn ended(stream: &Stream, turn: &str) -> String {
    let fits =
        |event: &Value| event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == turn;
    stream.wait_for(fits, crate::DEADLINE)["detail"]["status"].as_str().unwrap().to_owned()
}

/// Posts a turn and waits until it has ended well.
pub(crate) fn talk(client: &Client, stream: &Stream, session: &str, prompt: &str) {
    assert_eq!(ended(stream, &turn(client, session, prompt)), "completed");
}

/// The child as the status shows it.
pub(crate) fn child(client: &Client) -> Value {
    client.get("/v1/codexd/status").json()["data"]["snapshot"]["daemon"]["child"].take()
}

/// Waits until `look` finds something; for what no event tells.
pub(crate) fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The largest resident size of a process so far, in bytes (Linux; else nothing is known).
pub(crate) fn peak_memory(pid: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// SIGKILL to a process, as a crash would be.
pub(crate) fn kill(pid: &Value) {
    send(pid, Signal::KILL);
}

/// Whether a thread of this process waits for something (Linux).
#[cfg(target_os = "linux")]
pub(crate) fn sleeps(thread: Pid) -> bool {
    in_state('S', format!("/proc/self/task/{}", thread.as_raw_nonzero()).as_ref())
}

/// proc(5), `/proc/pid/stat`.
fn in_state(state: char, of: &Path) -> bool {
    let stat = std::fs::read_to_string(of.join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with(state)
}

/// Stops a process, which then reads nothing any more; returns when every thread of it stands (Linux).
pub(crate) fn suspend(pid: &Value) {
    send(pid, Signal::STOP);
    let stands = |thread: std::io::Result<std::fs::DirEntry>| in_state('T', &thread.unwrap().path());
    let all = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(stands);
    until("a process that is stopped", crate::DEADLINE, || all().then_some(()));
}

/// Bytes in a process's standard input that it has not read yet (Linux).
pub(crate) fn unread_input(pid: &Value) -> u64 {
    let input = std::fs::File::open(format!("/proc/{pid}/fd/0")).unwrap();
    rustix::io::ioctl_fionread(input).unwrap()
}

/// A signal to a process.
pub(crate) fn send(pid: &Value, signal: Signal) {
    let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), signal).unwrap();
}
