//! What the client sends: requests, notifications and answers.

use super::behaviour::Behaviour;
use super::rollout;
use super::shapes::{
    MAX_INPUT, TurnView, VERSION, input_too_large, invalid, now_ms, token_usage, unknown_method,
};
use super::state::{ActiveTurn, Control, Input, Shared, Thread, lock};
use super::turn;
use crossbeam_channel::bounded;
use serde_json::{Value, json};
use std::sync::Arc;

/// Steers, answers and interrupts that may wait for a turn.
const MAILBOX: usize = 256;

/// Handles one message at a time, in the order in which they came.
pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    behaviour: Behaviour,
    overload: u32,
    initialized: bool,
    experimental: bool,
}

impl Dispatcher {
    /// A dispatcher for a new connection.
    pub(super) fn new(shared: Arc<Shared>, behaviour: Behaviour) -> Self {
        let overload = behaviour.overload;
        Self { shared, behaviour, overload, initialized: false, experimental: false }
    }

    /// Handles one line; anything but a message is passed over without a reply.
    pub(super) fn line(&mut self, line: &str) {
        let Ok(message @ Value::Object(_)) = serde_json::from_str::<Value>(line) else { return };
        match (message["method"].as_str(), message.get("id")) {
            (Some(method), Some(id)) => self.request(method, id, &message["params"]),
            (None, Some(id)) => self.answer(id, &message),
            _ => {}
        }
    }

    /// Late, duplicate and unknown answers are ignored.
    fn answer(&self, id: &Value, message: &Value) {
        let Some(id) = id.as_u64() else { return };
        let waiting = lock(&self.shared.requests).waiting.remove(&id);
        if let Some(turn) = waiting {
            let answer = match message.get("error") {
                Some(error) => Err(error.clone()),
                None => Ok(message["result"].clone()),
            };
            let _ = turn.try_send(Control::Answer(id, answer));
        }
    }

    fn request(&mut self, method: &str, id: &Value, params: &Value) {
        if method == "initialize" {
            return self.initialize(id, params);
        }
        let refused = if !self.initialized {
            Some(invalid("Not initialized"))
        } else if self.overload > 0 {
            self.overload -= 1;
            Some(overloaded())
        } else if method == "thread/resume" && self.behaviour.refuse_resume > 0 {
            self.behaviour.refuse_resume -= 1;
            Some(invalid("refused: the configuration is broken"))
        } else {
            None
        };
        let done = match (refused, method) {
            (Some(error), _) => Err(error),
            (None, "thread/start") if !self.behaviour.no_thread_start => self.thread_start(id, params),
            (None, "thread/resume") if self.behaviour.mute_resume => Ok(()),
            (None, "thread/resume") => self.thread_resume(id, params),
            (None, "thread/read") => self.thread_read(id, params),
            (None, "thread/turns/list") => self.turns_list(id, params),
            (None, "turn/start") => self.turn_start(id, params),
            (None, "turn/steer") if !self.behaviour.no_turn_steer => self.turn_steer(id, params),
            (None, "turn/interrupt") => self.turn_interrupt(id, params),
            _ => Err(unknown_method(method)),
        };
        if let Err(error) = done {
            self.shared.out.refuse(id, &error);
        }
    }

    fn initialize(&mut self, id: &Value, params: &Value) {
        let out = &self.shared.out;
        if self.behaviour.mute_initialize {
            return;
        }
        if self.initialized {
            return out.refuse(id, &invalid("Already initialized"));
        }
        if self.behaviour.refuse_initialize {
            return out.refuse(id, &invalid("this client is not welcome"));
        }
        if !params["clientInfo"].is_object() {
            return out.refuse(id, &invalid("Invalid request: missing field `clientInfo`"));
        }
        let capabilities = &params["capabilities"];
        self.experimental = capabilities["experimentalApi"].as_bool().unwrap_or(false);
        if let Some(methods) = capabilities["optOutNotificationMethods"].as_array() {
            out.opt_out(methods.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect());
        }
        self.initialized = true;
        let (name, version) = (&params["clientInfo"]["name"], &params["clientInfo"]["version"]);
        let (name, version) = (name.as_str().unwrap_or_default(), version.as_str().unwrap_or_default());
        let codex = self.behaviour.version.as_deref().unwrap_or(VERSION);
        let result = json!({
            "userAgent": format!("{name}/{codex} (codexd stub) ({name}; {version})"),
            "codexHome": self.shared.rollouts.to_string_lossy(), "platformFamily": "unix", "platformOs": std::env::consts::OS,
        });
        out.respond(id, &result);
        let status = json!({"status": "disabled", "serverName": "stub", "installationId": uuid::Uuid::nil().to_string(),
            "environmentId": null});
        let _ = out.notify("remoteControl/status/changed", &status);
        if self.behaviour.close_stdout {
            out.close(super::server::LAST_WORDS);
        }
    }

