//! From words to flags and their text. What a value means is decided later (`low`, `resolve`): only there is it known
//! whether the environment has a say.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};

use super::UsageError;
use super::flags::{ACTIONS, Action, ActionRow, FLAGS, Flag, Operands};
use super::low::Given;
use crate::model::preview;

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// The help text.
    Help,
    /// The version of this program.
    Version,
    /// An action.
    Act(Command),
}

/// An action and what was typed with it.
#[derive(Debug)]
pub struct Command {
    /// What to do.
    pub action: Action,
    /// The flags in the order they were typed.
    pub given: Given,
    /// The words of an action that takes some.
    pub words: Vec<OsString>,
}

/// What an action that only talks to the running daemon uses of the flags that every action takes.
const OF_CLIENTS: &[&str] =
    &["local-api-base", "event-stream-path", "token-file", "allow-other-users", "json", "log-level"];

impl Command {
    /// Whether a flag was typed; a blank value counts as not.
    pub fn is_given(&self, name: &str) -> bool {
        let counts = |flag: &Flag, value: &str| flag.value().is_none() || !value.trim().is_empty();
        self.given.iter().any(|(flag, value)| flag.name == name && counts(flag, value))
    }

    /// The flags that were typed and that nothing here looks at, each once. They are no mistake in a line that is kept for
    /// all actions, but whoever typed them for this one is to know.
    pub fn without_effect(&self) -> Vec<&'static str> {
        use Action::{Answer, Ask, Requests, Run, Runs, Sessions, Tail};
        if !matches!(self.action, Answer | Ask | Requests | Run | Runs | Sessions | Tail) {
            return Vec::new();
        }
        let idle = |flag: &&Flag| {
            flag.actions.is_empty() && !OF_CLIENTS.contains(&flag.name) && self.is_given(flag.name)
        };
        FLAGS.iter().filter(idle).map(|flag| flag.name).collect()
    }
}

/// Reads the command line without the program's name.
///
/// # Errors
/// The first word that is wrong; but help asked for anywhere is given.
pub fn parse(words: Vec<OsString>) -> Result<Parsed, UsageError> {
    if asks_for_help(&words) {
        return Ok(Parsed::Help);
    }
    let mut chosen: Option<&ActionRow> = None;
    let mut given = Given::new();
    let mut rest = Vec::new();
    let mut parser = Parser::from_args(words);
    while let Some(arg) = parser.next().map_err(|error| unwanted_value(&error))? {
        match arg {
            Arg::Short('V') => return Ok(Parsed::Version),
            Arg::Long(name) => {
                let flag = find_flag(name)?;
                match flag.value() {
                    None => given.push((flag, String::new())),
                    Some(_) => match value_of(flag, &mut parser)? {
                        Some(value) => given.push((flag, value)),
                        None => return Ok(Parsed::Version),
                    },
                }
            }
            Arg::Short(letter) => {
                let rest = parser.optional_value().unwrap_or_default();
                return Err(unknown_flag(&format!("-{letter}{}", rest.to_string_lossy())));
            }
            Arg::Value(word) => {
                let Some(ActionRow { operands, name, .. }) = chosen else {
                    let action = find_action(&word)?;
                    chosen = Some(action);
                    if action.operands == Operands::Raw {
                        rest = parser.raw_args().map_err(|error| unwanted_value(&error))?.collect();
                        break;
                    }
                    continue;
                };
                let told = match operands {
                    Operands::Words(placeholders) if rest.len() < placeholders.len() => {
                        rest.push(word);
                        continue;
                    }
                    Operands::Words(placeholders) => format!(
                        "{name} takes {}, and \"{}\" is one word too many: put what belongs together in quotes",
                        placeholders.join(" "),
                        shown(&word)
                    ),
                    _ if find_action(&word).is_ok() => {
                        format!("a second action, {}, after {name}: there can be only one", shown(&word))
                    }
                    _ => format!("{name} takes no further word, and \"{}\" is one", shown(&word)),
                };
                return Err(UsageError::new(told));
            }
        }
    }
    let action = chosen.map_or(Action::Start, |row| row.action);
    if let Some((flag, _)) =
        given.iter().find(|(flag, _)| !flag.actions.is_empty() && !flag.actions.contains(&action))
    {
        return Err(out_of_place(flag));
    }
    if let Some(ActionRow { operands: Operands::Words(placeholders), name, .. }) = chosen
        && let Some(missing) = placeholders.get(rest.len())
    {
        return Err(UsageError::new(format!(
            "{name} needs {missing}: codexd {name} {}",
            placeholders.join(" ")
        )));
    }
    Ok(if action == Action::Help {
        Parsed::Help
    } else {
        Parsed::Act(Command { action, given, words: rest })
    })
}

