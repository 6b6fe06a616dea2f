//! The help text, made from the tables.

use super::flags::{ACTIONS, FLAGS, Flag, Group, Operands};

/// No line is longer.
const WIDTH: usize = 100;
/// Where the explanations begin.
const COLUMN: usize = 32;

/// Lines to try, under a heading.
pub(super) const EXAMPLES: &str = "\
Examples:
  codexd                                  Run the daemon for this folder; stop it with Ctrl-C
  codexd smoke                            See whether codexd itself works here
  codexd doctor                           See whether everything it needs is here
  codexd service install                  Have launchd or systemd run it
  codexd start --repo-root /srv/app --local-api-base http://127.0.0.1:0 --json
  codexd start --server-command /opt/codex/bin/codex --server-arg app-server
  codexd status --json | jq .daemon       Ask the files, not the daemon
  codexd run --sandbox read-only 'Explain this repository'
  codexd ask 'What is this repository for?'
  codexd tail --type app-server.turn      Watch the turns
";

/// What holds for every flag.
pub(super) const FOOTER: &str = "\
A flag beats its variable, a variable beats the default; a blank value counts as not given.
Values are written --flag VALUE or --flag=VALUE.
Exit codes: 0 done, 1 failed at run time, 2 wrong command line or environment, 70 a fault in
codexd itself, 130 or 143 a second SIGINT or SIGTERM that did not wait for the end.
";

/// The help text.
pub fn help() -> String {
    let mut text = format!(
        "codexd {}: supervises OpenAI Codex on this host\n\nUsage: codexd [ACTION] [OPTIONS]\n\nActions:\n",
        env!("CARGO_PKG_VERSION")
    );
    for action in ACTIONS {
        let name = match action.operands {
            Operands::Words(words) => format!("{} {}", action.name, words.join(" ")),
            Operands::None | Operands::Raw => action.name.to_owned(),
        };
        entry(&mut text, &name, &[action.doc.to_owned()]);
    }
    text.push('\n');
    text.push_str(EXAMPLES);
    for &(heading, group) in Group::ALL {
        text.push_str(&format!("\n{heading}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let mut paragraphs = vec![flag.doc.to_owned()];
            paragraphs.extend(origin(flag));
            entry(&mut text, &synopsis(flag), &paragraphs);
        }
        if group == Group::Output {
            entry(&mut text, "-h, --help", &["Show this text; anywhere on the line".to_owned()]);
            entry(&mut text, "-V", &["Show the version of this program".to_owned()]);
        }
    }
    text.push('\n');
    text.push_str(FOOTER);
    text
}

/// The flag as it is typed.
fn synopsis(flag: &Flag) -> String {
    match flag.value() {
        Some(value) => format!("--{} {value}", flag.name),
        None => format!("--{}", flag.name),
    }
}

/// Where else the value may come from; on one line if that is long enough.
fn origin(flag: &Flag) -> Vec<String> {
    let mut parts = Vec::new();
    if !flag.env.is_empty() {
        parts.push(format!("[env: {}]", flag.env.join(", ")));
    }
    if !flag.default.is_empty() && flag.value().is_some() {
        parts.push(format!("[default: {}]", flag.default));
    }
    let line = parts.join(" ");
    match line.len() {
        0 => Vec::new(),
        length if length <= WIDTH - COLUMN => vec![line],
        _ => parts,
    }
}

/// One entry: its name on the left, each of its paragraphs wrapped on the right.
fn entry(text: &mut String, name: &str, paragraphs: &[String]) {
    let mut left = format!("  {name}");
    if left.len() + 2 > COLUMN {
        text.push_str(&left);
        text.push('\n');
        left.clear();
    }
    for line in paragraphs.iter().flat_map(|paragraph| wrap(paragraph, WIDTH - COLUMN)) {
        text.push_str(&format!("{left:COLUMN$}{line}\n"));
        left.clear();
    }
}

fn wrap(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
