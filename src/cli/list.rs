//! `codexd sessions`, `runs`, `requests` and `answer`.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::question::{fold, summary};
use super::reach::{self, Problem};
use super::{UsageError, print};
use crate::app_server::answer::DECISIONS;
use crate::config::Config;
use crate::model::preview;

/// A column: its heading and what stands in it.
type Column = (&'static str, fn(&Value) -> String);

/// One of the daemon's lists.
#[derive(Debug, Clone, Copy)]
pub struct List {
    path: &'static str,
    /// The field of the answer that holds it.
    field: &'static str,
    /// The last may be cut where the terminal ends.
    columns: &'static [Column],
    nothing: &'static str,
}

/// The sessions.
pub const SESSIONS: List = List {
    path: "/v1/codexd/sessions",
    field: "sessions",
    columns: &[
        ("SESSION", |record| text(&record["sessionId"])),
        ("STATUS", |record| text(&record["status"])),
        ("LAST TURN", |record| text(&record["lastTurnStatus"])),
        ("UPDATED", |record| time(&record["updatedAt"])),
        ("FOLDER", |record| text(&record["cwd"])),
    ],
    nothing: "no sessions",
};

/// The one-shot runs.
pub const RUNS: List = List {
    path: "/v1/codexd/runs",
    field: "runs",
    columns: &[
        ("RUN", |record| text(&record["runId"])),
        ("STATUS", |record| text(&record["status"])),
        ("UPDATED", |record| time(&record["updatedAt"])),
        ("PROMPT", |record| cut(&text(&record["prompt"]), 40)),
        ("OUTCOME", |record| match &record["error"] {
            Value::Null => text(&record["summary"]),
            error => text(error),
        }),
    ],
    nothing: "no runs",
};

/// All requests of Codex.
pub const REQUESTS: List = List {
    path: "/v1/codexd/requests",
    field: "requests",
    columns: &[
        ("REQUEST", |record| text(&record["requestId"])),
        ("STATUS", |record| text(&record["status"])),
        ("KIND", |record| text(&record["kind"])),
        ("DEADLINE", |record| time(&record["deadline"])),
        ("SESSION", |record| text(&record["sessionId"])),
        ("WHAT", |record| summary(&record["kind"], &record["params"])),
    ],
    nothing: "no requests",
};

/// Those that wait for an answer.
pub const PENDING: List =
    List { path: "/v1/codexd/requests?status=pending", nothing: "nothing waits for an answer", ..REQUESTS };

/// Prints a list: a table, or with `json` the records as they are.
pub fn run(config: &Config, list: List, json: bool) -> ExitCode {
    let answer = reach::client(config)
        .and_then(|api| api.get(list.path).map_err(|error| reach::explain(config, error)));
    match answer {
        Ok(answer) if json => print::out_json(&answer),
        Ok(answer) => {
            let records = answer[list.field].as_array().map_or(&[][..], Vec::as_slice);
            print::out(&table(list, records, width()))
        }
        Err(problem) => problem.complain(),
    }
}

/// Answers a request: with a decision, or with a JSON object as the body of the answer. Prints what became of it.
pub fn answer(config: &Config, words: &[OsString], json: bool) -> ExitCode {
    let answered = body(words).map_err(Problem::from).and_then(|(id, body)| {
        let path = format!("/v1/codexd/requests/{}/answer", utf8_percent_encode(id, NON_ALPHANUMERIC));
        reach::client(config)?.post(&path, &body).map_err(|error| reach::explain(config, error))
    });
    match answered {
        Ok(answer) if json => print::out_json(&answer),
        Ok(answer) => {
            let word = |name: &str| text(&answer["request"][name]);
            print::out(&format!("{} {}: {}\n", word("requestId"), word("status"), word("answer")))
        }
        Err(problem) => problem.complain(),
    }
}

/// The id and the body of the answer.
fn body(words: &[OsString]) -> Result<(&str, Value), UsageError> {
    match words.iter().map(|word| word.to_str()).collect::<Vec<_>>()[..] {
        [Some(id), Some(object)] if object.trim_start().starts_with('{') => {
            match serde_json::from_str(object) {
                Ok(body) => Ok((id, body)),
                Err(error) => {
                    Err(UsageError::new(format!("the answer \"{}\" is no JSON: {error}", preview(object))))
                }
            }
        }
        [Some(id), Some(decision)] if DECISIONS.contains(&decision.trim()) => {
            Ok((id, json!({ "decision": decision })))
        }
        [Some(_), Some(other)] => Err(UsageError::new(format!(
            "\"{}\" is no answer: it must be {}, or a JSON object such as {{\"answers\": …}}",
            preview(other),
            DECISIONS.join(", ")
        ))),
        _ => Err(UsageError::new("ID and answer must be UTF-8 text")),
    }
}

/// How many characters a line of the terminal has; `None` if standard output is none.
fn width() -> Option<usize> {
    let stdout = io::stdout();
    let size = if stdout.is_terminal() { rustix::termios::tcgetwinsize(&stdout).ok() } else { None };
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A column is no wider than this: a cell may be as long as a last message, and the others are not filled up to that.
const WIDEST: usize = 60;

/// The records as lines of columns, each as wide as its widest cell up to [`WIDEST`], and no line longer than `width`.
fn table(list: List, records: &[Value], width: Option<usize>) -> String {
    if records.is_empty() {
        return format!("{}\n", list.nothing);
    }
    let head = list.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect::<Vec<_>>();
    let cells = |record| list.columns.iter().map(|(_, cell)| cell(record)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(records.iter().map(cells)).collect();
    let longest = |column: usize| {
        let lengths = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        lengths.max().unwrap_or(0).min(WIDEST)
    };
    let widths: Vec<usize> = (0..list.columns.len()).map(longest).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            format!("{}\n", cut(line.trim_end(), width.unwrap_or(usize::MAX)))
        })
        .collect()
}

/// A value in one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => fold(text),
        other => fold(&other.to_string()),
    }
}