/// `-h` or `--help` anywhere, but not among words that are passed on, nor behind the `--` before an action's word.
fn asks_for_help(words: &[OsString]) -> bool {
    let mut takes_word = false;
    for word in words {
        match ACTIONS.iter().find(|row| row.name == word).map(|row| row.operands) {
            Some(Operands::Raw) if !takes_word => return false,
            Some(Operands::Words(_)) => takes_word = true,
            _ => {}
        }
        match word.to_str() {
            Some("--") if takes_word => return false,
            Some("-h" | "--help") => return true,
            _ => {}
        }
    }
    false
}

fn out_of_place(flag: &Flag) -> UsageError {
    let actions = ACTIONS.iter().filter(|row| flag.actions.contains(&row.action));
    let names: Vec<&str> = actions.map(|row| row.name).collect();
    UsageError::new(format!("--{} is for codexd {} only", flag.name, names.join(" and ")))
}

/// The value of a flag; `None` for `--version` as the last word, which asks for the program's own.
fn value_of(flag: &Flag, parser: &mut Parser) -> Result<Option<String>, UsageError> {
    let name = format!("--{}", flag.name);
    let utf8 = |value: OsString| value.into_string().map_err(|value| UsageError::not_utf8(&name, &value));
    if let Some(value) = parser.optional_value() {
        return utf8(value).map(Some);
    }
    let mut words = parser.raw_args().map_err(|error| unwanted_value(&error))?;
    match words.next_if(|word| !word.as_encoded_bytes().starts_with(b"--")) {
        Some(value) => utf8(value).map(Some),
        None if flag.name == "version" && words.peek().is_none() => Ok(None),
        None => {
            let placeholder = flag.value().unwrap_or_default();
            let next = words.peek().map_or(String::new(), |next| {
                format!("; a value that begins with -- is written {name}={}", shown(next))
            });
            Err(UsageError::new(format!("{name} needs a value: {name} {placeholder}{next}")))
        }
    }
}

fn find_flag(name: &str) -> Result<&'static Flag, UsageError> {
    FLAGS.iter().find(|flag| flag.name == name).ok_or_else(|| unknown_flag(&format!("--{name}")))
}

fn unknown_flag(given: &str) -> UsageError {
    let known = FLAGS.iter().map(|flag| flag.name).chain(["help"]);
    let hint = nearest(given.trim_start_matches('-'), known).map(|name| format!("; did you mean --{name}?"));
    UsageError::new(format!(
        "unknown flag {}{} (codexd --help lists all)",
        preview(given),
        hint.unwrap_or_default()
    ))
}

fn find_action(word: &OsStr) -> Result<&'static ActionRow, UsageError> {
    ACTIONS.iter().find(|row| row.name == word).ok_or_else(|| {
        let public: Vec<&str> =
            ACTIONS.iter().filter(|row| row.operands != Operands::Raw).map(|row| row.name).collect();
        UsageError::new(format!("unknown action \"{}\"; the actions are {}", shown(word), public.join(", ")))
    })
}

/// lexopt's own complaints: a value for a switch.
fn unwanted_value(error: &lexopt::Error) -> UsageError {
    UsageError::new(match error {
        lexopt::Error::UnexpectedValue { option, .. } => format!("{} takes no value", preview(option)),
        other => preview(&other.to_string()),
    })
}

fn shown(word: &OsStr) -> String {
    preview(&word.to_string_lossy())
}

