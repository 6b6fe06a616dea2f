//! `codexd ask`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::cli_support::{Ran, command};
use crate::daemon::Daemon;
use crate::inbox_support::{Bench, text};
use crate::model_server::ModelServer;
use crate::processes::Process;
use crate::pty::{AtTerminal, can_or_skip, ctrl_c_right_after};
use crate::real_codex::{CodexHome, real_codex_or_skip};

fn ask(bench: &Bench, words: &[&str]) -> Command {
    command([["ask", "--local-api-base", bench.daemon.base()].as_slice(), words].concat())
}

fn asked(bench: &Bench, words: &[&str]) -> Ran {
    ask(bench, words).output().unwrap().into()
}

/// The session that the progress names.
fn session_of(progress: &str) -> String {
    let line = progress.lines().find_map(|line| line.strip_prefix("session "));
    line.unwrap_or_else(|| panic!("no session in {progress}")).trim().to_owned()
}

/// How the session's last turn ended.
fn outcome(bench: &Bench, session: &str) -> Value {
    bench.session_record(session)["lastTurnStatus"].clone()
}

/// The only request there is.
fn only_request(bench: &Bench) -> Value {
    let mut all = bench.client.get("/v1/codexd/requests").json()["data"]["requests"].take();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    all[0].take()
}