/// A time to the second.
fn time(value: &Value) -> String {
    text(value).get(..19).map_or_else(|| text(value), |time| time.replace('T', " "))
}

/// At most that many characters; what is cut off shows as `…`.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::super::flags::{ACTIONS, Operands};
    use super::*;

    #[test]
    fn the_help_names_every_decision() {
        let row = ACTIONS.iter().find(|row| row.name == "answer").unwrap();
        assert!(matches!(row.operands, Operands::Words([_, words]) if *words == DECISIONS.join("|")));
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_lines_no_wider_than_the_terminal() {
        let records = [
            json!({ "runId": "run-1", "status": "completed", "prompt": "a\nb", "updatedAt": "2026-01-02T03:04:05.678Z" }),
            json!({ "runId": "run-22", "status": "failed", "prompt": "x".repeat(50), "summary": "s", "error": "e\u{1b}" }),
        ];
        let text = table(RUNS, &records, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["RUN", "STATUS", "UPDATED", "PROMPT", "OUTCOME"]
        );
        assert_eq!(
            lines[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>(),
            ["run-1", "completed", "2026-01-02 03:04:05", "a b", "-"]
        );
        assert!(lines[2].ends_with(&format!("{}…  e\\u{{1b}}", "x".repeat(39))), "{text}");
        let at = lines[0].find("STATUS").unwrap();
        assert!(lines[1][at..].starts_with("completed") && lines[2][at..].starts_with("failed"), "{text}");
        assert!(table(RUNS, &records, Some(30)).lines().all(|line| line.chars().count() <= 30));
        assert_eq!(table(RUNS, &[], None), "no runs\n");
        let long = json!({ "runId": "run-3", "status": "completed", "summary": "x".repeat(100_000) });
        let text = table(RUNS, &[records[0].clone(), long], None);
        assert!(text.lines().nth(1).unwrap().len() < 300 && text.lines().nth(2).unwrap().len() > 100_000);
    }

    #[test]
    fn an_answer_is_a_decision_or_a_body() {
        let body = |word: &str| body(&["r".into(), word.into()]).map(|(id, body)| (id == "r", body)).ok();
        assert_eq!(body("accept"), Some((true, json!({ "decision": "accept" }))));
        assert_eq!(body(r#" {"answers": {"q": "x"}}"#), Some((true, json!({ "answers": { "q": "x" } }))));
        assert_eq!((body("{"), body("acept"), body("")), (None, None, None));
    }
}
