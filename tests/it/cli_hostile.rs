//! What comes from outside, at a terminal and in a pipe.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;

use crate::DEADLINE;
use crate::cli_support::{Ran, command};
use crate::conversation;
use crate::processes::Process;
use crate::pty::{AtTerminal, can_or_skip};
use crate::run_bench::Bench;

/// A title, a colour, text from right to left (two ways), and a line of its own.
const NASTY: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\u{61c}\u{7f}\nforged";

/// Whether a terminal would obey something of it.
fn is_obeyed(text: &str) -> bool {
    let mark = |char| matches!(char, '\u{61c}' | '\u{202e}');
    text.chars().any(|char| (char.is_control() && char != '\n') || mark(char))
}

/// Who has the port, and does with every connection what it is told to; its base URL.
fn stranger(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let all = move || listener.incoming().map_while(Result::ok).for_each(&serve);
    thread::Builder::new().name("stranger".into()).spawn(all).expect("a thread");
    base
}

#[test]
fn an_error_is_one_line_of_text() {
    let body = json!({ "ok": false, "error": "bad_request", "message": NASTY }).to_string();
    let base = stranger(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(format!("HTTP/1.1 400 No\r\n\r\n{body}").as_bytes());
    });
    for words in [&["sessions"][..], &["tail"], &["ask", "hi"], &["run", "hi"], &["answer", "x", "accept"]] {
        let ran: Ran = command([words, &["--local-api-base", &base]].concat()).output().unwrap().into();
        let shown = "codexd: \\u{1b}]0;owned\\u{7}\\u{9b}31m\\u{202e}\\u{61c}\\u{7f} forged\n";
        assert_eq!((ran.code, ran.stderr.as_str()), (1, shown), "{words:?}");
    }
}

#[test]
fn the_reason_of_a_stream_that_is_closed_is_text() {
    let base = stranger(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let reason = NASTY.into();
        let _ = socket.close(Some(CloseFrame { code: 1011.into(), reason }));
        while socket.read().is_ok() {}
    });
    for json in [&["--json"][..], &[]] {
        let words = [&["tail", "--after", "0", "--local-api-base", &base], json].concat();
        let mut tail = Process::spawn(command(words).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (mut stdout, mut stderr) =
            (tail.child().stdout.take().unwrap(), tail.child().stderr.take().unwrap());
        // It says that it is lost, and tries again for ever.
        let mut told = String::new();
        let mut chunk = [0; 4096];
        while !told.contains("waiting for codexd") {
            let heard = if json.is_empty() { stdout.read(&mut chunk) } else { stderr.read(&mut chunk) };
            match heard.unwrap() {
                0 => panic!("it has ended: {told}"),
                length => told.push_str(&String::from_utf8_lossy(&chunk[..length])),
            }
        }
        tail.signal(Signal::TERM);
        tail.wait(DEADLINE).expect("it ends");
        assert!(told.contains("1011 \\u{1b}]0;owned\\u{7}\\u{9b}31m") && !is_obeyed(&told), "{told:?}");
        assert!(!told.lines().any(|line| line.starts_with("forged")), "{told:?}");
    }
}

/// Deeper than serde_json decodes, together with what is around it.
#[test]
fn what_is_nested_deeply_is_asked_and_shown() {
    // What nobody answers is declined, and the turn goes on.
    let bench = Bench::stub(&["--request-timeout-ms", "20000"]);
    let of_daemon = ["--local-api-base", bench.daemon.base()];
    let deep = format!("{}{}", "[".repeat(125), "]".repeat(125));
    let params = format!("{{\"threadId\":\"$THREAD\",\"command\":\"ls -l\",\"deep\":{deep}}}");
    let prompt = format!("request: item/commandExecution/requestApproval {params}");
    let ran: Ran = command([&["ask", prompt.as_str()], &of_daemon[..]].concat()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("declined, for there is no terminal to ask on: command: ls -l"), "{ran:?}");
    let list: Ran = command([&["requests", "--all"], &of_daemon[..]].concat()).output().unwrap().into();
    assert!(list.code == 0 && list.stdout.contains("ls -l"), "{list:?}");
}