    fn thread_start(&self, id: &Value, params: &Value) -> Result<(), Value> {
        if !self.experimental && !params["dynamicTools"].is_null() {
            return Err(invalid("thread/start.dynamicTools requires experimentalApi capability"));
        }
        let thread = Arc::new(Thread::new(params));
        lock(&self.shared.threads).insert(thread.id.clone(), Arc::clone(&thread));
        self.shared.out.respond(id, &thread.opened(&self.shared, &[]));
        let started = json!({"thread": thread.json(&self.shared, &[])});
        let _ = self.shared.out.notify("thread/started", &started);
        Ok(())
    }

    fn thread_resume(&self, id: &Value, params: &Value) -> Result<(), Value> {
        let wanted = thread_id(params)?;
        let out = &self.shared.out;
        let loaded = self.shared.thread(wanted);
        let fresh = loaded.is_none();
        let stored = || rollout::load(&self.shared.rollouts, wanted).map(Arc::new);
        let Some(thread) = loaded.filter(|thread| lock(&thread.state).persisted).or_else(stored) else {
            return Err(invalid(format!("no rollout found for thread id {wanted}")));
        };
        lock(&self.shared.threads).insert(thread.id.clone(), Arc::clone(&thread));
        let turns = if params["excludeTurns"].as_bool().unwrap_or(false) {
            Vec::new()
        } else {
            let summary = "Full-history hydration is deprecated for paginated threads; use `excludeTurns: true`, \
                then page with `thread/turns/list` and `thread/items/list`.";
            let _ = out.notify("deprecationNotice", &json!({"summary": summary, "details": null}));
            lock(&thread.state).turns.clone()
        };
        let mut state = lock(&thread.state);
        if fresh && self.behaviour.older {
            state.approval_policy = json!("on-request");
        }
        if !params["approvalPolicy"].is_null() {
            state.approval_policy = params["approvalPolicy"].clone();
        }
        if fresh {
            let _ = thread.report(&self.shared, &mut state, json!({"type": "idle"}));
        }
        let answers = state.answers;
        let last = state.turns.last().and_then(|turn| turn["id"].as_str().map(str::to_owned));
        drop(state);
        let mut result = thread.opened(&self.shared, &turns);
        for name in ["initialTurnsPage", "turnsBackwardsCursor", "itemsBackwardsCursor"] {
            result[name] = Value::Null;
        }
        out.respond(id, &result);
        if fresh && answers > 0 {
            let usage = token_usage(&thread.id, &last.unwrap_or_default(), answers);
            let _ = out.notify("thread/tokenUsage/updated", &usage);
        }
        let _ = out.notify("thread/goal/cleared", &json!({"threadId": thread.id}));
        Ok(())
    }

    fn thread_read(&self, id: &Value, params: &Value) -> Result<(), Value> {
        let wanted = thread_id(params)?;
        let not_loaded = || invalid(format!("thread not loaded: {wanted}"));
        let thread = self.shared.thread(wanted).ok_or_else(not_loaded)?;
        let with_turns = params["includeTurns"].as_bool().unwrap_or(false);
        let turns = if with_turns { lock(&thread.state).turns.clone() } else { Vec::new() };
        self.shared.out.respond(id, &json!({"thread": thread.json(&self.shared, &turns)}));
        Ok(())
    }

