//! `codexd run`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::cli_support::{Ran, codexd, command};
use crate::client::authority;
use crate::conversation::{fake_codex, until};
use crate::daemon::Daemon;
use crate::processes::Process;
use crate::run_bench::{Bench, RUNS, assert_failed};

fn run(daemon: &Daemon, words: &[&str]) -> Ran {
    prepared(daemon.base(), words).output().unwrap().into()
}

fn prepared(base: &str, words: &[&str]) -> Command {
    command([["--local-api-base", base, "run"].as_slice(), words].concat())
}

/// What it says on standard error after the id of the run, which comes first.
fn after_the_id(stderr: &str) -> &str {
    let (first, rest) = stderr.split_once('\n').unwrap_or_default();
    assert!(first.starts_with("run run-"), "{stderr}");
    rest
}

/// The program while it runs, for signals.
struct Following {
    process: Process,
    stdout: ChildStdout,
}

impl Following {
    fn start(daemon: &Daemon, words: &[&str]) -> Following {
        Following::at(daemon.base(), words)
    }

    fn at(base: &str, words: &[&str]) -> Following {
        let mut command = prepared(base, words);
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let stdout = process.child().stdout.take().unwrap();
        Following { process, stdout }
    }

    /// Waits until it prints something.
    fn wait_output(&mut self) {
        self.stdout.read_exact(&mut [0]).unwrap();
    }

    /// Exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.process.wait(2 * DEADLINE).expect("it ends");
        let mut stderr = String::new();
        self.process.child().stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status.code(), stderr)
    }
}

fn only_run(bench: &Bench) -> Value {
    let mut all = bench.daemon.client().get(RUNS).json()["data"]["runs"].take();
    assert_eq!(all.as_array().unwrap().len(), 1);
    all[0].take()
}

#[test]
fn it_prints_the_last_message_or_the_error() {
    let bench = Bench::stub(&[]);
    let ran = run(&bench.daemon, &["say 2 words"]);
    let said = format!("run {}\n", only_run(&bench)["runId"].as_str().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr), (0, "word0 word1 \n", said));
    for prompt in ["--help", "-h", "status", "run"] {
        let ran = run(&bench.daemon, &["--", prompt]);
        assert_eq!((ran.code, ran.stdout), (0, format!("done: {prompt}\n")));
    }
    let ran = run(&bench.daemon, &["fail: no luck"]);
    let error = "codexd: codex exec exited with code 1: ERROR: no luck\n";
    assert_eq!((ran.code, ran.stdout.as_str(), after_the_id(&ran.stderr)), (1, "", error));
    let ran = run(&bench.daemon, &["exit: 0"]);
    assert_eq!((ran.code, ran.stdout.as_str(), after_the_id(&ran.stderr)), (0, "", ""));
    let ran = run(&bench.daemon, &["hang:", "--timeout-ms", "1"]);
    let error = "codexd: codex exec did not end within 1 ms.\n";
    assert_eq!((ran.code, after_the_id(&ran.stderr)), (1, error));
}

#[test]
fn with_json_it_prints_the_lines_digit_for_digit() {
    let line = r#"{"type":"z","n":12345678901234567890123,"f":1.10,"b":1e400,"b":3}"#;
    let codex = fake_codex(&format!("cat >/dev/null; echo '{line}'\n"));
    let mut daemon = Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).start();
    let ran = run(&daemon, &["--json", "x"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("{line}\n")), "{}", ran.stderr);
    daemon.stop();
}

#[test]
fn with_json_it_prints_the_lines() {
    let bench = Bench::stub(&[]);
    let ran = run(&bench.daemon, &["--json", "run: ls"]);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(json!(lines), only_run(&bench)["result"]["result"]["jsonEvents"]);
    assert_eq!(lines.len(), 6);
}

#[test]
fn its_flags_reach_codex_and_paths_are_of_the_callers_folder() {
    let bench = Bench::stub(&[]);
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let schema = here.path().join("schema.json");
    std::fs::File::create(&schema).unwrap().write_all(b" {\"type\": \"object\"}\n").unwrap();
    std::fs::create_dir(here.path().join("work")).unwrap();
    let words = [
        "--cwd",
        "work",
        "--model=m",
        "--profile",
        "p",
        "--sandbox",
        "read-only",
        "--codex-config",
        "a=1",
        "--codex-config",
        "b=2",
        "--add-dir",
        "../d",
        "--image",
        "i.png",
        "--output-schema",
        "schema.json",
        "--skip-git-repo-check",
        "--ephemeral",
        "--timeout-ms",
        "60000",
        "-",
    ];
    let mut command = prepared(bench.daemon.base(), &words);
    let mut child =
        command.current_dir(here.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from standard input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "done: from standard input\n");
    let record = only_run(&bench);
    let invocation = &record["result"]["invocation"];
    let path = |name: &str| json!(here.path().join(name));
    assert_eq!(
        (&record["cwd"], &invocation["cwd"], &record["purpose"]),
        (&path("work"), &path("work"), &json!("simple-worker"))
    );
    assert_eq!(
        (&invocation["model"], &invocation["profile"], &invocation["sandbox"]),
        (&json!("m"), &json!("p"), &json!("read-only"))
    );
    assert_eq!(invocation["config"], json!(["a=1", "b=2"]));
    assert_eq!(invocation["additionalWritableDirectories"], json!([here.path().parent().unwrap().join("d")]));
    assert_eq!(invocation["images"], json!([path("i.png")]));
    assert_eq!((&invocation["skipGitRepoCheck"], &invocation["ephemeral"]), (&json!(true), &json!(true)));
    assert_eq!(invocation["timeoutMs"], 60000);
    assert!(invocation["args"].as_array().unwrap().contains(&json!("--output-schema")));
}

