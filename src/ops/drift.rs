//! What of the protocol a version of Codex has that codexd needs, by that version's own JSON Schema
//! (`codex app-server generate-json-schema --experimental --out DIR`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::app_server::answer;
use crate::app_server::needs::{self, Need};

/// What codexd knows that nobody can answer for a client: it refuses these, and says so.
const UNANSWERABLE: &[&str] =
    &["account/chatgptAuthTokens/refresh", "attestation/generate", "currentTime/read"];

/// Something that is otherwise than codexd needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is and what does not work for it, for a person.
    pub text: String,
    /// Whether sessions and turns do not work for it.
    pub vital: bool,
}

/// What differs, by the schema in a folder; nothing when all that codexd needs is there.
///
/// # Errors
/// When the folder holds no such schema, for a person.
pub fn differences(folder: &Path) -> Result<Vec<Difference>, String> {
    let calls = methods(&read(folder, "ClientRequest.json")?)?;
    let requests = methods(&read(folder, "ServerRequest.json")?)?;
    let notifications = methods(&read(folder, "ServerNotification.json")?)?;
    let mut found: Vec<Difference> = needs::REQUESTS.iter().flat_map(|need| of_call(need, &calls)).collect();
    for event in needs::EVENTS.iter().filter(|event| !notifications.contains_key(**event)) {
        let text = format!("{event} is not told any more: codexd does not notice what it stood for");
        found.push(Difference { text, vital: event.starts_with("turn/") });
    }
    for method in requests.keys() {
        if answer::kind(method).is_none() && !UNANSWERABLE.contains(&method.as_str()) {
            let text = format!("Codex may ask {method}, which this codexd does not know and refuses");
            found.push(Difference { text, vital: false });
        }
    }
    Ok(found)
}

/// What a method's params are made of, as far as it matters here.
#[derive(Debug, Default)]
struct Params {
    names: Vec<String>,
    required: Vec<String>,
}

fn of_call(need: &Need, calls: &BTreeMap<String, Params>) -> Vec<Difference> {
    let Need { method, always, without, vital } = *need;
    let Some(params) = calls.get(method) else {
        let text = format!("{method} is gone: {without}");
        return vec![Difference { text, vital }];
    };
    let new = params.required.iter().filter(|name| !always.contains(&name.as_str()));
    let new = new.map(|name| Difference {
        text: format!("{method} requires {name}, which codexd does not give: {without}"),
        vital,
    });
    let gone = always.iter().filter(|name| !params.names.iter().any(|known| known == *name));
    let gone = gone.map(|name| Difference { text: format!("{method} passes over {name}"), vital: false });
    new.chain(gone).collect()
}

fn read(folder: &Path, name: &str) -> Result<Value, String> {
    let text = fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
}

/// The methods of one of the schema's files: its forms, each with the one word that `method` may be.
fn methods(file: &Value) -> Result<BTreeMap<String, Params>, String> {
    let forms = file["oneOf"].as_array().ok_or("the schema has another form than codexd knows")?;
    let mut methods = BTreeMap::new();
    for form in forms {
        let Some(method) = form["properties"]["method"]["enum"][0].as_str() else { continue };
        let params = &form["properties"]["params"];
        let definition = params["$ref"].as_str().and_then(|path| path.strip_prefix("#/definitions/"));
        let params = definition.map_or(params, |name| &file["definitions"][name]);
        let required = params["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names = params["properties"].as_object().into_iter().flat_map(|members| members.keys());
        let params =
            Params { names: names.cloned().collect(), required: required.map(str::to_owned).collect() };
        methods.insert(method.to_owned(), params);
    }
    Ok(methods)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(method: &str, required: &[&str], others: &[&str]) -> Value {
        let names = required.iter().chain(others);
        let members: serde_json::Map<_, _> = names.map(|name| ((*name).to_owned(), json!({}))).collect();
        json!({"properties": {"method": {"enum": [method]}, "params": {"required": required, "properties": members}}})
    }

    fn schema(calls: &[Value], requests: &[&str], notifications: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let bare = |methods: &[&str]| methods.iter().map(|method| form(method, &[], &[])).collect::<Vec<_>>();
        for (name, forms) in [
            ("ClientRequest.json", calls.to_vec()),
            ("ServerRequest.json", bare(requests)),
            ("ServerNotification.json", bare(notifications)),
        ] {
            crate::store::files::replace(&folder.path().join(name), &json!({"oneOf": forms})).unwrap();
        }
        folder
    }

    fn all_calls() -> Vec<Value> {
        needs::REQUESTS.iter().map(|need| form(need.method, need.always, &["more"])).collect()
    }

    fn texts(folder: &tempfile::TempDir) -> Vec<(bool, String)> {
        let found = differences(folder.path()).unwrap();
        found.into_iter().map(|difference| (difference.vital, difference.text)).collect()
    }

    #[test]
    fn what_is_gone_or_new_is_found() {
        assert_eq!(texts(&schema(&all_calls(), &["item/tool/call", "currentTime/read"], needs::EVENTS)), []);
        let mut calls = all_calls();
        calls.retain(|call| call["properties"]["method"]["enum"][0] != "turn/steer");
        calls[1] = form("thread/start", &["tenant"], &[]);
        calls[2] = form("turn/start", &["input"], &[]);
        let folder = schema(&calls, &["brand/new"], &needs::EVENTS[1..]);
        assert_eq!(
            texts(&folder),
            [
                (
                    true,
                    "thread/start requires tenant, which codexd does not give: sessions and turns do not work"
                ),
                (false, "turn/start passes over threadId"),
                (false, "turn/steer is gone: a running turn cannot be steered"),
                (false, "thread/started is not told any more: codexd does not notice what it stood for"),
                (false, "Codex may ask brand/new, which this codexd does not know and refuses"),
            ]
            .map(|(vital, text)| (vital, text.to_owned()))
        );
    }

    #[test]
    fn a_folder_without_a_schema_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(differences(folder.path()).unwrap_err().starts_with("ClientRequest.json: "));
    }
}
