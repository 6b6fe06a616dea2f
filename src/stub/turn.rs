//! One turn, on a thread of its own.

use super::directive::{Directive, gap, words};
use super::output::Closed;
use super::rollout;
use super::shapes::{TurnView, active, model_error, now_ms, user_message};
use super::state::{Control, Input, Shared, Thread, ThreadState, lock};
use crossbeam_channel::{Receiver, Sender};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why an answer to the user breaks off.
#[derive(Debug)]
pub(super) enum Stop {
    /// `turn/interrupt`, or an approval answered with `cancel`.
    Interrupted,
    /// New input came; the message in progress is dropped.
    Steered,
    /// The model failed.
    Failed(Value),
    /// Nobody listens any more, or the process ends: nothing more is written.
    Gone,
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Gone
    }
}

/// A turn while it runs.
pub(super) struct Turn {
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Arc<Thread>,
    pub(super) id: String,
    pub(super) control: Sender<Control>,
    mailbox: Receiver<Control>,
    steers: VecDeque<Input>,
    started_ms: u64,
    /// The finished items, for the history.
    items: Vec<Value>,
    /// The last message of the model, for `turn/completed`.
    pub(super) last_message: Option<Value>,
    /// The diff of the turn's file changes, reported again after every answer.
    pub(super) diff: Option<String>,
    /// Requests to the client without an answer, and what the thread waits for meanwhile.
    pub(super) open: Vec<(u64, Option<&'static str>)>,
    /// The flags last reported.
    pub(super) flags: Vec<&'static str>,
}

impl Turn {
    /// A turn that has been accepted but has not begun.
    pub(super) fn new(
        shared: &Arc<Shared>,
        thread: &Arc<Thread>,
        id: String,
        (control, mailbox): (Sender<Control>, Receiver<Control>),
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            thread: Arc::clone(thread),
            id,
            control,
            mailbox,
            steers: VecDeque::new(),
            started_ms: now_ms(),
            items: Vec::new(),
            last_message: None,
            diff: None,
            open: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self, input: Input) {
        let mut result = self.begin(&input);
        let mut inputs = vec![input];
        loop {
            if result.is_ok() {
                result = self.round(&inputs);
            }
            if matches!(result, Err(Stop::Steered)) {
                result = self.given_up();
            }
            if matches!(result, Err(Stop::Gone))
                || (self.steers.is_empty() || result.is_err()) && self.end(&result)
            {
                return;
            }
            inputs = self.steers.drain(..).collect();
            result = Ok(());
        }
    }

    fn begin(&mut self, input: &Input) -> Result<(), Stop> {
        let (wait, _) = gap(&input.text);
        if !wait.is_zero() {
            self.pause_deaf_to_steers(wait)?;
        }
        let thread = Arc::clone(&self.thread);
        let mut state = lock(&thread.state);
        rollout::turn_started(&self.shared.rollouts, &thread, &mut state, &self.id);
        self.started_ms = now_ms();
        thread.report(&self.shared, &mut state, active(&[]))?;
        let turn = self.view("inProgress", &[], "notLoaded", &Value::Null, None);
        self.notify("turn/started", &json!({"threadId": thread.id, "turn": turn}))?;
        if let Some(active) = &mut state.active {
            active.started = true;
        }
        Ok(())
    }

    /// Shows what the user said and answers the last of it, as a model would that gets all of it at once.
    fn round(&mut self, inputs: &[Input]) -> Result<(), Stop> {
        for input in inputs {
            let (id, at) = (uuid::Uuid::new_v4().to_string(), now_ms());
            let item = |completed| user_message(&id, &input.text, &input.client_id, completed, at);
            self.item_started(&item(None), at)?;
            self.item_completed(item(Some(now_ms())))?;
        }
        let Some(input) = inputs.last() else { return Ok(()) };
        self.answer(&input.text)
    }

