//! Every way in which a child misbehaves has an outcome: no request outlives its deadline, no memory grows without
//! bound, and the daemon has a working child again or says why not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::Client;
use crate::conversation::{
    child, ended, look, on_script, on_stub, peak_memory, post_turn, rounds, session, talk, turn, until,
};
use crate::daemon::Daemon;

/// Answers `initialize`, reads `initialized`, and goes on with `$1`.
pub(crate) const SHAKES_HANDS: &str =
    r#"read line; echo '{"id":1,"result":{"userAgent":"sh"}}'; read line; "#;

/// The child runs in a later life than `generation`.
fn next_life(client: &Client, generation: u64) -> Value {
    until("the child's next life", DEADLINE, || {
        let child = child(client);
        (child["generation"].as_u64() > Some(generation) && child["status"] == "running").then_some(child)
    })
}

#[test]
fn an_unanswered_initialize_times_out_and_the_child_is_started_again() {
    let timeout = ["--app-server-timeout-ms", "400"];
    let mut daemon = on_stub(&timeout).0.env("CODEXD_STUB", "mute-initialize").start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let asked = Instant::now();
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!((answer.status, answer.json()["error"].as_str()), (504, Some("timeout")), "{}", answer.text());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(stream.wait_for_type("app-server.connect.failed")["level"], "error");
    let error = stream.wait_for_type("child.error");
    assert!(error["message"].as_str().unwrap().contains("did not answer initialize"), "{error}");
    stream.wait_for_type("child.restarted");
    let child = next_life(&client, 1);
    assert!(child["lastError"].as_str().unwrap().contains("did not answer initialize"), "{child}");
    daemon.stop();
}

#[test]
fn callers_of_a_mute_child_wait_together_and_no_longer_than_the_deadline() {
    let mut daemon =
        on_stub(&["--app-server-timeout-ms", "1000"]).0.env("CODEXD_STUB", "mute-initialize").start();
    let client = daemon.client();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let ask = || {
                let asked = Instant::now();
                let answer = client.post("/v1/codexd/sessions", &json!({}));
                assert!([503, 504].contains(&answer.status), "{}", answer.text());
                // The deadline of the call, and the 5 s that a request waits for a child that is away.
                assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
            };
            std::thread::Builder::new().name(format!("ask-{number}")).spawn_scoped(scope, ask).unwrap();
        }
    });
    daemon.stop();
}

#[test]
fn a_child_that_ignores_sigterm_is_killed_after_the_stop_timeout() {
    let (builder, _threads) = on_stub(&["--stop-timeout-ms", "300"]);
    let mut daemon = builder.env("CODEXD_STUB", "ignore-sigterm,ignore-eof").start();
    let stream = daemon.stream();
    session(&daemon.client(), &json!({}));
    let asked = Instant::now();
    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
    let exited = stream.wait_for_type("child.exited");
    assert_eq!((&exited["detail"]["signal"], &exited["level"]), (&json!("SIGKILL"), &json!("info")));
}

#[test]
fn a_child_that_closes_its_input_is_started_again() {
    let script = format!("{SHAKES_HANDS} exec 0<&-; exec sleep 600");
    let mut daemon = on_script(&script, &["--app-server-timeout-ms", "1000"]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    // What was written before the pipe was closed is lost without a word; the next line is not.
    let first = client.post("/v1/codexd/sessions", &json!({}));
    assert!([503, 504].contains(&first.status), "{}", first.text());
    let asked = Instant::now();
    if first.status == 504 {
        let answer = client.post("/v1/codexd/sessions", &json!({}));
        assert_eq!(answer.json()["error"], "unavailable", "{}", answer.text());
    }
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    let error = stream.wait_for_type("child.error");
    assert!(error["message"].as_str().unwrap().contains("takes no more input"), "{error}");
    stream.wait_for_type("app-server.transport.closed");
    next_life(&client, 1);
    daemon.stop();
}

#[test]
fn a_child_that_closes_its_output_is_started_again() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.env("CODEXD_STUB", "close-stdout,ignore-sigterm").start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert!([502, 503].contains(&answer.status), "{}", answer.text());
    let closed = stream.wait_for_type("app-server.transport.closed");
    assert_eq!(closed["detail"]["source"], "stdout.end");
    let error = stream.wait_for_type("child.error");
    assert!(error["message"].as_str().unwrap().contains("closed its standard output"), "{error}");
    next_life(&client, 1);
    daemon.stop();
}

