//! `codexd tail`.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::cli_support::{codexd, command};
use crate::daemon::Daemon;
use crate::processes::Process;
use crate::pty::{AtTerminal, can_or_skip};

/// The program while it runs, its lines as they come.
struct Tail {
    process: Process,
    lines: Receiver<String>,
    stderr: JoinHandle<String>,
}

fn tail(base: &str, words: &[&str]) -> Command {
    command([["tail", "--local-api-base", base].as_slice(), words].concat())
}

impl Tail {
    fn start(base: &str, words: &[&str]) -> Tail {
        let mut process = Process::spawn(tail(base, words).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let stdout = process.child().stdout.take().unwrap();
        let mut stderr = process.child().stderr.take().unwrap();
        let (sender, lines) = bounded(100_000);
        let read_lines = move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("tail-out".into()).spawn(read_lines).expect("a thread");
        let read_all = move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        };
        let stderr = thread::Builder::new().name("tail-err".into()).spawn(read_all).expect("a thread");
        Tail { process, lines, stderr }
    }

    /// The lines up to the first that fits.
    fn until(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_deadline(until) {
                Ok(line) => {
                    let last = fits(&line);
                    seen.push(line);
                    if last {
                        return seen;
                    }
                }
                Err(error) => panic!("no such line ({error}) in {seen:#?}"),
            }
        }
    }

    /// Ends it; what it has written to standard error.
    fn end(mut self) -> String {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait(DEADLINE).is_some(), "it ends");
        self.stderr.join().unwrap()
    }
}

/// A base URL whose port was free a moment ago.
fn free_base() -> String {
    format!("http://127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
}

fn session(daemon: &Daemon) -> String {
    let answer = daemon.client().post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned()
}

fn turn(daemon: &Daemon, session: &str, prompt: &str) {
    let answer = daemon.client().post("/v1/codexd/turn", &json!({ "sessionId": session, "input": prompt }));
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn log(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.log("events.jsonl")).unwrap()
}

#[test]
fn an_event_is_a_line_and_an_answer_runs_on() {
    let daemon = Daemon::builder().start();
    let tail = Tail::start(daemon.base(), &["--after", "0"]);
    tail.until(|line| line.contains(" child.started "));
    turn(&daemon, &session(&daemon), "say 5 words");
    let lines = tail.until(|line| line.contains(" app-server.turn.completed "));
    let deltas: Vec<&String> = lines.iter().filter(|line| line.contains(".message.delta ")).collect();
    assert_eq!(deltas.len(), 1, "{lines:#?}");
    assert!(deltas[0].ends_with(") word0 word1 word2 word3 word4 "), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains('\x1b')), "no colour in a pipe: {lines:#?}");
    assert_eq!(tail.end(), "");
}

#[test]
fn raw_lines_are_those_of_the_log_that_pass_the_filters() {
    let daemon = Daemon::builder().start();
    let (mine, other) = (session(&daemon), session(&daemon));
    turn(&daemon, &other, "say 2 words");
    turn(&daemon, &mine, "say 2 words");
    let filters = ["--type", "app-server.turn.", "--type=session.", "--session", &mine];
    let tail = Tail::start(daemon.base(), &[&["--json", "--after=0"], &filters[..]].concat());
    let lines = tail.until(|line| line.contains("\"app-server.turn.completed\""));
    let all = log(&daemon);
    let session = daemon.client().get(&format!("/v1/codexd/sessions/{mine}")).json();
    let thread = &session["data"]["session"]["threadId"];
    let wanted = |line: &&str| {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["type"].as_str().unwrap();
        let detail = &event["detail"];
        ["app-server.turn.", "session."].iter().any(|prefix| kind.starts_with(prefix))
            && (detail["sessionId"] == mine.as_str() || detail["threadId"] == *thread)
    };
    assert_eq!(lines, all.lines().filter(wanted).collect::<Vec<_>>());
    assert!(lines.len() >= 4, "{lines:#?}");
    assert_eq!(tail.end(), "");
}

#[test]
fn without_a_cursor_it_begins_now() {
    let daemon = Daemon::builder().start();
    let before = session(&daemon);
    let tail = Tail::start(daemon.base(), &["--json", "--type", "session."]);
    // Until it has connected nothing that happens needs to be seen; what comes first is the beginning.
    let mut made = Vec::new();
    let first = loop {
        made.push(session(&daemon));
        if let Ok(line) = tail.lines.recv_timeout(std::time::Duration::from_millis(50)) {
            break line;
        }
        assert!(made.len() < 600, "nothing is seen");
    };
    assert!(!first.contains(&before) && made.iter().any(|id| first.contains(id.as_str())), "{first}");
    assert_eq!(tail.end(), "");
}

