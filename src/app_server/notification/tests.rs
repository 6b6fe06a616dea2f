use super::*;

fn translate(method: &str, params: &str) -> (serde_json::Value, Option<Change>, Subject) {
    let mut drafts = Drafts::new();
    let params = RawValue::from_string(params.to_owned()).unwrap();
    super::translate(&mut drafts, method, &params);
    let (text, mut subjects, mut items) = drafts.into_parts();
    assert_eq!(items.len(), 1);
    let item = items.remove(0);
    let inside = std::str::from_utf8(item.text(&text)).unwrap();
    (
        serde_json::from_str(&format!("{{{inside}}}")).unwrap(),
        item.change.map(|change| *change),
        subjects.remove(item.about),
    )
}

#[test]
fn a_delta_keeps_its_text() {
    let (event, change, subject) = translate(
        "item/agentMessage/delta",
        r#"{"threadId":"t","turnId":"u","itemId":"i","delta":"a\u00e4\n  \"b\""}"#,
    );
    assert_eq!(event["type"], "app-server.turn.message.delta");
    assert_eq!(event["message"], "App-server emitted delta for turn u: aä \"b\"");
    assert_eq!(
        event["detail"],
        serde_json::json!({"delta":"aä\n  \"b\"","itemId":"i","threadId":"t","turnId":"u"})
    );
    assert!(change.is_none());
    assert_eq!(subject.thread.as_deref(), Some("t"));
}

#[test]
fn every_event_has_the_fields_of_its_type() {
    let cases = [
        ("thread/started", r#"{"thread":{"id":"t"}}"#),
        ("thread/status/changed", r#"{"threadId":"t","status":{"type":"active","activeFlags":[]}}"#),
        ("turn/started", r#"{"threadId":"t","turn":{"id":"u","status":"inProgress"}}"#),
        ("turn/completed", r#"{"threadId":"t","turn":{"id":"u","status":"completed"}}"#),
        ("turn/diff/updated", r#"{"threadId":"t","turnId":"u","diff":"-a"}"#),
        ("turn/plan/updated", r#"{"threadId":"t","turnId":"u","plan":[]}"#),
        ("item/plan/delta", r#"{"threadId":"t","turnId":"u","itemId":"i","delta":"x"}"#),
        ("error", r#"{"threadId":"t","turnId":"u","willRetry":false,"error":{"message":"m"}}"#),
        (
            "command/exec/outputDelta",
            r#"{"processId":"p","stream":"stderr","deltaBase64":"eA==","capReached":true}"#,
        ),
        ("brand/new", r#"{"huge":123456789012345678901234567890}"#),
    ];
    for (method, params) in cases {
        let (event, _, _) = translate(method, params);
        let kind = EventType::from_name(event["type"].as_str().unwrap()).unwrap();
        let detail = event["detail"].as_object().unwrap();
        let params: serde_json::Value = serde_json::from_str(params).unwrap();
        // Beside the fields of its type nothing but what the params have.
        let besides = |name: &&String| !kind.fields().contains(&name.as_str());
        for name in detail.keys().filter(besides) {
            assert_eq!(detail[name], params[name], "{method}");
        }
        assert!(kind.fields().iter().all(|field| detail.contains_key(*field)), "{method}: {detail:?}");
        assert_eq!(kind == EventType::Notification, method == "brand/new");
    }
}

#[test]
fn an_error_that_codex_tries_again_is_no_failed_turn() {
    for (will_retry, message) in
        [("true", "App-server turn u is tried again: m"), ("false", "App-server turn u failed: m")]
    {
        let params =
            format!(r#"{{"threadId":"t","turnId":"u","willRetry":{will_retry},"error":{{"message":"m"}}}}"#);
        assert_eq!(translate("error", &params).0["message"], message);
    }
}

#[test]
fn half_a_surrogate_pair_takes_no_message_away() {
    let mut drafts = Drafts::new();
    let params = r#"{"threadId":"t","turnId":"u","willRetry":false,"error":{"message":"a\ud800b"}}"#;
    super::translate(&mut drafts, "error", &RawValue::from_string(params.to_owned()).unwrap());
    let (text, _, items) = drafts.into_parts();
    let text = str::from_utf8(items[0].text(&text)).unwrap();
    assert!(text.contains("\"message\":\"App-server turn u failed: a\u{fffd}b\""), "{text}");
}

#[test]
fn what_the_params_have_besides_stands_beside_the_fields() {
    let detail = |method: &str, params: &str| translate(method, params).0["detail"].take();
    assert_eq!(
        detail(
            "turn/completed",
            r#"{"threadId":"t","turn":{"id":"u","status":"completed","items":[1]},"new":7}"#
        ),
        serde_json::json!({"status":"completed","threadId":"t","turn":{"id":"u","status":"completed","items":[1]},
            "turnId":"u","new":7})
    );
    assert_eq!(
        detail(
            "item/agentMessage/delta",
            r#"{"threadId":"t","turnId":"u","new":[{}],"itemId":"i","delta":"x"}"#
        ),
        serde_json::json!({"threadId":"t","turnId":"u","new":[{}],"itemId":"i","delta":"x"})
    );
    // A name that means something else here.
    assert_eq!(
        detail("turn/completed", r#"{"threadId":"t","turn":{"id":"u","status":"failed"},"status":9}"#),
        serde_json::json!({"status":"failed","threadId":"t","turn":{"id":"u","status":"failed"},"turnId":"u",
            "params":{"threadId":"t","turn":{"id":"u","status":"failed"},"status":9}})
    );
    assert_eq!(
        detail("command/exec/outputDelta", r#"{"processId":"p","stream":"x","deltaBase64":"","pid":3}"#)["pid"],
        3
    );
}

#[test]
fn ids_are_found_where_the_params_have_them() {
    let detail = |params: &str| translate("brand/new", params).0["detail"].take();
    let found = detail(r#"{"thread":{"id":"t"},"turn":{"id":"u"},"item":{"id":"i"}}"#);
    assert_eq!(
        (&found["threadId"], &found["turnId"], &found["itemId"]),
        (&"t".into(), &"u".into(), &"i".into())
    );
    assert_eq!(detail(r#"{"threadId":"a","thread":{"id":"b"},"turnId":null}"#)["threadId"], "a");
    assert_eq!(detail(r#"{"threadId":7}"#).as_object().unwrap().len(), 2);
}

#[test]
fn params_of_another_shape_are_passed_on_whole() {
    for (method, params) in [
        ("item/agentMessage/delta", r#"{"threadId":7,"turnId":"u","itemId":"i","delta":"x"}"#),
        ("item/agentMessage/delta", "null"),
        ("turn/completed", r#"{"threadId":"t","turn":{"id":"u"}}"#),
        ("turn/started", "[1,2]"),
    ] {
        let (event, change, _) = translate(method, params);
        assert_eq!(event["type"], "app-server.notification", "{method}");
        assert_eq!(event["detail"]["notificationMethod"], method);
        assert_eq!(event["detail"]["params"], serde_json::from_str::<serde_json::Value>(params).unwrap());
        assert!(change.is_none());
    }
}
