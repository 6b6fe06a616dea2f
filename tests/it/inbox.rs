//! What Codex asks, seen and answered over REST, with the built-in app-server as Codex.

use std::thread;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::inbox_support::{Bench, text};

#[test]
fn a_request_is_a_record_in_the_log_before_it_is_announced() {
    let bench = Bench::stub();
    let (session, turn, request) = bench.asked(json!({}), "run: echo hi");
    let logged = bench.daemon.log_events();
    let logged: Vec<&Value> = logged.iter().filter(|event| event["type"] == "request.opened").collect();
    assert_eq!(logged.len(), 1);
    assert_eq!(logged[0]["level"], "warn");
    assert_eq!(logged[0]["detail"]["record"], request);
    assert_eq!(logged[0]["detail"]["params"], request["params"]);

    assert_eq!(request["method"], "item/commandExecution/requestApproval");
    assert_eq!((&request["kind"], &request["status"]), (&json!("command"), &json!("pending")));
    assert_eq!((&request["sessionId"], &request["turnId"]), (&json!(session), &json!(turn)));
    assert_eq!(request["params"]["command"], "/bin/bash -lc 'echo hi'");
    assert_eq!((&request["answer"], &request["appServerRequestId"]), (&Value::Null, &json!(0)));
    assert!(text(&request["requestId"]).starts_with("request-"));
    assert!(text(&request["deadline"]) > text(&request["createdAt"]));
    assert_eq!(bench.request(&request), request);
    assert_eq!(bench.requests(""), std::slice::from_ref(&request));
    assert_eq!(bench.requests("?status=pending"), std::slice::from_ref(&request));
    assert_eq!(bench.requests("?status=answered"), [] as [Value; 0]);

    let record = bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!((&record["status"], &record["answer"]), (&json!("answered"), &json!({"decision": "accept"})));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("ran: echo hi"), "{}", bench.said(&turn));
    assert_eq!(bench.request(&request), record);
    // Codex's own serverRequest/resolved changes nothing any more.
    assert_eq!(bench.types("request.", &request["requestId"]), ["request.opened", "request.answered"]);
    assert_eq!(bench.client.get("/v1/codexd/requests/request-x").status, 404);
    assert_eq!(bench.client.get("/v1/codexd/requests?status=new").status, 400);
}

#[test]
fn each_decision_does_what_it_says() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let decide = |prompt: &str, decision: Value| {
        let turn = bench.turn(&session, prompt);
        let record = bench.answered(&bench.opened(&turn), json!({ "decision": decision }));
        assert_eq!(record["answer"], json!({ "decision": decision }));
        (bench.ended(&turn), bench.said(&turn))
    };
    let (status, said) = decide("run: one", json!("decline"));
    assert!(status == "completed" && said.contains("rejected by user"), "{status} {said}");
    let (status, said) = decide("run: two", json!("cancel"));
    assert!(status == "interrupted" && said.is_empty(), "{status} {said}");
    let amendment = json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["three"]}});
    let (status, said) = decide("run: three", amendment);
    assert!(status == "completed" && said.contains("ran: three"), "{status} {said}");
    let (_, said) = decide("run: four", json!("acceptForSession"));
    assert!(said.contains("ran: four"), "{said}");
    let turn = bench.turn(&session, "run: four");
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.types("request.", &json!(turn)), [] as [&str; 0], "it asks no more for the same");
}

#[test]
fn a_file_change_shows_its_changes() {
    let bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "patch: f.txt hello");
    assert_eq!(request["kind"], "fileChange");
    assert_eq!(request["params"]["changes"][0]["diff"], "hello\n");
    assert!(text(&request["params"]["changes"][0]["path"]).ends_with("/f.txt"));
    let amendment = json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["x"]}});
    assert_eq!(bench.answer(&request, &json!({ "decision": amendment })).status, 400);
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("Success"), "{}", bench.said(&turn));
}

