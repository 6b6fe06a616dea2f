//! A start that has gone half its way and fails: nothing hangs and nothing is left.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::log::wait_until;

/// More than a daemon starts before it serves its first requests.
const THREADS: usize = 40;

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn whichever_thread_cannot_be_started() {
    let (mut not_started, mut refused, mut no_worker) = (0, 0, 0);
    for number in 1..=THREADS {
        let fault = format!("fail:thread.start:{number}");
        match Daemon::builder().env("CODEXD_FAULT", &fault).try_start() {
            Err(ended) => {
                assert_eq!(ended.status.code(), Some(1), "{fault}: {ended:?}");
                assert!(ended.stderr.contains("Input/output error"), "{fault}: {}", ended.stderr);
                not_started += 1;
            }
            Ok(mut daemon) => {
                let client = daemon.client();
                let answers =
                    [client.get("/v1/codexd/status"), client.post("/v1/codexd/sessions", &json!({}))];
                for answer in answers {
                    let served = matches!(answer.status, 200 | 201);
                    assert!(served || answer.status == 503, "{fault}: {}", answer.text());
                    refused += usize::from(!served);
                }
                let run = client.post("/v1/codexd/runs", &json!({ "prompt": "x" }));
                if run.status == 202 {
                    // What is acknowledged comes to an end, also where nobody can be asked for it any more.
                    wait_until("the run's end", || {
                        let ends = ["run.completed", "run.failed"].map(Value::from);
                        daemon.log_events().iter().any(|event| ends.contains(&event["type"]))
                    });
                } else {
                    assert_eq!(run.status, 503, "{fault}: {}", run.text());
                    no_worker += usize::from(run.text().contains("no thread can be started for the run"));
                }
                assert!(daemon.stop().status.success(), "{fault}");
            }
        }
    }
    println!("{not_started} starts failed, {refused} requests were refused, {no_worker} runs had no worker");
    assert!(not_started > 5 && refused > 2 && no_worker > 0, "{not_started} {refused} {no_worker}");
}

#[test]
fn what_stands_where_a_folder_is_to_be() {
    let mut daemon = Daemon::builder().start();
    daemon.stop();
    let folder = daemon.state("run-tmp");
    std::fs::remove_dir(&folder).unwrap();
    std::fs::File::create(&folder).unwrap();
    let ended = daemon.again().try_start().err().expect("no start");
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!("codexd: cannot empty {}: Not a directory", folder.display());
    assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_panic_of_the_main_thread_is_told_and_a_fault_of_codexd_itself() {
    // Before the first of the threads that others start.
    for number in [2, 4, 6] {
        let fault = format!("panic:thread.start:{number}");
        let ended = Daemon::builder().env("CODEXD_FAULT", &fault).try_start().err().expect("no start");
        assert_eq!(ended.status.code(), Some(70), "{fault}: {ended:?}");
        for told in ["thread main panicked at src/fault.rs", "codexd cannot go on and ends"] {
            assert!(ended.stderr.contains(told), "{fault}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_folder_for_temporary_files_that_is_not_there_is_named_with_what_names_it() {
    let ended = Daemon::builder().env("TMPDIR", "/nowhere/tmp").try_start().err().expect("no start");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("/nowhere/tmp/codexd-"), "{}", ended.stderr);
    assert!(ended.stderr.contains("; TMPDIR says where temporary files go"), "{}", ended.stderr);
}