/// What is shown to a person who runs that, to its end or to Ctrl-C once `last` is there.
fn at_terminal(words: &[&str], last: Option<&str>) -> String {
    let mut terminal = AtTerminal::start(&command(words));
    if let Some(last) = last {
        terminal.until(last);
        terminal.types("\x03");
    }
    terminal.end().1.replace("\r\n", "\n").replace("^C", "")
}

/// All JSON values that stand there.
fn values(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text).into_iter().map_while(Result::ok).collect()
}

/// The same values for a person as for a program, but no character that does something.
#[test]
fn json_does_nothing_at_a_terminal_and_means_the_same() {
    const RAW: &str = "\u{9b}31m\u{202e}\u{61c}\u{7f}";
    let mut bench = Bench::stub(&[]);
    let client = bench.daemon.client();
    let session = conversation::session(&client, &json!({ "metadata": { "a": NASTY } }));
    conversation::talk(&client, &bench.stream, &session, NASTY);
    let base = bench.daemon.base().to_owned();
    let of_daemon = ["--local-api-base", &base];
    let piped = |words: &[&str]| {
        let ran: Ran = command(words).output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{words:?}");
        assert!(ran.stdout.contains(RAW), "{words:?} in a pipe: {:?}", ran.stdout);
        ran.stdout
    };
    let ran = piped(&[&["run", NASTY, "--json"], &of_daemon[..]].concat());
    let has_terminals = can_or_skip("json_does_nothing_at_a_terminal_and_means_the_same");
    let compare = |words: &[&str], expected: &str, shown: &str| {
        assert!(!is_obeyed(shown), "{words:?}: {shown:?}");
        assert!(shown.contains("\\u009b31m\\u202e\\u061c\\u007f"), "{words:?}: {shown:?}");
        let (expected, shown) = (values(expected), values(shown));
        assert!(!shown.is_empty() && expected.starts_with(&shown), "{words:?}: {shown:?}, not {expected:?}");
    };
    for list in ["sessions", "runs"] {
        let words = [&[list, "--json"], &of_daemon[..]].concat();
        let expected = piped(&words);
        if has_terminals {
            compare(&words, &expected, &at_terminal(&words, None));
        }
    }
    if has_terminals {
        let words = [&["tail", "--json", "--after", "0"], &of_daemon[..]].concat();
        let shown = at_terminal(&words, Some("\"run.completed\""));
        compare(&words, &std::fs::read_to_string(bench.daemon.log("events.jsonl")).unwrap(), &shown);
        let shown = at_terminal(&[&["run", NASTY, "--json"], &of_daemon[..]].concat(), None);
        assert!(!is_obeyed(&shown) && values(&shown).len() == values(&ran).len(), "{shown:?}");
    }
    bench.daemon.stop();
    let state = bench.daemon.state("");
    let words = ["status", "--json", "--state-dir", state.parent().unwrap().to_str().unwrap()];
    let expected = piped(&words);
    if has_terminals {
        compare(&words, &expected, &at_terminal(&words, None));
    }
}

#[test]
fn the_last_message_of_a_run_is_text_at_a_terminal_and_itself_in_a_pipe() {
    let bench = Bench::stub(&[]);
    let words = ["run", NASTY, "--local-api-base", bench.daemon.base()];
    let ran: Ran = command(words).output().unwrap().into();
    assert_eq!((ran.code, ran.stdout), (0, format!("done: {NASTY}\n")), "{}", ran.stderr);
    if can_or_skip("the_last_message_of_a_run_is_text_at_a_terminal_and_itself_in_a_pipe") {
        let shown = at_terminal(&words, None);
        assert!(!is_obeyed(&shown), "{shown:?}");
        assert!(
            shown.ends_with("done: \\u{1b}]0;owned\\u{7}\\u{9b}31m\\u{202e}\\u{61c}\\u{7f}\nforged\n"),
            "{shown:?}"
        );
    }
}
