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
    // What comes with it, too: whoever reads this line may answer by `codexd answer`.
    let mut granted = Vec::new();
    for (name, label) in LABELS.iter().filter(|(name, _)| !params[*name].is_null()) {
        if label.ends_with("permission") {
            permissions(&format!("{label}:"), &params[*name], &mut granted);
        } else if *name == "grantRoot" {
            granted.push(format!("{label}: {}", line(&params[*name])));
        }
    }
    let Some(what) = what else { return fold(&params.to_string()) };
    fold(&[[what].as_slice(), &granted].concat().join("; "))
}

/// Members of a request's parameters that only tell it apart from others, or when it was made.
const IDS: &[&str] = &[
    "approvalId",
    "callId",
    "conversationId",
    "elicitationId",
    "itemId",
    "startedAtMs",
    "threadId",
    "turnId",
];

/// Members with what they are called for a person, in the order in which they are shown.
const LABELS: &[(&str, &str)] = &[
    ("cwd", "in"),
    ("reason", "because"),
    ("permissions", "permission"),
    ("additionalPermissions", "extra permission"),
    ("grantRoot", "and to write below"),
    ("networkApprovalContext", "for network access"),
    ("proposedExecpolicyAmendment", "proposed rule, to run always what begins with"),
    ("proposedNetworkPolicyAmendments", "proposed network rules"),
    ("serverName", "server"),
    ("url", "address"),
    ("requestedSchema", "form"),
];

/// What is asked, whole: a person must see what is agreed to, also where a newer Codex asks for something that is not
/// known here. Lines after the first are indented.
pub fn whole(kind: &Value, params: &Value) -> String {
    let Some(members) = params.as_object() else { return format!("Codex asks: {}", json(params)) };
    // What is told is taken out; the rest comes last, as it was sent.
    let mut rest = members.clone();
    rest.retain(|name, value| !value.is_null() && !goes_without_saying(name, value));
    let mut what = match kind.as_str().unwrap_or_default() {
        "command" => {
            // Codex's own reading of the command, and decisions that cannot be typed here.
            for name in ["commandActions", "parsedCmd", "availableDecisions"] {
                rest.remove(name);
            }
            format!("Codex wants to run: {}", rest.remove("command").as_ref().map_or_else(nothing, text))
        }
        "fileChange" => {
            let changes = rest.remove("changes");
            format!(
                "Codex wants to change files:{}",
                changes.as_ref().map_or_else(|| format!(" {}", nothing()), changes_of)
            )
        }
        "permissions" => "Codex asks for permissions".to_owned(),
        "elicitation" => {
            format!("A tool asks: {}", rest.remove("message").as_ref().map_or_else(nothing, text))
        }
        _ => return format!("Codex asks: {}", json(params)),
    };
    for (name, label) in LABELS {
        let Some(value) = rest.remove(*name) else { continue };
        let mut lines = Vec::new();
        if label.ends_with("permission") {
            permissions(&format!("{label}:"), &value, &mut lines);
        } else {
            lines.push(format!("{label}: {}", text(&value)));
        }
        for line in lines {
            what.push_str(&format!("\n  {line}"));
        }
    }
    for (name, value) in &rest {
        what.push_str(&format!("\n  {}: {}", printable(name), json(value)));
    }
    what
}

fn nothing() -> String {
    "(it does not say what)".to_owned()
}

/// Whether a member says nothing about what is agreed to.
fn goes_without_saying(name: &str, value: &Value) -> bool {
    let usual = match name {
        "kind" => value == "command",
        "environmentId" => value == "local",
        "mode" => value == "form" || value == "url",
        _ => false,
    };
    usual || IDS.contains(&name) && !value.is_object() && !value.is_array()
}

/// Compact, in one line.
fn json(value: &Value) -> String {
    printable(&value.to_string()).into_owned()
}

/// Text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| json(value), |text| readable(text, "    "))
}

/// The same in one line.
fn line(value: &Value) -> String {
    value.as_str().map_or_else(|| json(value), |text| printable(text).into_owned())
}

