//! How the stand-in misbehaves as a process, for tests of the supervision.

/// Deviations from good behaviour, read from the environment variable `CODEXD_STUB` (comma separated).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// `mute-initialize`: `initialize` is never answered.
    pub(super) mute_initialize: bool,
    /// `ignore-sigterm`: only SIGKILL or the end of standard input ends the process.
    pub(super) ignore_sigterm: bool,
    /// `ignore-eof`: the process lives on after the end of standard input.
    pub(super) ignore_eof: bool,
    /// `close-stdout`: standard output is closed after the answer to `initialize`, the process stays.
    pub(super) close_stdout: bool,
    /// `exit-at-once=CODE`: the process ends before it reads anything.
    pub(super) exit_at_once: Option<u8>,
    /// `overload=N`: the first N requests after `initialize` are refused with -32001.
    pub(super) overload: u32,
    /// `refuse-resume=N`: the first N `thread/resume` are refused, as with a broken configuration.
    pub(super) refuse_resume: u32,
    /// `mute-resume`: no `thread/resume` is answered.
    pub(super) mute_resume: bool,
    /// `no-thread-start`: `thread/start` is an unknown method, as in an older or newer Codex.
    pub(super) no_thread_start: bool,
    /// `no-turn-steer`: nor is `turn/steer` known.
    pub(super) no_turn_steer: bool,
    /// `refuse-initialize`: `initialize` is refused.
    pub(super) refuse_initialize: bool,
    /// `older`: what Codex did before 0.163. A resumed thread has the policies of the configuration, `turn/start` beside a
    /// running turn steers that one but answers with an id of its own, and until a turn begins the one before it counts as
    /// active.
    pub(super) older: bool,
    /// `version=VERSION`: it says that it is this version of Codex.
    pub(super) version: Option<String>,
}

impl Behaviour {
    /// Reads the comma separated list; what it does not know it leaves out.
    pub(super) fn parse(list: &str) -> Self {
        let mut behaviour = Self::default();
        for entry in list.split(',') {
            let (name, value) = entry.trim().split_once('=').unwrap_or((entry.trim(), ""));
            match name {
                "mute-initialize" => behaviour.mute_initialize = true,
                "ignore-sigterm" => behaviour.ignore_sigterm = true,
                "ignore-eof" => behaviour.ignore_eof = true,
                "close-stdout" => behaviour.close_stdout = true,
                "exit-at-once" => behaviour.exit_at_once = Some(value.parse().unwrap_or(1)),
                "overload" => behaviour.overload = value.parse().unwrap_or(1),
                "refuse-resume" => behaviour.refuse_resume = value.parse().unwrap_or(1),
                "mute-resume" => behaviour.mute_resume = true,
                "no-thread-start" => behaviour.no_thread_start = true,
                "no-turn-steer" => behaviour.no_turn_steer = true,
                "refuse-initialize" => behaviour.refuse_initialize = true,
                "older" => behaviour.older = true,
                "version" => behaviour.version = Some(value.to_owned()),
                _ => {}
            }
        }
        behaviour
    }

    /// What `CODEXD_STUB` asks for.
    pub(super) fn from_env() -> Self {
        Self::parse(&std::env::var("CODEXD_STUB").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::Behaviour;

    #[test]
    fn reads_a_list() {
        let behaviour = Behaviour::parse("mute-initialize, exit-at-once=3,overload=2,bogus");
        let expected =
            Behaviour { mute_initialize: true, exit_at_once: Some(3), overload: 2, ..Behaviour::default() };
        assert_eq!(behaviour, expected);
        assert_eq!(Behaviour::parse(""), Behaviour::default());
    }
}
