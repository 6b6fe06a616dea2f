//! The little language in which a test's prompt says what the model shall do.
//!
//! Pure: from the body of one `POST /v1/responses` to the list of [`Step`]s of its answer. The model server plays the
//! steps; the stub built into codexd understands the same language, so a test can run on either.

use std::time::Duration;

use serde_json::{Value, json};

/// One thing the model server does while it answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// A message of these deltas, with a pause before each.
    Message { deltas: Vec<String>, pause: Duration },
    /// A message that breaks off: deltas, and then the connection is cut.
    Cut(Vec<String>),
    /// A summary of the model's reasoning, in these deltas.
    Reasoning(Vec<String>),
    /// A tool call: a whole output item without `call_id`.
    Call(Value),
    /// An HTTP status with a JSON error instead of a stream.
    Fail(u16),
}

/// What the last meaningful item of the request's `input` is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// The user said something.
    Prompt(String),
    /// A tool has answered: the turn goes on.
    Output(String),
}

/// What is asked in `request`: the last user text, or the tool output that came after it.
pub(crate) fn asked(request: &Value) -> Asked {
    let items = request["input"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut outputs = Vec::new();
    for item in items.iter().rev() {
        match item["type"].as_str() {
            Some("function_call_output" | "custom_tool_call_output") => {
                outputs.push(text_of(&item["output"]))
            }
            Some("message") if item["role"] == "user" => {
                let text = text_of(&item["content"]);
                if is_context(&text) {
                    continue;
                }
                if outputs.is_empty() {
                    return Asked::Prompt(text);
                }
                break;
            }
            _ => {}
        }
    }
    outputs.reverse();
    Asked::Output(outputs.join("\n"))
}

/// Codex itself writes some of the user messages: the environment, an interruption.
fn is_context(text: &str) -> bool {
    ["<environment_context>", "<user_instructions>", "<turn_aborted>", "# AGENTS.md"]
        .iter()
        .any(|mark| text.starts_with(mark))
}

/// The text of a content array, of a plain string, or of whatever else a tool gave.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The answer to `request`.
pub(crate) fn steps(request: &Value) -> Vec<Step> {
    match asked(request) {
        Asked::Output(output) => vec![done(&output)],
        Asked::Prompt(prompt) => {
            scripted(prompt.trim(), &request["tools"]).unwrap_or_else(|| vec![done(&prompt)])
        }
    }
}

fn scripted(prompt: &str, tools: &Value) -> Option<Vec<Step>> {
    if let Some(n) = prompt.strip_prefix("say ").and_then(|rest| rest.strip_suffix(" words")) {
        return Some(vec![message(words(n.trim().parse().ok()?), 0)]);
    }
    let (name, rest) = prompt.split_once(':')?;
    let rest = rest.trim();
    Some(match name {
        "slow" => {
            let (n, ms) = rest.split_once(' ')?;
            vec![message(words(n.parse().ok()?), ms.trim().parse().ok()?)]
        }
        "run" => vec![shell(tools, rest, true)],
        "plainrun" => vec![shell(tools, rest, false)],
        "run2" => rest.splitn(2, "&&").map(|command| shell(tools, command.trim(), true)).collect(),
        "patch" => {
            let (file, text) = rest.split_once(' ').unwrap_or((rest, ""));
            vec![patch(tools, file, text)]
        }
        "perm" => {
            let permissions = json!({"file_system": {"write": [rest]}});
            vec![function(
                tools,
                "request_permissions",
                json!({"permissions": permissions, "reason": "need to write there"}),
            )]
        }
        "ask" => {
            let options = json!([
                {"label": "Yes (Recommended)", "description": "go on"},
                {"label": "No", "description": "stop"},
            ]);
            let question = json!({"id": "q1", "header": "Choice", "question": rest, "options": options});
            vec![function(tools, "request_user_input", json!({"questions": [question]}))]
        }
        "think" => vec![Step::Reasoning(vec![rest.to_owned(), " indeed".to_owned()]), done(prompt)],
        "fail" => vec![Step::Fail(rest.parse().ok()?)],
        "cut" => vec![Step::Cut(words(rest.parse().ok()?))],
        "big" => vec![message(vec!["x".repeat(rest.parse().ok()?)], 0)],
        _ => return None,
    })
}

fn words(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("word{i} ")).collect()
}