    fn answer(&mut self, prompt: &str) -> Result<(), Stop> {
        match Directive::parse(prompt) {
            Directive::Say(count) => return self.say(words(count), None),
            Directive::Slow(count, pace) => return self.say(words(count), Some(pace)),
            Directive::Big(bytes) => return self.say(std::iter::once("x".repeat(bytes)), None),
            Directive::Run(commands) => return self.run_commands(&commands),
            Directive::Patch(file, text) => return self.patch(&file, &text),
            Directive::Perm(folder) => return self.ask_permissions(&folder),
            Directive::Ask(question) => return self.ask_user(&question),
            Directive::Elicit(text) => return self.elicit(&text),
            Directive::Request(method, params) => return self.ask_anything(&method, &params),
            Directive::Fail(what) => return Err(Stop::Failed(model_error(&what))),
            Directive::Retry(attempts) => self.lose_connections(attempts)?,
            Directive::Exit(code) => return self.exit(code),
            Directive::Half(text) => {
                self.shared.out.raw(text)?;
                let _ = self.shared.exit.try_send(0);
                return Err(Stop::Gone);
            }
            Directive::Hang => loop {
                self.wait(None)?;
                self.check_steers()?;
            },
            Directive::Notify(method, params) => {
                self.shared.out.notify_raw(&method, &self.fill_in(&params))?
            }
            Directive::Garbage(text) => self.shared.out.raw(format!("{text}\n"))?,
            Directive::Play(file) => self.play(&file)?,
            Directive::Stderr(count, text) => {
                let mut stderr = io::stderr().lock();
                for _ in 0..count {
                    let _ = writeln!(stderr, "{text}");
                }
            }
            Directive::Deaf => self.shared.deaf.store(true, Ordering::Relaxed),
            Directive::Mute => self.shared.out.mute(),
            Directive::Stdout(..) | Directive::Fork | Directive::Echo => {}
        }
        self.say_done(prompt)
    }

    fn play(&self, file: &str) -> Result<(), Stop> {
        let lines = BufReader::new(File::open(file).map_err(|error| Stop::Failed(unreadable(file, &error)))?);
        for line in lines.lines() {
            let line = line.map_err(|error| Stop::Failed(unreadable(file, &error)))?;
            self.shared.out.raw(line + "\n")?;
        }
        Ok(())
    }

    /// Text with `$THREAD` and `$TURN` replaced: a test cannot know the ids before it writes the prompt.
    pub(super) fn fill_in(&self, text: &str) -> String {
        text.replace("$THREAD", &self.thread.id).replace("$TURN", &self.id)
    }

    /// Sends a notification.
    pub(super) fn notify(&self, method: &str, params: &Value) -> Result<(), Stop> {
        Ok(self.shared.out.notify(method, params)?)
    }

    /// Reports the beginning of an item.
    pub(super) fn item_started(&self, item: &Value, at: u64) -> Result<(), Stop> {
        let params = json!({"item": item, "threadId": self.thread.id, "turnId": self.id, "startedAtMs": at});
        self.notify("item/started", &params)
    }

    /// Reports the end of an item and keeps it for the history.
    pub(super) fn item_completed(&mut self, item: Value) -> Result<(), Stop> {
        if !self.thread.ephemeral {
            rollout::append(&self.shared.rollouts, &self.thread.id, &json!({"item": item}));
        }
        let params = json!({"item": item, "threadId": self.thread.id, "turnId": self.id,
            "contentTokenCount": null, "completedAtMs": item["completedAtMs"]});
        self.notify("item/completed", &params)?;
        self.items.push(item);
        Ok(())
    }

    /// Takes what has come, without waiting.
    pub(super) fn poll(&mut self) -> Result<(), Stop> {
        while let Ok(control) = self.mailbox.try_recv() {
            self.take(control)?;
        }
        self.check_steers()
    }

    fn check_steers(&self) -> Result<(), Stop> {
        if self.steers.is_empty() { Ok(()) } else { Err(Stop::Steered) }
    }

    /// Waits; a steer or an interrupt ends the wait.
    pub(super) fn pause(&mut self, time: Duration) -> Result<(), Stop> {
        let deadline = Instant::now() + time;
        while self.wait(Some(deadline))?.is_some() {
            self.check_steers()?;
        }
        Ok(())
    }

    /// Waits before the turn begins, when only the end of the process can end the wait.
    fn pause_deaf_to_steers(&mut self, time: Duration) -> Result<(), Stop> {
        let deadline = Instant::now() + time;
        while self.wait(Some(deadline))?.is_some() {}
        Ok(())
    }

