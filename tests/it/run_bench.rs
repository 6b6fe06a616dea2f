//! A daemon for tests of one-shot runs, with the stand-in or the real Codex behind them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::DEADLINE;
use crate::cli_support::fixture;
use crate::client::{Answer, Stream};
use crate::daemon::{Builder, Daemon};
use crate::processes;

pub(crate) const RUNS: &str = "/v1/codexd/runs";

/// The variable by which the tests find what a run started.
const TAG: &str = "RUN_TEST_TAG";

/// Does as the stand-in, after what the run's environment says.
const STAND_IN: &str = "#!/bin/sh\n[ -z \"$RUN_TEST_SCRIPT\" ] || eval \"$RUN_TEST_SCRIPT\"\n";

/// A daemon, a stream on it from the beginning, and the folder with its `codex`.
pub(crate) struct Bench {
    pub(crate) daemon: Daemon,
    pub(crate) stream: Stream,
    _codex: TempDir,
}

impl Bench {
    /// A daemon whose `codex` on the PATH is the stand-in.
    pub(crate) fn stub(flags: &[&str]) -> Bench {
        let codex = folder();
        let program = env!("CARGO_BIN_EXE_codexd");
        let script = format!("{STAND_IN}exec '{program}' stub-exec \"$@\"\n");
        processes::write_program(&codex.path().join("codex"), &script);
        Bench::start(Daemon::builder().flags(flags), codex)
    }

    /// A daemon whose `codex` on the PATH is this program.
    pub(crate) fn real(codex: &Path, builder: Builder) -> Bench {
        let folder = folder();
        std::os::unix::fs::symlink(codex, folder.path().join("codex")).unwrap();
        Bench::start(builder, folder)
    }

    fn start(builder: Builder, codex: TempDir) -> Bench {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", codex.path().display());
        let daemon = builder.env("PATH", &path).start();
        let stream = daemon.stream();
        stream.hello();
        Bench { daemon, stream, _codex: codex }
    }

    /// POST of a run.
    pub(crate) fn post(&self, body: &Value) -> Answer {
        self.daemon.client().post(RUNS, body)
    }

    /// POST with an idempotency key.
    pub(crate) fn post_with_key(&self, key: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.daemon.client().request("POST", RUNS, &headers, body.to_string().as_bytes())
    }

    /// An accepted run's id.
    pub(crate) fn begin(&self, body: &Value) -> String {
        let answer = self.post(body);
        assert_eq!(answer.status, 202, "{body}: {}", answer.text());
        id(&answer)
    }