#[test]
fn permissions_questions_and_forms_have_answers_of_their_own() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    for (prompt, kind, answer, sent) in [
        (
            "perm: /srv/x",
            "permissions",
            json!({"decision": "acceptForSession"}),
            json!({"permissions": {"fileSystem": {"read": null, "write": ["/srv/x"], "entries": [
                {"path": {"type": "path", "path": "/srv/x"}, "access": "write"}]}}, "scope": "session"}),
        ),
        (
            "perm: /srv/x",
            "permissions",
            json!({"decision": "decline"}),
            json!({"permissions": {}, "scope": "turn"}),
        ),
        (
            "ask: Go on?",
            "userInput",
            json!({"answers": {"q1": "No"}}),
            json!({"answers": {"q1": {"answers": ["No"]}}}),
        ),
        (
            "elicit: Name?",
            "elicitation",
            json!({"answers": {"answer": "x"}}),
            json!({"action": "accept", "content": {"answer": "x"}}),
        ),
        (
            "elicit: Name?",
            "elicitation",
            json!({"decision": "cancel"}),
            json!({"action": "cancel", "content": null}),
        ),
        (
            "request: item/tool/call {\"threadId\":\"$THREAD\",\"turnId\":\"$TURN\",\"callId\":\"c\",\"tool\":\"t\"}",
            "toolCall",
            json!({"result": {"contentItems": [], "success": true}}),
            json!({"contentItems": [], "success": true}),
        ),
        (
            "ask: Go on?",
            "userInput",
            json!({"error": {"code": -7, "message": "nobody here"}}),
            json!({"error": {"code": -7, "message": "nobody here"}}),
        ),
    ] {
        let turn = bench.turn(&session, prompt);
        let request = bench.opened(&turn);
        assert_eq!((&request["kind"], &request["sessionId"]), (&json!(kind), &json!(session)), "{prompt}");
        let record = bench.answered(&request, answer);
        assert_eq!(record["answer"], sent, "{prompt}");
        assert_eq!(bench.ended(&turn), "completed", "{prompt}");
        // The stub's model repeats what it was told.
        let told =
            sent.get("error").map_or_else(|| sent.to_string(), |error| format!("request failed: {error}"));
        assert_eq!(bench.said(&turn), format!("done: {told}"), "{prompt}");
    }
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    let bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "run: echo hi");
    for (body, names) in [
        (json!({"decision": "approve"}), "acceptForSession"),
        (json!({"decision": "approve"}), "acceptWithExecpolicyAmendment"),
        (json!({"decision": 7}), "`decision`"),
        (json!({"decision": {"acceptWithExecpolicyAmendment": {}}}), "`decision`"),
        (json!({"answers": {"q1": "x"}}), "`decision`"),
        (json!({"result": 7}), "`result`"),
        (json!({"error": "no"}), "`error`"),
        (json!({}), "Exactly one"),
        (json!({"decision": "accept", "result": {}}), "Exactly one"),
    ] {
        let answer = bench.answer(&request, &body);
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("bad_request")), "{body}");
        assert!(text(&answer.json()["message"]).contains(names), "{body}: {}", answer.text());
    }
    assert_eq!(bench.answer(&json!({"requestId": "nope"}), &json!({"decision": "accept"})).status, 404);
    assert_eq!(bench.request(&request), request);
    bench.answered(&request, json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");
}

#[test]
fn of_twenty_clients_one_wins() {
    let bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "run: echo hi");
    let path = format!("/v1/codexd/requests/{}/answer", text(&request["requestId"]));
    let answers: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| {
                // Each its own answer, so that none is a repeat of another.
                let (client, path) = (bench.client.clone(), &path);
                let body = json!({"error": {"code": number, "message": "x"}});
                scope.spawn(move || client.post(path, &body))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1);
    let record = won[0].json()["data"]["request"].clone();
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(lost.status, 409, "{}", lost.text());
        assert_eq!(lost.json()["data"]["request"], record);
    }
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.types("request.", &request["requestId"]), ["request.opened", "request.answered"]);
    // The same answer again is as good as the first.
    assert_eq!(bench.answered(&request, record["answer"].clone()), record);
}

#[test]
fn who_comes_late_with_what_would_not_have_fitted_hears_that_it_was_answered() {
    let bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "ask: which?");
    let unfit = json!({"decision": "accept"});
    assert_eq!(bench.answer(&request, &unfit).status, 400);
    let record = bench.answered(&request, json!({"answers": {"q1": "this"}}));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.refused(&request, unfit), record);
}

