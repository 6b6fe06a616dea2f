//! What Codex asks, in words for a person. All of it comes from outside: nothing here drives a terminal.

use serde_json::Value;

use super::render::readable;
use crate::model::printable;

/// What is asked, in one line.
pub fn summary(kind: &Value, params: &Value) -> String {
    let text = |name: &str| params[name].as_str().map(str::to_owned);
    let all = |list: &str, name: &str| {
        let entries = params[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> = entries.iter().filter_map(|entry| entry[name].as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let what = match kind.as_str().unwrap_or_default() {
        "command" => text("command"),
        "fileChange" => all("changes", "path"),
        "permissions" => text("reason"),
        "userInput" => all("questions", "question"),
        "elicitation" => text("message"),
        "toolCall" => text("tool"),
        _ => None,
    };
    fold(&what.unwrap_or_else(|| params.to_string()))
}

/// What is asked, whole: a person must see what is agreed to. Lines after the first are indented.
pub fn whole(kind: &Value, params: &Value) -> String {
    let text = |name: &str| params[name].as_str().map(|text| readable(text, "    "));
    let or_all = |text: Option<String>| text.unwrap_or_else(|| readable(&params.to_string(), "    "));
    let mut what = match kind.as_str().unwrap_or_default() {
        "command" => format!("Codex wants to run: {}", or_all(text("command"))),
        "fileChange" => format!("Codex wants to change files:{}", changes(params)),
        "permissions" => {
            format!("Codex asks for permissions: {}", printable(&params["permissions"].to_string()))
        }
        "elicitation" => match &params["requestedSchema"] {
            Value::Null => format!("A tool asks: {}", or_all(text("message"))),
            form => {
                format!("A tool asks: {}\n  form: {}", or_all(text("message")), printable(&form.to_string()))
            }
        },
        _ => format!("Codex asks: {}", printable(&params.to_string())),
    };
    for (name, label) in [("cwd", "in"), ("grantRoot", "and to write below"), ("reason", "because")] {
        if let Some(text) = text(name) {
            what.push_str(&format!("\n  {label}: {text}"));
        }
    }
    what
}

fn changes(params: &Value) -> String {
    let Some(changes) = params["changes"].as_array() else {
        return format!(" {}", printable(&params.to_string()));
    };
    let one = |change: &Value| {
        let text = |name: &str| change[name].as_str().unwrap_or_default();
        let kind = change["kind"]["type"].as_str().or(change["kind"].as_str()).unwrap_or("change");
        let (kind, path) = (printable(kind), printable(text("path")));
        format!("\n  {kind} {path}\n    {}", readable(text("diff").trim_end_matches('\n'), "    "))
    };
    changes.iter().map(one).collect()
}

/// Text in one line, white space folded.
pub fn fold(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_approved_is_shown_whole_and_harmless() {
        let command = json!({ "command": "rm -rf \u{1b}[2K/", "cwd": "/srv", "reason": "no\nroom" });
        assert_eq!(
            whole(&json!("command"), &command),
            "Codex wants to run: rm -rf \\u{1b}[2K/\n  in: /srv\n  because: no\n    room"
        );
        assert_eq!(summary(&json!("command"), &command), "rm -rf \\u{1b}[2K/");
        let change = json!({ "path": "/a", "kind": { "type": "add" }, "diff": "one\ntwo\n" });
        let change = json!({ "changes": [change, { "path": "/b", "diff": "" }] });
        assert_eq!(
            whole(&json!("fileChange"), &change),
            "Codex wants to change files:\n  add /a\n    one\n    two\n  change /b\n    "
        );
        assert_eq!(summary(&json!("fileChange"), &change), "/a, /b");
        assert_eq!(summary(&json!("other"), &json!({ "a": "\u{202e}" })), "{\"a\":\"\\u{202e}\"}");
        assert_eq!(whole(&json!("other"), &json!([1])), "Codex asks: [1]");
    }
}
