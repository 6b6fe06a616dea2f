//! A wrong command line or environment: exit code 2, one line on standard error, nothing on standard output.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::cli_support::{Ran, codexd, command};

fn assert_refused(ran: &Ran, message: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(ran.stdout, "", "{message}");
    assert_eq!(ran.stderr, format!("codexd: {message}\n"));
}

#[test]
fn wrong_words() {
    for (words, message) in [
        (&["--frobnicate"][..], "unknown flag --frobnicate (codexd --help lists all)"),
        (&["--nodeid", "x"], "unknown flag --nodeid; did you mean --node-id? (codexd --help lists all)"),
        (&["-x"], "unknown flag -x (codexd --help lists all)"),
        (&["-3"], "unknown flag -3 (codexd --help lists all)"),
        (
            &["run\naway"],
            "unknown action \"run away\"; the actions are start, status, config, smoke, run, ask, tail, sessions, runs, requests, answer, doctor, service, completions, man, help",
        ),
        (
            &[""],
            "unknown action \"\"; the actions are start, status, config, smoke, run, ask, tail, sessions, runs, requests, answer, doctor, service, completions, man, help",
        ),
        (&["start", "ex\ntra"], "start takes no further word, and \"ex tra\" is one"),
        (&["help", "extra"], "help takes no further word, and \"extra\" is one"),
        (
            &["run", "x", "--codex-config", "a=1", "--codex-config=foo"],
            "--codex-config must be KEY=VALUE, not \"foo\"",
        ),
        (&["run", "x", "--codex-config= =1"], "--codex-config must be KEY=VALUE, not \"=1\""),
        (&["start", "status"], "a second action, status, after start: there can be only one"),
        (&["config", "config"], "a second action, config, after config: there can be only one"),
        (&["run"], "run needs PROMPT: codexd run PROMPT"),
        (
            &["run", "fix", "it"],
            "run takes PROMPT, and \"it\" is one word too many: put what belongs together in quotes",
        ),
        (&["status", "--sandbox", "read-only"], "--sandbox is for codexd run only"),
        (
            &["run", "x", "--sandbox", "none"],
            "--sandbox must be read-only, workspace-write or danger-full-access, not \"none\"",
        ),
        (&["config", "--node-id"], "--node-id needs a value: --node-id ID"),
        (
            &["config", "--node-id", "--json"],
            "--node-id needs a value: --node-id ID; a value that begins with -- is written --node-id=--json",
        ),
        (
            &["config", "--version", "--json"],
            "--version needs a value: --version STRING; a value that begins with -- is written --version=--json",
        ),
        (&["config", "--json=yes"], "--json takes no value"),
        (&["--mode", "tui"], "--mode must be app-server or exec, not \"tui\""),
        (&["--server-strategy=fork"], "--server-strategy must be spawn or external, not \"fork\""),
        (&["--node-id", "a\nb"], "--node-id must be one line without control characters, not \"a b\""),
        (&["-help"], "unknown flag -help; did you mean --help? (codexd --help lists all)"),
        (&["--sync", "Always"], "--sync must be interval, always or never, not \"Always\""),
        (&["--restart", "yes"], "--restart must be always or never, not \"yes\""),
        (&["--request-policy", "ask"], "--request-policy must be hold or decline, not \"ask\""),
        (
            &["--log-level", "loud"],
            "--log-level must be error, warn, info, debug, trace or off, not \"loud\"",
        ),
        (&["--event-cache-size", "-1"], "--event-cache-size must be an integer, 0 or more, not \"-1\""),
        (&["--event-cache-size", "1.0"], "--event-cache-size must be an integer, 0 or more, not \"1.0\""),
        (&["--event-cache-size", "+1"], "--event-cache-size must be an integer, 0 or more, not \"+1\""),
        (&["--smoke-lifetime-ms", "1e3"], "--smoke-lifetime-ms must be an integer, 0 or more, not \"1e3\""),
        (&["--max-concurrent-runs=0"], "--max-concurrent-runs must be an integer, 1 or more, not \"0\""),
        (
            &["--stop-timeout-ms", "9007199254740992"],
            "--stop-timeout-ms must be an integer up to 9007199254740991, not \"9007199254740992\"",
        ),
        (
            &["--local-api-base", "127.0.0.1:4319"],
            "--local-api-base must be an absolute http:// URL such as http://127.0.0.1:4319, not \"127.0.0.1:4319\"",
        ),
        (
            &["--local-api-base", "http://0.0.0.0:4319"],
            "--local-api-base must name a loopback host: 127.0.0.1, [::1] or localhost, not \"http://0.0.0.0:4319\"",
        ),
        (
            &["--local-api-base", "http://localhost/v1"],
            "--local-api-base must have no path, not \"http://localhost/v1\"",
        ),
        (
            &["--local-api-base", "http://u@localhost"],
            "--local-api-base must have no user name and no password, not \"http://u@localhost\"",
        ),
        (
            &["--local-api-base", "http://localhost?q"],
            "--local-api-base must have no query and no fragment, not \"http://localhost?q\"",
        ),
        (
            &["--event-stream-path", "events"],
            "--event-stream-path must be a path that begins with / and has no query, not \"events\"",
        ),
        (
            &["--event-stream-path", "/readyz"],
            "--event-stream-path must be a path that nothing else is served at, not \"/readyz\"",
        ),
        (
            &["--event-stream-path", "/v1/codexd/turn/"],
            "--event-stream-path must be a path that nothing else is served at, not \"/v1/codexd/turn/\"",
        ),
        (
            &["--event-stream-path", "/page/app.mjs"],
            "--event-stream-path must be a path that nothing else is served at, not \"/page/app.mjs\"",
        ),
        (
            &["--event-stream-path", "/"],
            "--event-stream-path must be a path that nothing else is served at, not \"/\"",
        ),
        (
            &["--event-stream-path", "/events?x"],
            "--event-stream-path must be a path that begins with / and has no query, not \"/events?x\"",
        ),
        (
            &["--event-stream-path", "/é"],
            "--event-stream-path must be of ASCII characters without blanks; percent-encode what is none, not \"/é\"",
        ),
        (
            &["--server-strategy", "external"],
            "--server-strategy external needs a --server-endpoint that begins with ws://, wss://, http:// or https://, not \"stdio://codex-app-server\"",
        ),
        (&["--require-token"], "--require-token needs --token-file PATH (or BAA_CODEXD_TOKEN_FILE)"),
    ] {
        // For every action that has a configuration; the line may name its own.
        assert_refused(&codexd(words), message);
    }
    for action in ["start", "status", "config", "smoke"] {
        assert_refused(&codexd(&[action, "--mode=x"]), "--mode must be app-server or exec, not \"x\"");
    }
}

