//! Answers of the app-server: when they count, and what is logged before them.

use serde_json::{Value, json};

use crate::conversation::{look, on_script, session, turn};
use crate::misbehaviour::SHAKES_HANDS;

#[test]
fn an_answer_after_the_deadline_has_no_effect() {
    let script = format!(
        "{SHAKES_HANDS} read line; while [ ! -e late ]; do sleep 0.02; done; \
         echo '{{\"id\":2,\"result\":{{\"thread\":{{\"id\":\"t\"}}}}}}'; echo rubbish; exec sleep 600"
    );
    let mut daemon = on_script(&script, &["--app-server-timeout-ms", "1000"]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 504, "{}", answer.text());
    std::fs::File::create(daemon.repo().join("late")).unwrap();
    // Behind the answer.
    stream.wait_for_type("app-server.message.unreadable");
    let listed = client.get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(listed, json!([]), "whoever asked was told that there is none");
    daemon.stop();
}

#[test]
fn what_is_said_before_an_answer_or_a_question_is_logged_before_it() {
    let method = "item/commandExecution/requestApproval";
    let asked = json!({"id": 7, "method": method, "params": {"threadId": "t", "turnId": "u", "itemId": "i"}});
    // All of it in one write, and so in one read.
    let said =
        format!("rubbish\\n{{\"id\":2,\"result\":{{\"thread\":{{\"id\":\"t\"}}}}}}\\nrubbish\\n{asked}\\n");
    let script = format!("{SHAKES_HANDS} read line; printf '{said}'; exec sleep 600");
    let mut daemon = on_script(&script, &[]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    session(&client, &json!({}));
    stream.wait_for_type("request.opened");
    daemon.stop();
    let kinds = ["app-server.message.unreadable", "session.created", "request.opened"];
    let logged = daemon.log_events();
    let told = logged.iter().filter_map(|event| event["type"].as_str()).filter(|kind| kinds.contains(kind));
    assert_eq!(told.collect::<Vec<_>>(), [kinds[0], kinds[1], kinds[0], kinds[2]]);
}

#[test]
fn of_two_at_once_who_resume_a_thread_both_get_the_same_session() {
    // It answers when both have asked.
    let script = format!(
        "{SHAKES_HANDS} read line; read line; for id in 2 3; do \
         echo \"{{\\\"id\\\":$id,\\\"result\\\":{{\\\"thread\\\":{{\\\"id\\\":\\\"t\\\"}}}}}}\"; done; exec sleep 600"
    );
    let mut daemon = on_script(&script, &[]).start();
    let resume = || {
        let answer = daemon.client().post("/v1/codexd/sessions", &json!({"threadId": "t"}));
        (answer.status, answer.json()["data"]["session"]["sessionId"].clone())
    };
    let mut answers = std::thread::scope(|scope| {
        let other = scope.spawn(resume);
        [resume(), other.join().unwrap()]
    });
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!((answers[0].0, answers[1].0), (200, 201), "{answers:?}");
    assert_eq!(answers[0].1, answers[1].1);
    let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    daemon.stop();
}

#[test]
fn a_turn_that_its_app_server_does_not_end_is_interrupted_with_an_ordered_stop() {
    let script = format!(
        "{SHAKES_HANDS} read line; echo '{{\"id\":2,\"result\":{{\"thread\":{{\"id\":\"t\"}}}}}}'; \
         read line; echo '{{\"id\":3,\"result\":{{\"turn\":{{\"id\":\"u\"}}}}}}'; exec sleep 600"
    );
    let mut daemon = on_script(&script, &[]).start();
    let id = session(&daemon.client(), &json!({}));
    assert_eq!(turn(&daemon.client(), &id, "x"), "u");
    daemon.restart();
    let session = look(&daemon.client(), &id);
    assert_eq!(
        (&session["currentTurnId"], &session["lastTurnId"], &session["lastTurnStatus"]),
        (&Value::Null, &json!("u"), &json!("interrupted"))
    );
    daemon.stop();
    let missing = |event: &Value| event["type"] == "app-server.turn.completed.missing";
    assert!(!daemon.log_events().iter().any(missing));
}
