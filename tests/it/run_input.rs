//! What may be asked of runs, how often, and how many at once.

use std::thread;

use serde_json::{Value, json};

use crate::client::Answer;
use crate::run_bench::{Bench, RUNS, id};

/// Asserts a refusal, with that field in its message.
fn assert_refused(answer: &Answer, status: u16, error: &str, field: &str) {
    let body = answer.json();
    assert_eq!((answer.status, &body["error"]), (status, &json!(error)), "{field}: {}", answer.text());
    assert!(body["message"].as_str().unwrap().contains(field), "{field}: {}", answer.text());
}

fn runs(bench: &Bench) -> usize {
    bench.daemon.client().get(RUNS).json()["data"]["runs"].as_array().unwrap().len()
}

#[test]
fn what_is_wrong_is_named_before_anything_is_accepted() {
    let bench = Bench::stub(&[]);
    let texts = ["prompt", "purpose", "sessionId", "cwd", "model", "profile", "sandbox"];
    let lists = ["config", "additionalWritableDirectories", "images"];
    let flags = ["skipGitRepoCheck", "json", "ephemeral"];
    let mut wrong: Vec<(&str, Value)> = Vec::new();
    for name in texts {
        wrong.extend([json!(7), json!(true), json!(["x"]), json!({})].map(|value| (name, value)));
    }
    for name in lists {
        wrong.extend(
            [json!(7), json!("x"), json!({}), json!([7]), json!(["x", null])].map(|value| (name, value)),
        );
    }
    for name in flags {
        wrong.extend([json!(1), json!("true"), json!([]), json!({})].map(|value| (name, value)));
    }
    for value in [json!(0), json!(-1), json!(1.5), json!("5"), json!(true), json!([5]), json!(1e300)] {
        wrong.push(("timeoutMs", value));
    }
    for value in
        [json!(7), json!("x"), json!([]), json!({ "A": 1 }), json!({ "A": true }), json!({ "A": ["x"] })]
    {
        wrong.push(("env", value.clone()));
        wrong.push(("metadata", value));
    }
    wrong.extend(
        [json!({ "": "x" }), json!({ "A=B": "x" }), json!({ "=": null })].map(|value| ("env", value)),
    );
    wrong.extend([json!("x"), json!([]), json!(true)].map(|value| ("outputSchema", value)));
    wrong.extend(
        [json!(""), json!("  \n"), json!(null), json!("-"), json!(" - ")].map(|value| ("prompt", value)),
    );
    wrong.extend([json!("duplex"), json!("Smoke")].map(|value| ("purpose", value)));
    wrong.extend([json!("none"), json!("read_only")].map(|value| ("sandbox", value)));
    for name in texts {
        wrong.push((name, json!("a\0b")));
    }
    for name in lists {
        wrong.push((name, json!(["fine", "a\0b"])));
    }
    for name in ["env", "metadata"] {
        wrong.push((name, json!({ "A": "a\0b" })));
        wrong.push((name, json!({ "A\0": "b" })));
    }
    assert!(wrong.len() > 90);
    for (name, value) in wrong {
        let mut body = json!({ "prompt": "hi" });
        body[name] = value;
        assert_refused(&bench.post(&body), 400, "bad_request", &format!("`{name}`"));
    }
    assert_refused(&bench.post(&json!({})), 400, "bad_request", "`prompt`");
    assert_refused(
        &bench.post(&json!({ "prompt": "hi", "sessionId": "session-x" })),
        404,
        "not_found",
        "session-x",
    );
    assert_refused(&bench.daemon.client().get(&format!("{RUNS}/run-x")), 404, "not_found", "run-x");
    assert_refused(&bench.cancel("run-x"), 404, "not_found", "run-x");
    assert_eq!(runs(&bench), 0);
    assert!(bench.logged().is_empty());
}

