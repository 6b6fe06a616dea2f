use super::*;

const COMMAND: &str = "item/commandExecution/requestApproval";
const FILES: &str = "item/fileChange/requestApproval";
const PERMISSIONS: &str = "item/permissions/requestApproval";
const QUESTIONS: &str = "item/tool/requestUserInput";
const FORM: &str = "mcpServer/elicitation/request";
const TOOL: &str = "item/tool/call";
const ALL: [&str; 8] =
    [COMMAND, FILES, PERMISSIONS, QUESTIONS, FORM, TOOL, "execCommandApproval", "applyPatchApproval"];

fn text(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn sent(outcome: Result<Outcome, String>) -> Result<Value, String> {
    outcome.map(|outcome| serde_json::from_str(outcome.to_record().get()).unwrap())
}

fn decide(method: &str, params: &str, decision: &str) -> Result<Value, String> {
    sent(shape(method, &text(params), Proposal::Decision(text(decision))))
}

fn answers(method: &str, params: &str, answers: &str) -> Result<Value, String> {
    sent(shape(method, &text(params), Proposal::Answers(text(answers))))
}

#[test]
fn words_become_what_each_method_wants() {
    let asked = r#"{"permissions":{"network":null,"fileSystem":{"write":["/x"]}}}"#;
    let files = json!({"fileSystem": {"write": ["/x"]}});
    for (method, params, word, expected) in [
        (COMMAND, "{}", "accept", json!({"decision": "accept"})),
        (COMMAND, "{}", "acceptForSession", json!({"decision": "acceptForSession"})),
        (COMMAND, "{}", " decline ", json!({"decision": "decline"})),
        (FILES, "{}", "cancel", json!({"decision": "cancel"})),
        (PERMISSIONS, asked, "accept", json!({"permissions": files, "scope": "turn"})),
        (PERMISSIONS, asked, "acceptForSession", json!({"permissions": files, "scope": "session"})),
        (PERMISSIONS, asked, "decline", json!({"permissions": {}, "scope": "turn"})),
        (PERMISSIONS, "null", "accept", json!({"permissions": {}, "scope": "turn"})),
        (QUESTIONS, "{}", "decline", json!({"answers": {}})),
        (FORM, r#"{"mode":"form"}"#, "accept", json!({"action": "accept", "content": {}})),
        (FORM, r#"{"mode":"url"}"#, "accept", json!({"action": "accept", "content": null})),
        (FORM, "{}", "cancel", json!({"action": "cancel", "content": null})),
        ("execCommandApproval", "{}", "accept", json!({"decision": "approved"})),
        ("applyPatchApproval", "{}", "cancel", json!({"decision": "abort"})),
    ] {
        assert_eq!(decide(method, params, &json!(word).to_string()), Ok(expected), "{method} {word}");
    }
}

#[test]
fn everything_can_be_declined() {
    for method in ALL {
        assert!(kind(method).is_some());
        assert!(matches!(decline(method, &text("{}")), Outcome::Result(_)), "{method}");
    }
    for method in ["account/chatgptAuthTokens/refresh", "attestation/generate", "brand/new"] {
        assert_eq!(kind(method), None);
    }
}

#[test]
fn structured_decisions_are_for_commands_and_pass_as_they_are() {
    let amendment = r#"{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["echo","a"]}}"#;
    let network =
        r#"{"applyNetworkPolicyAmendment":{"network_policy_amendment":{"action":"deny","host":"h"}}}"#;
    for decision in [amendment, network] {
        let expected: Value = serde_json::from_str(decision).unwrap();
        assert_eq!(decide(COMMAND, "{}", decision), Ok(json!({"decision": expected})));
        for method in ALL.iter().filter(|&&method| method != COMMAND) {
            assert!(decide(method, "{}", decision).is_err(), "{method}");
        }
    }
    for wrong in [
        r#"{"acceptWithExecpolicyAmendment":{}}"#,
        r#"{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":"echo"}}"#,
        r#"{"accept":{}}"#,
        "{}",
        "7",
        "true",
        "[\"accept\"]",
    ] {
        assert!(decide(COMMAND, "{}", wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_does_not_fit_names_what_does() {
    let params = r#"{"availableDecisions":["accept",{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["id"]}}]}"#;
    let problem = decide(COMMAND, params, "\"approve\"").unwrap_err();
    assert!(problem.contains("\"acceptForSession\""), "{problem}");
    assert!(
        problem.contains(r#"{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["id"]}}"#),
        "{problem}"
    );
    let problem = decide(QUESTIONS, r#"{"questions":[{"id":"q1"}]}"#, "\"accept\"").unwrap_err();
    assert!(problem.contains("q1"), "{problem}");
    assert!(decide(PERMISSIONS, "{}", "\"cancel\"").unwrap_err().contains("\"decline\""));
    assert!(decide(FORM, "{}", "\"acceptForSession\"").is_err());
    assert!(answers(COMMAND, "{}", "{}").unwrap_err().contains("`decision`"));
}

#[test]
fn answers_take_several_forms() {
    let params = r#"{"questions":[{"id":"q1"},{"id":"q2"}]}"#;
    let expected = json!({"answers": {"q1": {"answers": ["No"]}, "q2": {"answers": ["a", "b"]}}});
    assert_eq!(answers(QUESTIONS, params, r#"{"q1":"No","q2":["a","b"]}"#), Ok(expected.clone()));
    assert_eq!(answers(QUESTIONS, params, r#"{"q1":{"answers":["No"]},"q2":["a","b"]}"#), Ok(expected));
    assert!(answers(QUESTIONS, params, r#"{"q3":"x"}"#).unwrap_err().contains("q1, q2"));
    assert!(answers(QUESTIONS, params, r#"{"q1":7}"#).is_err());
    assert!(answers(QUESTIONS, params, "[]").is_err());
    assert_eq!(
        answers(FORM, "{}", r#"{"answer":"x"}"#),
        Ok(json!({"action": "accept", "content": {"answer": "x"}}))
    );
}

#[test]
fn what_a_later_version_puts_beside_is_in_nobodys_way() {
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let params = format!(
        r#"{{"new":1e400,"deep":{deep},"permissions":{{"network":{{"enabled":true}}}},"questions":[{{"id":"q"}}]}}"#
    );
    let granted = json!({"permissions": {"network": {"enabled": true}}, "scope": "turn"});
    assert_eq!(decide(PERMISSIONS, &params, "\"accept\""), Ok(granted));
    assert!(answers(QUESTIONS, &params, r#"{"x":"y"}"#).unwrap_err().contains("(q)"));
}

#[test]
fn a_record_gives_back_what_was_sent() {
    let error = RpcError::new(-1, "no");
    let outcome = shape(COMMAND, &text("{}"), Proposal::Error(error.clone())).unwrap();
    assert_eq!(outcome.to_record().get(), r#"{"error":{"code":-1,"message":"no"}}"#);
    assert!(matches!(Outcome::of_record(&outcome.to_record()), Outcome::Error(same) if same == error));
    let result = shape(COMMAND, &text("{}"), Proposal::Result(text(r#"{"b":1e400,"a":2}"#))).unwrap();
    assert_eq!(result.to_record().get(), r#"{"b":1e400,"a":2}"#);
    assert!(matches!(Outcome::of_record(&result.to_record()), Outcome::Result(_)));
    assert!(shape(COMMAND, &text("{}"), Proposal::Result(text("7"))).is_err());
}
