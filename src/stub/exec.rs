//! A stand-in for `codex exec`: one prompt, one answer.

use super::directive::{Directive, words};
use super::shapes::model_error;
use crossbeam_channel::after;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The options, each with whether it takes a value, whether it may be repeated, and in the order in which this
/// program gives them. The real one is less strict; a stand-in that is shows when the order is not kept.
const OPTIONS: [(&str, bool, bool); 13] = [
    ("--cd", true, false),
    ("--color", true, false),
    ("--model", true, false),
    ("--profile", true, false),
    ("--sandbox", true, false),
    ("--skip-git-repo-check", false, false),
    ("--json", false, false),
    ("--ephemeral", false, false),
    ("--config", true, true),
    ("--add-dir", true, true),
    ("--image", true, true),
    ("--output-schema", true, false),
    ("--output-last-message", true, false),
];

struct Call {
    json: bool,
    last_message: Option<PathBuf>,
    prompt: String,
}

/// `codexd stub-exec WORDS…`: answers one prompt as `codex exec` does; `args` may begin with the word `exec`.
///
/// Exit code 0, 1 for a failed turn (`fail: TEXT`) and 2 for a command line it does not understand. Standard input is
/// read to its end before anything else, so an inherited pipe that stays open blocks it, as it blocks the real one.
pub fn exec(args: &[String], stdin: impl Read, stdout: impl Write, stderr: impl Write) -> u8 {
    let (mut stdin, mut stdout, mut stderr) = (stdin, stdout, stderr);
    let mut call = match parse(args) {
        Ok(call) => call,
        Err(message) => {
            let _ = writeln!(stderr, "error: {message}");
            return 2;
        }
    };
    let mut piped = String::new();
    let _ = stdin.read_to_string(&mut piped);
    if call.prompt == "-" {
        call.prompt = piped;
    }
    run(&call, &mut stdout, &mut stderr).unwrap_or(1)
}

fn parse(args: &[String]) -> Result<Call, String> {
    let mut args = args.iter().map(String::as_str).peekable();
    args.next_if_eq(&"exec");
    let mut call = Call { json: false, last_message: None, prompt: String::new() };
    let mut reached = 0;
    while let Some(arg) = args.next_if(|arg| arg.starts_with('-') && !matches!(*arg, "-" | "--")) {
        let found = OPTIONS.iter().enumerate().skip(reached).find(|(_, option)| option.0 == arg);
        let Some((index, (_, takes_value, repeats))) = found else {
            return Err(format!("unexpected argument '{arg}' found"));
        };
        reached = if *repeats { index } else { index + 1 };
        let value = if *takes_value { args.next() } else { None };
        match (arg, value) {
            ("--json", _) => call.json = true,
            ("--output-last-message", Some(file)) => call.last_message = Some(file.into()),
            ("--cd", Some(folder)) if !std::path::Path::new(folder).is_dir() => {
                return Err(format!("{folder}: No such file or directory"));
            }
            (_, None) if *takes_value => return Err(format!("a value is required for '{arg}'")),
            _ => {}
        }
    }
    args.next_if_eq(&"--");
    call.prompt = args.next().ok_or("no prompt")?.to_owned();
    match args.next() {
        Some(more) => Err(format!("unexpected argument '{more}' found")),
        None => Ok(call),
    }
}