    /// One page with everything, the newest turn first.
    fn turns_list(&self, id: &Value, params: &Value) -> Result<(), Value> {
        let thread = self.find(thread_id(params)?)?;
        let turns: Vec<Value> = lock(&thread.state).turns.iter().rev().cloned().collect();
        self.shared.out.respond(id, &json!({"data": turns, "nextCursor": null, "backwardsCursor": null}));
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Arc<Thread>, Value> {
        self.shared.thread(id).ok_or_else(|| invalid(format!("thread not found: {id}")))
    }

    fn turn_start(&self, id: &Value, params: &Value) -> Result<(), Value> {
        if !self.experimental && !params["collaborationMode"].is_null() {
            return Err(invalid("turn/start.collaborationMode requires experimentalApi capability"));
        }
        let thread = self.find(thread_id(params)?)?;
        let input = input(params)?;
        let mut state = lock(&thread.state);
        if !params["approvalPolicy"].is_null() {
            state.approval_policy = params["approvalPolicy"].clone();
        }
        if let Some(active) = &state.active {
            // A steer in disguise: it answers with the turn that runs already.
            let turn =
                if self.behaviour.older { uuid::Uuid::new_v4().to_string() } else { active.id.clone() };
            return self.hand_over(active, Control::Steer(input), id, &json!({"turn": in_progress(&turn)}));
        }
        let turn_id = uuid::Uuid::new_v4().to_string();
        let (control, mailbox) = bounded(MAILBOX);
        state.active = Some(ActiveTurn { id: turn_id.clone(), started: false, control: control.clone() });
        if state.preview.is_empty() {
            state.preview.clone_from(&input.text);
        }
        state.updated_at = now_ms() / 1000;
        drop(state);
        self.shared.out.respond(id, &json!({"turn": in_progress(&turn_id)}));
        let running = turn::Turn::new(&self.shared, &thread, turn_id, (control, mailbox));
        let spawned = std::thread::Builder::new().name("stub-turn".into()).spawn(move || running.run(input));
        if spawned.is_err() {
            lock(&thread.state).active = None;
        }
        Ok(())
    }

    fn turn_steer(&self, id: &Value, params: &Value) -> Result<(), Value> {
        let expected = field(params, "expectedTurnId")?;
        let thread = self.find(thread_id(params)?)?;
        let input = input(params)?;
        let state = lock(&thread.state);
        let Some(active) = state.active.as_ref().filter(|turn| turn.started) else {
            return Err(invalid("no active turn to steer"));
        };
        if active.id != expected {
            return Err(invalid(format!("expected active turn id `{expected}` but found `{}`", active.id)));
        }
        self.hand_over(active, Control::Steer(input), id, &json!({"turnId": active.id}))
    }

    fn turn_interrupt(&self, id: &Value, params: &Value) -> Result<(), Value> {
        let expected = field(params, "turnId")?;
        let thread = self.find(thread_id(params)?)?;
        let state = lock(&thread.state);
        let last = state.turns.last().and_then(|turn| turn["id"].as_str()).filter(|_| self.behaviour.older);
        let Some(active) = state.active.as_ref().filter(|turn| turn.started) else {
            return Err(invalid(match last {
                Some(last) => format!("expected active turn id {expected} but found {last}"),
                None => "no active turn to interrupt".to_owned(),
            }));
        };
        if active.id != expected {
            return Err(invalid(format!("expected active turn id {expected} but found {}", active.id)));
        }
        self.hand_over(active, Control::Interrupt, id, &json!({}))
    }

    /// Answers, then tells the turn: in the other order what the turn says could overtake the response.
    fn hand_over(
        &self,
        turn: &ActiveTurn,
        control: Control,
        id: &Value,
        result: &Value,
    ) -> Result<(), Value> {
        // Only this thread sends, so what has room now has room after the response.
        if turn.control.is_full() {
            return Err(overloaded());
        }
        self.shared.out.respond(id, result);
        let _ = turn.control.try_send(control);
        Ok(())
    }
}

fn overloaded() -> Value {
    json!({"code": -32001, "message": "Server overloaded; retry later."})
}

fn in_progress(turn: &str) -> Value {
    let (status, view, error) = ("inProgress", "notLoaded", &Value::Null);
    TurnView { id: turn, status, items: &[], view, error, started_ms: None, completed_ms: None }.json()
}

fn field<'a>(params: &'a Value, name: &str) -> Result<&'a str, Value> {
    params[name].as_str().ok_or_else(|| invalid(format!("Invalid request: missing field `{name}`")))
}

fn thread_id(params: &Value) -> Result<&str, Value> {
    let id = field(params, "threadId")?;
    match uuid::Uuid::parse_str(id) {
        Ok(_) => Ok(id),
        Err(error) => Err(invalid(format!("invalid thread id: {error}"))),
    }
}

fn input(params: &Value) -> Result<Input, Value> {
    let Some(parts) = params["input"].as_array() else {
        return Err(invalid("Invalid request: missing field `input`"));
    };
    if parts.is_empty() {
        return Err(invalid("input must not be empty"));
    }
    let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    let length: usize = texts.iter().map(|text| text.chars().count()).sum();
    if length > MAX_INPUT {
        return Err(input_too_large(length));
    }
    Ok(Input { text: texts.join("\n"), client_id: params["clientUserMessageId"].clone() })
}