#[test]
fn garbage_is_told_and_passed_over() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    for text in [
        "not json at all",
        "{\"id\":",
        "[1,2,3]",
        "\"text\"",
        "{\"neither\":1}",
        "{\"id\":99999,\"result\":{}}",
    ] {
        talk(&client, &stream, &id, &format!("garbage: {text}"));
    }
    let unreadable: Vec<Value> = stream
        .events()
        .into_iter()
        .filter(|event| event["type"] == "app-server.message.unreadable")
        .collect();
    assert!(unreadable.len() >= 4, "{unreadable:?}");
    assert_eq!(child(&client)["generation"], 1, "it is the same life");
    daemon.stop();
}

#[test]
fn a_flood_of_garbage_costs_no_memory_and_ends_with_its_child() {
    // 40 MB without a newline to be found, then lines without meaning, as fast as the pipe takes them.
    let script = format!(
        "{SHAKES_HANDS} head -c 40000000 /dev/zero | tr '\\0' 'x'; echo; yes '{{\"broken\"' | head -n 20000; exec sleep 600"
    );
    let flags = ["--max-line-bytes", "1000000", "--app-server-timeout-ms", "2000"];
    let mut daemon = on_script(&script, &flags).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let asked = Instant::now();
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 504);
    assert!(asked.elapsed() < Duration::from_secs(10));
    let long = stream.wait_for(|event| event["detail"]["bytes"] == 40_000_000, DEADLINE);
    assert!(long["detail"]["reason"].as_str().unwrap().contains("--max-line-bytes"), "{long}");
    let lines = |event: &Value| event["detail"]["bytes"] == 9;
    until("every line", DEADLINE, || {
        (stream.events().iter().filter(|event| lines(event)).count() == 20_000).then_some(())
    });
    assert_eq!(client.get("/healthz").status, 200);
    if let Some(peak) = peak_memory(daemon.pid()) {
        assert!(peak < 60_000_000, "{peak} bytes");
    }
    daemon.stop();
}

#[test]
fn a_line_of_20_mb_is_an_event_like_any_other() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    let big = turn(&client, &id, "big: 20000000");
    assert_eq!(ended(&stream, &big), "completed");
    let delta = stream.wait_for_type("app-server.turn.message.delta");
    assert_eq!(delta["detail"]["delta"].as_str().map(str::len), Some(20_000_000));
    talk(&client, &stream, &id, "say 1 words");
    if let Some(peak) = peak_memory(daemon.pid()) {
        // The stub says it four times over: delta, item, and the turn's items. Each is in the cache of recent events.
        assert!(peak < 330_000_000, "{peak} bytes");
        report(&format!("20 MB lines: peak {} MB", peak / 1_000_000));
    }
    daemon.stop();
}

/// A figure for whoever runs this.
fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "MEASURED {line}");
}

/// The seqs of the events that are to be at hand: the end of the log, of 50 events and 16 MiB at most.
fn at_hand(daemon: &Daemon) -> Vec<u64> {
    let text = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    let mut bytes = 0;
    let newest_first = text.lines().rev().take(50).take_while(|line| {
        bytes += line.len();
        bytes <= 16 * 1024 * 1024
    });
    let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    let mut seqs: Vec<u64> = newest_first.map(seq).collect();
    seqs.reverse();
    seqs
}