fn run(call: &Call, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<u8> {
    let event = |stdout: &mut dyn Write, value: Value| -> io::Result<()> {
        if !call.json {
            return Ok(());
        }
        writeln!(stdout, "{value}")?;
        stdout.flush()
    };
    if !call.json {
        writeln!(stderr, "OpenAI Codex v{} (stub)\n--------\nuser\n{}", super::shapes::VERSION, call.prompt)?;
    }
    event(stdout, json!({"type": "thread.started", "thread_id": uuid::Uuid::new_v4().to_string()}))?;
    event(stdout, json!({"type": "turn.started"}))?;
    let mut items = 0;
    let message = match Directive::parse(&call.prompt) {
        Directive::Say(count) => words(count).collect(),
        Directive::Slow(count, pace) => {
            let mut text = String::new();
            for word in words(count) {
                let _ = after(pace).recv();
                text.push_str(&word);
            }
            text
        }
        Directive::Big(bytes) => "x".repeat(bytes),
        Directive::Run(commands) => {
            for command in &commands {
                let mut item = json!({"id": format!("item_{items}"), "type": "command_execution",
                    "command": format!("/bin/bash -lc '{command}'"), "aggregated_output": "", "exit_code": null,
                    "status": "in_progress"});
                event(stdout, json!({"type": "item.started", "item": item}))?;
                item["aggregated_output"] = json!(format!("ran: {command}\n"));
                item["exit_code"] = json!(0);
                item["status"] = json!("completed");
                event(stdout, json!({"type": "item.completed", "item": item}))?;
                items += 1;
            }
            format!("done: ran: {}\n", commands.join("\nran: "))
        }
        Directive::Fail(what) => return fail(call, &what, stdout, stderr),
        Directive::Exit(code) => return Ok(code),
        Directive::Hang => {
            let _ = crossbeam_channel::never::<()>().recv();
            String::new()
        }
        Directive::Fork => {
            // Same process group, and it keeps the output streams: what a supervisor has to cope with.
            let _ = Command::new("sleep").arg("300").stdin(Stdio::null()).status();
            format!("done: {}", call.prompt)
        }
        Directive::Stderr(count, text) => {
            for _ in 0..count {
                writeln!(stderr, "{text}")?;
            }
            format!("done: {}", call.prompt)
        }
        Directive::Stdout(count, text) => {
            for _ in 0..count {
                writeln!(stdout, "{text}")?;
            }
            format!("done: {}", call.prompt)
        }
        _ => format!("done: {}", call.prompt),
    };
    let item = json!({"id": format!("item_{items}"), "type": "agent_message", "text": message});
    event(stdout, json!({"type": "item.completed", "item": item}))?;
    let usage = json!({"input_tokens": 10, "cached_input_tokens": 0, "cache_write_input_tokens": 0,
        "output_tokens": 5, "reasoning_output_tokens": 0});
    event(stdout, json!({"type": "turn.completed", "usage": usage}))?;
    if !call.json {
        writeln!(stdout, "{message}")?;
    }
    stdout.flush()?;
    if let Some(file) = &call.last_message {
        File::create(file)?.write_all(message.as_bytes())?;
    }
    Ok(0)
}

/// A failed turn: a new message file is empty, an old one keeps its content.
fn fail(call: &Call, what: &str, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<u8> {
    let message = match what.parse::<u16>() {
        Ok(_) => model_error(what)["message"].as_str().unwrap_or_default().to_owned(),
        Err(_) => what.to_owned(),
    };
    if call.json {
        writeln!(stdout, "{}", json!({"type": "error", "message": message}))?;
        writeln!(stdout, "{}", json!({"type": "turn.failed", "error": {"message": message}}))?;
        stdout.flush()?;
    }
    writeln!(stderr, "ERROR: {message}")?;
    if let Some(file) = &call.last_message {
        OpenOptions::new().create(true).append(true).open(file)?;
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::exec;
    use serde_json::Value;

    fn run(args: &[&str], input: &str) -> (u8, String, String) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = exec(&args, input.as_bytes(), &mut stdout, &mut stderr);
        (code, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    #[test]
    fn answers_in_text_and_writes_the_last_message() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last");
        let file = file.to_str().unwrap();
        let args =
            ["exec", "--cd", "/", "--color", "never", "--output-last-message", file, "--", "say 2 words"];
        let (code, stdout, stderr) = run(&args, "");
        assert_eq!((code, stdout.as_str()), (0, "word0 word1 \n"));
        assert!(stderr.contains("say 2 words"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "word0 word1 ");
        let (code, _, stderr) = run(&["exec", "--output-last-message", file, "--", "fail: no luck"], "");
        assert_eq!((code, stderr.ends_with("ERROR: no luck\n")), (1, true));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "word0 word1 ");
    }

    #[test]
    fn answers_in_json_and_reads_the_prompt_from_stdin() {
        let (code, stdout, stderr) =
            run(&["exec", "--json", "--config", "a=1", "--config", "b=2", "--", "-"], "x");
        let types: Vec<String> = stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(types, ["thread.started", "turn.started", "item.completed", "turn.completed"]);
        assert!(stdout.contains("done: x"));
    }

    #[test]
    fn refuses_unknown_and_misplaced_options() {
        assert_eq!(run(&["exec", "--bogus", "--", "x"], "").0, 2);
        assert_eq!(run(&["exec", "--json", "--model", "m", "--", "x"], "").0, 2);
        assert_eq!(run(&["exec", "--", "x", "y"], "").0, 2);
    }
}
