//! What the model says.

use super::shapes::{agent_message, now_ms, rate_limits, reconnecting, token_usage};
use super::state::lock;
use super::turn::{Stop, Turn};
use serde_json::{Value, json};
use std::time::Duration;

impl Turn {
    /// `retry: N`: messages that break off, each followed by the announcement of another attempt.
    pub(super) fn lose_connections(&mut self, attempts: u64) -> Result<(), Stop> {
        for attempt in 1..=attempts {
            let (id, _) = self.message_started()?;
            self.delta(&id, "word0 ")?;
            self.used()?;
            let error = json!({"error": reconnecting(attempt, attempts), "willRetry": true,
                "threadId": self.thread.id, "turnId": self.id});
            self.notify("error", &error)?;
            self.poll()?;
        }
        Ok(())
    }

    /// `exit: CODE`.
    pub(super) fn exit(&mut self, code: u8) -> Result<(), Stop> {
        let (id, _) = self.message_started()?;
        self.delta(&id, "word0 ")?;
        let _ = self.shared.exit.try_send(code);
        Err(Stop::Gone)
    }

    /// A message of the model in two deltas, `done: ` and the rest.
    pub(super) fn say_done(&mut self, text: &str) -> Result<(), Stop> {
        self.say(["done: ".to_owned(), text.to_owned()].into_iter(), None)
    }

    /// A whole message of the model, with a pause before each delta.
    pub(super) fn say(
        &mut self,
        deltas: impl Iterator<Item = String>,
        pace: Option<Duration>,
    ) -> Result<(), Stop> {
        let (id, at) = self.message_started()?;
        let mut text = String::new();
        for delta in deltas {
            let gone_on = match pace {
                Some(pace) => self.pause(pace),
                None => self.poll(),
            };
            if matches!(gone_on, Err(Stop::Interrupted)) {
                self.given_up()?;
            }
            gone_on?;
            self.delta(&id, &delta)?;
            text.push_str(&delta);
        }
        let item = agent_message(&id, &text, Some(now_ms()), at);
        self.last_message = Some(item.clone());
        self.item_completed(item)?;
        self.used()
    }

    fn message_started(&self) -> Result<(String, u64), Stop> {
        let (id, at) = (format!("msg_{}", self.shared.item_number()), now_ms());
        self.item_started(&agent_message(&id, "", None, at), at)?;
        Ok((id, at))
    }

    fn delta(&self, item: &str, delta: &str) -> Result<(), Stop> {
        // Written by hand: of all messages this one comes by the thousand.
        let params = format!(
            "{{\"threadId\":\"{}\",\"turnId\":\"{}\",\"itemId\":\"{item}\",\"delta\":{}}}",
            self.thread.id,
            self.id,
            Value::from(delta)
        );
        Ok(self.shared.out.notify_raw("item/agentMessage/delta", &params)?)
    }

    /// An answer is broken off: nothing new is known of its cost, and what was known before is said again.
    pub(super) fn given_up(&self) -> Result<(), Stop> {
        let answers = lock(&self.thread.state).answers;
        if answers > 0 {
            self.notify("thread/tokenUsage/updated", &token_usage(&self.thread.id, &self.id, answers))?;
        }
        self.notify("account/rateLimits/updated", &rate_limits())
    }

    /// Reports the cost of an answer of the model, and the diff so far.
    pub(super) fn used(&self) -> Result<(), Stop> {
        let answers = {
            let mut state = lock(&self.thread.state);
            state.answers += 1;
            state.answers
        };
        self.notify("thread/tokenUsage/updated", &token_usage(&self.thread.id, &self.id, answers))?;
        self.notify("account/rateLimits/updated", &rate_limits())?;
        self.report_diff()
    }

    /// Reports the diff, if files were changed.
    pub(super) fn report_diff(&self) -> Result<(), Stop> {
        let Some(diff) = &self.diff else { return Ok(()) };
        let params = json!({"threadId": self.thread.id, "turnId": self.id, "diff": diff});
        self.notify("turn/diff/updated", &params)
    }
}