#[test]
fn without_a_daemon_it_says_so() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    let ran = codexd(&["run", "hi", "--local-api-base", &base]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.starts_with(&format!("codexd: no codexd answers at {base}: ")), "{}", ran.stderr);
    assert!(ran.stderr.contains("codexd start"), "{}", ran.stderr);
    let ran = codexd(&["run", "hi", "--local-api-base", "http://127.0.0.1:0"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("leaves the port open"), "{}", ran.stderr);
    let ran = codexd(&["run", "hi", "--output-schema", "/no/such/file"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--output-schema /no/such/file is no JSON file"), "{}", ran.stderr);
    let ran = codexd(&["run", "hi", "--output-schema", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("/Cargo.toml is no JSON file: expected"), "{}", ran.stderr);
}

#[test]
fn what_the_daemon_refuses_is_said() {
    let bench = Bench::stub(&["--max-concurrent-runs", "1", "--max-queued-runs", "0"]);
    let running = bench.begin(&json!({ "prompt": "hang:" }));
    let ran = run(&bench.daemon, &["hi"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no more may wait"), "{}", ran.stderr);
    bench.cancel(&running);
}

#[test]
fn ctrl_c_cancels_the_run() {
    for signal in [Signal::INT, Signal::TERM] {
        let bench = Bench::stub(&[]);
        let mut following = Following::start(&bench.daemon, &["hang:", "--json"]);
        following.wait_output(); // by then it watches for signals
        following.process.signal(signal);
        assert_eq!(following.end(), (Some(1), "codexd: The run was cancelled.\n".to_owned()));
        assert_failed(&only_run(&bench), "CODEX_EXEC_CANCELLED");
    }
}

/// Hands on what clients send to the daemon and what it answers; a POST is told of, and handed on when it is let go. It ends
/// with the tests.
fn hold_posts(listener: &TcpListener, daemon: &str, came: &Sender<()>, let_go: &Receiver<()>) {
    thread::scope(|scope| {
        for client in listener.incoming() {
            let client = client.unwrap();
            let there = TcpStream::connect(daemon).unwrap();
            let (mut to, mut from) = (client.try_clone().unwrap(), there.try_clone().unwrap());
            scope.spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                to.shutdown(Shutdown::Write)
            });
            scope.spawn(move || {
                let mut first = vec![0; 1 << 16];
                let length = (&client).read(&mut first).unwrap_or_default();
                if length == 0 {
                    return;
                }
                if first.starts_with(b"POST ") {
                    came.send(()).unwrap();
                    let_go.recv_timeout(DEADLINE).unwrap();
                }
                let own = client.local_addr().unwrap().to_string();
                let text = String::from_utf8_lossy(&first[..length]).replace(&own, daemon);
                (&there).write_all(text.as_bytes()).unwrap();
                let _ = io::copy(&mut &client, &mut &there);
            });
        }
    });
}

#[test]
fn ctrl_c_while_the_run_is_being_made_cancels_it() {
    let bench = Bench::stub(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let daemon = authority(bench.daemon.base()).to_owned();
    let (came, posts) = bounded(0);
    let (go, let_go) = bounded(2);
    thread::Builder::new()
        .name("between".into())
        .spawn(move || hold_posts(&listener, &daemon, &came, &let_go))
        .unwrap();
    let following = Following::at(&base, &["hang:"]);
    posts.recv_timeout(DEADLINE).expect("the run's POST");
    following.process.signal(Signal::INT);
    go.send(()).unwrap();
    posts.recv_timeout(DEADLINE).expect("the POST that cancels it");
    until("the run", DEADLINE, || (only_run(&bench)["status"] == "running").then_some(()));
    go.send(()).unwrap();
    let (code, stderr) = following.end();
    assert_eq!((code, after_the_id(&stderr)), (Some(1), "codexd: The run was cancelled.\n"));
    assert_failed(&only_run(&bench), "CODEX_EXEC_CANCELLED");
}

#[test]
fn lines_that_cannot_be_written_are_the_end_of_the_run() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    #[cfg(target_os = "linux")]
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let outputs: &[(&dyn Fn() -> Stdio, &str)] = &[
        (&closed, ""),
        #[cfg(target_os = "linux")]
        (&full, "codexd: cannot write to standard output: No space left on device (os error 28)\n"),
    ];
    for (output, complaint) in outputs {
        let bench = Bench::stub(&[]);
        let ran: Ran =
            prepared(bench.daemon.base(), &["hang:", "--json"]).stdout(output()).output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.as_str()), (1, *complaint));
        let id = only_run(&bench)["runId"].as_str().unwrap().to_owned();
        assert_failed(&bench.wait_end(&id), "CODEX_EXEC_CANCELLED");
    }
}

#[test]
fn the_end_of_the_daemon_is_the_end_of_the_run() {
    let mut bench = Bench::stub(&[]);
    let following = Following::start(&bench.daemon, &["hang:"]);
    bench.stream.wait_for_type("run.started");
    bench.daemon.stop();
    let (code, said) = following.end();
    assert_eq!((code, after_the_id(&said)), (Some(1), "codexd: codexd stopped before the run ended.\n"));
}

#[test]
fn a_daemon_that_comes_back_is_asked_again() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut bench = Bench::stub(&["--local-api-base", &format!("http://127.0.0.1:{port}")]);
    let following = Following::start(&bench.daemon, &["hang:", "--json"]);
    bench.stream.wait_for_type("run.output");
    bench.daemon.kill();
    bench.daemon.restart();
    assert_eq!(following.end(), (Some(1), "codexd: codexd was cut off before the run ended.\n".to_owned()));
}
