//! `codexd ask`: one turn through the running daemon, for a person at a terminal or a script.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::{Events, Heard};
use super::interrupt::OnInterrupt;
use super::low::PeopleArgs;
use super::print;
use super::question::{fold, summary};
use super::reach::{self, Problem};
use super::render::readable;
use super::terminal::Terminal;
use crate::api_client::{self, ApiClient, ClientError};
use crate::config::Config;

const SESSIONS: &str = "/v1/codexd/sessions";
/// How long the stream is waited for before the terminal is looked at, while a question stands there.
const GLANCE: Duration = Duration::from_millis(100);
/// How long a daemon that is gone gets to come back.
const RETURN: Duration = Duration::from_secs(30);

/// Asks, and prints what Codex answers: 0 if the turn completes, else 1.
pub fn run(config: &Config, args: &PeopleArgs, words: &[OsString]) -> ExitCode {
    match ask(config, args, words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => problem.complain(),
    }
}

/// Whether the turn completed.
fn ask(config: &Config, args: &PeopleArgs, words: &[OsString]) -> Result<bool, Problem> {
    let prompt = reach::prompt(words)?;
    let cwd = reach::cwd(args.cwd.as_deref())?;
    // Before the turn exists: nothing of it can be missed.
    let events = Events::open(config, &[], None)?;
    let api = reach::client(config)?;
    let turn = Arc::new(Turn { api: api.clone(), wanted: AtomicBool::new(false), place: OnceLock::new() });
    let interrupted = Arc::clone(&turn);
    let watching = OnInterrupt::watch(move || {
        interrupted.interrupt();
        true
    });
    let session = match &args.session {
        Some(session) => {
            tell_session(session, &Value::Null);
            session.clone()
        }
        None => {
            let body = json!({ "cwd": cwd, "metadata": { "client": "codexd ask" } });
            let made = api.post(SESSIONS, &body)?["session"].take();
            let session = text(&made["sessionId"]);
            tell_session(&session, &made["cwd"]);
            session
        }
    };
    if turn.wanted.load(Ordering::SeqCst) {
        return Err(Problem::here("interrupted before the turn began"));
    }
    let mut body = json!({ "sessionId": session, "input": prompt });
    if args.session.is_some() && cwd.is_some() {
        body["cwd"] = json!(cwd);
    }
    let accepted = api.post("/v1/codexd/turn", &body)?;
    if args.session.is_some() {
        tell_folder(if cwd.is_some() { &body["cwd"] } else { &accepted["session"]["cwd"] });
    }
    if accepted["steered"] == true {
        print::progress("a turn is running: this goes into it");
    }
    let (id, thread) = (text(&accepted["turnId"]), text(&accepted["session"]["threadId"]));
    turn.began(&session, &id);
    let plain = !io::stdout().is_terminal();
    let conversation = Conversation {
        api: &api,
        session: &session,
        thread: &thread,
        turn: &id,
        item: None,
        line_is_open: false,
        plain,
        terminal: Terminal::open(),
    };
    let completed = conversation.follow(events);
    if let Err(Problem::Output(_)) = completed {
        // It may just have ended.
        let _ = turn.post_interrupt();
    }
    drop(watching);
    completed
}

/// The session on a line of its own, which scripts read, and where it works: the daemon at the port may be of another
/// repository than the one that was thought of.
fn tell_session(session: &str, folder: &Value) {
    print::progress(&format!("session {}", fold(session)));
    tell_folder(folder);
}

