//! `GET /v1/codexd/openapi.json`: it has every route and every error, its references lead somewhere, and what a daemon
//! really answers is what it says, member by member, in both directions.

use codexd::http::openapi::spec::COMMON;
use codexd::http::reply::ErrorCode;
use codexd::http::routes::ROUTES;
use codexd::ops::body::Kind;
use codexd::ops::fields::Field;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::daemon::Daemon;
use crate::inbox_support::{Bench, text};

const PATH: &str = "/v1/codexd/openapi.json";

/// The document of a daemon, and its routes held against it.
struct Api {
    document: Value,
    client: Client,
}

impl Api {
    fn of(client: Client) -> Api {
        let answer = client.get(PATH);
        assert_eq!(answer.status, 200);
        Api { document: answer.json(), client }
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let operation = &self.document["paths"][path][method.to_ascii_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        operation
    }

    /// What a reference leads to; anything else is itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(path) => {
                let pointer = path.strip_prefix('#').unwrap();
                self.document.pointer(pointer).unwrap_or_else(|| panic!("{path} leads nowhere"))
            }
            None => value,
        }
    }

    /// Sends a request and holds its answer against the document.
    fn get(&self, pattern: &str, path: &str) -> Answer {
        self.held(self.client.get(path), "GET", pattern)
    }

    fn post(&self, pattern: &str, path: &str, body: &Value) -> Answer {
        self.held(self.client.post(path, body), "POST", pattern)
    }

    #[track_caller]
    fn held(&self, answer: Answer, method: &str, pattern: &str) -> Answer {
        let described = &self.operation(method, pattern)["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{method} {pattern}: {} is undocumented", answer.status);
        let content = &self.resolve(described)["content"];
        let kind = answer.header("content-type").unwrap_or_default();
        let schema = match kind {
            "application/json; charset=utf-8" => &content["application/json"]["schema"],
            other => &content[other]["schema"],
        };
        assert!(schema.is_object(), "{method} {pattern}: {kind} is undocumented for {}", answer.status);
        if kind.starts_with("application/json")
            && let Err(problem) = self.fits(&answer.json(), schema, "")
        {
            panic!("{method} {pattern} answers {}: {problem}\n{}", answer.status, answer.text());
        }
        answer
    }

    /// Whether a value is what the schema says, and has no member that the schema does not name.
    fn fits(&self, value: &Value, schema: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["anyOf"].as_array() {
            let mut problems = Vec::new();
            for choice in choices {
                match self.fits(value, choice, at) {
                    Ok(()) => return Ok(()),
                    Err(problem) => problems.push(problem),
                }
            }
            return Err(problems.join("; or "));
        }
        let wrong = |what: &str| Err(format!("{at} is {value}, which is not {what}"));
        if schema.get("const").is_some_and(|constant| constant != value) {
            return wrong(&schema["const"].to_string());
        }
        if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            return wrong(&schema["enum"].to_string());
        }
        match schema["type"].as_str() {
            None => return Ok(()),
            Some("string") if value.is_string() => {}
            Some("boolean") if value.is_boolean() => {}
            Some("null") if value.is_null() => {}
            Some("integer") if value.is_i64() || value.is_u64() => {
                if schema["minimum"].as_i64().is_some_and(|least| value.as_i64().is_some_and(|v| v < least)) {
                    return wrong(&schema.to_string());
                }
            }
            Some("array") if value.is_array() => {
                for (index, item) in value.as_array().unwrap().iter().enumerate() {
                    self.fits(item, &schema["items"], &format!("{at}/{index}"))?;
                }
            }
            Some("object") if value.is_object() => return self.members_fit(value, schema, at),
            Some(other) => return wrong(other),
        }
        if schema["format"] == "date-time" && codexd::clock::parse_iso(value.as_str().unwrap()).is_none() {
            return wrong("a time");
        }
        Ok(())
    }

    fn members_fit(&self, value: &Value, schema: &Value, at: &str) -> Result<(), String> {
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() {
                return Err(format!("{at}/{} is missing", name.as_str().unwrap()));
            }
        }
        let Some(properties) = schema["properties"].as_object() else {
            let values = &schema["additionalProperties"];
            let mut all = value.as_object().unwrap().iter().filter(|_| values.is_object());
            return all.try_for_each(|(name, value)| self.fits(value, values, &format!("{at}/{name}")));
        };
        for (name, member) in value.as_object().unwrap() {
            let Some(schema) = properties.get(name) else {
                return Err(format!("{at}/{name} is undocumented"));
            };
            self.fits(member, schema, &format!("{at}/{name}"))?;
        }
        Ok(())
    }
}