#[test]
fn of_events_of_megabytes_only_so_many_are_at_hand_as_fit() {
    let seqs = |events: &Value| -> Vec<u64> {
        events.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let greets_with_the_end = |daemon: &Daemon| {
        until("the log's end in the hello", DEADLINE, || {
            let hello = daemon.stream().hello();
            let shown = seqs(&hello["recentEvents"]);
            assert_eq!(shown, seqs(&hello["snapshot"]["recentEvents"]["events"]));
            (shown == at_hand(daemon)).then_some(())
        });
    };
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    // Some fit, fewer than there are, none.
    for bytes in [5_000_000, 5_000_000, 17_000_000] {
        talk(&client, &stream, &id, &format!("big: {bytes}"));
        greets_with_the_end(&daemon);
    }
    drop(stream);
    daemon.stop();
    let file = daemon.state("recent-events.json");
    assert!(file.metadata().unwrap().len() < 18_000_000);
    assert_eq!(seqs(&daemon.state_json("recent-events.json")["events"]), at_hand(&daemon));
    daemon.restart();
    greets_with_the_end(&daemon);
    daemon.stop();
}

#[test]
fn half_a_line_before_the_end_is_told() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    let cut = turn(&client, &id, "half: {\"method\":\"thread/sta");
    let closed = stream.wait_for_type("app-server.transport.closed");
    assert_eq!(closed["detail"]["flushedTrailingMessage"], false);
    assert_eq!(closed["detail"]["trailingMessageLength"], 21);
    let missing = stream.wait_for_type("app-server.turn.completed.missing");
    assert_eq!(missing["detail"]["turnId"], *cut);
    stream.wait_for_type("session.recovered");
    talk(&client, &stream, &id, "say 1 words");

    // Without its newline a last message is still a message.
    let whole = r#"{"method":"some/thing","params":{"n":1}}"#;
    turn(&client, &id, &format!("half: {whole}"));
    let flushed = stream.wait_for(|event| event["detail"]["flushedTrailingMessage"] == true, DEADLINE);
    assert_eq!(flushed["detail"]["trailingMessageLength"], whole.len());
    stream.wait_for(|event| event["detail"]["notificationMethod"] == "some/thing", DEADLINE);
    daemon.stop();
}

#[test]
fn calls_that_are_not_answered_keep_nothing_else_waiting() {
    let script = format!("{SHAKES_HANDS} while read line; do echo x >>asked; done");
    let mut daemon = on_script(&script, &["--app-server-timeout-ms", "60000"]).start();
    std::thread::scope(|scope| {
        let call = |client: Client| client.post("/v1/codexd/sessions", &json!({})).status;
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let client = daemon.client();
                scope.spawn(move || call(client))
            })
            .collect();
        let asked = daemon.repo().join("asked");
        until("as many calls as there are handlers for", DEADLINE, || {
            (std::fs::read_to_string(&asked).unwrap_or_default().lines().count() == 16).then_some(())
        });
        let client = daemon.client();
        let run = client.post("/v1/codexd/runs", &json!({ "prompt": "x" }));
        assert_eq!(run.status, 202, "{}", run.text());
        let id = run.json()["data"]["run"]["runId"].take();
        let cancelled = client.post(&format!("/v1/codexd/runs/{}/cancel", id.as_str().unwrap()), &json!({}));
        assert!([200, 202].contains(&cancelled.status), "{}", cancelled.text());
        assert_eq!(client.get("/metrics").status, 200);
        let answer = json!({ "decision": "accept" });
        assert_eq!(client.post("/v1/codexd/requests/none/answer", &answer).status, 404);
        assert!(calls.iter().all(|call| !call.is_finished()), "the calls still wait");
        daemon.stop();
        for call in calls {
            assert_eq!(call.join().unwrap(), 503);
        }
    });
}