#[test]
fn two_requests_wait_at_once() {
    let bench = Bench::stub();
    let (_, turn, first) = bench.asked(json!({}), "run2: one && two");
    let second = bench.event("request.opened", |detail| {
        detail["turnId"] == turn && detail["requestId"] != first["requestId"]
    })["detail"]["record"]
        .clone();
    assert_eq!(bench.requests("?status=pending&limit=1"), std::slice::from_ref(&first));
    let after = format!("?status=pending&after={}", text(&first["requestId"]));
    assert_eq!(bench.requests(&after), std::slice::from_ref(&second));
    bench.answered(&second, json!({"decision": "decline"}));
    assert_eq!(bench.requests("?status=pending"), std::slice::from_ref(&first));
    bench.answered(&first, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    let said = bench.said(&turn);
    assert!(said.contains("ran: one") && said.contains("rejected by user"), "{said}");
}

#[test]
fn nobody_answers_in_time() {
    let bench = Bench::with(Daemon::builder().flags(&["--request-timeout-ms", "60"]));
    let (_, turn, request) = bench.asked(json!({}), "run: echo hi");
    let record = bench.settled("request.expired", &request)["detail"]["record"].clone();
    assert_eq!((&record["status"], &record["answer"]), (&json!("expired"), &json!({"decision": "decline"})));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("rejected by user"));
    assert_eq!(bench.refused(&request, json!({"decision": "decline"})), record);
    assert_eq!(bench.requests("?status=expired"), [record]);

    // A session may take its time.
    let (_, turn, request) = bench.asked(json!({"requestTimeoutMs": 0}), "run: echo hi");
    assert_eq!(request["deadline"], Value::Null);
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
}

#[test]
fn the_policy_answers_at_once() {
    let bench = Bench::with(Daemon::builder().flags(&["--request-policy", "decline"]));
    let (_, turn, request) = bench.asked(json!({}), "run: echo hi");
    let record = bench.settled("request.answered", &request)["detail"]["record"].clone();
    assert_eq!((&record["status"], &record["answer"]), (&json!("answered"), &json!({"decision": "decline"})));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("rejected by user"));
    assert_eq!(bench.answered(&request, json!({"decision": "decline"})), record);
    assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);

    let (session, turn, request) = bench.asked(json!({"requestPolicy": "hold"}), "run: echo hi");
    assert_eq!(bench.session_record(&session)["requestPolicy"], "hold");
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    for wrong in [json!({"requestPolicy": "ask"}), json!({"requestTimeoutMs": -1})] {
        assert_eq!(bench.client.post("/v1/codexd/sessions", &wrong).status, 400, "{wrong}");
    }
}

#[test]
fn an_interrupt_cancels_what_waits() {
    let bench = Bench::stub();
    let (session, turn, request) = bench.asked(json!({}), "run2: one && two");
    let answer = bench.act(&session, "interrupt");
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["data"]["turnId"], turn);
    assert_eq!(answer.json()["data"]["session"]["sessionId"], session);
    assert_eq!(bench.ended(&turn), "interrupted");
    let record = bench.settled("request.cancelled", &request)["detail"]["record"].clone();
    assert_eq!((&record["status"], &record["answer"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);
    // Both were opened before the interrupt or not at all; none is left.
    assert_eq!(bench.requests("?status=pending"), [] as [Value; 0]);
    let again = bench.act(&session, "interrupt");
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(text(&again.json()["message"]).contains("No turn runs"));
}

#[test]
fn codex_withdraws_a_request() {
    let bench = Bench::stub();
    let (_, _, request) = bench.asked(json!({}), "run: echo hi");
    // Another session's turn says that the request is resolved, as another client's answer would have it.
    let thread = text(&request["threadId"]);
    let other = bench.session(json!({}));
    bench.turn(
        &other,
        &format!("notify: serverRequest/resolved {{\"threadId\":\"{thread}\",\"requestId\":0}}"),
    );
    let record = bench.settled("request.cancelled", &request)["detail"]["record"].clone();
    assert_eq!(record["status"], "cancelled");
    assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);
}