fn refs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| refs(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| refs(item, found)),
        _ => {}
    }
}

#[test]
fn it_has_every_route_and_every_error() {
    let daemon = Daemon::builder().start();
    let api = Api::of(daemon.client());
    assert_eq!(api.document["openapi"], "3.1.0");
    assert_eq!(api.document["servers"][0]["url"], daemon.base());
    assert_eq!(api.document["security"], json!([]));
    let mut names = Vec::new();
    for (method, path) in ROUTES
        .iter()
        .map(|route| (route.method, route.path))
        .chain([("GET", "/healthz"), ("GET", "/v1/codexd/events")])
    {
        let operation = api.operation(method, path);
        names.push(operation["operationId"].as_str().unwrap().to_owned());
        for code in COMMON {
            let status = code.status().to_string();
            assert!(operation["responses"][&status].is_object(), "{method} {path} lacks {status}");
        }
        assert_eq!(operation["requestBody"].is_object(), method == "POST", "{method} {path}");
        let in_path = operation["parameters"].as_array().unwrap().iter().any(|param| param["in"] == "path");
        assert_eq!(in_path, path.contains("{id}"), "{method} {path}");
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "each operation has a name of its own");
    let operations: usize =
        api.document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, count, "and there is no other");
    for route in ROUTES {
        for (name, pointer) in route.spec.links {
            assert!(names.iter().any(|known| known == name), "{}: no operation {name}", route.path);
            assert!(pointer.starts_with("/data/") && pointer.ends_with("Id"), "{pointer}");
        }
    }
    for code in ErrorCode::ALL {
        let response = &api.document["components"]["responses"][code.name()];
        assert!(response["description"].as_str().unwrap().contains(code.doc()), "{}", code.name());
        let names = &api.document["components"]["schemas"]["Error"]["properties"]["error"]["enum"];
        assert!(names.as_array().unwrap().contains(&json!(code.name())));
    }
    let mut found = Vec::new();
    refs(&api.document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for path in found {
        assert!(api.document.pointer(&path[1..]).is_some(), "{path} leads nowhere");
    }
}

#[test]
fn it_follows_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let flags = ["--token-file", file.to_str().unwrap(), "--event-stream-path", "/tail"];
    let daemon = Daemon::builder().flags(&flags).start();
    assert_eq!(daemon.client().get(PATH).status, 401);
    let bearer = format!("Bearer {}", std::fs::read_to_string(&file).unwrap().trim());
    let document = daemon.client().request("GET", PATH, &[("authorization", &bearer)], b"").json();
    assert_eq!(document["security"], json!([{ "token": [] }]));
    assert_eq!(document["paths"]["/readyz"]["get"]["security"], json!([]));
    // What it says of each is so.
    for (path, item) in document["paths"].as_object().unwrap() {
        let open = item["get"]["security"].is_array();
        assert!(item.get("get").is_some() || item["post"]["security"].is_null(), "{path}");
        let path = path.replace("{id}", "app.mjs");
        if item["get"].is_object() {
            assert_eq!(daemon.client().get(&path).status != 401, open, "{path}");
        }
    }
    assert!(
        document["paths"]["/tail"]["get"].is_object() && document["paths"]["/v1/codexd/events"].is_null()
    );
}

