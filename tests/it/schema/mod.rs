//! The protocol as Codex's own JSON Schema has it (`codex app-server generate-json-schema --experimental`), reduced to what
//! the tests need: what each notification and each request of the app-server carries, what each answer to it must be, and
//! the params of the requests that codexd itself sends.
//!
//! `tests/schema/protocol.json` is that of the newest version. `CODEXD_BLESS=1 cargo test --test it schema_record` writes
//! it anew from the installed Codex.

pub(crate) mod generate;
pub(crate) mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use codexd::app_server::needs;
use serde_json::{Map, Value, json};

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: &[&str] =
    &["title", "description", "default", "$schema", "examples", "writeOnly", "readOnly", "deprecated"];

/// A version's protocol. Schemas refer to each other as `#/$defs/NAME`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Protocol {
    /// Of Codex.
    pub(crate) version: String,
    /// The params of what it tells.
    pub(crate) notifications: BTreeMap<String, Value>,
    /// The params of what it asks, and what an answer must be.
    pub(crate) requests: BTreeMap<String, (Value, Value)>,
    /// The params of what codexd asks; only what the version knows.
    pub(crate) calls: BTreeMap<String, Value>,
    /// What codexd tells; only what the version knows.
    pub(crate) tellings: BTreeSet<String>,
    defs: Map<String, Value>,
}

impl Protocol {
    /// The recorded one.
    pub(crate) fn recorded() -> Protocol {
        Protocol::read(include_str!("../../schema/protocol.json"))
    }

    /// What that Codex generates.
    pub(crate) fn of(codex: &Path) -> Result<Protocol, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let said = said(codex, &["--version"], folder.path())?;
        let version = said.split_whitespace().last().unwrap_or_default().to_owned();
        said_of_schema(codex, folder.path())?;
        // In older versions two files mean different things by one name.
        Protocol::from_folder(&version, folder.path(), false)
            .or_else(|_| Protocol::from_folder(&version, folder.path(), true))
    }

    /// `apart`: each file's definitions get names of their own.
    fn from_folder(version: &str, folder: &Path, apart: bool) -> Result<Protocol, String> {
        let file = |name: &str| -> Result<Value, String> {
            let text =
                std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
            let value = serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
            Ok(if apart { renamed(value, name.trim_end_matches(".json")) } else { value })
        };
        let mut reduced = Protocol {
            version: version.to_owned(),
            notifications: BTreeMap::new(),
            requests: BTreeMap::new(),
            calls: BTreeMap::new(),
            tellings: BTreeSet::new(),
            defs: Map::new(),
        };
        let notifications = file("ServerNotification.json")?;
        for (method, params) in methods(&notifications) {
            let params = reduced.take(&notifications, &params)?;
            reduced.notifications.insert(method, params);
        }
        let requests = file("ServerRequest.json")?;
        for (method, params) in methods(&requests) {
            let name =
                params["$ref"].as_str().and_then(|path| path.rsplit(['/', '.']).next()).unwrap_or_default();
            let answers = file(&format!("{}Response.json", name.trim_end_matches("Params")))?;
            let params = reduced.take(&requests, &params)?;
            let answer = reduced.take(&answers, &answers)?;
            reduced.requests.insert(method, (params, answer));
        }
        let calls = file("ClientRequest.json")?;
        for (method, params) in
            methods(&calls).into_iter().filter(|(method, _)| needs::request(method).is_some())
        {
            let params = reduced.take(&calls, &params)?;
            reduced.calls.insert(method, params);
        }
        let tellings = file("ClientNotification.json")?;
        reduced.tellings.extend(methods(&tellings).into_iter().map(|(method, _)| method));
        Ok(reduced)
    }

    /// A schema without annotations; what it refers to comes into `defs`. The files have definitions of their own, but
    /// those of one name are the same.
    fn take(&mut self, file: &Value, schema: &Value) -> Result<Value, String> {
        let reduced = bare(schema);
        for name in references(&reduced) {
            let wanted = &file["definitions"][&name];
            let bare = bare(wanted);
            match self.defs.get(&name) {
                Some(known) if *known == bare => {}
                Some(_) => return Err(format!("two different definitions of {name}")),
                None if wanted.is_null() => return Err(format!("no definition of {name}")),
                None => {
                    self.defs.insert(name, bare);
                    self.take(file, wanted)?;
                }
            }
        }
        Ok(reduced)
    }

    /// What a `$ref` refers to; any other schema is itself.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        while let Some(path) = schema["$ref"].as_str() {
            let name = path.strip_prefix("#/$defs/").unwrap_or_else(|| panic!("$ref {path}"));
            schema = &self.defs[name];
        }
        schema
    }

    /// One method or definition a line, so that a later version's file can be compared with this one.
    pub(crate) fn to_text(&self) -> String {
        let requests: BTreeMap<_, _> = self
            .requests
            .iter()
            .map(|(method, (params, answer))| (method, json!({"params": params, "answer": answer})))
            .collect();
        let mut out =
            format!("{{\n\"version\":{},\n\"tellings\":{}", json!(self.version), json!(self.tellings));
        for (name, section) in [
            ("notifications", json!(self.notifications)),
            ("requests", json!(requests)),
            ("calls", json!(self.calls)),
            ("$defs", json!(self.defs)),
        ] {
            write!(out, ",\n\"{name}\":{{").unwrap();
            let members = section.as_object().unwrap();
            for (at, (key, value)) in members.iter().enumerate() {
                write!(out, "{}\n{}:{value}", if at > 0 { "," } else { "" }, json!(key)).unwrap();
            }
            out.push_str("\n}");
        }
        out.push_str("\n}\n");
        out
    }

    fn read(text: &str) -> Protocol {
        let mut value: Value = serde_json::from_str(text).expect("the recorded schema");
        let mut section = |name: &str| -> BTreeMap<String, Value> {
            serde_json::from_value(value[name].take()).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let requests = section("requests");
        Protocol {
            notifications: section("notifications"),
            requests: requests
                .into_iter()
                .map(|(method, mut both)| (method, (both["params"].take(), both["answer"].take())))
                .collect(),
            calls: section("calls"),
            defs: section("$defs").into_iter().collect(),
            tellings: serde_json::from_value(value["tellings"].take()).expect("tellings"),
            version: value["version"].as_str().expect("a version").to_owned(),
        }
    }
}