    /// Waits for the client's answer to one of the open requests; steers wait until then.
    pub(super) fn wait_for_answer(&mut self) -> Result<(u64, Result<Value, Value>), Stop> {
        loop {
            if let Some(Control::Answer(id, answer)) = self.wait(None)?
                && self.open.iter().any(|(open, _)| *open == id)
            {
                return Ok((id, answer));
            }
        }
    }

    /// The next message of the reader; `None` after the deadline.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<Control>, Stop> {
        let received = match deadline {
            Some(deadline) => match self.mailbox.recv_deadline(deadline) {
                Ok(control) => Some(control),
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => return Ok(None),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => None,
            },
            None => self.mailbox.recv().ok(),
        };
        self.take(received.unwrap_or(Control::Gone)).map(Some)
    }

    /// Sorts a message: steers are kept, interrupts and the end break off, the rest is handed back.
    fn take(&mut self, control: Control) -> Result<Control, Stop> {
        match control {
            Control::Interrupt => Err(Stop::Interrupted),
            Control::Gone => Err(Stop::Gone),
            Control::Steer(input) => {
                self.steers.push_back(input.clone());
                Ok(Control::Steer(input))
            }
            answer @ Control::Answer(..) => Ok(answer),
        }
    }

    fn view(
        &self,
        status: &str,
        items: &[Value],
        view: &str,
        error: &Value,
        completed: Option<u64>,
    ) -> Value {
        let (id, started_ms) = (&*self.id, Some(self.started_ms));
        TurnView { id, status, items, view, error, started_ms, completed_ms: completed }.json()
    }

    /// Ends the turn; false when input came at the last moment, which the turn still has to answer.
    fn end(&mut self, result: &Result<(), Stop>) -> bool {
        let thread = Arc::clone(&self.thread);
        let mut state = lock(&thread.state);
        // Under the lock nothing more can come, so what is in the mailbox now is the rest.
        let mut result = match result {
            Ok(()) => Ok(()),
            Err(Stop::Failed(error)) => Err(error.clone()),
            Err(_) => Err(Value::Null),
        };
        while let Ok(control) = self.mailbox.try_recv() {
            match self.take(control) {
                Err(Stop::Interrupted) if result.is_ok() => result = Err(Value::Null),
                Err(Stop::Gone) => return true,
                _ => {}
            }
        }
        if result.is_ok() && !self.steers.is_empty() {
            return false;
        }
        state.active = None;
        let _ = self.report_end(&mut state, result);
        true
    }

    fn report_end(&mut self, state: &mut ThreadState, result: Result<(), Value>) -> Result<(), Stop> {
        let now = Some(now_ms());
        let (status, error) = match result {
            Ok(()) => ("completed", Value::Null),
            Err(Value::Null) => ("interrupted", Value::Null),
            Err(error) => ("failed", error),
        };
        let whole = self.view(status, &self.items, "full", &error, now);
        if !self.thread.ephemeral {
            let line = json!({"completed": whole, "answers": state.answers});
            rollout::append(&self.shared.rollouts, &self.thread.id, &line);
        }
        state.turns.push(whole);
        let kind = if status == "failed" { "systemError" } else { "idle" };
        self.thread.report(&self.shared, state, json!({"type": kind}))?;
        if status == "failed" {
            let params =
                json!({"error": error, "willRetry": false, "threadId": self.thread.id, "turnId": self.id});
            self.notify("error", &params)?;
        }
        let last = self.last_message.take().filter(|_| status == "completed");
        let (items, view) = match last {
            Some(item) => (vec![item], "summary"),
            None => (Vec::new(), "notLoaded"),
        };
        let turn = self.view(status, &items, view, &error, now);
        self.notify("turn/completed", &json!({"threadId": self.thread.id, "turn": turn}))?;
        for (request, _) in std::mem::take(&mut self.open) {
            lock(&self.shared.requests).waiting.remove(&request);
            self.resolved(request)?;
        }
        Ok(())
    }
}

fn unreadable(file: &str, error: &io::Error) -> Value {
    json!({"message": format!("{file}: {error}"), "codexErrorInfo": "other", "additionalDetails": null})
}