#[test]
fn what_is_answered_is_what_it_says() {
    let bench = Bench::stub();
    let api = Api::of(bench.client.clone());
    for path in ["/healthz", "/readyz", "/metrics", PATH, "/v1/codexd/status"] {
        assert_eq!(api.get(path, path).status, 200);
    }
    let sessions = "/v1/codexd/sessions";
    let made = api.post(sessions, sessions, &json!({ "metadata": { "a": "b" }, "cwd": "/" }));
    assert_eq!(made.status, 201);
    let id = text(&made.json()["data"]["session"]["sessionId"]);
    let one = "/v1/codexd/sessions/{id}";
    assert_eq!(api.get(one, &format!("{sessions}/{id}")).status, 200);
    assert_eq!(api.get(one, &format!("{sessions}/nobody")).status, 404);
    assert_eq!(api.get(sessions, &format!("{sessions}?status=active&limit=1")).status, 200);
    assert_eq!(api.get(sessions, &format!("{sessions}?status=x")).status, 400);

    let turn = "/v1/codexd/turn";
    let accepted = api.post(turn, turn, &json!({ "sessionId": id, "prompt": "run: echo hi" }));
    assert_eq!(accepted.status, 202);
    assert_eq!(api.post(turn, turn, &json!({ "sessionId": "nobody", "prompt": "x" })).status, 404);
    let request = bench.opened(&text(&accepted.json()["data"]["turnId"]));
    let requests = "/v1/codexd/requests";
    assert_eq!(api.get(requests, &format!("{requests}?status=pending")).status, 200);
    let asked = format!("{requests}/{}", text(&request["requestId"]));
    assert_eq!(api.get("/v1/codexd/requests/{id}", &asked).status, 200);
    let answer = "/v1/codexd/requests/{id}/answer";
    assert_eq!(api.post(answer, &format!("{asked}/answer"), &json!({ "decision": "accept" })).status, 200);
    assert_eq!(api.post(answer, &format!("{asked}/answer"), &json!({ "decision": "decline" })).status, 409);
    bench.ended(&text(&accepted.json()["data"]["turnId"]));

    bench.turn(&id, "hang: until interrupted");
    let act = |action: &str| {
        api.post(&format!("{one}/{action}"), &format!("{sessions}/{id}/{action}"), &json!({})).status
    };
    assert_eq!((act("interrupt"), act("close"), act("interrupt")), (202, 200, 409));
    // A session that was never given a thread is closed like any other; all are listed now.
    assert_eq!(api.get(sessions, sessions).status, 200);

    let runs = "/v1/codexd/runs";
    let run = api.post(runs, runs, &json!({ "prompt": "x", "env": { "A": null }, "timeoutMs": 5000 }));
    assert_eq!(run.status, 202);
    let id = text(&run.json()["data"]["run"]["runId"]);
    bench.event("run.failed", |detail| detail["runId"] == id.as_str());
    assert_eq!(api.get("/v1/codexd/runs/{id}", &format!("{runs}/{id}")).status, 200);
    assert_eq!(api.get(runs, runs).status, 200);
    assert_eq!(api.get(runs, &format!("{runs}?status=failed&limit=1")).status, 200);
    assert_eq!(
        api.post("/v1/codexd/runs/{id}/cancel", &format!("{runs}/{id}/cancel"), &json!({})).status,
        200
    );

    let events = "/v1/codexd/events";
    assert_eq!(api.get(events, &format!("{events}?limit=10000")).status, 200);
    assert_eq!(api.get(events, &format!("{events}?limit=0")).status, 400);
    // With sessions, runs and events in it now.
    assert_eq!(api.get("/v1/codexd/status", "/v1/codexd/status").status, 200);
}

