//! What the program at the other end has shown of itself, and what to make of one that is no app-server that codexd can
//! work with: too old, too new, or none at all. The texts say what happened and what to do.

use std::sync::Mutex;

use super::needs;
use super::wire::{METHOD_NOT_FOUND, OVERLOADED, RpcError};
use crate::model;
use crate::threads::lock;

/// How advice ends that is not given by `codexd doctor` itself.
pub const LOOK_CLOSER: &str = "; `codexd doctor` looks closer";

/// One life's impression.
#[derive(Debug, Default)]
pub struct Impression {
    external: bool,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    version: Option<String>,
    strange: Option<String>,
    trouble: Option<String>,
}

impl Impression {
    /// Nothing yet; `external`: it was not started by codexd, which changes what there is to do.
    pub fn of(external: bool) -> Self {
        Self { external, ..Self::default() }
    }

    /// The handshake was done, and this is what it called itself: all is well so far.
    pub fn met(&self, user_agent: Option<&str>) {
        let mut shown = lock(&self.shown);
        shown.version = user_agent.and_then(version);
        shown.trouble = None;
    }

    /// What was wrong in the life before, which is so until this one has done the handshake.
    pub fn inherit(&self, trouble: Option<String>) {
        lock(&self.shown).trouble = trouble;
    }

    /// Whether it is known to be older than that version.
    pub fn is_older_than(&self, version: &str) -> bool {
        lock(&self.shown).version.as_deref().is_some_and(|own| number(own) < number(version))
    }

    /// It wrote a line that is no message of the protocol; the first such line is kept.
    pub fn wrote(&self, line: &str) {
        let mut shown = lock(&self.shown);
        if shown.strange.is_none() && !line.trim().is_empty() {
            shown.strange = Some(model::preview(line));
        }
    }

    /// The first line it wrote that is no message of the protocol.
    pub fn strange(&self) -> Option<String> {
        lock(&self.shown).strange.clone()
    }

    /// Why codexd cannot work with it, as far as that has shown.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.shown).trouble.clone()
    }

    /// What a refusal shows of it: `Some` when it is not the request that is wrong, but the app-server that is no use.
    pub fn refused(&self, method: &str, error: &RpcError) -> Option<String> {
        if error.code == OVERLOADED {
            return None;
        }
        let shown = format!("JSON-RPC error {}: {}", error.code, model::preview(&error.message));
        let mut own = lock(&self.shown);
        let text = if is_unknown(method, error) {
            let version = own.version.as_deref();
            let name =
                version.map_or_else(|| "the app-server".to_owned(), |version| format!("codex {version}"));
            format!("{name} does not know {method} ({shown}): {}", advice(version))
        } else if method == "initialize" {
            format!("the app-server refused initialize ({shown}): {}", advice(None))
        } else {
            return None;
        };
        if needs::request(method).is_none_or(|need| need.vital) {
            own.trouble = Some(text.clone());
        }
        Some(text)
    }

    /// It did not answer `initialize` in time, as `error` says.
    pub fn mute(&self, error: &str) -> String {
        let mut shown = lock(&self.shown);
        let wrote = shown.strange.as_ref();
        let wrote =
            wrote.map_or_else(String::new, |line| format!("; it wrote `{line}`, which is no message"));
        let text = format!("{error}{wrote}. If it is no app-server: {}", self.start_advice());
        shown.trouble = Some(text.clone());
        text
    }

    /// It said something that no app-server says, while it should have answered `initialize`.
    pub fn no_app_server(&self, what: &str) -> String {
        let whose = if self.external { "what answers at --server-endpoint" } else { "what was started" };
        let text = format!("{whose} is no app-server: {what}; {}", self.start_advice());
        lock(&self.shown).trouble = Some(text.clone());
        text
    }

    fn start_advice(&self) -> String {
        if !self.external {
            return start_advice();
        }
        format!(
            "--server-endpoint must name the listener of `codex app-server --listen ws://…`, of codex {} or newer",
            needs::OLDEST
        )
    }
}

/// What a program that ended before it had answered `initialize` leaves to say; `said` is what it wrote instead.
pub fn stillborn(said: Option<&str>) -> String {
    let said = said.map_or_else(|| "nothing".to_owned(), |said| format!("`{said}`"));
    format!("It had answered nothing yet; it wrote {said}. If it is no app-server: {}", start_advice())
}

/// The version in what an app-server calls itself: `NAME/0.169.0 (Debian …) …`.
pub fn version(user_agent: &str) -> Option<String> {
    let (_, rest) = user_agent.split_once('/')?;
    let version = rest.split_whitespace().next()?;
    version.starts_with(|first: char| first.is_ascii_digit()).then(|| model::preview(version))
}

/// What to do about an app-server that lacks something: an old one is to be replaced, one that codexd does not know yet may
/// be too new.
pub fn advice(version: Option<&str>) -> String {
    let oldest = needs::OLDEST;
    if version.is_some_and(|version| number(version) >= number(oldest)) {
        let (first, last) = needs::tried_range();
        return format!(
            "this codexd was tried with codex {first} to {last}: install one of these (npm install -g \
             @openai/codex@{last}), or a newer codexd"
        );
    }
    format!("codexd needs codex {oldest} or newer: npm install -g @openai/codex@latest")
}

fn start_advice() -> String {
    format!(
        "codexd starts --server-command with --server-arg, as in `codex app-server`, and needs codex {} or newer (npm \
         install -g @openai/codex@latest){LOOK_CLOSER}",
        needs::OLDEST
    )
}

/// Whether the refusal says that the method itself is unknown. Codex decodes a request into one enum, so that an unknown
/// method is an unknown variant of it.
fn is_unknown(method: &str, error: &RpcError) -> bool {
    error.code == METHOD_NOT_FOUND || error.message.contains(&format!("unknown variant `{method}`"))
}

/// The first two numbers of a version.
pub(super) fn number(version: &str) -> (u64, u64) {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(user_agent: &str, method: &str, code: i64, message: &str) -> Option<String> {
        let impression = Impression::default();
        impression.met(Some(user_agent));
        let text = impression.refused(method, &RpcError::new(code, message));
        assert_eq!(impression.trouble().is_some(), text.is_some() && method != "turn/steer");
        text
    }

    #[test]
    fn what_a_refusal_shows() {
        let unknown = "Invalid request: unknown variant `thread/start`, expected one of `initialize`";
        assert_eq!(
            refused("codexd/0.20.0 (Debian) x", "thread/start", -32600, unknown).unwrap(),
            "codex 0.20.0 does not know thread/start (JSON-RPC error -32600: Invalid request: unknown variant \
             `thread/start`, expected one of `initialize`): codexd needs codex 0.120 or newer: npm install -g \
             @openai/codex@latest"
        );
        let newer = refused("codexd/9.0.1", "turn/steer", -32601, "gone").unwrap();
        assert!(
            newer.starts_with("codex 9.0.1 does not know turn/steer (JSON-RPC error -32601: gone): this")
        );
        assert!(newer.contains("tried with codex 0.1"), "{newer}");
        assert!(
            refused("x", "initialize", -32600, "no")
                .unwrap()
                .starts_with("the app-server refused initialize (JSON")
        );
        assert_eq!(refused("x/1.0", "thread/start", -32600, "unknown variant `x`, expected `y`"), None);
        assert_eq!(refused("x/1.0", "initialize", OVERLOADED, "later"), None);
        assert_eq!(version("nothing"), None);
        assert_eq!(version("a/b"), None);
    }
}
