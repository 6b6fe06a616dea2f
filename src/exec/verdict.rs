//! What came of a run's process: why it counts as failed, in words that help.

use std::time::Duration;

use serde::Deserialize;

use super::json_lines::Collected;
use super::process::{Cancel, CutShort, Ended};
use super::{Details, Failure, FailureCode, millis};

/// Why the run failed, if it did.
pub(super) fn failure(ended: &Ended, timeout: Duration) -> Option<Failure> {
    let millis = millis(timeout);
    match ended.cut_short {
        Some(CutShort::Timeout) => Some(Failure {
            details: Some(Details { timeout_ms: Some(millis), ..Details::default() }),
            ..Failure::new(FailureCode::Timeout, format!("codex exec did not end within {millis} ms."))
        }),
        Some(CutShort::Cancelled(Cancel::Client)) => {
            Some(Failure::new(FailureCode::Cancelled, "The run was cancelled."))
        }
        Some(CutShort::Cancelled(Cancel::Stop)) => {
            Some(Failure::new(FailureCode::Interrupted, "codexd stopped before the run ended."))
        }
        None if ended.exit.code == Some(0) => None,
        None => Some(Failure {
            details: Some(Details { exit_code: Some(ended.exit.code), ..Details::default() }),
            ..Failure::new(FailureCode::ExitNonZero, exit_message(ended))
        }),
    }
}

/// What ended it, and the last thing it said.
fn exit_message(ended: &Ended) -> String {
    let how = match (&ended.exit.code, &ended.exit.signal) {
        (Some(code), _) => format!("codex exec exited with code {code}"),
        (None, Some(signal)) => format!("codex exec was ended by {signal}"),
        (None, None) => "codex exec ended".to_owned(),
    };
    match failed_turn(&ended.json).or_else(|| telling_line(&ended.stderr.text)) {
        Some(said) => format!("{how}: {}", crate::model::preview(&said)),
        None => format!("{how}."),
    }
}

/// What the JSON output says of the turn's end.
fn failed_turn(json: &Collected) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "type")]
        kind: String,
        error: Option<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let lines = json.events.iter().rev();
    lines
        .filter_map(|event| serde_json::from_str::<Line>(event.get()).ok())
        .find(|line| line.kind == "turn.failed")
        .and_then(|line| line.error)
        .map(|error| error.message)
}

/// What Codex says at the beginning, and so nothing of the end.
const GREETINGS: [&str; 2] = ["Reading additional input from stdin...", "Reading prompt from stdin..."];

/// The line of standard error that says it best: the last one that says `error:`, for hints and traces may follow it; if
/// none does, the last.
fn telling_line(text: &str) -> Option<String> {
    let error = |line: &&str| line.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("error:"));
    let lines =
        || text.lines().rev().map(str::trim).filter(|line| !line.is_empty() && !GREETINGS.contains(line));
    lines().find(error).or_else(|| lines().next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::telling_line;

    #[test]
    fn the_line_that_says_what_is_wrong() {
        let clap =
            "error: a value is required for '--model <MODEL>'\n\nFor more information, try '--help'.\n";
        assert_eq!(telling_line(clap).as_deref(), Some("error: a value is required for '--model <MODEL>'"));
        let twice = "ERROR: Reconnecting\nERROR: no luck\n  9: <unknown>\n";
        assert_eq!(telling_line(twice).as_deref(), Some("ERROR: no luck"));
        assert_eq!(telling_line("one\ntwo\n \n").as_deref(), Some("two"));
        assert_eq!(telling_line("\n"), None);
        assert_eq!(telling_line("Reading additional input from stdin...\n"), None);
    }
}
