//! The page, in a real browser. The scenarios are in tests/browser; each is a program of node that drives chromium with
//! playwright-core. Without them (tests/install-browser.sh) these tests are skipped in one loud line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::Daemon;
use crate::inbox_support::text;
use crate::model_server::ModelServer;
use crate::processes::Process;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::run_bench;
use crate::skipped::skipped;

/// How long a whole scenario may take; a browser on a busy machine is slow.
const SCENARIO: Duration = Duration::from_secs(180);

/// The folder of the scenarios.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Node and what it drives.
struct Browser {
    chromium: PathBuf,
    modules: PathBuf,
}

impl Browser {
    fn find() -> Result<Browser, String> {
        has_node()?;
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/browser/node_modules");
        for module in ["playwright-core", "axe-core"] {
            if !modules.join(module).is_dir() {
                return Err(format!("no {} in {}", module, modules.display()));
            }
        }
        let named = std::env::var_os("CODEXD_TEST_CHROMIUM").map(PathBuf::from);
        let candidates =
            named.into_iter().chain(["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from));
        let chromium = candidates.into_iter().find(|path| path.is_file()).ok_or("no chromium")?;
        Ok(Browser { chromium, modules })
    }

    /// The browser, or nothing after a loud line.
    fn for_test(test: &str) -> Option<Browser> {
        Browser::find().map_err(|why| skip(test, &why)).ok()
    }
}

fn has_node() -> Result<(), String> {
    let version =
        Command::new("node").arg("--version").output().map_err(|error| format!("no node: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major: Option<u32> = version.strip_prefix('v').and_then(|rest| rest.split('.').next()?.parse().ok());
    if major.is_some_and(|major| major >= 18) { Ok(()) } else { Err(format!("node {version} is too old")) }
}

fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CODEXD_REQUIRE_BROWSER").is_none_or(|value| value != "1"), "{test}: {why}");
    skipped(test, &format!("{why}; run tests/install-browser.sh"));
}

macro_rules! browser_or_skip {
    ($test:expr) => {
        match Browser::for_test($test) {
            Some(browser) => browser,
            None => return,
        }
    };
}

/// A scenario while it runs.
struct Play {
    node: Process,
    stdin: ChildStdin,
    lines: Receiver<String>,
    stderr: thread::JoinHandle<String>,
    /// Profile and whatever else a browser leaves lying about.
    _temporary: tempfile::TempDir,
}

impl Play {
    fn begin(browser: &Browser, scenario: &str, told: &Value) -> Play {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new("node");
        command
            .arg(folder().join(format!("{scenario}.mjs")))
            .env("CODEXD_BROWSER_MODULES", &browser.modules)
            .env("CODEXD_CHROMIUM", &browser.chromium)
            .env("CODEXD_TOLD", told.to_string())
            .env("TMPDIR", temporary.path())
            .env("HOME", temporary.path())
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut node = Process::spawn(&mut command);
        let child = node.child();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (sender, lines) = bounded(64);
        let read = move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        thread::Builder::new().name("node-out".into()).spawn(read).expect("a thread");
        let collect = move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        };
        let stderr = thread::Builder::new().name("node-err".into()).spawn(collect).expect("a thread");
        Play { node, stdin, lines, stderr, _temporary: temporary }
    }

    /// To its end: `answer` does what the scenario asks for. What it reports.
    fn run(mut self, scenario: &str, mut answer: impl FnMut(&str, &Value) -> Value) -> Value {
        let until = Instant::now() + SCENARIO;
        let outcome = loop {
            let Ok(line) = self.lines.recv_deadline(until) else { break Err("no word from it".to_owned()) };
            let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
            if let Some(what) = said["ask"].as_str() {
                let answer = answer(what, &said);
                writeln!(self.stdin, "{answer}").expect("the scenario listens");
            } else if let Some(failed) = said["failed"].as_str() {
                break Err(failed.to_owned());
            } else {
                break Ok(said["report"].clone());
            }
        };
        self.node.wait(Duration::from_secs(20));
        let left = self.node.left(Duration::from_secs(10));
        self.node.sweep();
        let stderr = self.stderr.join().unwrap_or_default();
        let report = outcome.unwrap_or_else(|failed| panic!("{scenario}: {failed}\n{stderr}"));
        assert!(left.is_empty(), "{scenario} left processes behind: {left:?}");
        report
    }
}

/// Plays a scenario that asks for turns only.
fn play(browser: &Browser, scenario: &str, daemon: &Daemon, more: &Value) -> Value {
    let client = daemon.client();
    Play::begin(browser, scenario, &told(daemon, more)).run(scenario, |what, said| match what {
        "turn" => begin_turn(&client, said),
        other => panic!("{scenario} asks for {other}"),
    })
}

fn told(daemon: &Daemon, more: &Value) -> Value {
    let mut told = json!({ "base": daemon.base() });
    for (name, value) in more.as_object().into_iter().flatten() {
        told[name] = value.clone();
    }
    told
}

/// A turn with what the scenario wants to be said, in the session it names or in a new one.
fn begin_turn(client: &Client, said: &Value) -> Value {
    let session = said["session"].as_str().map(str::to_owned).unwrap_or_else(|| {
        let body = said.get("body").cloned().unwrap_or_else(|| json!({}));
        let answer = client.post("/v1/codexd/sessions", &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        text(&answer.json()["data"]["session"]["sessionId"])
    });
    let prompt = said["prompt"].as_str().unwrap_or("slow: 30 100");
    let answer = client.post("/v1/codexd/turn", &json!({"sessionId": session, "prompt": prompt}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    json!({"session": session, "turn": answer.json()["data"]["turnId"]})
}

#[test]
fn a_turn_is_seen_while_it_runs() {
    let browser = browser_or_skip!("a_turn_is_seen_while_it_runs");
    play(&browser, "turn", &Daemon::builder().start(), &json!({}));
}

/// Turns of the last hour, for the chart: they happen now, and then the times in the log are set back. Their session.
fn an_hour_of_turns(daemon: &mut Daemon) -> String {
    // Minutes before now, and seconds that the turn took.
    let turns = [
        (57, 12),
        (54, 48),
        (49, 7),
        (47, 95),
        (41, 30),
        (38, 210),
        (30, 18),
        (28, 64),
        (22, 9),
        (19, 140),
        (12, 22),
        (7, 76),
    ];
    let stream = daemon.stream();
    let mut session = Value::Null;
    for (_, seconds) in turns {
        let body = json!({"metadata": {"title": "Nightly dependency check"}});
        let said = json!({"session": session, "body": body, "prompt": format!("say {} words", seconds * 3)});
        let begun = begin_turn(&daemon.client(), &said);
        session = begun["session"].clone();
        stream.wait_for(
            |event| {
                event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == begun["turn"]
            },
            crate::DEADLINE,
        );
    }
    drop(stream);
    daemon.stop();
    let log = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    let now = codexd::clock::unix_millis();
    let (mut next, mut at, mut step) = (0, now - 58 * 60_000, 0);
    let mut moved = String::new();
    for line in log.lines() {
        if line.contains("\"type\":\"turn.accepted\"") {
            let (minutes, seconds) = turns[next];
            (at, step) = (now - minutes * 60_000, seconds * 1000 / (seconds * 3 + 12));
            next += 1;
        }
        let begin = line.find("\"createdAt\":\"").unwrap() + "\"createdAt\":\"".len();
        moved += &format!("{}{}{}\n", &line[..begin], codexd::clock::iso(at), &line[begin + 24..]);
        at += step;
    }
    #[expect(clippy::disallowed_methods, reason = "the log of a daemon that does not run")]
    std::fs::write(daemon.log("events.jsonl"), moved).unwrap();
    daemon.restart();
    text(&session)
}

#[test]
fn the_page_is_accessible_and_has_its_picture_taken() {
    let browser = browser_or_skip!("the_page_is_accessible_and_has_its_picture_taken");
    let repo = tempfile::tempdir().unwrap();
    let repo = repo.path().join("lighthouse");
    std::fs::create_dir(&repo).unwrap();
    let mut bench =
        run_bench::Bench::stub(&["--node-id", "workbench", "--repo-root", repo.to_str().unwrap()]);
    let nightly = an_hour_of_turns(&mut bench.daemon);
    let (daemon, client) = (&bench.daemon, bench.daemon.client());
    let temporary = tempfile::tempdir().unwrap();
    // They change with every run (times, ids): the README's are written on request only.
    let blessed = std::env::var_os("CODEXD_BLESS").is_some_and(|value| value == "1");
    let pictures = if blessed { folder() } else { temporary.path().to_owned() };
    let told = told(daemon, &json!({"pictures": pictures, "nightly": nightly}));
    Play::begin(&browser, "pictures", &told).run("pictures", |what, said| match what {
        "turn" => begin_turn(&client, said),
        "session" => {
            let answer = client.get(&format!("/v1/codexd/sessions/{}", text(&said["session"])));
            answer.json()["data"]["session"].clone()
        }
        "run" => {
            let answer = client.post("/v1/codexd/runs", &json!({"prompt": said["prompt"]}));
            assert_eq!(answer.status, 202, "{}", answer.text());
            answer.json()["data"]["run"].clone()
        }
        other => panic!("pictures asks for {other}"),
    });
}

#[test]
fn an_approval_is_answered_by_a_click() {
    let browser = browser_or_skip!("an_approval_is_answered_by_a_click");
    let codex = real_codex_or_skip!("an_approval_is_answered_by_a_click");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let daemon = Daemon::builder().codex(codex.native(), &home).start();
    let outside = home.outside("outside.txt");
    let told = json!({"cwd": home.work(), "outside": outside});
    play(&browser, "approval", &daemon, &told);
    assert!(home.work().join("one.txt").exists(), "the click did not reach Codex");
    assert!(!home.work().join("two.txt").exists(), "what was declined was done");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "hello\n");
}

#[test]
fn a_restart_in_the_middle_loses_and_repeats_nothing() {
    let browser = browser_or_skip!("a_restart_in_the_middle_loses_and_repeats_nothing");
    // The same port again, so that the page finds it: one that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base]).start();
    let told = told(&daemon, &json!({}));
    Play::begin(&browser, "restart", &told).run("restart", |what, said| match what {
        "turn" => begin_turn(&daemon.client(), said),
        "stop" => {
            daemon.stop();
            json!({})
        }
        "kill" => {
            daemon.kill();
            json!({})
        }
        "start" => {
            daemon.restart();
            json!({})
        }
        "log" => daemon.log_events().iter().map(|event| event["seq"].clone()).collect(),
        other => panic!("restart asks for {other}"),
    });
}

#[test]
fn ten_thousand_events_do_not_stutter() {
    let browser = browser_or_skip!("ten_thousand_events_do_not_stutter");
    let report = play(&browser, "many", &Daemon::builder().start(), &json!({}));
    println!("10,000 events: {report}");
}

#[test]
fn markup_is_shown_as_text() {
    let browser = browser_or_skip!("markup_is_shown_as_text");
    play(&browser, "markup", &Daemon::builder().start(), &json!({}));
}

#[test]
fn questions_and_forms_are_answered() {
    let browser = browser_or_skip!("questions_and_forms_are_answered");
    play(&browser, "questions", &Daemon::builder().start(), &json!({}));
}

#[test]
fn everything_that_is_granted_is_shown() {
    let browser = browser_or_skip!("everything_that_is_granted_is_shown");
    play(&browser, "granted", &Daemon::builder().start(), &json!({}));
}

#[test]
fn the_token_is_asked_for_and_stays_out_of_every_url() {
    let browser = browser_or_skip!("the_token_is_asked_for_and_stays_out_of_every_url");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let daemon = Daemon::builder().flags(&["--token-file", path.to_str().unwrap()]).start();
    let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    play(&browser, "token", &daemon, &json!({ "token": token }));
}

#[test]
fn nobody_can_frame_the_page() {
    let browser = browser_or_skip!("nobody_can_frame_the_page");
    play(&browser, "framing", &Daemon::builder().start(), &json!({}));
}

#[test]
fn the_scripts_are_well_formed_and_their_logic_is_right() {
    if let Err(why) = has_node() {
        return skip("the_scripts_are_well_formed_and_their_logic_is_right", &why);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page");
    let mut checked = 0;
    for path in [source, folder()].iter().flat_map(|folder| folder.read_dir().unwrap()) {
        let path = path.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            let checked_one = Command::new("node").arg("--check").arg(&path).output().unwrap();
            assert!(checked_one.status.success(), "{}", String::from_utf8_lossy(&checked_one.stderr));
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} scripts");
    let logic = Command::new("node").arg("--test").arg(folder().join("logic.test.mjs")).output().unwrap();
    let said = String::from_utf8_lossy(&logic.stdout);
    assert!(logic.status.success(), "{said}\n{}", String::from_utf8_lossy(&logic.stderr));
    assert!(!said.contains("# tests 0"), "{said}");
}

#[test]
fn the_page_is_served_with_its_rules_and_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let daemon = Daemon::builder().flags(&["--token-file", path.to_str().unwrap()]).start();
    let client = daemon.client();
    for asset in codexd::http::page::ASSETS {
        let answer = client.get(asset.path);
        assert_eq!(answer.status, 200, "{}", asset.path);
        assert_eq!(answer.header("content-type"), Some(asset.content_type));
        let policy = answer.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{}", asset.path);
        }
        let foreign = client.request("GET", asset.path, &[("origin", "http://evil.example")], b"");
        assert_eq!(foreign.status, 403, "{}", asset.path);
        let posted = client.request("POST", asset.path, &[("content-type", "application/json")], b"{}");
        assert_eq!(posted.status, 401, "{}", asset.path);
        assert!(client.request("HEAD", asset.path, &[], b"").body.is_empty());
    }
    assert_eq!(client.get("/page/nothing.mjs").status, 401);
    let token = std::fs::read_to_string(&path).unwrap();
    assert!(client.get("/").text().contains(env!("CARGO_PKG_VERSION")));
    let bearer = format!("Bearer {}", token.trim());
    let given = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    assert_eq!(client.request("POST", "/", &given, b"{}").status, 405);
    assert_eq!(client.request("GET", "/page/nothing.mjs", &given, b"").status, 404);
}

#[test]
fn a_subprotocol_is_chosen_only_when_it_is_offered() {
    let daemon = Daemon::builder().start();
    let handshake = |protocols: &str| {
        let host = crate::client::authority(daemon.base());
        let head = format!(
            "GET /v1/codexd/events HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{protocols}\r\n"
        );
        let answer = daemon.client().raw(head.as_bytes());
        assert_eq!(answer.status, 101, "{protocols}");
        answer.header("sec-websocket-protocol").map(str::to_owned)
    };
    assert_eq!(handshake(""), None);
    assert_eq!(handshake("sec-websocket-protocol: other\r\n"), None);
    // The token's is never named, whether there is a token to check or not.
    let offered = "sec-websocket-protocol: codexd.bearer.eA,  codexd.v1\r\n";
    assert_eq!(handshake(offered).as_deref(), Some("codexd.v1"));
    let on_two_lines = "sec-websocket-protocol: codexd.bearer.eA\r\nsec-websocket-protocol: codexd.v1\r\n";
    assert_eq!(handshake(on_two_lines).as_deref(), Some("codexd.v1"));
    assert_eq!(handshake("sec-websocket-protocol: CODEXD.V1\r\n"), None);
}

#[test]
fn a_sleep_loses_and_repeats_nothing() {
    let browser = browser_or_skip!("a_sleep_loses_and_repeats_nothing");
    let daemon = Daemon::builder().start();
    let stream = daemon.stream();
    let told = told(&daemon, &json!({}));
    Play::begin(&browser, "sleep", &told).run("sleep", |what, said| match what {
        "turn" => {
            let begun = begin_turn(&daemon.client(), said);
            let ended = |event: &Value| {
                event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == begun["turn"]
            };
            stream.wait_for(ended, crate::DEADLINE);
            begun
        }
        "freeze" => {
            daemon.signal(rustix::process::Signal::STOP);
            json!({})
        }
        "thaw" => {
            daemon.signal(rustix::process::Signal::CONT);
            json!({})
        }
        "log" => daemon.log_events().iter().map(|event| event["seq"].clone()).collect(),
        other => panic!("sleep asks for {other}"),
    });
}