/// The environment is for all actions, and so may a line be that is kept for them: it goes on, but not in silence.
#[test]
fn a_flag_without_effect_is_told() {
    let base = ["--local-api-base", "http://127.0.0.1:9"];
    for verb in [&["run", "hi"][..], &["ask", "hi"], &["sessions"], &["requests"], &["answer", "x", "accept"]]
    {
        let plain = codexd(&[verb, &base[..]].concat());
        let typed = ["--codex-command", "/x", "--node-id=", "--request-policy=decline", "--codex-command=/y"];
        let ran: Ran =
            command([verb, &base[..], &typed[..]].concat()).env("BAA_NODE_ID", "n").output().unwrap().into();
        let told = |flag: &str| {
            format!(
                "codexd: --{flag} has no effect here: it is a flag of codexd start, for a daemon that is not running yet\n"
            )
        };
        let expected = told("request-policy") + &told("codex-command") + &plain.stderr;
        assert_eq!((ran.code, ran.stdout, ran.stderr), (plain.code, plain.stdout, expected), "{verb:?}");
    }
    let status = codexd(&["status", "--codex-command", "/x", "--state-dir", "/nowhere"]);
    assert_eq!((status.code, status.stderr.as_str()), (0, ""));
}

/// Where it would be made, and a daemon left alone with it.
#[test]
fn a_repository_that_is_no_folder_is_not_made() {
    let parent = tempfile::tempdir().unwrap();
    // As the program sees it, whose folder it is: /tmp and /var are links on macOS.
    let folder = parent.path().canonicalize().unwrap();
    let (nowhere, file) = (folder.join("nowhere"), folder.join("file"));
    std::fs::File::create(&file).unwrap();
    let missing = |name: &str| {
        format!("{name} must be a folder that exists, and there is no \"{}\"", nowhere.display())
    };
    let no_folder = |name: &str| format!("{name} must be a folder, which \"{}\" is not", file.display());
    // Were it not refused, it would end by itself, and what it had made would be seen.
    let actions = [&["start", "--run-once"][..], &["smoke"], &["service", "install"]];
    for action in actions {
        let prepared = |words: &[&str]| {
            let mut command = command([action, words].concat());
            command.current_dir(parent.path()).env("HOME", parent.path());
            command
        };
        let typed = prepared(&["--repo-root", "nowhere", "--local-api-base", "http://127.0.0.1:0"]);
        let relative = prepared(&["--repo-root=file"]);
        for (mut command, message) in [(typed, missing("--repo-root")), (relative, no_folder("--repo-root"))]
        {
            assert_refused(&command.output().unwrap().into(), &message);
        }
        if action != ["smoke"] {
            let by_variable = prepared(&[]).env("BAA_CODEXD_REPO_ROOT", &nowhere).output().unwrap();
            assert_refused(&by_variable.into(), &missing("BAA_CODEXD_REPO_ROOT"));
        }
    }
    let elsewhere =
        ["start", "--run-once", "--server-cwd", "nowhere", "--local-api-base", "http://127.0.0.1:0"];
    let ran = command(elsewhere).current_dir(parent.path()).output().unwrap();
    assert_refused(&ran.into(), &missing("--server-cwd"));
    for verb in ["ask", "run"] {
        for (cwd, message) in [("nowhere", missing("--cwd")), ("file", no_folder("--cwd"))] {
            let mut command = command([verb, "hi", "--cwd", cwd, "--local-api-base", "http://127.0.0.1:9"]);
            assert_refused(&command.current_dir(parent.path()).output().unwrap().into(), &message);
        }
    }
    let left: Vec<_> =
        std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file"]);
    // Who only looks is told the defaults.
    let status = codexd(&["status", "--repo-root", nowhere.to_str().unwrap()]);
    assert_eq!((status.code, status.stderr.as_str()), (0, ""), "{}", status.stdout);
}

