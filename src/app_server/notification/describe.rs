//! One line for a person about a notification that has no event type of its own.

use serde_json::value::RawValue;

use crate::model::members::{self, Members};
use crate::model::{preview, preview_of_raw};

/// Items that begin with one text: how they are called, and where the text is.
const TEXT_ITEMS: &[(&str, &str, &str)] = &[
    ("agentMessage", "message", "text"),
    ("plan", "plan", "text"),
    ("webSearch", "web search", "query"),
    ("imageView", "image", "path"),
    ("imageGeneration", "image generation", "revisedPrompt"),
    ("collabAgentToolCall", "agent tool", "tool"),
    ("subAgentActivity", "agent", "agentPath"),
    ("functionCallOutput", "output of", "name"),
    ("enteredReviewMode", "review begun", "review"),
    ("exitedReviewMode", "review ended", "review"),
    ("contextCompaction", "context compacted", ""),
];

/// Members that say what a notification is about, where nothing else is known of it; the first that is a text.
const TELLING: &[&str] =
    &["delta", "message", "summary", "text", "reason", "name", "threadName", "status", "error", "path"];

/// `App-server item/completed: command `cargo test` completed, exit 0, 3.2 s`; where nothing more is known the turn or
/// thread that it is about, else the method alone. What is missing or of another type is left out.
pub(super) fn describe(method: &str, params: &Members<'_>) -> String {
    let method_shown = preview(method);
    let about = || {
        let of = |kind: &str, name: &str| text(params, name).map(|id| format!("{kind} {id}"));
        of("turn", "turnId").or_else(|| of("thread", "threadId"))
    };
    match particulars(method, params).or_else(about) {
        Some(particulars) => format!("App-server {method_shown}: {particulars}"),
        None => format!("App-server notification {method_shown}."),
    }
}

fn particulars(method: &str, params: &Members<'_>) -> Option<String> {
    match method {
        "item/started" | "item/completed" => item(&params.object("item")?),
        "thread/tokenUsage/updated" => token_usage(&params.object("tokenUsage")?),
        "account/rateLimits/updated" => rate_limits(&params.object("rateLimits")?),
        "item/commandExecution/outputDelta" => labelled("command output", params, "delta"),
        "item/commandExecution/terminalInteraction" => labelled("command input", params, "stdin"),
        "item/fileChange/outputDelta" => labelled("file change output", params, "delta"),
        "item/fileChange/patchUpdated" => Some(format!("file change of {}", changed(params)?)),
        "item/reasoning/textDelta" => labelled("reasoning", params, "delta"),
        "item/reasoning/summaryTextDelta" => labelled("reasoning summary", params, "delta"),
        "item/reasoning/summaryPartAdded" => {
            Some(format!("reasoning summary, part {}", params.number("summaryIndex")?))
        }
        "serverRequest/resolved" => Some(format!("request {} resolved", id(params.get("requestId")?))),
        "hook/started" | "hook/completed" => {
            let run = params.object("run")?;
            Some(with_outcome(format!("hook {}", text(&run, "eventName")?), &run))
        }
        "process/outputDelta" => {
            Some(format!("{} of process {}", text(params, "stream")?, text(params, "processHandle")?))
        }
        "process/exited" => Some(with_outcome(format!("process {}", text(params, "processHandle")?), params)),
        "model/rerouted" => {
            Some(format!("model {} rerouted to {}", text(params, "fromModel")?, text(params, "toModel")?))
        }
        "mcpServer/startupStatus/updated" => {
            let server = format!("MCP server {} {}", text(params, "name")?, text(params, "status")?);
            Some(with_text(server, text(params, "error")))
        }
        "fs/changed" => {
            let paths = params.list("changedPaths")?;
            Some(format!("changed: {}", and_more(paths.first().and_then(|path| text_of(path)), paths.len())))
        }
        "item/autoApprovalReview/started" | "item/autoApprovalReview/completed" => {
            let review = params.object("review")?;
            let status = format!("automatic review {}", text(&review, "status")?);
            Some(with_text(status, text(&review, "rationale")))
        }
        "account/updated" => Some(format!(
            "login by {}, plan {}",
            text(params, "authMode").unwrap_or_else(|| "none".to_owned()),
            text(params, "planType").unwrap_or_else(|| "unknown".to_owned())
        )),
        "thread/goal/updated" => labelled("goal", &params.object("goal")?, "objective"),
        _ => TELLING.iter().find_map(|name| {
            text(params, name).or_else(|| params.object(name).and_then(|error| text(&error, "message")))
        }),
    }
}

