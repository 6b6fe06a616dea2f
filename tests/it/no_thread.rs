//! A system that has no more threads to give: whichever is the first to be refused, nothing hangs and nothing is left.

use serde_json::json;

use crate::daemon::Daemon;

/// More than a daemon starts before it serves its first requests.
const THREADS: usize = 40;

#[test]
fn whichever_thread_cannot_be_started() {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: only a debug build has faults on demand");
        return;
    }
    let (mut not_started, mut refused) = (0, 0);
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
                assert!(daemon.stop().status.success(), "{fault}");
            }
        }
    }
    println!("{not_started} starts failed, {refused} requests were refused");
    assert!(not_started > 5 && refused > 2, "{not_started} {refused}");
}