fn tell_folder(folder: &Value) {
    if let Some(folder) = folder.as_str() {
        print::progress(&format!("folder {}", fold(folder)));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The turn as far as Ctrl-C is concerned.
struct Turn {
    api: ApiClient,
    wanted: AtomicBool,
    /// Session and turn, once the turn was accepted.
    place: OnceLock<(String, String)>,
}

impl Turn {
    fn began(&self, session: &str, turn: &str) {
        let _ = self.place.set((session.to_owned(), turn.to_owned()));
        if self.wanted.load(Ordering::SeqCst) {
            self.try_to_interrupt();
        }
    }

    /// Interrupts the turn, now or as soon as there is one.
    fn interrupt(&self) {
        print::progress("interrupting the turn; Ctrl-C once more leaves at once");
        self.wanted.store(true, Ordering::SeqCst);
        self.try_to_interrupt();
    }

    fn try_to_interrupt(&self) {
        if let Err(error) = self.post_interrupt() {
            // Most likely it has just ended, and the stream says so.
            print::progress(&format!("the turn was not interrupted: {error}"));
        }
    }

    fn post_interrupt(&self) -> Result<(), ClientError> {
        let Some((session, turn)) = self.place.get() else { return Ok(()) };
        let body = json!({ "turnId": turn });
        self.api.post(&format!("{SESSIONS}/{session}/interrupt"), &body).map(drop)
    }
}

/// One turn, followed.
struct Conversation<'a> {
    api: &'a ApiClient,
    session: &'a str,
    thread: &'a str,
    turn: &'a str,
    /// The last item whose text was printed, and whether its line is still open.
    item: Option<String>,
    line_is_open: bool,
    /// Whether the answer goes to a program, as it is, and not to a terminal.
    plain: bool,
    terminal: Terminal,
}

impl Conversation<'_> {
    /// Follows the turn to its end; whether it completed.
    fn follow(mut self, mut events: Events<'_>) -> Result<bool, Problem> {
        let mut lost = String::new();
        loop {
            let patience = if self.terminal.has_question() { GLANCE } else { RETURN };
            match events.next(patience)? {
                Heard::Event(event) => {
                    if let Some(completed) = self.event(&event)? {
                        self.end_line()?;
                        return Ok(completed);
                    }
                }
                Heard::Lost(error) => {
                    lost = error.to_string();
                    self.progress(&format!("{lost}; waiting for codexd to come back"))?;
                }
                Heard::Back => self.progress("codexd is back")?,
                Heard::Gap(..) | Heard::Rewound(_) => {
                    return Err(self.lost_sight("its log no longer holds what happened meanwhile"));
                }
                Heard::Silence if events.lost_for().is_some_and(|time| time >= RETURN) => {
                    return Err(self.lost_sight(&lost));
                }
                Heard::Silence | Heard::Synced => {}
            }
            if let Some((id, answer)) = self.terminal.answer() {
                self.send_answer(&id, &answer)?;
            }
        }
    }

    fn lost_sight(&self, why: &str) -> Problem {
        Problem::here(format!("lost sight of the turn: {why}; the session is {}", self.session))
    }

    /// What an event means here; whether the turn completed, at its end.
    fn event(&mut self, event: &RawValue) -> Result<Option<bool>, Problem> {
        let Ok(event) = api_client::value(event.get().as_bytes()) else { return Ok(None) };
        let detail = &event["detail"];
        match event["type"].as_str().unwrap_or_default() {
            "daemon.stopped" => {
                return Err(Problem::here(format!(
                    "codexd was stopped; go on with codexd ask --session {}",
                    self.session
                )));
            }
            "request.opened" => self.asked(detail)?,
            kind if kind.starts_with("request.") => self.settled(kind, &event)?,
            "app-server.notification" => self.notification(&event)?,
            _ if detail["turnId"] != self.turn => {}
            "app-server.turn.message.delta" => {
                let delta = detail["delta"].as_str().unwrap_or_default();
                self.answer_text(detail["itemId"].as_str(), delta)?;
            }
            "app-server.turn.error" => self.message(&event)?,
            "app-server.turn.completed.missing" => {
                self.message(&event)?;
                return Ok(Some(false));
            }
            "app-server.turn.completed" => {
                let status = detail["status"].as_str().unwrap_or_default();
                if status != "completed" {
                    self.progress(&format!("turn {}", fold(status)))?;
                }
                return Ok(Some(status == "completed"));
            }
            _ => {}
        }
        Ok(None)
    }

    /// What Codex does beside talking, and what it said without streaming it.
    fn notification(&mut self, event: &Value) -> Result<(), Problem> {
        let params = &event["detail"]["params"];
        if params["threadId"] != self.thread || params["turnId"] != self.turn {
            return Ok(());
        }
        let item = &params["item"];
        let (id, kind) = (item["id"].as_str(), item["type"].as_str().unwrap_or_default());
        match event["detail"]["notificationMethod"].as_str() {
            Some("item/started") if !matches!(kind, "agentMessage" | "userMessage" | "reasoning") => {
                self.message(event)
            }
            Some("item/completed") if kind == "agentMessage" && id != self.item.as_deref() => {
                self.answer_text(id, item["text"].as_str().unwrap_or_default())
            }
            _ => Ok(()),
        }
    }

    fn answer_text(&mut self, item: Option<&str>, text: &str) -> Result<(), Problem> {
        if self.item.as_deref() != item {
            self.end_line()?;
            self.item = item.map(str::to_owned);
        }
        if text.is_empty() {
            return Ok(());
        }
        self.line_is_open = !text.ends_with('\n');
        if self.plain { write_out(text) } else { write_out(&readable(text, "")) }
    }

    /// Ends the line of the answer's text.
    fn end_line(&mut self) -> Result<(), Problem> {
        if std::mem::take(&mut self.line_is_open) { write_out("\n") } else { Ok(()) }
    }

    /// Beside the answer. Where both share the terminal, the answer's line is ended first.
    fn progress(&mut self, text: &str) -> Result<(), Problem> {
        if !self.plain {
            self.end_line()?;
        }
        print::progress(text);
        Ok(())
    }

    fn message(&mut self, event: &Value) -> Result<(), Problem> {
        self.progress(&fold(event["message"].as_str().unwrap_or_default()))
    }

    /// Whether a request is one of this turn.
    fn is_ours(&self, detail: &Value) -> bool {
        let turn = &detail["turnId"];
        *turn == self.turn || (turn.is_null() && detail["threadId"] == self.thread)
    }

    /// Codex asks something.
    fn asked(&mut self, detail: &Value) -> Result<(), Problem> {
        if !self.is_ours(detail) {
            return Ok(());
        }
        let id = text(&detail["requestId"]);
        // Somebody else, or the daemon's own policy, may have answered by now.
        match self.api.get(&format!("/v1/codexd/requests/{id}")) {
            Ok(record) if record["request"]["status"] == "pending" => {}
            Ok(_) => return Ok(()),
            Err(error) => return self.progress(&format!("{error}; the request {id} waits")),
        }
        if !self.plain {
            self.end_line()?;
        }
        if self.terminal.ask(&id, &detail["kind"], &detail["params"]) {
            return Ok(());
        }
        let what = summary(&detail["kind"], &detail["params"]);
        let kind = fold(detail["kind"].as_str().unwrap_or_default());
        self.progress(&format!("declined, for there is no terminal to ask on: {kind}: {what}"))?;
        self.send_answer(&id, &json!({ "decision": "decline" }))
    }

    /// Something that Codex asked is settled, here or elsewhere.
    fn settled(&mut self, kind: &str, event: &Value) -> Result<(), Problem> {
        let detail = &event["detail"];
        if !self.is_ours(detail) {
            return Ok(());
        }
        let asked_here = self.terminal.withdraw(detail["requestId"].as_str().unwrap_or_default());
        if asked_here || kind != "request.answered" { self.message(event) } else { Ok(()) }
    }

    fn send_answer(&mut self, id: &str, answer: &Value) -> Result<(), Problem> {
        match self.api.post(&format!("/v1/codexd/requests/{id}/answer"), answer) {
            Ok(_) => Ok(()),
            Err(error) => self.progress(&format!("the answer was not taken: {error}")),
        }
    }
}

fn write_out(text: &str) -> Result<(), Problem> {
    print::write(text).map_err(Problem::Output)
}