#[test]
fn a_token_file_that_is_none_is_found_before_anything_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let token = parent.path().join("token");
    std::fs::File::create(&token).unwrap();
    let words = ["start", "--run-once", "--token-file", "token", "--local-api-base", "http://127.0.0.1:0"];
    let ran: Ran = command(words).current_dir(parent.path()).output().unwrap().into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("cannot use the token file"), "{ran:?}");
    let left: Vec<_> =
        std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["token"]);
}

/// Without a daemon: it is not asked for anything before the prompt is known to be one.
#[test]
fn blank_prompts() {
    for words in [["ask", "  "], ["ask", ""], ["run", "\n"]] {
        assert_refused(&codexd(&words), "PROMPT must be UTF-8 text that is not empty");
    }
    // What came from elsewhere is no fault of the command line.
    let ran = codexd(&["ask", "-"]);
    let message = "codexd: PROMPT must be UTF-8 text that is not empty\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (1, "", message));
}

#[test]
fn a_word_that_is_no_answer_of_any_kind() {
    for word in ["acept", "Accept", "yes"] {
        assert_refused(
            &codexd(&["answer", "request-1", word]),
            &format!(
                "\"{word}\" is no answer: it must be accept, acceptForSession, decline, cancel, or a JSON object such as {{\"answers\": …}}"
            ),
        );
    }
    assert_refused(
        &codexd(&["answer", "request-1", "{\"answers"]),
        "the answer \"{\"answers\" is no JSON: EOF while parsing a string at line 1 column 9",
    );
}

#[test]
fn wrong_variables() {
    for (name, value, message) in [
        ("BAA_CODEXD_MODE", "tui", "BAA_CODEXD_MODE must be app-server or exec, not \"tui\""),
        (
            "BAA_CODEXD_EVENT_CACHE_SIZE",
            "many",
            "BAA_CODEXD_EVENT_CACHE_SIZE must be an integer, 0 or more, not \"many\"",
        ),
        (
            "BAA_CODEXD_SERVER_ARGS",
            "[1]",
            "BAA_CODEXD_SERVER_ARGS must be a JSON array of strings such as [\"app-server\"], or words, not \"[1]\"",
        ),
        (
            "BAA_CODEXD_REQUIRE_TOKEN",
            "maybe",
            "BAA_CODEXD_REQUIRE_TOKEN must be true or false, not \"maybe\"",
        ),
    ] {
        let ran = command(["config"]).env(name, value).output().unwrap();
        assert_refused(&ran.into(), message);
    }
}

#[test]
fn words_and_variables_that_are_not_utf8() {
    let odd = OsStr::from_bytes(b"/tmp/\xff");
    let message = |name: &str| format!("{name} must be UTF-8 text, which \"/tmp/\u{fffd}\" is not");
    let by_flag = command([OsStr::new("config"), OsStr::new("--repo-root"), odd]).output().unwrap();
    assert_refused(&by_flag.into(), &message("--repo-root"));
    let by_variable = command(["config"]).env("BAA_LOGS_DIR", odd).output().unwrap();
    assert_refused(&by_variable.into(), &message("BAA_LOGS_DIR"));
    let beaten = command(["config", "--logs-dir", "/x"]).env("BAA_LOGS_DIR", odd).output().unwrap();
    assert_eq!(beaten.status.code(), Some(0));
}

#[test]
fn help_and_version() {
    let help = codexd(&["help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for words in [&["--help"][..], &["status", "-h"], &["--frobnicate", "--help"], &["start", "help", "-h"]] {
        assert_eq!(codexd(words).stdout, help.stdout, "{words:?}");
    }
    let version = format!("codexd {}\n", env!("CARGO_PKG_VERSION"));
    for words in [&["--version"][..], &["-V"], &["config", "--version"]] {
        let ran = codexd(words);
        assert_eq!((ran.code, ran.stdout, ran.stderr), (0, version.clone(), String::new()), "{words:?}");
    }
    assert!(codexd(&["config", "--version", "9.9"]).stdout.contains("\nversion: 9.9\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut begin = [0; 1];
    let mut child =
        command(["help"]).stdout(writer.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    drop(writer);
    reader.read_exact(&mut begin).unwrap();
    assert!(child.wait().unwrap().success());

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran: Ran = command(["help"]).stdout(writer).output().unwrap().into();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}
