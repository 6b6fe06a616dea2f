//! What a prompt asks the stand-in to do.

use std::time::Duration;

/// Time between two words of `slow: N` without a number of milliseconds.
const DEFAULT_PACE: Duration = Duration::from_millis(100);

/// The meaning of a prompt's first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Directive {
    /// `say N words`: N deltas.
    Say(u64),
    /// `slow: N MS`: N deltas, each after MS milliseconds.
    Slow(u64, Duration),
    /// `run: CMD`, and `run2: CMD && CMD` with two approvals at once.
    Run(Vec<String>),
    /// `patch: FILE TEXT`: a file change.
    Patch(String, String),
    /// `perm: DIR`: asks for permissions.
    Perm(String),
    /// `ask: QUESTION`: asks the user.
    Ask(String),
    /// `elicit: TEXT`: an MCP server asks the user.
    Elicit(String),
    /// `request: METHOD JSON`: any request to the client, parameters as they are.
    Request(String, String),
    /// `notify: METHOD JSON`: any notification, parameters as they are.
    Notify(String, String),
    /// `fail: STATUS`: the turn fails.
    Fail(String),
    /// `retry: N`: N lost connections, then an answer.
    Retry(u64),
    /// `big: BYTES`: one long delta.
    Big(usize),
    /// `exit: CODE`: the process ends in the middle of the turn.
    Exit(u8),
    /// `hang:`: the turn does not end by itself.
    Hang,
    /// `stderr: N TEXT`: N lines on standard error.
    Stderr(u64, String),
    /// `stdout: N TEXT`: N raw lines on standard output (one-shot runs).
    Stdout(u64, String),
    /// `garbage: TEXT`: a raw line between the messages.
    Garbage(String),
    /// `play: FILE`: the lines of a file between the messages, as they are.
    Play(String),
    /// `half: TEXT`: an unfinished line, then the end of the process.
    Half(String),
    /// `deaf:`: standard input is not read any more.
    Deaf,
    /// `mute:`: no request is answered any more.
    Mute,
    /// `fork:`: a grandchild that outlives its parent (one-shot runs).
    Fork,
    /// Anything else: the prompt comes back.
    Echo,
}

/// Splits `gap: MS REST` into the wait before the turn starts and the rest of the prompt.
pub(super) fn gap(prompt: &str) -> (Duration, &str) {
    let split = prompt.strip_prefix("gap: ").and_then(|rest| {
        let (millis, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((Duration::from_millis(millis.parse().ok()?), rest))
    });
    split.unwrap_or((Duration::ZERO, prompt))
}

impl Directive {
    /// Reads a prompt; one that is no directive, or a malformed one, is echoed.
    pub(super) fn parse(prompt: &str) -> Self {
        let line = gap(prompt).1.lines().next().unwrap_or_default();
        Self::read(line).unwrap_or(Self::Echo)
    }

    fn read(line: &str) -> Option<Self> {
        if let Some(rest) = line.strip_prefix("say ") {
            return Some(Self::Say(rest.split_once(' ')?.0.parse().ok()?));
        }
        let (name, rest) = line.split_once(':')?;
        let rest = rest.trim_start();
        let (first, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        let (first, tail) = (first.to_owned(), tail.to_owned());
        Some(match name {
            "slow" => {
                let pace = tail.trim().parse().map_or(DEFAULT_PACE, Duration::from_millis);
                Self::Slow(first.parse().ok()?, pace)
            }
            "run" => Self::Run(vec![rest.to_owned()]),
            "run2" => Self::Run(rest.split(" && ").map(str::to_owned).collect()),
            "patch" => Self::Patch(first, tail),
            "perm" => Self::Perm(rest.to_owned()),
            "ask" => Self::Ask(rest.to_owned()),
            "elicit" => Self::Elicit(rest.to_owned()),
            "request" => Self::Request(first, tail),
            "notify" => Self::Notify(first, tail),
            "fail" => Self::Fail(rest.to_owned()),
            "retry" => Self::Retry(first.parse().ok()?),
            "big" => Self::Big(first.parse().ok()?),
            "exit" => Self::Exit(first.parse().ok()?),
            "hang" => Self::Hang,
            "stderr" => Self::Stderr(first.parse().ok()?, tail),
            "stdout" => Self::Stdout(first.parse().ok()?, tail),
            "garbage" => Self::Garbage(rest.to_owned()),
            "play" => Self::Play(rest.to_owned()),
            "half" => Self::Half(rest.to_owned()),
            "deaf" => Self::Deaf,
            "mute" => Self::Mute,
            "fork" => Self::Fork,
            _ => return None,
        })
    }
}

/// The words of `say` and `slow`.
pub(super) fn words(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("word{index} "))
}

#[cfg(test)]
mod tests {
    use super::{Directive, gap};
    use std::time::Duration;

    #[test]
    fn reads_directives() {
        assert_eq!(Directive::parse("say 6 words"), Directive::Say(6));
        assert_eq!(Directive::parse("slow: 2 400"), Directive::Slow(2, Duration::from_millis(400)));
        assert_eq!(Directive::parse("run2: a && b c"), Directive::Run(vec!["a".into(), "b c".into()]));
        assert_eq!(Directive::parse("patch: f.txt x y\nz"), Directive::Patch("f.txt".into(), "x y".into()));
        assert_eq!(Directive::parse("gap: 5 hang:"), Directive::Hang);
        assert_eq!(gap("gap: 5 hang:"), (Duration::from_millis(5), "hang:"));
        assert_eq!(Directive::parse("say hello to everyone"), Directive::Echo);
        assert_eq!(Directive::parse("note: this"), Directive::Echo);
    }
}
