//! What a Codex lacks of what codexd needs is found in its own schema, and by a short talk with it.

use std::path::Path;
use std::time::{Duration, Instant};

use codexd::ops::drift;
use codexd::process::Spec;
use codexd::supervisor::probe::probe;

use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::schema;

fn spec(command: &Path, args: &[&str]) -> Spec {
    Spec {
        command: command.to_owned(),
        args: args.iter().map(Into::into).collect(),
        cwd: "/".into(),
        ..Spec::default()
    }
}

fn shell(script: &str) -> Result<String, String> {
    probe(spec(Path::new("/bin/sh"), &["-c", script]), "1", Duration::from_secs(10))
}

fn stub(behaviour: &str) -> Result<String, String> {
    let mut spec = spec(Path::new(env!("CARGO_BIN_EXE_codexd")), &["stub-app-server"]);
    let folder = tempfile::tempdir().unwrap();
    spec.env = vec![
        ("CODEXD_STUB".into(), Some(behaviour.into())),
        ("TMPDIR".into(), Some(folder.path().as_os_str().to_owned())),
    ];
    probe(spec, "1", Duration::from_secs(10))
}

#[track_caller]
fn fails(found: Result<String, String>, parts: &[&str]) {
    let problem = found.unwrap_err();
    for part in parts {
        assert!(problem.contains(part), "{part:?} is not in: {problem}");
    }
}

#[test]
fn a_short_talk_shows_what_is_no_app_server() {
    let name = stub("").unwrap();
    assert!(name.starts_with("baa-conductor-codexd/0.169.0 (codexd stub)"), "{name}");
    fails(
        stub("refuse-initialize"),
        &["refused initialize (JSON-RPC error -32600: this client", "npm install"],
    );
    fails(
        stub("version=0.20.0,no-thread-start"),
        &["codex 0.20.0 does not know thread/start", "0.120 or newer"],
    );
    fails(
        stub("exit-at-once=3"),
        &["has ended with code 3. It had answered nothing yet; it wrote nothing", "npm install"],
    );
    fails(shell("exec cat"), &["it sends back what it is sent", "codex app-server"]);
    fails(
        shell("echo 'Usage: x'; echo 'error: no' >&2; exit 2"),
        &["has ended with code 2", "it wrote `error: no`"],
    );
    fails(shell("echo hello; read line"), &["has ended with code 0", "it wrote `hello`"]);
    let began = Instant::now();
    let mute = probe(spec(Path::new("/bin/sh"), &["-c", "echo hm; sleep 300"]), "1", Duration::from_secs(1));
    fails(mute, &["/bin/sh did not answer within 1 s; it wrote `hm`, which is no message"]);
    assert!(began.elapsed() < Duration::from_secs(20));
    let missing = probe(spec(Path::new("/nowhere/codex"), &[]), "1", Duration::from_secs(1));
    fails(missing, &["/nowhere/codex does not start: "]);
}

#[test]
fn the_real_codex_has_all_that_is_needed() {
    let codex = real_codex_or_skip!("the_real_codex_has_all_that_is_needed");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display().to_string();
    let args = ["app-server", "generate-json-schema", "--experimental", "--out", &out];
    schema::said(codex.native(), &args, folder.path()).unwrap();
    assert_eq!(drift::differences(folder.path()), Ok(Vec::new()));

    let model = crate::model_server::ModelServer::start();
    let home = CodexHome::new(&model);
    for program in [codex.native(), codex.wrapper()] {
        let mut spec = spec(program, &["app-server"]);
        spec.env = home.env().into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect();
        let name = probe(spec, "1", Duration::from_secs(20)).unwrap();
        assert!(name.starts_with("baa-conductor-codexd/"), "{name}");
    }
    assert!(!home.path().join("sessions").exists(), "a thread was started");
}