/// Permissions, a line for each, none twice: Codex sends paths in an older form too. What has a shape that is not known
/// here is told as far as it goes.
fn permissions(label: &str, value: &Value, lines: &mut Vec<String>) {
    let inner: Vec<(&str, &Value)> = match value {
        _ if entry(value).is_some() => Vec::new(),
        Value::Array(items) => items.iter().map(|item| ("entries", item)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        _ => Vec::new(),
    };
    let inner: Vec<_> = inner.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if inner.is_empty() {
        let told = format!("{label} {}", entry(value).unwrap_or_else(|| line(value)));
        if !lines.contains(&told) {
            lines.push(told);
        }
    }
    for (name, value) in inner {
        match name {
            "fileSystem" | "entries" => permissions(label, value, lines),
            name => permissions(&format!("{label} {}", printable(name)), value, lines),
        }
    }
}

/// An entry of a file system's permissions.
fn entry(value: &Value) -> Option<String> {
    let members = value.as_object().filter(|members| members.len() == 2)?;
    let (access, path) = (members.get("access")?, members.get("path")?);
    let plain = path.as_object().filter(|path| path.len() == 2 && path.get("type") == Some(&"path".into()));
    let path = plain.and_then(|path| path.get("path")).unwrap_or(path);
    Some(format!("{} {}", line(access), line(path)))
}

fn changes_of(changes: &Value) -> String {
    let Some(changes) = changes.as_array() else { return format!(" {}", json(changes)) };
    changes.iter().map(change).collect()
}

/// A changed file: its path, where it goes and whatever else is told, and the diff.
fn change(change: &Value) -> String {
    let Some(members) = change.as_object() else { return format!("\n  {}", json(change)) };
    let of = |name: &str| members.get(name).unwrap_or(&Value::Null);
    let how = of("kind").as_object();
    let kind = how.map_or(of("kind"), |how| how.get("type").unwrap_or(&Value::Null));
    let kind = if kind.is_null() { "change".to_owned() } else { line(kind) };
    let mut told = format!("\n  {kind} {}", line(of("path")));
    let others = members.iter().filter(|(name, _)| !matches!(name.as_str(), "path" | "diff" | "kind"));
    let how = how.into_iter().flatten().filter(|(name, _)| *name != "type");
    for (name, value) in how.chain(others).filter(|(_, value)| !value.is_null()) {
        told.push_str(&format!(", {}: {}", printable(name), json(value)));
    }
    let diff = match of("diff") {
        Value::Null => String::new(),
        Value::String(diff) => readable(diff.trim_end_matches('\n'), "    "),
        odd => json(odd),
    };
    format!("{told}\n    {diff}")
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
        let granted = json!({ "reason": "so", "permissions": { "network": true }, "grantRoot": "/" });
        assert_eq!(
            summary(&json!("permissions"), &granted),
            "so; permission: network true; and to write below: /"
        );
        assert_eq!(summary(&json!("other"), &json!({ "a": "\u{202e}" })), "{\"a\":\"\\u{202e}\"}");
        assert_eq!(whole(&json!("other"), &json!([1])), "Codex asks: [1]");
    }

    #[test]
    fn everything_that_is_granted_is_shown_and_what_is_not_known_too() {
        let ssh = json!({ "path": { "type": "path", "path": "/home/u/.ssh" }, "access": "write" });
        let root = json!({ "path": { "type": "special", "value": { "kind": "root" } }, "access": "read" });
        let ids = json!({ "threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 1, "kind": "command",
            "environmentId": "local", "commandActions": [], "availableDecisions": [] });
        let move_there =
            json!({ "path": "/a", "kind": { "type": "update", "move_path": "/b\u{1b}" }, "diff": "+x\n" });
        for (kind, params, expected) in [
            (
                "command",
                json!({ "command": "ls", "cwd": "/x", "reason": "so" }),
                "ls\n  in: /x\n  because: so",
            ),
            ("command", json!({ "command": ["ls", "a b"] }), "[\"ls\",\"a b\"]"),
            (
                "command",
                json!({ "command": "ls", "additionalPermissions": { "fileSystem": { "write": ["/home/u/.ssh"],
                    "entries": [ssh] }, "network": { "enabled": true } } }),
                "ls\n  extra permission: write /home/u/.ssh\n  extra permission: network enabled true",
            ),
            (
                "command",
                json!({ "command": null, "networkApprovalContext": { "host": "x.example", "protocol": "https" } }),
                "(it does not say what)\n  for network access: {\"host\":\"x.example\",\"protocol\":\"https\"}",
            ),
            (
                "command",
                json!({ "command": "ls", "proposedExecpolicyAmendment": ["rm", "-rf /"],
                    "proposedNetworkPolicyAmendments": [{ "action": "allow", "host": "x" }] }),
                "ls\n  proposed rule, to run always what begins with: [\"rm\",\"-rf /\"]\
                 \n  proposed network rules: [{\"action\":\"allow\",\"host\":\"x\"}]",
            ),
            (
                "command",
                json!({ "command": "yes", "kind": "writeStdin", "environmentId": "elsewhere", "reason": ["odd"],
                    "turnId": { "grant": 1 }, "brand\u{202e}New": { "power": "a\u{1b}\nb" }, "no": false }),
                "yes\n  because: [\"odd\"]\n  brand\\u{202e}New: {\"power\":\"a\\u001b\\nb\"}\
                 \n  environmentId: \"elsewhere\"\n  kind: \"writeStdin\"\n  no: false\n  turnId: {\"grant\":1}",
            ),
            (
                "permissions",
                json!({ "cwd": "/x", "permissions": { "fileSystem": { "entries": [ssh, root], "read": null,
                    "globScanMaxDepth": 3 }, "clipboard": { "paste": ["all\n  in: /"] } } }),
                "\n  in: /x\n  permission: clipboard paste all\\n  in: /\n  permission: write /home/u/.ssh\
                 \n  permission: read {\"type\":\"special\",\"value\":{\"kind\":\"root\"}}\
                 \n  permission: globScanMaxDepth 3",
            ),
            (
                "permissions",
                json!({ "permissions": { "fileSystem": { "entries": [{ "path": "/a", "access": "write" }] } } }),
                "\n  permission: write /a",
            ),
            (
                "permissions",
                json!({ "permissions": { "network": null } }),
                "\n  permission: {\"network\":null}",
            ),
            (
                "fileChange",
                json!({ "changes": [move_there, "odd"], "grantRoot": "/etc" }),
                "\n  update /a, move_path: \"/b\\u001b\"\n    +x\n  \"odd\"\n  and to write below: /etc",
            ),
            (
                "fileChange",
                json!({ "fileChanges": { "/a": { "type": "delete", "content": "" } } }),
                " (it does not say what)\n  fileChanges: {\"/a\":{\"content\":\"\",\"type\":\"delete\"}}",
            ),
            (
                "elicitation",
                json!({ "mode": "url", "message": "Sign in", "url": "https://a.example/\u{202e}",
                    "serverName": "shop", "elicitationId": "e", "_meta": null }),
                "Sign in\n  server: shop\n  address: https://a.example/\\u{202e}",
            ),
            (
                "elicitation",
                json!({ "mode": "form", "message": "Go on?", "serverName": "shop", "requestedSchema": { "type": "object" },
                    "_meta": { "tool": "wipe" } }),
                "Go on?\n  server: shop\n  form: {\"type\":\"object\"}\n  _meta: {\"tool\":\"wipe\"}",
            ),
            (
                "elicitation",
                json!({ "mode": "openai/userVerification", "title": "You?" }),
                "(it does not say what)\n  mode: \"openai/userVerification\"\n  title: \"You?\"",
            ),
        ] {
            let mut params = params;
            for (name, value) in ids.as_object().unwrap() {
                params.as_object_mut().unwrap().entry(name).or_insert_with(|| value.clone());
            }
            if kind != "command" {
                let params = params.as_object_mut().unwrap();
                params.retain(|name, _| name != "commandActions" && name != "availableDecisions");
            }
            let begins = match kind {
                "command" => "Codex wants to run: ",
                "fileChange" => "Codex wants to change files:",
                "permissions" => "Codex asks for permissions",
                _ => "A tool asks: ",
            };
            assert_eq!(whole(&json!(kind), &params), format!("{begins}{expected}"), "{params}");
        }
    }
}