    /// The record now.
    pub(crate) fn get(&self, id: &str) -> Value {
        let answer = self.daemon.client().get(&format!("{RUNS}/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["run"].take()
    }

    /// POST to cancel it.
    pub(crate) fn cancel(&self, id: &str) -> Answer {
        self.daemon.client().post(&format!("{RUNS}/{id}/cancel"), &json!({}))
    }

    /// Waits for that event of the run.
    pub(crate) fn wait_event(&self, id: &str, kind: &str) -> Value {
        self.stream.wait_for(|event| event["type"] == kind && event["detail"]["runId"] == id, DEADLINE)
    }

    /// The record at the run's end, which is the event's and the API's alike.
    pub(crate) fn wait_end(&self, id: &str) -> Value {
        let mut event = self.stream.wait_for(
            |event| {
                event["detail"]["runId"] == id
                    && (event["type"] == "run.completed" || event["type"] == "run.failed")
            },
            4 * DEADLINE,
        );
        let record = self.get(id);
        assert_eq!(event["detail"]["record"].take(), record);
        record
    }

    /// A run from its acceptance to its end.
    pub(crate) fn run(&self, body: &Value) -> Value {
        self.wait_end(&self.begin(body))
    }

    /// A run that fails with this code.
    pub(crate) fn run_fails(&self, body: &Value, code: &str) -> Value {
        let record = self.run(body);
        assert_failed(&record, code);
        record
    }

    /// Asserts that the runs have left no temporary file.
    pub(crate) fn assert_nothing_temporary(&self) {
        let folder = self.daemon.state("run-tmp");
        let left: Vec<PathBuf> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// In the order of the log: `(type, runId)` of the runs' events, outputs left out.
    pub(crate) fn logged(&self) -> Vec<(String, String)> {
        let of_runs = self.daemon.log_events().into_iter().filter(|event| {
            event["type"].as_str().is_some_and(|kind| kind.starts_with("run.") && kind != "run.output")
        });
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        of_runs.map(|event| (text(&event["type"]), text(&event["detail"]["runId"]))).collect()
    }
}

/// The id in an answer.
pub(crate) fn id(answer: &Answer) -> String {
    answer.json()["data"]["run"]["runId"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

/// Asserts the outcome of a failed run.
pub(crate) fn assert_failed(record: &Value, code: &str) {
    assert_eq!(
        (&record["status"], &record["result"]["error"]["code"]),
        (&json!("failed"), &json!(code)),
        "{record:#}"
    );
    assert_eq!(record["result"]["ok"], false);
    assert_eq!(record["error"], record["result"]["error"]["message"]);
    assert_eq!(record["summary"], record["error"]);
    let retryable = ["CODEX_EXEC_TIMEOUT", "CODEX_EXEC_INTERRUPTED"].contains(&code);
    assert_eq!(record["result"]["error"]["retryable"], retryable);
    assert!(record["finishedAt"].is_string());
}

/// A run's body with a script for the stand-in, and with a tag by which its processes are found.
pub(crate) fn scripted(tag: &str, script: &str, prompt: &str) -> Value {
    json!({ "prompt": prompt, "env": { TAG: own(tag), "RUN_TEST_SCRIPT": script } })
}

/// What runs with that tag.
pub(crate) fn tagged(tag: &str) -> Vec<(u32, String)> {
    processes::carrying(TAG, &own(tag))
}

/// Another run of the tests on this host has others.
fn own(tag: &str) -> String {
    format!("{tag}-{}", std::process::id())
}

/// Every field of `golden` is in `now`, with its type; fields in `same` have its value.
pub(crate) fn assert_covers(golden: &Value, now: &Value, same: &BTreeSet<&str>) {
    fn walk(path: &str, golden: &Value, now: &Value, same: &BTreeSet<&str>, found: &mut Vec<String>) {
        let name = path.rsplit('.').next().unwrap_or(path);
        match (golden, now) {
            (Value::Object(golden), Value::Object(now)) => {
                for (name, golden) in golden {
                    match now.get(name) {
                        Some(now) => walk(&format!("{path}.{name}"), golden, now, same, found),
                        None => found.push(format!("{path}.{name} is missing")),
                    }
                }
            }
            _ if std::mem::discriminant(golden) != std::mem::discriminant(now) => {
                found.push(format!("{path}: {golden} has become {now}"));
            }
            _ if same.contains(name) && golden != now => {
                found.push(format!("{path}: {golden} has become {now}"));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk("", golden, now, same, &mut found);
    assert!(found.is_empty(), "{found:#?}\nin {now:#}");
}

/// The recorded run of the older implementation, asked of this daemon: all its answers and files have their shape.
pub(crate) fn assert_golden(bench: &Bench) {
    let golden = |name: &str| serde_json::from_str::<Value>(&fixture(name)).unwrap();
    let same: BTreeSet<&str> = [
        "ok",
        "sessionId",
        "status",
        "adapter",
        "prompt",
        "purpose",
        "error",
        "command",
        "timeoutMs",
        "color",
        "json",
        "ephemeral",
        "skipGitRepoCheck",
        "sandbox",
        "config",
        "additionalWritableDirectories",
        "images",
        "exitCode",
        "jsonEvents",
        "jsonParseErrors",
        "lastMessage",
        "signal",
        "timedOut",
        "summary",
        "metadata",
    ]
    .into();
    let cwd = bench.daemon.repo().display().to_string();
    let body =
        json!({ "prompt": "Inspect repo", "cwd": cwd, "sandbox": "read-only", "skipGitRepoCheck": true });
    let answer = bench.post(&body);
    assert_eq!(answer.status, 202);
    assert_covers(&golden("http-post-runs-202.json"), &answer.json(), &same);

    bench.wait_end(&id(&answer));
    let one = bench.daemon.client().get(&format!("{RUNS}/{}", id(&answer)));
    assert_covers(&golden("http-get-run-200.json"), &one.json(), &same);
    let all = bench.daemon.client().get(RUNS);
    assert_covers(
        &golden("http-get-runs-200.json")["data"]["runs"][0],
        &all.json()["data"]["runs"][0],
        &same,
    );

    // Corrected: `--` before the prompt, always.
    let recorded = golden("http-get-run-200.json");
    let mut args = recorded["data"]["run"]["result"]["invocation"]["args"].as_array().unwrap().clone();
    args[2] = json!(cwd);
    args.insert(args.len() - 1, json!("--"));
    let invocation = &one.json()["data"]["run"]["result"]["invocation"];
    assert_eq!(invocation["args"], json!(args));
    assert_eq!((&invocation["cwd"], &one.json()["data"]["run"]["cwd"]), (&json!(cwd), &json!(cwd)));
}

/// The same after the daemon's stop: the file.
pub(crate) fn assert_golden_file(daemon: &Daemon) {
    let golden: Value = serde_json::from_str(&fixture("file-run-registry.json")).unwrap();
    let file = daemon.state_json("run-registry.json");
    assert_covers(&json!({ "updatedAt": golden["updatedAt"] }), &file, &BTreeSet::new());
    assert_covers(&golden["runs"][0], &file["runs"][0], &["status", "summary", "lastMessage"].into());
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("codex-bin-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
