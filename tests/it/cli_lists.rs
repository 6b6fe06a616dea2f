//! `codexd sessions`, `runs`, `requests` and `answer`.

use serde_json::{Value, json};

use crate::cli_support::{Ran, command};
use crate::inbox_support::{Bench, text};
use crate::run_bench;

fn run(base: &str, words: &[&str]) -> Ran {
    command([words, &["--local-api-base", base]].concat()).output().unwrap().into()
}

/// The cells of each line; two blanks end one.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

#[test]
fn lists_are_tables_or_json() {
    let bench = Bench::stub();
    let base = bench.daemon.base();
    assert_eq!(run(base, &["sessions"]).stdout, "no sessions\n");
    assert_eq!(run(base, &["runs"]).stdout, "no runs\n");
    assert_eq!(run(base, &["requests"]).stdout, "nothing waits for an answer\n");
    assert_eq!(run(base, &["requests", "--all"]).stdout, "no requests\n");
    let session = bench.session(json!({}));
    bench.turn(&session, "say 2 words");
    bench.event("app-server.turn.completed", |_| true);
    let ran = run(base, &["sessions"]);
    let table = cells(&ran.stdout);
    assert_eq!(table[0], ["SESSION", "STATUS", "LAST TURN", "UPDATED", "FOLDER"]);
    assert_eq!(table[1][..3], [session.as_str(), "active", "completed"], "{}", ran.stdout);
    assert_eq!((ran.code, ran.stderr.as_str(), table.len()), (0, "", 2));
    let json: Value = serde_json::from_str(&run(base, &["sessions", "--json"]).stdout).unwrap();
    assert_eq!(json, bench.client.get("/v1/codexd/sessions").json()["data"]);
}

#[test]
fn runs_say_how_they_ended() {
    let bench = run_bench::Bench::stub(&[]);
    let base = bench.daemon.base();
    assert_eq!(run(base, &["run", "say 2 words"]).code, 0);
    assert_eq!(run(base, &["run", "fail: no luck"]).code, 1);
    let ran = run(base, &["runs"]);
    let table = cells(&ran.stdout);
    let ends: Vec<&[&str]> = table[1..].iter().map(|row| &row[3..]).collect();
    assert!(ends.contains(&&["say 2 words", "word0 word1"][..]), "{}", ran.stdout);
    assert!(ends.iter().any(|end| end[0] == "fail: no luck" && end[1].contains("no luck")), "{}", ran.stdout);
}

#[test]
fn a_request_is_listed_answered_and_answered_only_once() {
    let bench = Bench::stub();
    let base = bench.daemon.base();
    let (session, turn, request) = bench.asked(json!({}), "run: echo hi");
    let id = text(&request["requestId"]);
    let table = run(base, &["requests"]).stdout;
    let row = &cells(&table)[1];
    assert_eq!(row[..3], [id.as_str(), "pending", "command"], "{table}");
    assert!(row[4] == session && row[5].contains("echo hi"), "{table}");
    let ran = run(base, &["answer", &id, "accept"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout, format!("{id} answered: {{\"decision\":\"accept\"}}\n"));
    bench.event("app-server.turn.completed", |detail| detail["turnId"] == turn);
    let again = run(base, &["answer", &id, "decline"]);
    assert_eq!((again.code, again.stdout.as_str()), (1, ""));
    assert!(again.stderr.starts_with("codexd: ") && again.stderr.lines().count() == 1, "{}", again.stderr);
    assert_eq!(run(base, &["requests"]).stdout, "nothing waits for an answer\n");
    assert!(run(base, &["requests", "--all"]).stdout.contains("answered"));
    let nobody = run(base, &["answer", "request/../x", "accept"]);
    assert!(nobody.code == 1 && nobody.stderr.contains("request/../x"), "{}", nobody.stderr);
}

#[test]
fn an_answer_may_be_a_body() {
    let bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "ask: Which?");
    let id = text(&request["requestId"]);
    let ran = run(bench.daemon.base(), &["answer", "--json", &id, r#"{"answers": {"q1": "Yes"}}"#]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &json["request"]["status"]), (0, &json!("answered")), "{}", ran.stderr);
    assert!(json["request"]["answer"].to_string().contains("Yes"), "{}", ran.stdout);
    bench.event("app-server.turn.completed", |detail| detail["turnId"] == turn);
    let ran = run(bench.daemon.base(), &["answer", &id, "{"]);
    assert!(ran.code == 2 && ran.stderr.contains("the answer \"{\" is no JSON"), "{}", ran.stderr);
}
