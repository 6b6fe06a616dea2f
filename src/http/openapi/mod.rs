//! `GET /v1/codexd/openapi.json`: the API as an OpenAPI 3.1 document, made from the declarations that the daemon itself
//! works by: the routes, their [`Spec`]s, the fields of bodies, the error codes.

pub mod components;
pub mod shape;
pub mod spec;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reply::ErrorCode;
use super::routes::{self, ROUTES};
use crate::config::Config;
use components::COMPONENTS;
use spec::{COMMON, Choice, Open, Payload, Spec};

const INTRODUCTION: &str = "Sessions, turns and one-shot runs of OpenAI Codex on one host. Every GET answers HEAD too. \
    A method that a path does not have is 405 with `Allow`, an unknown path 404. At the path of the events an upgrade \
    to WebSocket is answered with 101. Fields of a body that are not known are ignored; the answer to what makes a \
    session, a turn or a run names them in `ignored`. Null is as good as absent; answers may have more members in later \
    versions.";

/// The document for a daemon with this configuration that listens at `base`.
pub fn document(config: &Config, base: Option<&str>) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut add = |method: &str, path: &str, doc: &str, spec: &Spec| {
        let operation = operation(method, path, doc, spec);
        paths.entry(path.to_owned()).or_default().insert(method.to_ascii_lowercase(), operation);
    };
    add("GET", routes::HEALTH, "whether the process serves", &spec::HEALTH);
    for route in ROUTES {
        add(route.method, route.path, route.doc, route.spec);
    }
    let events = "pages of the log, or Server-Sent Events with `Accept: text/event-stream`";
    add("GET", &config.service.event_stream_path, events, &spec::EVENTS);

    let token = config.service.token_file.is_some();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "codexd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": INTRODUCTION,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": base.unwrap_or("/") }],
        "security": if token { json!([{ "token": [] }]) } else { json!([]) },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": responses(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the token in --token-file, where the daemon has one",
                },
            },
        },
    })
}

fn operation(method: &str, path: &str, doc: &str, spec: &Spec) -> Value {
    let mut operation = json!({
        "operationId": spec.name,
        "summary": doc,
        "parameters": parameters(path, spec),
        "responses": answers(spec),
    });
    if spec.open != Open::No {
        operation["security"] = json!([]);
    }
    if method == "POST" {
        operation["requestBody"] = json!({
            "required": spec.body_required,
            "content": { "application/json": { "schema": body(spec) } },
        });
    }
    operation
}

fn body(spec: &Spec) -> Value {
    let mut schema = shape::body(spec.body);
    let each = |names: &[&str]| -> Value { names.iter().map(|name| json!({ "required": [name] })).collect() };
    match spec.choice {
        Choice::Free => {}
        Choice::AnyOf(names) => schema["anyOf"] = each(names),
        Choice::OneOf(names) => schema["oneOf"] = each(names),
    }
    schema
}

fn parameters(path: &str, spec: &Spec) -> Vec<Value> {
    let mut parameters = Vec::new();
    if path.contains("{id}") {
        parameters.push(json!({
            "name": "id", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 },
        }));
    }
    for param in spec.query {
        let mut schema = param.shape.schema();
        if let Some((least, most)) = param.bounds {
            schema["minimum"] = least.into();
            schema["maximum"] = most.into();
        }
        parameters.push(json!({
            "name": param.name, "in": "query", "description": param.doc, "schema": schema,
        }));
    }
    if spec.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "the same key with the same body answers with the record it made the first time, for 24 h",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    if spec.name == spec::EVENTS.name {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header",
            "description": "for Server-Sent Events; it beats `after`",
            "schema": { "type": "string", "pattern": "^[0-9]{1,18}$" },
        }));
    }
    parameters
}

