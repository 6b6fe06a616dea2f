//! The manual page in the macros of man(7), made from the tables.

use super::flags::{ACTIONS, FLAGS, Flag, Group, Operands};
use super::help::{EXAMPLES, FOOTER};

const DESCRIPTION: &str = "\
codexd starts `codex app-server`, keeps it running, and offers its sessions and turns, and one-shot runs of `codex exec`, \
to any number of local clients over a REST API and an event stream on one loopback port. Everything that happens is an event with a \
sequence number, in a log before anybody is told of it.";

/// The page.
pub fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH CODEXD 1 \"\" \"codexd {version}\" \"User Commands\"\n");
    page.push_str(".SH NAME\ncodexd \\- supervises OpenAI Codex on this host\n");
    page.push_str(".SH SYNOPSIS\n.B codexd\n[\\fIACTION\\fR] [\\fIOPTIONS\\fR]\n");
    page.push_str(&format!(".SH DESCRIPTION\n{}\n", line(DESCRIPTION)));
    page.push_str(".SH ACTIONS\n");
    for row in ACTIONS {
        let words = match row.operands {
            Operands::Words(words) => words.join(" "),
            Operands::None | Operands::Raw => String::new(),
        };
        entry(&mut page, row.name, &words, &[row.doc.to_owned()]);
    }
    page.push_str(".SH OPTIONS\n");
    for &(heading, group) in Group::ALL {
        page.push_str(&format!(".SS \"{}\"\n", text(heading)));
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let value = flag.value().unwrap_or_default();
            entry(&mut page, &format!("--{}", flag.name), value, &paragraphs(flag));
        }
        if group == Group::Output {
            entry(&mut page, "-h, --help", "", &["Show the help text; anywhere on the line.".to_owned()]);
            entry(&mut page, "-V", "", &["Show the version of this program.".to_owned()]);
        }
    }
    page.push_str(".SH NOTES\n");
    let notes: Vec<String> = FOOTER.lines().map(line).collect();
    page.push_str(&notes.join("\n.br\n"));
    page.push_str("\n.SH EXAMPLES\n.nf\n");
    EXAMPLES.lines().skip(1).for_each(|example| page.push_str(&format!("{}\n", line(example.trim_start()))));
    page.push_str(".fi\n.SH SEE ALSO\n.BR codex (1)\n");
    page
}

fn paragraphs(flag: &Flag) -> Vec<String> {
    let mut paragraphs = vec![format!("{}.", flag.doc.trim_end_matches('.'))];
    if !flag.env.is_empty() {
        paragraphs.push(format!("Variable: {}.", flag.env.join(", ")));
    }
    if !flag.default.is_empty() && flag.value().is_some() {
        paragraphs.push(format!("Default: {}.", flag.default));
    }
    paragraphs
}

/// A tagged paragraph.
fn entry(page: &mut String, name: &str, value: &str, paragraphs: &[String]) {
    let value = if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", text(value)) };
    page.push_str(&format!(".TP\n\\fB{}\\fR{value}\n", text(name)));
    let lines: Vec<String> = paragraphs.iter().map(|paragraph| line(paragraph)).collect();
    page.push_str(&lines.join("\n.br\n"));
    page.push('\n');
}

/// Text that roff takes as it is.
fn text(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}

/// A line of text: at its beginning a dot or an apostrophe would be a request.
fn line(words: &str) -> String {
    let guard = if words.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{}", text(words))
}