#[test]
fn what_a_body_has_that_is_not_known_is_named_in_the_answer() {
    let bench = Bench::stub();
    let api = Api::of(bench.client.clone());
    let sessions = "/v1/codexd/sessions";
    // In the order in which they came, which is not that of the alphabet.
    let with_more = |body: &str| {
        let body = format!("{{\"zeal\": 1, {body}, \"sandboxMode\": \"read-only\", \"none\": null}}");
        body.into_bytes()
    };
    let json = [("content-type", "application/json"), ("idempotency-key", "key")];
    let made = |path: &str, body: &str, status: u16| {
        let answer = bench.client.request("POST", path, &json, &with_more(body));
        let answer = api.held(answer, "POST", path);
        assert_eq!(answer.status, status, "{}", answer.text());
        let mut data = answer.json()["data"].take();
        assert_eq!(data["ignored"].take(), json!(["zeal", "sandboxMode"]), "{data}");
        data
    };
    let id = text(&made(sessions, "\"model\": \"gpt\"", 201)["session"]["sessionId"]);
    made(sessions, "\"model\": \"gpt\"", 200);
    made("/v1/codexd/turn", &format!("\"sessionId\": \"{id}\", \"input\": \"say 1 words\""), 202);
    made("/v1/codexd/runs", "\"prompt\": \"x\"", 202);
    let known = api.post(sessions, sessions, &json!({ "model": "gpt", "sandbox": "read-only" }));
    assert!(known.status == 201 && known.json()["data"].get("ignored").is_none(), "{}", known.text());
}

/// A value that a field of this kind never takes.
fn wrong(field: &Field) -> Value {
    match field.kind {
        Kind::Text | Kind::TextOrObject | Kind::Input | Kind::Number(_) => json!(true),
        Kind::Flag | Kind::Object | Kind::OneOf(_) | Kind::List | Kind::Texts | Kind::TextsOrNulls => {
            json!(7)
        }
    }
}

#[test]
fn every_declared_field_is_read_and_every_wrong_one_is_named() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let (_, _, request) = bench.asked(json!({}), "run: echo hi");
    let mut fields = 0;
    for route in ROUTES.iter().filter(|route| route.method == "POST") {
        let id = if route.path.contains("requests") { text(&request["requestId"]) } else { session.clone() };
        let path = route.path.replace("{id}", &id);
        let all = || route.spec.body.iter().copied().flatten();
        for field in all() {
            fields += 1;
            // What else must be there is right.
            let mut body: Value = all()
                .filter(|field| field.required)
                .map(|field| (field.name.to_owned(), json!(session)))
                .collect::<serde_json::Map<_, _>>()
                .into();
            if route.path.ends_with("/turn") && !field.name.ends_with("put") {
                body["prompt"] = json!("x");
            }
            body[field.name] = wrong(field);
            let answer = bench.client.post(&path, &body);
            let message = text(&answer.json()["message"]);
            let named = message.contains(&format!("`{}`", field.name));
            assert!(answer.status == 400 && named, "{path} {body}: {} {message}", answer.status);
        }
    }
    assert!(fields > 45, "{fields}");
}

#[test]
fn every_parameter_with_a_shape_is_checked() {
    let bench = Bench::stub();
    let api = Api::of(bench.client.clone());
    for (path, item) in api.document["paths"].as_object().unwrap() {
        for param in item["get"]["parameters"].as_array().into_iter().flatten() {
            let schema = &param["schema"];
            if param["in"] != "query" || !(schema["enum"].is_array() || schema["minimum"].is_number()) {
                continue;
            }
            let name = param["name"].as_str().unwrap();
            let answer = bench.client.get(&format!("{path}?{name}=wrong"));
            let named = text(&answer.json()["message"]).contains(&format!("`{name}`"));
            assert!(answer.status == 400 && named, "{path}?{name}: {}", answer.text());
            for word in schema["enum"].as_array().into_iter().flatten() {
                assert_eq!(bench.client.get(&format!("{path}?{name}={}", text(word))).status, 200);
            }
        }
    }
}