fn item(item: &Members<'_>) -> Option<String> {
    let kind = text(item, "type")?;
    let known = TEXT_ITEMS.iter().find(|(name, ..)| *name == kind);
    let line = match (kind.as_str(), known) {
        (_, Some((_, label, name))) => labelled(label, item, name)?,
        ("commandExecution", _) => format!("command `{}`", text(item, "command").unwrap_or_default()),
        ("fileChange", _) => format!("file change of {}", changed(item).unwrap_or_default()),
        ("userMessage", _) => first_of("user message", item.list("content"), "text"),
        ("hookPrompt", _) => first_of("hook prompt", item.list("fragments"), "text"),
        ("reasoning", _) => {
            let first = |name: &str| item.list(name)?.first().and_then(|part| text_of(part));
            with_text(kind, first("summary").or_else(|| first("content")))
        }
        ("mcpToolCall", _) => format!(
            "tool {} of {}",
            text(item, "tool").unwrap_or_default(),
            text(item, "server").unwrap_or_default()
        ),
        ("dynamicToolCall", _) => format!("tool {}", text(item, "tool").unwrap_or_default()),
        _ => kind,
    };
    Some(with_outcome(line, item))
}

/// ` completed, exit 0, 3.2 s`: as far as it is known.
fn with_outcome(mut line: String, of: &Members<'_>) -> String {
    if let Some(status) = text(of, "status").filter(|status| status != "inProgress") {
        line.push_str(&format!(" {status}"));
    }
    if let Some(code) = of.number("exitCode") {
        line.push_str(&format!(", exit {}", preview(code)));
    }
    if let Some(millis) = of.number("durationMs").and_then(|millis| millis.parse::<u64>().ok()) {
        match millis {
            ..1000 => line.push_str(&format!(", {millis} ms")),
            _ => line.push_str(&format!(", {}.{} s", millis / 1000, millis % 1000 / 100)),
        }
    }
    with_text(line, of.object("error").and_then(|error| text(&error, "message")))
}

/// `line: text`, or the line where there is no text.
fn with_text(line: String, text: Option<String>) -> String {
    match text {
        Some(text) => format!("{line}: {text}"),
        None => line,
    }
}

fn labelled(label: &str, of: &Members<'_>, name: &str) -> Option<String> {
    Some(with_text(label.to_owned(), text(of, name)))
}

fn first_of(label: &str, list: Option<Vec<&RawValue>>, name: &str) -> String {
    let first = list.unwrap_or_default().first().and_then(|first| Members::of(first));
    with_text(label.to_owned(), first.and_then(|first| text(&first, name)))
}

/// `a.txt`, or `a.txt and 2 more`.
fn changed(of: &Members<'_>) -> Option<String> {
    let changes = of.list("changes")?;
    let first = changes.first().and_then(|first| Members::of(first));
    Some(and_more(first.and_then(|first| text(&first, "path")), changes.len()))
}

fn and_more(first: Option<String>, count: usize) -> String {
    let first = first.unwrap_or_else(|| "nothing".to_owned());
    match count {
        0 | 1 => first,
        more => format!("{first} and {} more", more - 1),
    }
}

fn token_usage(usage: &Members<'_>) -> Option<String> {
    let total = usage.object("total")?;
    let number = |name: &str| total.number(name).map(preview);
    let mut line = format!(
        "{} tokens in all, {} in, {} out",
        number("totalTokens")?,
        number("inputTokens")?,
        number("outputTokens")?
    );
    if let (Some(last), Some(window)) = (usage.object("last"), usage.number("modelContextWindow"))
        && let Some(last) = last.number("totalTokens")
    {
        line.push_str(&format!("; the last answer {} of a window of {}", preview(last), preview(window)));
    }
    Some(line)
}

fn rate_limits(limits: &Members<'_>) -> Option<String> {
    let window = |name: &str| {
        let window = limits.object(name)?;
        let used = preview(window.number("usedPercent")?);
        Some(match window.number("windowDurationMins") {
            Some(minutes) => format!("{used}% of {} minutes used", preview(minutes)),
            None => format!("{used}% used"),
        })
    };
    let windows: Vec<String> = ["primary", "secondary"].into_iter().filter_map(window).collect();
    (!windows.is_empty()).then(|| windows.join(", "))
}

/// A text that says something, on one line.
fn text(of: &Members<'_>, name: &str) -> Option<String> {
    of.get(name).and_then(text_of)
}

/// Only as much of it is decoded as is shown: it may be 20 MB.
fn text_of(value: &RawValue) -> Option<String> {
    let is_text = value.get().starts_with('"');
    let shown = is_text.then(|| preview_of_raw(value.get()));
    shown.filter(|shown| !shown.is_empty())
}

