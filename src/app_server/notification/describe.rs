//! One line for a person about a notification that has no event type of its own.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::preview;

/// The parts of params that such a line is made of; whatever is missing or of another type is left out.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Params {
    item: Value,
    token_usage: Value,
    delta: Value,
    message: Value,
    summary: Value,
}

/// `App-server item completed: command cargo test, exit 0, 3.2 s`, or the method's name where nothing more is known.
pub(super) fn describe(method: &str, params: &RawValue) -> String {
    let params: Params = serde_json::from_str(params.get()).unwrap_or_default();
    let particulars = match method {
        "item/started" | "item/completed" => item(&params.item),
        "thread/tokenUsage/updated" => token_usage(&params.token_usage),
        _ => [&params.delta, &params.message, &params.summary]
            .into_iter()
            .find_map(|text| text.as_str().map(preview)),
    };
    let method = preview(method);
    match particulars {
        Some(particulars) => format!("App-server notification {method}: {particulars}"),
        None => format!("App-server notification {method}."),
    }
}

fn item(item: &Value) -> Option<String> {
    let text = |name: &str| item[name].as_str().filter(|text| !text.is_empty()).map(preview);
    let kind = text("type")?;
    let mut line = match kind.as_str() {
        "commandExecution" => format!("command {}", text("command").unwrap_or_default()),
        "fileChange" => format!("file change of {}", changed(&item["changes"])),
        "agentMessage" => labelled("message", text("text")),
        "userMessage" => labelled("user message", item["content"][0]["text"].as_str().map(preview)),
        "reasoning" => labelled("reasoning", item["summary"][0].as_str().map(preview)),
        "mcpToolCall" => {
            format!("tool {} of {}", text("tool").unwrap_or_default(), text("server").unwrap_or_default())
        }
        "webSearch" => labelled("web search", text("query")),
        other => other.to_owned(),
    };
    if let Some(status) = text("status").filter(|status| status != "inProgress") {
        line.push_str(&format!(", {status}"));
    }
    if let Some(code) = item["exitCode"].as_i64() {
        line.push_str(&format!(", exit {code}"));
    }
    if let Some(millis) = item["durationMs"].as_u64() {
        line.push_str(&format!(", {}.{} s", millis / 1000, millis % 1000 / 100));
    }
    Some(line)
}

fn labelled(label: &str, text: Option<String>) -> String {
    text.map_or_else(|| label.to_owned(), |text| format!("{label}: {text}"))
}

/// `a.txt`, or `a.txt and 2 more`.
fn changed(changes: &Value) -> String {
    let changes = changes.as_array().map(Vec::as_slice).unwrap_or_default();
    let first = changes.first().and_then(|change| change["path"].as_str()).map(preview).unwrap_or_default();
    match changes.len() {
        0 | 1 => first,
        more => format!("{first} and {} more", more - 1),
    }
}

fn token_usage(usage: &Value) -> Option<String> {
    let total = &usage["total"];
    let (all, input, output) =
        (total["totalTokens"].as_u64()?, total["inputTokens"].as_u64()?, total["outputTokens"].as_u64()?);
    Some(format!("{all} tokens in all, {input} in, {output} out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(method: &str, params: &str) -> String {
        describe(method, &RawValue::from_string(params.to_owned()).unwrap())
    }

    #[test]
    fn lines_that_a_person_can_read() {
        let completed = r#"{"item":{"type":"commandExecution","command":"cargo test","status":"completed","exitCode":0,
            "durationMs":3210}}"#;
        assert_eq!(
            described("item/completed", completed),
            "App-server notification item/completed: command cargo test, completed, exit 0, 3.2 s"
        );
        assert_eq!(
            described(
                "item/started",
                r#"{"item":{"type":"fileChange","changes":[{"path":"a"},{"path":"b"}]}}"#
            ),
            "App-server notification item/started: file change of a and 1 more"
        );
        assert_eq!(
            described("item/reasoning/textDelta", r#"{"delta":"so  then"}"#),
            "App-server notification item/reasoning/textDelta: so then"
        );
        assert_eq!(
            described(
                "thread/tokenUsage/updated",
                r#"{"tokenUsage":{"total":{"totalTokens":15,"inputTokens":10,"outputTokens":5}}}"#
            ),
            "App-server notification thread/tokenUsage/updated: 15 tokens in all, 10 in, 5 out"
        );
        for strange in ["null", "[]", "7", r#"{"item":7}"#, r#"{"item":{"type":{}}}"#, r#"{"delta":[1]}"#] {
            assert_eq!(described("item/started", strange), "App-server notification item/started.");
        }
    }
}