fn message(deltas: Vec<String>, pause_ms: u64) -> Step {
    Step::Message { deltas, pause: Duration::from_millis(pause_ms) }
}

fn done(text: &str) -> Step {
    message(vec!["done: ".to_owned(), text.to_owned()], 0)
}

/// The tool of that name among those the request offers.
fn offered<'a>(tools: &'a Value, name: &str) -> Option<&'a Value> {
    tools.as_array()?.iter().find(|tool| tool["name"] == name)
}

fn missing(name: &str) -> Step {
    message(vec![format!("the request offers no tool {name}")], 0)
}

fn function(tools: &Value, name: &str, arguments: Value) -> Step {
    match offered(tools, name) {
        Some(_) => {
            Step::Call(json!({"type": "function_call", "name": name, "arguments": arguments.to_string()}))
        }
        None => missing(name),
    }
}

/// A command through whichever shell tool is offered, with the argument names its schema has.
fn shell(tools: &Value, command: &str, escalated: bool) -> Step {
    let Some((name, tool)) = ["exec_command", "shell_command", "shell"]
        .iter()
        .find_map(|name| offered(tools, name).map(|tool| (*name, tool)))
    else {
        return missing("exec_command");
    };
    let properties = &tool["parameters"]["properties"];
    let has = |property: &str| properties.get(property).is_some();
    let mut arguments = if has("cmd") {
        json!({"cmd": command})
    } else if properties["command"]["type"] == "array" {
        json!({"command": ["bash", "-lc", command]})
    } else {
        json!({"command": command})
    };
    if escalated {
        if has("sandbox_permissions") {
            arguments["sandbox_permissions"] = json!("require_escalated");
        } else {
            arguments["with_escalated_permissions"] = json!(true);
        }
        arguments["justification"] = json!("Do you want to run this?");
    }
    function(tools, name, arguments)
}

/// A patch that adds `file`, as a freeform (custom) tool or as a function.
fn patch(tools: &Value, file: &str, text: &str) -> Step {
    let lines: String = text.lines().map(|line| format!("+{line}\n")).collect();
    let patch = format!("*** Begin Patch\n*** Add File: {file}\n{lines}*** End Patch\n");
    match offered(tools, "apply_patch") {
        Some(tool) if tool["type"] == "custom" => {
            Step::Call(json!({"type": "custom_tool_call", "name": "apply_patch", "input": patch}))
        }
        Some(_) => function(tools, "apply_patch", json!({"input": patch})),
        None => missing("apply_patch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Value {
        let user = |text: &str| json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]});
        let exec = json!({"type": "function", "name": "exec_command", "parameters": {"properties": {"cmd": {}, "sandbox_permissions": {}}}});
        json!({"input": [user("<environment_context>…"), user(text)], "tools": [exec]})
    }

    #[test]
    fn words_and_pauses() {
        assert_eq!(steps(&request("say 2 words")), [message(vec!["word0 ".into(), "word1 ".into()], 0)]);
        assert_eq!(steps(&request("slow: 1 300")), [message(vec!["word0 ".into()], 300)]);
        assert_eq!(steps(&request("fail: 429")), [Step::Fail(429)]);
        assert_eq!(steps(&request("note: this")), [done("note: this")]);
    }

    #[test]
    fn two_commands_are_two_calls() {
        let steps = steps(&request("run2: id && ls"));
        assert_eq!(steps.len(), 2);
        let Step::Call(call) = &steps[1] else { panic!("{steps:?}") };
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(
            (&arguments["cmd"], &arguments["sandbox_permissions"]),
            (&json!("ls"), &json!("require_escalated"))
        );
    }

    #[test]
    fn after_a_tool_the_turn_goes_on() {
        let mut request = request("run: id");
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "uid=0"});
        request["input"].as_array_mut().unwrap().push(output);
        assert_eq!(asked(&request), Asked::Output("uid=0".into()));
        assert_eq!(steps(&request), [done("uid=0")]);
    }
}