fn id(value: &RawValue) -> String {
    members::text(value).map_or_else(|| preview(value.get()), |text| preview(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_person_can_read() {
        let cases = [
            (
                "item/completed",
                r#"{"item":{"type":"commandExecution","command":"cargo test","status":"completed","exitCode":0,
                    "durationMs":3210}}"#,
                "App-server item/completed: command `cargo test` completed, exit 0, 3.2 s",
            ),
            (
                "item/completed",
                r#"{"item":{"type":"commandExecution","command":"ls","status":"declined","exitCode":null,"durationMs":9}}"#,
                "App-server item/completed: command `ls` declined, 9 ms",
            ),
            (
                "item/started",
                r#"{"item":{"type":"commandExecution","command":"a\n b","status":"inProgress"}}"#,
                "App-server item/started: command `a b`",
            ),
            (
                "item/started",
                r#"{"item":{"type":"fileChange","changes":[{"path":"a"},{"path":"b"}],"status":"inProgress"}}"#,
                "App-server item/started: file change of a and 1 more",
            ),
            (
                "item/completed",
                r#"{"item":{"type":"mcpToolCall","tool":"t","server":"s","status":"failed","error":{"message":"no"}}}"#,
                "App-server item/completed: tool t of s failed: no",
            ),
            (
                "item/completed",
                r#"{"item":{"type":"reasoning","summary":[],"content":["so it is"]}}"#,
                "App-server item/completed: reasoning: so it is",
            ),
            (
                "item/completed",
                r#"{"item":{"type":"userMessage","content":[{"type":"text","text":"hi"}]}}"#,
                "App-server item/completed: user message: hi",
            ),
            (
                "item/completed",
                r#"{"item":{"type":"agentMessage","text":"yes"}}"#,
                "App-server item/completed: message: yes",
            ),
            ("item/started", r#"{"item":{"type":"novelty"}}"#, "App-server item/started: novelty"),
            (
                "item/reasoning/textDelta",
                r#"{"delta":"so  then"}"#,
                "App-server item/reasoning/textDelta: reasoning: so then",
            ),
            (
                "item/commandExecution/outputDelta",
                r#"{"delta":"test a ... ok\n"}"#,
                "App-server item/commandExecution/outputDelta: command output: test a ... ok",
            ),
            (
                "thread/tokenUsage/updated",
                r#"{"tokenUsage":{"total":{"totalTokens":15,"inputTokens":10,"outputTokens":5},
                    "last":{"totalTokens":7},"modelContextWindow":1000}}"#,
                "App-server thread/tokenUsage/updated: 15 tokens in all, 10 in, 5 out; the last answer 7 of a window \
                 of 1000",
            ),
            (
                "account/rateLimits/updated",
                r#"{"rateLimits":{"primary":{"usedPercent":12,"windowDurationMins":300},"secondary":null}}"#,
                "App-server account/rateLimits/updated: 12% of 300 minutes used",
            ),
            (
                "serverRequest/resolved",
                r#"{"requestId":3}"#,
                "App-server serverRequest/resolved: request 3 resolved",
            ),
            (
                "process/exited",
                r#"{"processHandle":"p","exitCode":-1}"#,
                "App-server process/exited: process p, exit -1",
            ),
            (
                "mcpServer/startupStatus/updated",
                r#"{"name":"n","status":"failed","error":"gone"}"#,
                "App-server mcpServer/startupStatus/updated: MCP server n failed: gone",
            ),
            ("thread/realtime/error", r#"{"error":{"message":"m"}}"#, "App-server thread/realtime/error: m"),
            (
                "fs/changed",
                r#"{"changedPaths":["/a","/b"]}"#,
                "App-server fs/changed: changed: /a and 1 more",
            ),
            (
                "item/autoApprovalReview/completed",
                r#"{"review":{"status":"denied","rationale":"risky"}}"#,
                "App-server item/autoApprovalReview/completed: automatic review denied: risky",
            ),
            (
                "account/updated",
                r#"{"authMode":"chatgpt","planType":null}"#,
                "App-server account/updated: login by chatgpt, plan unknown",
            ),
            ("thread/archived", r#"{"threadId":"t"}"#, "App-server thread/archived: thread t"),
            ("brand/new", r#"{"x":1,"threadId":"t","turnId":"u"}"#, "App-server brand/new: turn u"),
            ("brand/new", r#"{"summary":"s"}"#, "App-server brand/new: s"),
            ("brand/new", r#"{"x":"s"}"#, "App-server notification brand/new."),
        ];
        for (method, params, line) in cases {
            let params = RawValue::from_string(params.to_owned()).unwrap();
            assert_eq!(describe(method, &Members::of(&params).unwrap()), line);
        }
    }

    #[test]
    fn what_is_strange_is_left_out() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for strange in [
            "{}",
            r#"{"item":7}"#,
            r#"{"item":{"type":{}}}"#,
            r#"{"delta":[1]}"#,
            &format!(r#"{{"item":{deep}}}"#),
        ] {
            let strange = RawValue::from_string(strange.to_owned()).unwrap();
            let line = describe("item/started", &Members::of(&strange).unwrap());
            assert_eq!(line, "App-server notification item/started.");
        }
        let odd = format!(
            r#"{{"item":{{"deep":{deep},"type":"commandExecution","command":"a\ud800","exitCode":1e999,"durationMs":-1}}}}"#
        );
        let odd = RawValue::from_string(odd).unwrap();
        assert_eq!(
            describe("item/completed", &Members::of(&odd).unwrap()),
            "App-server item/completed: command `a\u{fffd}`, exit 1e999"
        );
    }
}
