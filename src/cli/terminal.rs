//! Questions of Codex at the terminal: shown on standard error, answered by a line on standard input.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal};

use rustix::termios::{QueueSelector, tcflush};
use serde_json::{Value, json};

use super::print;
use super::question::{fold, whole};
use crate::app_server::answer::DECISIONS;
use crate::os;

/// How a kind of request can be answered here.
struct Answers {
    /// The decisions, the first letters of which are enough.
    decisions: &'static [&'static str],
    /// The field of the answer's body that a JSON object goes into.
    object: Option<&'static str>,
}

const fn answers_to(kind: &str) -> Answers {
    match kind.as_bytes() {
        b"permissions" => Answers { decisions: &["accept", "acceptForSession", "decline"], object: None },
        b"elicitation" => Answers { decisions: &["accept", "decline", "cancel"], object: Some("answers") },
        b"userInput" => Answers { decisions: &["decline"], object: None },
        b"toolCall" | b"other" => Answers { decisions: &["decline"], object: Some("result") },
        _ => Answers { decisions: DECISIONS, object: None },
    }
}

/// A request that waits for a line.
struct Question {
    request: String,
    answers: Answers,
    /// What is shown before it is asked for an answer; taken when that is done.
    whole: Option<String>,
    /// What is still to be asked of the user, one after the other; none for an approval.
    fields: VecDeque<Field>,
    /// What was answered, by id. It is the model that thinks of the ids, and it may give two questions the same.
    given: BTreeMap<String, Vec<String>>,
}

struct Field {
    id: String,
    text: String,
    options: Vec<String>,
}

/// The terminal, if there is one. It asks one request after the other.
pub struct Terminal {
    there: bool,
    waiting: Vec<Question>,
    line: Vec<u8>,
}

impl Terminal {
    /// The terminal is standard input and standard error; if one of them is something else, there is nobody to ask.
    pub fn open() -> Self {
        let there = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self { there, waiting: Vec::new(), line: Vec::new() }
    }

    /// Whether a line is waited for.
    pub fn has_question(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Asks, once what was asked before is answered; `false` if there is nobody to ask.
    pub fn ask(&mut self, request: &str, kind: &Value, params: &Value) -> bool {
        if !self.there || self.waiting.iter().any(|question| question.request == request) {
            return self.there;
        }
        let kind_name = kind.as_str().unwrap_or("other");
        let fields = if kind_name == "userInput" { fields(params) } else { VecDeque::new() };
        let whole = fields.is_empty().then(|| whole(kind, params));
        let answers = answers_to(kind_name);
        let given = BTreeMap::new();
        self.waiting.push(Question { request: request.to_owned(), answers, whole, fields, given });
        if self.waiting.len() == 1 {
            self.prompt();
        }
        true
    }

    /// The request is settled; whether it was still asked here.
    pub fn withdraw(&mut self, request: &str) -> bool {
        let Some(at) = self.waiting.iter().position(|question| question.request == request) else {
            return false;
        };
        self.waiting.remove(at);
        if at == 0 {
            self.prompt();
        }
        true
    }

    /// The request and the answer's body, once the person has typed it. Does not wait.
    pub fn answer(&mut self) -> Option<(String, Value)> {
        if !self.has_question() || !os::readable(&io::stdin()).unwrap_or(false) {
            return None;
        }
        let mut chunk = [0; 1024];
        // Past the buffer of the standard library, of which poll(2) knows nothing.
        match rustix::io::read(io::stdin(), &mut chunk) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return None,
            // Ctrl-D, or the terminal is gone: that is no approval.
            Ok(0) | Err(_) => {
                print::progress("declined, for the input has ended");
                return self.settle(json!({ "decision": "decline" }));
            }
            Ok(length) => self.line.extend_from_slice(chunk.get(..length)?),
        }
        let end = self.line.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(self.line.get(..end)?).trim().to_owned();
        let question = self.waiting.first_mut()?;
        let answer = if question.fields.is_empty() {
            understood(&question.answers, &line)
        } else if line.is_empty() {
            None
        } else {
            let field = question.fields.pop_front()?;
            let answer = chosen(&field, &line);
            question.given.entry(field.id).or_default().push(answer);
            question.fields.is_empty().then(|| json!({ "answers": question.given }))
        };
        match answer {
            Some(answer) => self.settle(answer),
            None => {
                self.prompt();
                None
            }
        }
    }

    fn settle(&mut self, answer: Value) -> Option<(String, Value)> {
        let question = (!self.waiting.is_empty()).then(|| self.waiting.remove(0))?;
        self.prompt();
        Some((question.request, answer))
    }

