//! One scenario, run through codexd on the stand-in and on the real Codex: the events must be of the same kinds in the
//! same order. What the stand-in is allowed to do differently stands in one table, [`TOLERATED`], and nowhere else.

use std::path::Path;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::daemon::{Builder, Daemon};
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::talk::{SESSIONS, completed, id, of_turn, session, steer, turn, whole_log};

/// Why an event of one side need not be on the other.
enum Tolerated {
    /// A notification that only the real Codex sends, for the reason given.
    OnlyReal(&'static str, &'static str),
    /// Its place is not fixed in the real Codex: compared by presence, not by order.
    Anywhere(&'static str, &'static str),
}

/// Every difference that is tolerated, by the label an event has here (see [`label`]).
const TOLERATED: &[Tolerated] = &[
    Tolerated::OnlyReal("configWarning", "about the host: no bubblewrap on PATH"),
    Tolerated::OnlyReal("warning", "about the host and the model: no metadata for the fake one"),
    Tolerated::OnlyReal("child.stderr", "log lines of Codex"),
    Tolerated::OnlyReal(
        "thread/readState/changed",
        "experimental: an unread mark for the lists of user interfaces",
    ),
    Tolerated::Anywhere("turn.accepted", "before or after turn.started, as the contract says"),
    Tolerated::Anywhere(
        "account/rateLimits/updated",
        "sent by a task of its own, now before and now after others",
    ),
];

/// What an event is, without ids, times and texts.
fn label(event: &Value) -> String {
    let (kind, detail) = (event["type"].as_str().expect("a type"), &event["detail"]);
    let word = |value: &Value| value.as_str().unwrap_or("null").to_owned();
    match kind {
        "app-server.notification" => {
            let (method, item) = (word(&detail["notificationMethod"]), &detail["params"]["item"]);
            match method.as_str() {
                "item/started" | "item/completed" => format!("{method} {}", word(&item["type"])),
                _ => method,
            }
        }
        "app-server.turn.completed" => format!("{kind} {}", word(&detail["status"])),
        "app-server.turn.error" => {
            format!("{kind} {} willRetry={}", word(&detail["error"]["codexErrorInfo"]), detail["willRetry"])
        }
        "app-server.thread.status.changed" => format!("{kind} {}", word(&detail["status"]["type"])),
        "child.exited" => format!("{kind} {} {}", detail["code"], detail["signal"]),
        _ => kind.to_owned(),
    }
}

/// The labels in order: repeated deltas as one, and what is tolerated taken out. Apart from that, sorted, what may stand
/// anywhere.
fn shape(events: &[Value]) -> (Vec<String>, Vec<String>) {
    let (mut ordered, mut anywhere): (Vec<String>, Vec<String>) = Default::default();
    for label in events.iter().map(label) {
        let rule = TOLERATED.iter().find(|rule| match rule {
            Tolerated::OnlyReal(name, _) | Tolerated::Anywhere(name, _) => *name == label,
        });
        match rule {
            Some(Tolerated::OnlyReal(..)) => {}
            Some(Tolerated::Anywhere(..)) => anywhere.push(label),
            None if label == "app-server.turn.message.delta" && ordered.last() == Some(&label) => {}
            None => ordered.push(label),
        }
    }
    anywhere.sort_unstable();
    (ordered, anywhere)
}

/// Session, turn, steer, interruption, a failure of the model, an idle stop, another life of the daemon, and a turn on
/// the thread resumed. The whole log.
fn scenario(builder: Builder, cwd: &Path) -> Vec<Value> {
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({"cwd": cwd}));
    assert_eq!(completed(&stream, &turn(&client, id(&session), "say 5 words")), "completed");

    let steered = turn(&client, id(&session), "slow: 200 100");
    of_turn(&stream, "app-server.turn.message.delta", &steered);
    assert_eq!(steer(&client, id(&session), &steered, "say 2 words").status, 202);
    assert_eq!(completed(&stream, &steered), "completed");

    let stopped = turn(&client, id(&session), "slow: 200 100");
    of_turn(&stream, "app-server.turn.message.delta", &stopped);
    let answer = client.post(&format!("{SESSIONS}/{}/interrupt", id(&session)), &json!({}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(completed(&stream, &stopped), "interrupted");

    let failed = turn(&client, id(&session), "fail: 500");
    assert_eq!(completed(&stream, &failed), "failed");

    daemon.restart();
    let (client, stream) = (daemon.client(), daemon.stream());
    let last = turn(&client, id(&session), "say 1 words");
    assert_eq!(completed(&stream, &last), "completed");
    let now = client.get(&format!("{SESSIONS}/{}", id(&session))).json();
    assert_eq!(now["data"]["session"]["threadId"], session["threadId"]);
    daemon.stop();
    whole_log(&daemon)
}

/// Where two lists part, with what came before.
fn parting(stub: &[String], real: &[String]) -> String {
    let at = stub.iter().zip(real).take_while(|(stub, real)| stub == real).count();
    let around =
        |list: &[String]| list[at.saturating_sub(4).min(list.len())..(at + 5).min(list.len())].join("\n  ");
    format!("at {at}; stand-in:\n  {}\nreal:\n  {}", around(stub), around(real))
}

#[test]
fn the_stand_in_and_the_real_codex_give_the_same_events() {
    let codex = real_codex_or_skip!("the_stand_in_and_the_real_codex_give_the_same_events");
    let stub = Daemon::builder().server(env!("CARGO_BIN_EXE_codexd"), &["stub-app-server", "threads"]);
    let cwd = stub.repo();
    let stub = scenario(stub, &cwd);

    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let real = scenario(Daemon::builder().codex(codex.native(), &home), &home.work());
    model.wait_for_prompt("say 1 words", DEADLINE);

    let (stub_shape, real_shape) = (shape(&stub), shape(&real));
    assert!(stub_shape.0 == real_shape.0, "{}", parting(&stub_shape.0, &real_shape.0));
    assert_eq!(stub_shape.1, real_shape.1);

    // A rule for what the real Codex does not send any more hides the next difference of that name.
    let labels: Vec<String> = real.iter().chain(&stub).map(label).collect();
    for rule in TOLERATED {
        let (Tolerated::OnlyReal(name, why) | Tolerated::Anywhere(name, why)) = rule;
        // Whether Codex has something to say about the host depends on the host.
        let of_the_host = why.starts_with("about the host") || *name == "child.stderr";
        assert!(
            of_the_host || labels.iter().any(|label| label == name),
            "{name} ({why}) is not sent any more"
        );
    }
}
