//! Programs that are no app-server that codexd can work with: what happened and what to do is said at the first session,
//! in /readyz and in the status.

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Answer, Stream};
use crate::conversation::until;
use crate::daemon::{Builder, Daemon};
use crate::talk::SESSIONS;

const ADVICE: &str = "codexd needs codex 0.120 or newer: npm install -g @openai/codex@latest";

/// What a daemon says of such a program.
struct Verdict {
    /// To the first session.
    session: Answer,
    /// /readyz: its status and its checks.
    ready: (u16, Value),
    stream: Stream,
    daemon: Daemon,
}

fn shell(script: &str) -> Builder {
    Daemon::builder().server("/bin/sh", &["-c", script])
}

fn stub(behaviour: &str) -> Builder {
    Daemon::builder().env("CODEXD_STUB", behaviour)
}

fn verdict(builder: Builder) -> Verdict {
    let daemon = builder.start();
    let stream = daemon.stream();
    let session = daemon.client().post(SESSIONS, &json!({}));
    Verdict { session, ready: ready(&daemon), stream, daemon }
}

fn ready(daemon: &Daemon) -> (u16, Value) {
    let ready = daemon.client().get("/readyz");
    (ready.status, ready.json()["checks"].take())
}

impl Verdict {
    /// The text that the client got, with that status and code.
    fn said(&self, status: u16, code: &str) -> String {
        let body = self.session.json();
        assert_eq!((self.session.status, &body["error"]), (status, &json!(code)), "{body}");
        body["message"].as_str().unwrap().to_owned()
    }

    /// What /readyz says of the app-server, which is not well.
    fn app_server(&self) -> String {
        assert_eq!(
            (self.ready.0, &self.ready.1["appServer"]["ok"]),
            (503, &json!(false)),
            "{}",
            self.ready.1
        );
        self.ready.1["appServer"]["detail"].as_str().unwrap().to_owned()
    }

    /// The last error of the child in the status, once it has that text.
    fn last_error(&self, text: &str) {
        self.stream.wait_for_type("child.restarting");
        let child = || {
            self.daemon.client().get("/v1/codexd/status").json()["data"]["snapshot"]["daemon"]["child"].take()
        };
        let error = child()["lastError"].to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn one_that_ends_at_once() {
    let verdict = verdict(shell("exit 0"));
    let parts = ["has ended", "wrote nothing", "codex app-server", "0.120 or newer", "codexd doctor"];
    has(&verdict.said(503, "unavailable"), &parts);
    has(&verdict.app_server(), &parts);
    verdict.last_error("The child ended with code 0. It had answered nothing yet; it wrote nothing.");
}

#[test]
fn one_that_prints_help_and_ends_with_2() {
    let help = "echo \"error: unrecognized subcommand 'app-server'\" >&2; echo >&2; echo 'Usage: codex [PROMPT]' >&2; exit 2";
    let verdict = verdict(shell(help));
    let parts = ["has ended", "it wrote `error: unrecognized subcommand 'app-server'`", "0.120 or newer"];
    has(&verdict.said(503, "unavailable"), &parts);
    has(&verdict.app_server(), &parts);
    verdict.last_error("The child exited with code 2. It had answered nothing yet; it wrote `error: unrec");
}

#[test]
fn one_that_prints_help_on_its_output() {
    let verdict = verdict(shell("read line; echo; echo 'Usage: thing'; exit 1"));
    let parts = ["has ended", "it wrote `Usage: thing`", "0.120 or newer"];
    has(&verdict.said(503, "unavailable"), &parts);
    verdict.last_error("it wrote `Usage: thing`");
}

#[test]
fn one_that_sends_back_what_it_is_sent() {
    let verdict = verdict(shell("exec cat"));
    let parts = ["no app-server", "sends back what it is sent", "codex app-server", "0.120 or newer"];
    has(&verdict.said(502, "app_server_error"), &parts);
    has(&verdict.app_server(), &parts);
    let failed = verdict.stream.wait_for_type("app-server.connect.failed");
    has(failed["message"].as_str().unwrap(), &parts);
}

#[test]
fn one_that_talks_of_something_else() {
    let builder = shell("echo hello there; sleep 300").flags(&["--app-server-timeout-ms", "1000"]);
    let verdict = verdict(builder);
    let parts = [
        "did not answer initialize within ",
        "; it wrote `hello there`, which is no message",
        "0.120 or newer",
    ];
    has(&verdict.said(504, "timeout"), &parts);
    verdict.last_error("; it wrote `hello there`, which is no message");
    // The next life is the same program, which nobody has asked anything yet.
    verdict.stream.wait_for_type("child.restarted");
    let Verdict { mut daemon, .. } = verdict;
    let told = until("a readiness that is no passing one", DEADLINE, || {
        let told = ready(&daemon).1["appServer"].take();
        (!told["detail"].as_str()?.contains("is being started again")).then_some(told)
    });
    assert_eq!(told["ok"], false, "{told}");
    has(told["detail"].as_str().unwrap(), &parts);
    daemon.stop();
}

#[test]
fn one_that_refuses_the_client() {
    let verdict = verdict(stub("refuse-initialize"));
    let parts = ["refused initialize (JSON-RPC error -32600: this client is not welcome)", ADVICE];
    has(&verdict.said(502, "app_server_error"), &parts);
    has(&verdict.app_server(), &parts);
    let again = verdict.daemon.client().post(SESSIONS, &json!({}));
    assert_eq!(again.status, 502, "{}", again.text());
}

#[test]
fn one_that_is_too_old() {
    let verdict = verdict(stub("version=0.20.0,no-thread-start"));
    let parts = ["codex 0.20.0 does not know thread/start (JSON-RPC error -32600: ", ADVICE];
    has(&verdict.said(502, "app_server_error"), &parts);
    has(&verdict.app_server(), &parts);
}

#[test]
fn one_that_may_be_too_new() {
    let verdict = verdict(stub("version=7.1.0,no-thread-start"));
    let parts = ["codex 7.1.0 does not know thread/start", "was tried with codex 0.1", "or a newer codexd"];
    has(&verdict.said(502, "app_server_error"), &parts);
    has(&verdict.app_server(), &parts);
}

#[test]
fn what_was_wrong_is_forgotten_with_an_app_server_that_is_well() {
    let mark = "if test -e mended; then exec \"$0\" stub-app-server; fi; touch mended; echo no >&2; exit 3";
    let daemon = Daemon::builder().server("/bin/sh", &["-c", mark, env!("CARGO_BIN_EXE_codexd")]).start();
    let stream = daemon.stream();
    stream.wait_for(|event| event["type"] == "child.restarted", DEADLINE);
    let session = daemon.client().post(SESSIONS, &json!({}));
    assert_eq!(session.status, 201, "{}", session.text());
    let ready = daemon.client().get("/readyz");
    assert_eq!(
        (ready.status, &ready.json()["checks"]["appServer"]["ok"]),
        (200, &json!(true)),
        "{}",
        ready.text()
    );
    let status = daemon.client().get("/v1/codexd/status").json();
    assert_eq!(status["data"]["snapshot"]["daemon"]["child"]["lastError"], Value::Null);
}