#[test]
fn what_nobody_can_answer_is_refused_at_once() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    for method in ["account/chatgptAuthTokens/refresh", "attestation/generate", "brand/new"] {
        let turn = bench.turn(&session, &format!("request: {method} {{\"threadId\":\"$THREAD\"}}"));
        assert_eq!(bench.ended(&turn), "completed", "{method}");
        assert!(bench.said(&turn).contains("-32601"), "{}", bench.said(&turn));
        let event = bench.event("request.unsupported", |detail| detail["method"] == method);
        assert_eq!(event["detail"]["threadId"], bench.session_record(&session)["threadId"]);
    }
    assert_eq!(bench.requests(""), [] as [Value; 0]);
}

#[test]
fn a_crash_of_the_child_orphans_what_it_asked() {
    let bench = Bench::stub();
    let (_, _, request) = bench.asked(json!({}), "run: echo hi");
    let other = bench.session(json!({}));
    bench.turn(&other, "exit: 3");
    let record = bench.settled("request.orphaned", &request)["detail"]["record"].clone();
    assert_eq!((&record["status"], &record["answer"]), (&json!("orphaned"), &Value::Null));
    assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);
    bench.stream.wait_for_type("child.restarted");
    // The next life's ids begin at 0 again and have nothing to do with it.
    let (_, turn, next) = bench.asked(json!({}), "run: echo again");
    assert_eq!(next["appServerRequestId"], json!(0));
    assert_ne!(next["requestId"], request["requestId"]);
    bench.answered(&next, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.request(&request), record);
}

#[test]
fn after_a_restart_of_codexd_nobody_waits_for_an_answer() {
    let mut bench = Bench::stub();
    let (_, _, stopped) = bench.asked(json!({}), "run: echo one");
    bench.daemon.restart();
    bench.reopen();
    let record = bench.request(&stopped);
    assert_eq!(record["status"], "orphaned");
    assert_eq!(bench.refused(&stopped, json!({"decision": "accept"})), record);

    let (_, _, killed) = bench.asked(json!({}), "run: echo two");
    let (_, turn, answered) = bench.asked(json!({}), "run: echo three");
    let kept = bench.answered(&answered, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    bench.daemon.kill();
    bench.daemon.restart();
    bench.reopen();
    assert_eq!(bench.request(&answered), kept, "what was acknowledged survives");
    let record = bench.request(&killed);
    assert_eq!(record["status"], "orphaned");
    assert_eq!(bench.refused(&killed, json!({"decision": "accept"})), record);
    assert_eq!(bench.requests("?status=pending"), [] as [Value; 0]);
}

#[test]
fn while_work_drains_its_requests_can_be_answered() {
    let mut bench = Bench::with(Daemon::builder().flags(&["--drain-timeout-ms", "30000"]));
    let (_, turn, request) = bench.asked(json!({}), "run: echo hi");
    bench.daemon.signal(rustix::process::Signal::TERM);
    // The stop has begun once no work is taken any more; until then an unknown session is just that.
    let body = json!({"sessionId": "session-x", "input": "x"});
    let until = std::time::Instant::now() + crate::DEADLINE;
    while bench.client.post("/v1/codexd/turn", &body).status != 503 {
        assert!(std::time::Instant::now() < until, "the stop has not begun");
    }
    assert_eq!(bench.request(&request), request);
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.daemon.wait().status.success());
    let logged = bench.daemon.log_events();
    let fate = logged.iter().rfind(|event| event["detail"]["requestId"] == request["requestId"]).unwrap();
    assert_eq!(fate["type"], "request.answered");
}

#[test]
fn what_nobody_has_answered_at_an_ordered_stop_is_orphaned_and_not_withdrawn() {
    let mut bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "run: one");
    bench.daemon.stop();
    let events = bench.daemon.log_events();
    let kinds = |key: &str, id: &Value| -> Vec<String> {
        let about = events.iter().filter(|event| event["detail"][key] == *id);
        about.map(|event| text(&event["type"])).filter(|kind| kind.starts_with("request.")).collect()
    };
    assert_eq!(kinds("requestId", &request["requestId"]), ["request.opened", "request.orphaned"], "{turn}");
}