#[test]
fn what_is_right_reaches_codex_trimmed_and_in_order() {
    let bench = Bench::stub(&[]);
    let session = bench.daemon.client().post("/v1/codexd/sessions", &json!({}));
    let session = session.json()["data"]["session"]["sessionId"].clone();
    let record = bench.run(&json!({
        "prompt": "  --hi\n", "purpose": "smoke", "sessionId": session, "cwd": " . ", "model": " m ", "profile": "p",
        "sandbox": "workspace-write", "skipGitRepoCheck": true, "json": false, "ephemeral": true,
        "config": [" a=1 ", "", "b=2"], "additionalWritableDirectories": ["/d"], "images": ["/i.png"],
        "outputSchema": { "type": "object" }, "timeoutMs": u64::MAX, "metadata": { " k ": " v ", "x": " " },
        "unknown": [], "env": {},
    }));
    assert_eq!(record["status"], "completed", "{record:#}");
    assert_eq!((&record["prompt"], &record["sessionId"]), (&json!("--hi"), &session));
    assert_eq!((&record["metadata"], &record["summary"]), (&json!({ "k": "v" }), &json!("done: --hi")));
    let invocation = &record["result"]["invocation"];
    let args: Vec<&str> =
        invocation["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let cwd = invocation["cwd"].as_str().unwrap();
    let schema = args[args.len() - 3];
    assert!(schema.ends_with("/output-schema.json"), "{schema}");
    let expected = [
        "exec",
        "--cd",
        cwd,
        "--color",
        "never",
        "--model",
        "m",
        "--profile",
        "p",
        "--sandbox",
        "workspace-write",
        "--skip-git-repo-check",
        "--ephemeral",
        "--config",
        "a=1",
        "--config",
        "b=2",
        "--add-dir",
        "/d",
        "--image",
        "/i.png",
        "--output-schema",
        schema,
        "--",
        "--hi",
    ];
    assert_eq!(args, expected);
    assert_eq!(invocation["timeoutMs"], json!(u64::MAX));
    bench.assert_nothing_temporary();
}

#[test]
fn more_than_may_wait_are_refused_until_one_has_ended() {
    let bench = Bench::stub(&["--max-concurrent-runs", "1", "--max-queued-runs", "1"]);
    let running = bench.begin(&json!({ "prompt": "hang:" }));
    bench.wait_event(&running, "run.started");
    let waiting = bench.post_with_key("waiting", &json!({ "prompt": "hang:" }));
    assert_eq!(waiting.status, 202);
    let refused = bench.post(&json!({ "prompt": "hi" }));
    assert_refused(&refused, 429, "too_many_runs", "1 runs are running and 1 are waiting");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(
        bench.post_with_key("waiting", &json!({ "prompt": "hang:" })).status,
        200,
        "a repeat needs no place"
    );
    assert_eq!(runs(&bench), 2);

    assert_eq!(bench.cancel(&id(&waiting)).status, 202);
    let next = bench.begin(&json!({ "prompt": "hi" }));
    assert_eq!(bench.post(&json!({ "prompt": "hi" })).status, 429);
    assert_eq!(bench.cancel(&running).status, 202);
    assert_eq!(bench.wait_end(&next)["status"], "completed");
}

#[test]
fn the_same_key_is_the_same_run_also_after_a_restart() {
    let mut bench = Bench::stub(&[]);
    let body = json!({ "prompt": "hi" });
    let first = bench.post_with_key("key-1", &body);
    assert_eq!(first.status, 202);
    let run = id(&first);
    let record = bench.wait_end(&run);
    let again = bench.post_with_key(" key-1 ", &body);
    assert_eq!((again.status, &again.json()["data"]["run"]), (200, &record));
    let other = bench.post_with_key("key-1", &json!({ "prompt": "ho" }));
    assert_refused(&other, 422, "idempotency_mismatch", "another body");
    let second = bench.post_with_key("key-2", &body);
    assert_eq!((second.status, runs(&bench)), (202, 2));
    bench.wait_end(&id(&second));

    bench.daemon.restart();
    let again = bench.post_with_key("key-1", &body);
    assert_eq!((again.status, &again.json()["data"]["run"]), (200, &record));
    assert_eq!(bench.post_with_key("key-1", &json!({ "prompt": "ho" })).status, 422);
    bench.daemon.kill();
    bench.daemon.restart();
    assert_eq!(id(&bench.post_with_key("key-1", &body)), run);
    assert_eq!(runs(&bench), 2);

    for key in ["", " ", &"k".repeat(256)] {
        assert_refused(&bench.post_with_key(key, &body), 400, "bad_request", "Idempotency-Key");
    }
}

#[test]
fn the_list_of_runs_has_filters() {
    let bench = Bench::stub(&[]);
    let ids: Vec<String> = ["say 1 words", "fail: no luck", "say 2 words"]
        .map(|prompt| {
            let run = bench.begin(&json!({ "prompt": prompt }));
            bench.wait_end(&run);
            run
        })
        .into();
    let list = |query: &str| -> Vec<String> {
        let answer = bench.daemon.client().get(&format!("/v1/codexd/runs{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let runs = answer.json()["data"]["runs"].as_array().unwrap().clone();
        runs.iter().map(|run| run["runId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list(""), ids);
    assert_eq!(list("?foo=1&limit="), ids, "what is not known is passed over");
    assert_eq!(list("?status=failed"), ids[1..2]);
    assert_eq!(list("?limit=2"), ids[..2]);
    assert_eq!(list(&format!("?status=completed&after={}", ids[0])), ids[2..]);
    let wrong =
        ["status=open", "status=failed&status=failed", "status=%ff", "limit=0", "limit=%2B5", "after=run-x"];
    for wrong in wrong {
        let answer = bench.daemon.client().get(&format!("/v1/codexd/runs?{wrong}"));
        assert_refused(&answer, 400, "bad_request", wrong.split('=').next().unwrap());
    }
}

#[test]
fn of_many_with_one_key_at_once_one_becomes_a_run() {
    let bench = Bench::stub(&[]);
    for round in 0..10 {
        let key = format!("round-{round}");
        let answers: Vec<Answer> = thread::scope(|scope| {
            let ask = || bench.post_with_key(&key, &json!({ "prompt": "hi" }));
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let new = answers.iter().filter(|answer| answer.status == 202).count();
        let known = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!((new, known), (1, 7));
        assert!(answers.iter().all(|answer| id(answer) == id(&answers[0])));
        bench.wait_end(&id(&answers[0]));
    }
    assert_eq!(runs(&bench), 10);
}

#[test]
fn a_run_can_be_cancelled_as_soon_as_it_is_seen() {
    let bench = Bench::stub(&["--max-concurrent-runs", "2"]);
    let client = bench.daemon.client();
    thread::scope(|scope| {
        let posting =
            scope.spawn(|| (0..40).map(|_| bench.begin(&json!({ "prompt": "hang:" }))).collect::<Vec<_>>());
        let mut cancelled = 0;
        while cancelled < 40 {
            let list = client.get(RUNS).json()["data"]["runs"].take();
            for run in list.as_array().unwrap().iter().skip(cancelled) {
                assert_eq!(bench.cancel(run["runId"].as_str().unwrap()).status, 202);
                cancelled += 1;
            }
        }
        for run in posting.join().unwrap() {
            assert_eq!(bench.wait_end(&run)["result"]["error"]["code"], "CODEX_EXEC_CANCELLED");
        }
    });
}