/// A schema without annotations and definitions, its references to `$defs`.
fn bare(schema: &Value) -> Value {
    let member = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            (key, _) if ANNOTATIONS.contains(&key) || key == "definitions" => return None,
            ("$ref", Value::String(path)) => json!(path.replace("#/definitions/", "#/$defs/")),
            // Names here are members, not keywords.
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, value)| (name.clone(), bare(value)))
                .collect::<Map<_, _>>()
                .into(),
            ("enum" | "required" | "const", value) => value.clone(),
            (_, value) => bare(value),
        };
        Some((key.clone(), value))
    };
    match schema {
        Value::Object(members) => members.iter().filter_map(member).collect::<Map<_, _>>().into(),
        Value::Array(list) => list.iter().map(bare).collect(),
        other => other.clone(),
    }
}

/// A file whose definitions have its name before their own.
fn renamed(mut file: Value, stem: &str) -> Value {
    fn refer(schema: &mut Value, stem: &str) {
        match schema {
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(path)) => {
                            *path = path.replace("#/definitions/", &format!("#/definitions/{stem}."));
                        }
                        (_, value) => refer(value, stem),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| refer(value, stem)),
            _ => {}
        }
    }
    refer(&mut file, stem);
    if let Some(definitions) = file["definitions"].as_object_mut() {
        *definitions = std::mem::take(definitions)
            .into_iter()
            .map(|(name, value)| (format!("{stem}.{name}"), value))
            .collect();
    }
    file
}

/// The names that a reduced schema refers to.
fn references(schema: &Value) -> BTreeSet<String> {
    match schema {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(|path| path.as_str()?.strip_prefix("#/$defs/"));
            let below = members.values().flat_map(references);
            own.map(str::to_owned).into_iter().chain(below).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// The methods of one of the files, with the schemas of their params; no params are `null`.
fn methods(file: &Value) -> Vec<(String, Value)> {
    let of = |branch: &Value| {
        let method = branch["properties"]["method"]["enum"][0].as_str().expect("a method").to_owned();
        (method, branch["properties"].get("params").cloned().unwrap_or_else(|| json!({"type": "null"})))
    };
    file["oneOf"].as_array().expect("oneOf").iter().map(of).collect()
}

/// Writes the schema of that Codex into a folder.
fn said_of_schema(codex: &Path, folder: &Path) -> Result<(), String> {
    let out = folder.display().to_string();
    let plain = ["app-server", "generate-json-schema", "--out", &out];
    said(codex, &[&plain[..], &["--experimental"]].concat(), folder)
        // Older versions make no difference.
        .or_else(|error| said(codex, &plain, folder).map_err(|_| error))
        .map(|_| ())
}

/// What that Codex prints; it keeps to itself, with `home` for its own.
pub(crate) fn said(codex: &Path, args: &[&str], home: &Path) -> Result<String, String> {
    let output = Command::new(codex)
        .args(args)
        .env("CODEX_HOME", home)
        .env("HOME", home)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", codex.display()))?;
    if !output.status.success() {
        return Err(format!(
            "{args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