#[test]
fn a_child_that_ends_in_its_first_lives_is_waited_for() {
    // Reads what it is asked first, so that whoever asked has got to the handshake by then.
    let stub = env!("CARGO_BIN_EXE_codexd");
    let script = format!(
        r#"echo x >>lives; if [ "$(wc -l <lives)" -lt 3 ]; then read line; exit 3; fi; exec {stub} stub-app-server"#
    );
    let mut daemon = on_script(&script, &[]).start();
    let answer = daemon.client().post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 201, "{}", answer.text());
    daemon.stop();
    let failed = |event: &&Value| event["type"] == "app-server.connect.failed";
    assert!(daemon.log_events().iter().filter(failed).count() >= 2, "the first lives were asked");
}

#[test]
fn half_a_line_and_nothing_more_hangs_nobody() {
    let script = format!("{SHAKES_HANDS} printf '{{\"id\":2,\"res'; exec sleep 600");
    let mut daemon = on_script(&script, &["--app-server-timeout-ms", "300"]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    // Three calls without a word from it, and it is given up.
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 504);
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    let error = stream.wait_for_type("child.error");
    assert!(error["message"].as_str().unwrap().contains("answers nothing any more"), "{error}");
    next_life(&client, 1);
    daemon.stop();
}

#[test]
fn a_flood_on_stderr_holds_up_nobody() {
    let (builder, _threads) = on_stub(&["--event-cache-size", "1"]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    drop(stream);
    let id = session(&client, &json!({}));
    let lines = rounds(100_000, 1_000_000);
    turn(
        &client,
        &id,
        &format!("stderr: {lines} some text that is long enough to look like a line of a log file"),
    );
    let mut slowest = Duration::ZERO;
    let second = session(&client, &json!({}));
    for _ in 0..10 {
        let asked = Instant::now();
        assert_eq!(post_turn(&client, &second, "say 1 words").status, 202);
        assert_eq!(client.get("/v1/codexd/status").status, 200);
        slowest = slowest.max(asked.elapsed());
    }
    until("its end", DEADLINE * 4, || look(&client, &id)["currentTurnId"].is_null().then_some(()));
    if let Some(peak) = peak_memory(daemon.pid()) {
        report(&format!(
            "{lines} lines on stderr: slowest turn and status {slowest:?}, peak {} MB",
            peak / 1_000_000
        ));
        assert!(peak < 80_000_000, "{peak} bytes");
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    daemon.stop();
}

#[test]
fn a_child_that_reads_nothing_is_given_up() {
    let (builder, _threads) = on_stub(&["--app-server-timeout-ms", "500", "--event-cache-size", "1"]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    talk(&client, &stream, &id, "deaf:");
    // A megabyte each, far more than its pipe holds: they wait here, and only for the deadline.
    let long = "x".repeat(1_000_000);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (client, id, long) = (&client, &id, &long);
            let ask = move || {
                let asked = Instant::now();
                let answer = post_turn(client, id, long);
                assert!([202, 503, 504].contains(&answer.status), "{}", answer.text());
                assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
            };
            std::thread::Builder::new().name(format!("ask-{number}")).spawn_scoped(scope, ask).unwrap();
        }
    });
    let error = stream.wait_for_type("child.error");
    assert!(error["message"].as_str().unwrap().contains("answers nothing any more"), "{error}");
    next_life(&client, 1);
    stream.wait_for_type("session.recovered");
    talk(&client, &stream, &id, "say 1 words");
    if let Some(peak) = peak_memory(daemon.pid()) {
        assert!(peak < 200_000_000, "{peak} bytes");
    }
    daemon.stop();
}

#[test]
fn overload_is_retried_until_it_is_over() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.env("CODEXD_STUB", "overload=3").start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    daemon.stop();

    let mut daemon = daemon
        .again()
        .env("CODEXD_STUB", "overload=1000")
        .flags(&["--app-server-timeout-ms", "2500"])
        .start();
    let asked = Instant::now();
    let answer = daemon.client().post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("-32001"), "{}", answer.text());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    daemon.stop();
}