/// The name that was meant, if one is close enough: best one of whose parts is just what was given.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = given.chars().count() / 3 + 1;
    names
        .map(|name| (!name.split('-').any(|part| part == given), distance(given, name), name))
        .filter(|(differs, distance, _)| !differs || *distance <= far)
        .min()
        .map(|(_, _, name)| name)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Result<Parsed, String> {
        parse(line.iter().map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    fn act(line: &[&str]) -> Command {
        match words(line) {
            Ok(Parsed::Act(command)) => command,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn start_is_the_default_and_the_place_of_the_action_is_free() {
        assert_eq!(act(&[]).action, Action::Start);
        assert_eq!(act(&["--json", "status"]).action, Action::Status);
        let command = act(&["--node-id", "status", "config", "--json"]);
        assert_eq!(command.action, Action::Config);
        assert!(command.is_given("json") && command.is_given("node-id"));
        assert_eq!(act(&["--", "status"]).action, Action::Status);
    }

    #[test]
    fn help_anywhere() {
        for line in [
            &["help"][..],
            &["-h"],
            &["status", "--help"],
            &["--bogus", "--help"],
            &["--node-id", "-h"],
            &["--node-id", "--help"],
            &["run", "stub-exec", "--help"],
        ] {
            assert!(matches!(words(line), Ok(Parsed::Help)), "{line:?}");
        }
        assert_eq!(act(&["stub-exec", "--help"]).words, ["--help"]);
    }

    #[test]
    fn two_meanings_of_version() {
        for line in
            [&["--version"][..], &["-V"], &["status", "--json", "--version"], &["status", "-V", "--json"]]
        {
            assert!(matches!(words(line), Ok(Parsed::Version)), "{line:?}");
        }
        assert_eq!(act(&["--version", "1.2"]).given[0].1, "1.2");
        assert_eq!(act(&["--version="]).given[0].1, "");
        assert!(words(&["--version", "--json"]).is_err());
    }

    #[test]
    fn words_of_a_stand_in_are_its_own() {
        let command = act(&["stub-exec", "--json", "-x", "--", "start"]);
        assert_eq!(command.words, ["--json", "-x", "--", "start"]);
        assert!(command.given.is_empty());
    }

    #[test]
    fn some_actions_take_words_and_flags_of_their_own() {
        for line in [
            &["run", "--cwd", "/x", "status"][..],
            &["--cwd=/x", "run", "status"],
            &["run", "status", "--cwd=/x"],
        ] {
            let command = act(line);
            assert_eq!((command.action, command.words), (Action::Run, vec!["status".into()]), "{line:?}");
        }
        assert_eq!(act(&["answer", "request-1", "accept"]).words, ["request-1", "accept"]);
        for word in ["--help", "-h", "--json", "run", "-"] {
            assert_eq!(act(&["run", "--", word]).words, [word]);
        }
        assert!(matches!(words(&["run", "--help"]), Ok(Parsed::Help)));
        for (line, expected) in [
            (&["run"][..], "run needs PROMPT: codexd run PROMPT"),
            (
                &["run", "a", "b"],
                "run takes PROMPT, and \"b\" is one word too many: put what belongs together in quotes",
            ),
            (
                &["answer", "request-1"],
                "answer needs accept|acceptForSession|decline|cancel: \
                 codexd answer ID accept|acceptForSession|decline|cancel",
            ),
            (&["status", "--cwd", "/x"], "--cwd is for codexd run and ask only"),
            (&["--model", "x"], "--model is for codexd run only"),
        ] {
            assert_eq!(words(line).unwrap_err(), expected);
        }
    }

    #[test]
    fn values_may_begin_with_one_dash_and_with_two_only_after_an_equals_sign() {
        assert_eq!(act(&["--server-arg", "-c"]).given[0].1, "-c");
        assert_eq!(act(&["--server-arg=--json"]).given[0].1, "--json");
        assert_eq!(
            words(&["--server-arg", "--json"]).unwrap_err(),
            "--server-arg needs a value: --server-arg ARG; a value that begins with -- is written --server-arg=--json"
        );
        assert_eq!(
            words(&["--node-id", "--"]).unwrap_err().split(';').next(),
            Some("--node-id needs a value: --node-id ID")
        );
    }

    #[test]
    fn close_names_are_suggested() {
        assert_eq!(
            words(&["--node"]).unwrap_err(),
            "unknown flag --node; did you mean --node-id? (codexd --help lists all)"
        );
        assert_eq!(words(&["--xyzzyx"]).unwrap_err(), "unknown flag --xyzzyx (codexd --help lists all)");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