/// Everything that a route may answer, by status.
fn answers(spec: &Spec) -> Map<String, Value> {
    let mut answers: BTreeMap<u16, Answer> = BTreeMap::new();
    for (status, payload) in spec.ok {
        let answer = answers.entry(*status).or_default();
        answer.links = spec.links;
        let (kind, schema) = match payload {
            Payload::Data(members) => (JSON, envelope(shape::object(members))),
            Payload::Whole(name) => (JSON, shape::Shape::Ref(name).schema()),
            Payload::Json => (JSON, json!({ "type": "object" })),
            Payload::Text(kind) => (*kind, json!({ "type": "string" })),
        };
        answer.content.entry(kind).or_default().push(schema);
    }
    for code in spec.errors.iter().chain(COMMON) {
        let answer = answers.entry(code.status()).or_default();
        answer.codes.push(*code);
    }
    shape::map(answers.into_iter().map(|(status, answer)| (status.to_string(), answer.json())).collect())
}

const JSON: &str = "application/json";

/// One status.
#[derive(Default)]
struct Answer {
    content: BTreeMap<&'static str, Vec<Value>>,
    codes: Vec<ErrorCode>,
    links: &'static [(&'static str, &'static str)],
}

impl Answer {
    fn json(mut self) -> Value {
        // One error and nothing else is described once for all routes.
        if let (true, [code]) = (self.content.is_empty(), self.codes.as_slice()) {
            return json!({ "$ref": format!("#/components/responses/{}", code.name()) });
        }
        let mut lines: Vec<String> = self.codes.iter().map(|code| line(*code)).collect();
        if !self.content.is_empty() {
            lines.insert(0, "Done.".to_owned());
        }
        if !self.codes.is_empty() {
            self.content.entry(JSON).or_default().push(shape::Shape::Ref("Error").schema());
        }
        let content = self
            .content
            .into_iter()
            .map(|(kind, mut schemas)| {
                let schema = match schemas.len() {
                    1 => schemas.remove(0),
                    _ => json!({ "anyOf": schemas }),
                };
                (kind.to_owned(), json!({ "schema": schema }))
            })
            .collect();
        let content = shape::map(content);
        let link = |(name, pointer): &(&str, &str)| {
            let id = format!("$response.body#{pointer}");
            ((*name).to_owned(), json!({ "operationId": name, "parameters": { "id": id } }))
        };
        let links = shape::map(self.links.iter().map(link).collect());
        json!({ "description": lines.join("\n"), "content": content, "links": links })
    }
}

fn line(code: ErrorCode) -> String {
    format!("`{}`: {}", code.name(), code.doc())
}

fn envelope(data: Value) -> Value {
    json!({
        "type": "object",
        "properties": { "ok": { "const": true }, "data": data },
        "required": ["ok", "data"],
    })
}

/// Every error by its own name.
fn responses() -> Map<String, Value> {
    let response = |code: &ErrorCode| {
        let mut headers = Map::new();
        let mut header = |name: &str, required: bool, schema: Value| {
            headers.insert(name.to_owned(), json!({ "required": required, "schema": schema }));
        };
        match code {
            ErrorCode::Unauthorized => header("WWW-Authenticate", true, json!({ "type": "string" })),
            ErrorCode::MethodNotAllowed => header("Allow", true, json!({ "type": "string" })),
            ErrorCode::TooManyRuns => header("Retry-After", true, json!({ "type": "string" })),
            ErrorCode::Unavailable => header("Retry-After", false, json!({ "type": "string" })),
            _ => {}
        }
        let response = json!({
            "description": line(*code),
            "headers": headers,
            "content": { JSON: { "schema": { "$ref": "#/components/schemas/Error" } } },
        });
        (code.name().to_owned(), response)
    };
    shape::map(ErrorCode::ALL.iter().map(response).collect())
}

fn schemas() -> Map<String, Value> {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    let error = json!({
        "type": "object",
        "description": "What went wrong.",
        "properties": {
            "ok": { "const": false },
            "error": { "type": "string", "enum": codes },
            "message": { "type": "string", "description": "one sentence for a person" },
            "data": { "type": "object", "description": "for an answer that came too late: the request" },
        },
        "required": ["ok", "error", "message"],
    });
    let named = COMPONENTS.iter().map(|component| {
        let mut schema = shape::object(component.members);
        schema["description"] = component.doc.into();
        (component.name.to_owned(), schema)
    });
    shape::map(named.chain([("Error".to_owned(), error)]).collect())
}