#[test]
fn nobody_who_reads_is_a_quiet_end_even_when_nothing_happens() {
    let daemon = Daemon::builder().start();
    for words in [&["--after", "0"][..], &["--after", "0", "--json"]] {
        let mut tail =
            Process::spawn(tail(daemon.base(), words).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut stdout = BufReader::new(tail.child().stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        drop(stdout);
        assert_eq!(tail.wait(DEADLINE).expect("it ends").code(), Some(0));
        let mut complaint = String::new();
        tail.child().stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        assert_eq!(complaint, "");
    }
}

/// Kills and restarts the daemon in the middle of turns; every seq must come exactly once.
#[test]
fn it_outlives_the_daemon_and_loses_nothing() {
    let base = free_base();
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base]).start();
    let tail = Tail::start(&base, &["--json", "--after", "0"]);
    let mut lines = tail.until(|line| line.contains("\"child.started\""));
    for life in 0..4 {
        let session = session(&daemon);
        turn(&daemon, &session, "say 200 words");
        lines.extend(tail.until(|line| line.contains("\"app-server.turn.completed\"")));
        turn(&daemon, &session, "slow: 1000 5");
        lines.extend(tail.until(|line| line.contains("\"delta\":\"word9 \"")));
        if life == 2 {
            daemon.stop();
        } else {
            daemon.kill();
        }
        if life < 3 {
            daemon.restart();
        }
    }
    daemon.restart();
    let marker = session(&daemon);
    lines.extend(tail.until(|line| line.contains("\"session.created\"") && line.contains(&marker)));
    let log = log(&daemon);
    assert_eq!(lines, log.lines().take(lines.len()).collect::<Vec<_>>());
    let seqs = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap());
    assert!(seqs.eq(1..=lines.len() as u64));
    let notes = tail.end();
    assert_eq!(notes.matches("waiting for codexd to come back").count(), 4, "{notes}");
    assert_eq!(notes.matches("codexd is back").count(), 4, "{notes}");
}

#[test]
fn a_daemon_that_was_away_for_a_while_is_found_again() {
    let base = free_base();
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base]).start();
    let tail = Tail::start(&base, &["--json", "--after", "0"]);
    tail.until(|line| line.contains("\"child.started\""));
    daemon.stop();
    tail.until(|line| line.contains("\"daemon.stopped\""));
    // Longer than it takes until there is more time between two tries than the tail waits at a time.
    thread::park_timeout(Duration::from_secs(4));
    daemon.restart();
    tail.until(|line| line.contains("\"child.started\""));
    tail.end();
}

#[test]
fn a_log_that_begins_anew_is_told_and_followed() {
    let base = free_base();
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base]).start();
    turn(&daemon, &session(&daemon), "say 50 words");
    let tail = Tail::start(&base, &["--after", "0"]);
    tail.until(|line| line.contains(" app-server.turn.completed "));
    daemon.stop();
    std::fs::remove_dir_all(daemon.log("").parent().unwrap()).unwrap();
    std::fs::remove_dir_all(daemon.state("").parent().unwrap()).unwrap();
    daemon.restart();
    tail.until(|line| line.starts_with("-- the log ends at ") && line.contains("it is another one"));
    let marker = session(&daemon);
    tail.until(|line| line.contains(" session.created ") && line.contains(&marker));
    assert_eq!(tail.end(), "");
}

#[test]
fn a_daemon_with_a_token_wants_it_from_a_tail_too() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let token = folder.path().join("token");
    let token = token.to_str().unwrap();
    let base = free_base();
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base, "--token-file", token]).start();
    let refused = tail(&base, &[]).output().unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && stderr.contains("--token-file"), "{stderr}");
    let tail = Tail::start(&base, &["--json", "--after", "0", "--token-file", token]);
    tail.until(|line| line.contains("\"child.started\""));
    // Another token while the daemon is away.
    daemon.stop();
    std::fs::remove_file(token).unwrap();
    daemon.restart();
    tail.until(|line| line.contains("\"daemon.stopped\""));
    tail.until(|line| line.contains("\"child.started\""));
    tail.end();
}

/// The log of the program's own libraries would have the request that opens the stream.
#[test]
fn the_token_is_in_no_trace() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("token");
    let token_file = ["--token-file", file.to_str().unwrap()];
    let mut daemon = Daemon::builder().flags(&[&token_file[..], &["--log-level", "trace"]].concat()).start();
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let trace = ["--json", "--after", "0", "--log-level", "trace"];
    let tail = Tail::start(daemon.base(), &[&token_file[..], &trace].concat());
    tail.until(|line| line.contains("\"child.started\""));
    let words = ["ask", "say 2 words", "--local-api-base", daemon.base()];
    let asked = command([&words[..], &token_file].concat()).env("BAA_CODEXD_LOG", "trace").output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let told = [tail.end(), String::from_utf8_lossy(&asked.stderr).into_owned(), daemon.stop().stderr];
    for told in told {
        assert!(!told.contains(&token), "{told}");
        assert!(!told.to_ascii_lowercase().contains("authorization"), "{told}");
        assert!(!told.contains("tungstenite"), "{told}");
    }
}

#[test]
fn a_session_that_there_is_not_is_not_waited_for() {
    let daemon = Daemon::builder().start();
    let ran = codexd(&["tail", "--local-api-base", daemon.base(), "--session", "session-x/y"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("codexd: ") && ran.stderr.contains("session-x/y"), "{}", ran.stderr);
}

#[test]
fn without_a_daemon_there_is_a_word_of_advice() {
    let base = free_base();
    let ran = codexd(&["tail", "--local-api-base", &base]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.lines().count()), (1, "", 1));
    assert!(ran.stderr.starts_with(&format!("codexd: no codexd answers at {base}: ")), "{}", ran.stderr);
    assert!(ran.stderr.contains("`codexd start`"), "{}", ran.stderr);
}

#[test]
fn colour_is_for_terminals_that_take_it() {
    if !can_or_skip("colour_is_for_terminals_that_take_it") {
        return;
    }
    let daemon = Daemon::builder().start();
    for (name, value, coloured) in
        [("NO_COLOR", "", true), ("NO_COLOR", "1", false), ("TERM", "dumb", false), ("TERM", "xterm", true)]
    {
        let mut terminal =
            AtTerminal::start(tail(daemon.base(), &["--after", "0"]).env("TERM", "xterm").env(name, value));
        terminal.until("codexd started in app-server mode.");
        terminal.types("\x03");
        let (_, shown) = terminal.end();
        assert_eq!(shown.contains('\u{1b}'), coloured, "{name}={value}: {shown:?}");
    }
}