#[test]
fn the_answer_goes_to_standard_output_and_the_session_goes_on() {
    let bench = Bench::stub();
    let ran = asked(&bench, &["say 5 words", "--cwd", "/tmp"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "word0 word1 word2 word3 word4 \n"), "{}", ran.stderr);
    let session = session_of(&ran.stderr);
    assert_eq!(ran.stderr, format!("session {session}\nfolder /tmp\n"));
    assert_eq!(bench.session_record(&session)["cwd"], "/tmp");
    let mut again = ask(&bench, &["--session", &session, "-"]);
    let mut again =
        again.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    again.stdin.take().unwrap().write_all(b"say 2 words").unwrap();
    let ran = Ran::from(again.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "word0 word1 \n"), "{}", ran.stderr);
    assert_eq!(ran.stderr, format!("session {session}\nfolder /tmp\n"));
    let moved = asked(&bench, &["--session", &session, "--cwd", "/", "say 1 words"]);
    assert_eq!(moved.stderr, format!("session {session}\nfolder /\n"));
    assert_eq!(
        bench.client.get("/v1/codexd/sessions").json()["data"]["sessions"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_turn_that_fails_is_exit_code_1() {
    let bench = Bench::stub();
    let ran = asked(&bench, &["fail: usageLimitExceeded"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.ends_with("turn failed\n") && ran.stderr.lines().count() >= 3, "{}", ran.stderr);
    let ran = asked(&bench, &["--session", "nobody", "hello"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("codexd: ") && ran.stderr.contains("nobody"),
        "{}",
        ran.stderr
    );
    let ran = asked(&bench, &["--json", "hello"]);
    assert!(ran.code == 2 && ran.stderr.contains("tail --json"), "{}", ran.stderr);
    let nowhere = command(["ask", "hello", "--local-api-base", "http://127.0.0.1:9"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&nowhere.stderr);
    assert!(stderr.starts_with("codexd: no codexd answers at http://127.0.0.1:9: "), "{stderr}");
}

#[test]
fn without_a_terminal_what_codex_asks_is_declined_and_that_is_said() {
    let bench = Bench::stub();
    for (prompt, said) in [
        ("run: echo hi", "declined, for there is no terminal to ask on: command: "),
        ("ask: Which way?", "declined, for there is no terminal to ask on: userInput: Which way?"),
        ("elicit: Your name?", "declined, for there is no terminal to ask on: elicitation: Your name?"),
        ("perm: /srv", "declined, for there is no terminal to ask on: permissions: need to write there"),
    ] {
        let ran = asked(&bench, &[prompt]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{prompt}: {}", ran.stderr);
    }
    let all = bench.client.get("/v1/codexd/requests?status=answered").json();
    assert_eq!(all["data"]["requests"].as_array().unwrap().len(), 4, "{all}");
}

#[test]
fn at_a_terminal_it_asks_and_typing_ahead_is_no_answer() {
    if !can_or_skip("at_a_terminal_it_asks_and_typing_ahead_is_no_answer") {
        return;
    }
    let bench = Bench::stub();
    let mut terminal = AtTerminal::start(&ask(&bench, &["gap: 500 run: echo hi"]));
    terminal.until("session ");
    terminal.types("s\n");
    terminal.until("Codex wants to run: ");
    terminal.until("[a]ccept, accept for the [s]ession, [d]ecline, [c]ancel?");
    terminal.types("what?\n");
    terminal.until("[a]ccept");
    assert_eq!(only_request(&bench)["status"], "pending");
    terminal.types("a\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let session = session_of(&shown.replace('\r', ""));
    assert_eq!(outcome(&bench, &session), "completed");
    assert_eq!(only_request(&bench)["answer"], json!({ "decision": "accept" }), "{shown}");
}

#[test]
fn questions_are_answered_by_number_and_two_requests_one_after_the_other() {
    if !can_or_skip("questions_are_answered_by_number_and_two_requests_one_after_the_other") {
        return;
    }
    let bench = Bench::stub();
    let mut terminal = AtTerminal::start(&ask(&bench, &["ask: Which\u{1b}[2J way?"]));
    terminal.until("Codex asks: Which\\u{1b}[2J way?");
    terminal.until("1  Yes");
    terminal.until("Ctrl-D declines?");
    terminal.types("2\n");
    assert_eq!(terminal.end().0, Some(0));
    assert!(only_request(&bench)["answer"].to_string().contains("\"No\""));

    let bench = Bench::stub();
    let mut terminal = AtTerminal::start(&ask(&bench, &["run2: echo one && echo two"]));
    for (what, key) in [("one", "\x04"), ("two", "y\n")] {
        terminal.until(what);
        terminal.until("[c]ancel?");
        terminal.types(key);
        if key == "\x04" {
            terminal.until("declined, for the input has ended");
        }
    }
    assert_eq!(terminal.end().0, Some(0));
    let all = bench.client.get("/v1/codexd/requests").json();
    let answers: Vec<&Value> = all["data"]["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| &request["answer"]["decision"])
        .collect();
    assert_eq!(answers, ["decline", "accept"]);
}

#[test]
fn two_questions_under_one_id_are_asked_once_each_and_no_answer_is_lost() {
    if !can_or_skip("two_questions_under_one_id_are_asked_once_each_and_no_answer_is_lost") {
        return;
    }
    let bench = Bench::stub();
    let questions = [json!({ "id": "q", "question": "First?" }), json!({ "id": "q", "question": "Second?" })];
    let params = json!({ "threadId": "$THREAD", "turnId": "$TURN", "itemId": "i", "questions": questions });
    let prompt = format!("request: item/tool/requestUserInput {params}");
    let mut terminal = AtTerminal::start(&ask(&bench, &[&prompt]));
    for (question, answer) in [("First?", "one\n"), ("Second?", "two\n")] {
        terminal.until(&format!("Codex asks: {question}"));
        terminal.until("Ctrl-D declines?");
        terminal.types(answer);
    }
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(only_request(&bench)["answer"], json!({ "answers": { "q": { "answers": ["one", "two"] } } }));
}

#[test]
fn what_is_granted_beside_the_command_and_where_a_form_leads_is_shown() {
    if !can_or_skip("what_is_granted_beside_the_command_and_where_a_form_leads_is_shown") {
        return;
    }
    let entry = json!({ "path": { "type": "path", "path": "/home/u/.ssh" }, "access": "write" });
    let command = json!({ "threadId": "$THREAD", "turnId": "$TURN", "command": "ls", "cwd": "/x", "newPower": ["all"],
        "additionalPermissions": { "fileSystem": { "entries": [entry] }, "network": { "enabled": true } } });
    let form = json!({ "threadId": "$THREAD", "turnId": "$TURN", "mode": "url", "message": "Sign in", "url": "https://a.example/\u{202e}", "serverName": "shop",
        "elicitationId": "e" });
    for (method, params, expected) in [
        (
            "item/commandExecution/requestApproval",
            command,
            "Codex wants to run: ls\n  in: /x\n  extra permission: write /home/u/.ssh\n  extra permission: network \
             enabled true\n  newPower: [\"all\"]\n",
        ),
        (
            "mcpServer/elicitation/request",
            form,
            "A tool asks: Sign in\n  server: shop\n  address: https://a.example/\\u{202e}\n",
        ),
    ] {
        let bench = Bench::stub();
        let mut terminal = AtTerminal::start(&ask(&bench, &[&format!("request: {method} {params}")]));
        terminal.until("[c]ancel");
        let shown = terminal.shown.replace('\r', "");
        assert!(shown.contains(expected), "{shown}");
        terminal.types("d\n");
        assert_eq!(terminal.end().0, Some(0));
    }
}

#[test]
fn what_somebody_else_answers_is_not_asked_any_more() {
    if !can_or_skip("what_somebody_else_answers_is_not_asked_any_more") {
        return;
    }
    let bench = Bench::stub();
    let mut terminal = AtTerminal::start(&ask(&bench, &["run: echo hi"]));
    terminal.until("[c]ancel?");
    let request = text(&only_request(&bench)["requestId"]);
    let answer = bench
        .client
        .post(&format!("/v1/codexd/requests/{request}/answer"), &json!({ "decision": "decline" }));
    assert_eq!(answer.status, 200);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
}

#[test]
fn ctrl_c_interrupts_first_and_leaves_second() {
    if !can_or_skip("ctrl_c_interrupts_first_and_leaves_second") {
        return;
    }
    let bench = Bench::stub();
    for prompt in ["hang:", "run: echo hi"] {
        let mut terminal = AtTerminal::start(&ask(&bench, &[prompt]));
        terminal.until("session ");
        bench.event("turn.accepted", |_| true);
        if prompt != "hang:" {
            terminal.until("[c]ancel?");
        }
        terminal.types("\x03");
        terminal.until("interrupting the turn");
        terminal.until("turn interrupted");
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(1), "{shown}");
        assert_eq!(outcome(&bench, &session_of(&shown.replace('\r', ""))), "interrupted", "{shown}");
    }
    // A daemon that does not answer keeps the turn from being interrupted, but nobody here.
    let mut terminal = AtTerminal::start(&ask(&bench, &["hang:"]));
    bench.event("turn.accepted", |_| true);
    terminal.until("session ");
    bench.daemon.signal(Signal::STOP);
    terminal.types("\x03");
    terminal.until("interrupting the turn");
    terminal.types("\x03");
    let (_, shown) = terminal.end();
    bench.daemon.signal(Signal::CONT);
    assert!(shown.contains("did not exit normally"), "{shown}");
}

/// The signal may come at any step between two looks at the terminal, which must not make it wait for a line there.
#[test]
fn ctrl_c_at_any_moment_after_a_question_interrupts() {
    if !can_or_skip("ctrl_c_at_any_moment_after_a_question_interrupts") {
        return;
    }
    let bench = Bench::stub();
    for step in 0..50 {
        let program = ask(&bench, &["run: echo hi"]);
        let (code, shown) = ctrl_c_right_after(&program, "[c]ancel?", Duration::from_nanos(200 * step));
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("turn interrupted"), "{shown}");
    }
}

#[test]
fn nobody_who_reads_the_answer_is_a_quiet_end_of_the_turn() {
    let bench = Bench::stub();
    let mut command = ask(&bench, &["slow: 10000 5"]);
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    process.child().stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(1));
    let mut progress = String::new();
    process.child().stderr.take().unwrap().read_to_string(&mut progress).unwrap();
    let session = session_of(&progress);
    let folder = bench.daemon.repo();
    assert_eq!(progress, format!("session {session}\nfolder {}\n", folder.display()));
    bench.event("app-server.turn.completed", |detail| detail["status"] == "interrupted");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "there is /dev/full on Linux only")]
fn an_answer_that_cannot_be_written_is_the_end_of_the_turn() {
    let bench = Bench::stub();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran: Ran = ask(&bench, &["slow: 10000 5"]).stdout(full).output().unwrap().into();
    let complaint = "codexd: cannot write to standard output: No space left on device (os error 28)";
    assert_eq!((ran.code, ran.stderr.lines().last()), (1, Some(complaint)));
    bench.event("app-server.turn.completed", |detail| detail["status"] == "interrupted");
}

#[test]
fn a_daemon_that_dies_is_waited_for_and_the_turn_is_told_as_missing() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    let mut bench = Bench::with(Daemon::builder().flags(&["--local-api-base", &base]));
    let mut command = ask(&bench, &["slow: 10000 5"]);
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut stdout = process.child().stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    bench.daemon.kill();
    bench.daemon.restart();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(1));
    let mut progress = String::new();
    process.child().stderr.take().unwrap().read_to_string(&mut progress).unwrap();
    assert!(progress.contains("waiting for codexd to come back\ncodexd is back\n"), "{progress}");
    drop(stdout);
}

#[test]
fn a_stop_of_the_daemon_is_the_end_of_the_turn() {
    let mut bench = Bench::stub();
    let mut command = ask(&bench, &["hang:"]);
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    // Before that there is nothing to interrupt: the daemon would end without a word on the turn.
    bench.event("app-server.turn.started", |_| true);
    bench.daemon.stop();
    assert_eq!(process.wait(2 * DEADLINE).expect("it ends").code(), Some(1));
    let mut progress = String::new();
    process.child().stderr.take().unwrap().read_to_string(&mut progress).unwrap();
    assert!(progress.ends_with("\nturn interrupted\n"), "{progress}");
}

#[test]
fn the_real_codex_runs_what_was_accepted_at_the_terminal() {
    let codex = real_codex_or_skip!("the_real_codex_runs_what_was_accepted_at_the_terminal");
    if !can_or_skip("the_real_codex_runs_what_was_accepted_at_the_terminal") {
        return;
    }
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let bench = Bench::with(Daemon::builder().codex(codex.native(), &home));
    let work = home.work();
    let mut terminal =
        AtTerminal::start(&ask(&bench, &["--cwd", work.to_str().unwrap(), "run: touch accepted.txt"]));
    terminal.until("Codex wants to run: ");
    terminal.until("touch accepted.txt");
    terminal.until("because: ");
    terminal.until("[a]ccept");
    assert!(!work.join("accepted.txt").exists(), "it ran without approval");
    terminal.types("a\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(work.join("accepted.txt").exists() && shown.contains("done: "), "{shown}");
    // Without a terminal the same is declined.
    let ran = asked(&bench, &["--cwd", work.to_str().unwrap(), "run: touch declined.txt"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("done: ") && ran.stderr.contains("no terminal to ask on: command: "));
    assert!(!work.join("declined.txt").exists());
}