    /// Shows the first question. What was typed before it could be read is no answer to it.
    fn prompt(&mut self) {
        self.line.clear();
        let Some(question) = self.waiting.first_mut() else { return };
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        if let Some(whole) = question.whole.take() {
            print::progress_lines(&whole);
        }
        match question.fields.front() {
            None => print::progress(&choices(&question.answers)),
            Some(field) => {
                print::progress(&format!("Codex asks: {}", fold(&field.text)));
                for (number, option) in field.options.iter().enumerate() {
                    print::progress(&format!("  {}  {}", number + 1, fold(option)));
                }
                let how = if field.options.is_empty() { "" } else { "a number, or " };
                print::progress(&format!("{how}your answer; Ctrl-D declines?"));
            }
        }
    }
}

/// The answers there are, for a person.
fn choices(answers: &Answers) -> String {
    let name = |decision: &&str| match *decision {
        "accept" => "[a]ccept",
        "acceptForSession" => "accept for the [s]ession",
        "cancel" => "[c]ancel",
        _ => "[d]ecline",
    };
    let mut names: Vec<&str> = answers.decisions.iter().map(name).collect();
    names.extend(answers.object.map(|_| "a JSON object"));
    format!("{}?", names.join(", "))
}

/// The body of the answer that was typed; `None` for what is none, which is asked for again.
fn understood(answers: &Answers, line: &str) -> Option<Value> {
    if let Some(field) = answers.object
        && let Ok(object @ Value::Object(_)) = serde_json::from_str(line)
    {
        return Some(json!({ field: object }));
    }
    let decision = match line.to_ascii_lowercase().as_str() {
        "a" | "accept" | "y" | "yes" => "accept",
        "s" | "session" | "acceptforsession" => "acceptForSession",
        "d" | "decline" | "n" | "no" => "decline",
        "c" | "cancel" => "cancel",
        _ => return None,
    };
    answers.decisions.contains(&decision).then(|| json!({ "decision": decision }))
}

/// An option by its number, or what was typed.
fn chosen(field: &Field, line: &str) -> String {
    let by_number = line.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    by_number.and_then(|index| field.options.get(index)).cloned().unwrap_or_else(|| line.to_owned())
}

fn fields(params: &Value) -> VecDeque<Field> {
    let questions = params["questions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let options = |question: &Value| {
        let options = question["options"].as_array().map(Vec::as_slice).unwrap_or_default();
        options.iter().map(|option| text(&option["label"])).collect()
    };
    questions
        .iter()
        .map(|question| Field {
            id: text(&question["id"]),
            text: text(&question["question"]),
            options: options(question),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_approval_are_few_and_everything_else_is_asked_again() {
        let command = answers_to("command");
        for (line, expected) in [
            ("a", Some("accept")),
            ("YES", Some("accept")),
            ("s", Some("acceptForSession")),
            ("n", Some("decline")),
            ("c", Some("cancel")),
            ("", None),
            ("accept please", None),
            ("{}", None),
        ] {
            let expected = expected.map(|decision| json!({ "decision": decision }));
            assert_eq!(understood(&command, line), expected, "{line}");
        }
    }

    #[test]
    fn only_what_fits_the_kind_is_taken() {
        let decision = |word: &str| Some(json!({ "decision": word }));
        assert_eq!(understood(&answers_to("permissions"), "c"), None);
        assert_eq!(understood(&answers_to("elicitation"), "s"), None);
        assert_eq!(understood(&answers_to("elicitation"), "a"), decision("accept"));
        assert_eq!(
            understood(&answers_to("elicitation"), r#"{"x": 1}"#),
            Some(json!({ "answers": { "x": 1 } }))
        );
        assert_eq!(understood(&answers_to("toolCall"), "{}"), Some(json!({ "result": {} })));
        assert_eq!(understood(&answers_to("toolCall"), "a"), None);
        assert_eq!(understood(&answers_to("a later kind"), "d"), decision("decline"));
        assert_eq!(choices(&answers_to("elicitation")), "[a]ccept, [d]ecline, [c]ancel, a JSON object?");
    }

    #[test]
    fn options_are_chosen_by_number_or_typed() {
        let params =
            json!({ "questions": [{ "id": "q", "question": "Go on?", "options": [{ "label": "Yes" }] }] });
        let fields = fields(&params);
        assert_eq!((fields[0].id.as_str(), fields[0].text.as_str()), ("q", "Go on?"));
        for (line, expected) in [("1", "Yes"), ("2", "2"), ("0", "0"), ("perhaps", "perhaps")] {
            assert_eq!(chosen(&fields[0], line), expected);
        }
    }
}
