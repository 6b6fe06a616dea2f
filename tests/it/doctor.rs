//! `codexd doctor`: what it finds on a host that is made for it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd::app_server::needs;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_support::{Ran, command};
use crate::daemon::Daemon;
use crate::fake_app_server::Fake;
use crate::processes;
use crate::real_codex::{CodexHome, real_codex_or_skip};

/// A folder for the repository, and one with commands that is all of the PATH.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "home", "repo", "schema"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let place = Place { folder };
        place.tells(|_| true);
        place
    }

    /// A schema with those of the methods that codexd needs.
    fn tells(&self, has: impl Fn(&str) -> bool) {
        let form = |method: &str, params: &[&str]| {
            let members: Value = params.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            json!({"properties": {"method": {"enum": [method]}, "params": {"properties": members}}})
        };
        let calls = needs::REQUESTS.iter().filter(|need| has(need.method));
        let calls: Vec<Value> = calls.map(|need| form(need.method, need.always)).collect();
        let events: Vec<Value> = needs::EVENTS.iter().map(|event| form(event, &[])).collect();
        for (name, forms) in
            [("ClientRequest", calls), ("ServerNotification", events), ("ServerRequest", Vec::new())]
        {
            let mut file = fs::File::create(self.folder.path().join(format!("schema/{name}.json"))).unwrap();
            file.write_all(json!({"oneOf": forms}).to_string().as_bytes()).unwrap();
        }
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A command on the PATH.
    fn with(self, name: &str, script: &str) -> Place {
        processes::write_program(&self.bin().join(name), script);
        self
    }

    fn doctor(&self, words: &[&str]) -> Ran {
        self.doctor_with(words, &[])
    }

    fn doctor_with(&self, words: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = command(["doctor"]);
        command.args(["--local-api-base", "http://127.0.0.1:0"]).args(words);
        command.env("PATH", self.bin()).env("HOME", self.home()).envs(env.iter().copied());
        command.current_dir(self.folder.path().join("repo")).output().unwrap().into()
    }

    /// The check of that name in the JSON.
    fn check(&self, name: &str) -> Value {
        self.check_with(name, &[])
    }

    /// The same with flags.
    fn check_with(&self, name: &str, flags: &[&str]) -> Value {
        let ran = self.doctor(&[&["--json"], flags].concat());
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let failed = report["checks"].as_array().unwrap().iter().any(|check| check["status"] == "fail");
        assert_eq!((ran.code, report["ok"].as_bool()), (i32::from(failed), Some(!failed)), "{report}");
        let mut checks = report["checks"].as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).cloned().unwrap_or_default()
    }
}

fn says(check: &Value, status: &str, what: &str) {
    assert_eq!(check["status"], status, "{check}");
    assert!(check["what"].as_str().unwrap().contains(what), "{check}");
    assert_eq!(check["todo"].is_null(), status == "ok", "whatever is wrong has a remedy: {check}");
}

/// Speaks the protocol as the stand-in does, and tells the schema in the place's folder.
const CODEX: &str = concat!(
    "#!/bin/sh\ncase $2 in generate-json-schema) exec /bin/cp \"${0%/*}\"/../schema/*.json \"$4\";; esac\n",
    "case $1 in app-server) exec '",
    env!("CARGO_BIN_EXE_codexd"),
    "' stub-app-server;; esac\necho codex-cli 0.1.2\n"
);

#[test]
fn codex_is_looked_for_on_the_path() {
    let place = Place::new();
    says(&place.check("codex"), "fail", &format!("codex is not on PATH={}", place.bin().display()));
    let ran = place.doctor(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("\nfail codex: ") || ran.stdout.starts_with("fail codex: "), "{ran:?}");

    let (bin, mut twice) = (place.bin().display().to_string(), command(["doctor"]));
    twice.env("PATH", format!("{bin}:/nowhere:{bin}")).env("HOME", place.home()).current_dir(place.home());
    let ran: Ran = twice.output().unwrap().into();
    assert!(ran.stdout.contains(&format!("codex is not on PATH={bin}:/nowhere;")), "{ran:?}");

    let place = place.with("codex", CODEX);
    let path = place.bin().join("codex");
    says(&place.check("codex"), "ok", &format!("codex-cli 0.1.2 at {}", path.display()));
    says(&place.with("codex", "#!/bin/sh\necho broken >&2; exit 1\n").check("codex"), "fail", "broken");
}

#[test]
fn the_npm_package_needs_its_node() {
    // The system's own folders would have one.
    let place = Place::new().with("codex", "#!/usr/bin/env node\n");
    says(&place.check("node"), "fail", "needs node");
    let place = place.with("node", "#!/bin/sh\necho v22.1.0\n");
    says(&place.check("node"), "ok", "v22.1.0 at ");
    assert!(Place::new().with("codex", CODEX).check("node").is_null(), "a native codex needs none");
}

#[test]
fn a_codex_that_hangs_is_told_in_time() {
    if !Path::new("/bin/sleep").is_file() {
        return;
    }
    let place = Place::new().with("codex", "#!/bin/sh\nexec /bin/sleep 300\n");
    says(&place.check("codex"), "fail", "did not answer within 10 s");
}

#[test]
fn a_host_without_fault_has_nothing_to_do() {
    let place = Place::new().with("codex", CODEX);
    // Where nobody tells who connects, a host without fault has a token.
    let token = place.folder.path().join("token");
    let token = ["--token-file", token.to_str().unwrap()];
    let ran = place.doctor(if codexd::os::peer::can_tell() { &[] } else { &token });
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    let names: Vec<&str> = ran
        .stdout
        .lines()
        .map(|line| line.strip_prefix("ok ").unwrap_or_else(|| panic!("{line}")).split(':').next().unwrap())
        .collect();
    let expected = [
        "service",
        "daemon",
        "port",
        "others",
        "orphans",
        "access",
        "codex",
        "app-server",
        "protocol",
        "login",
        "folders",
        "disk",
        "logs",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read_dir(place.folder.path().join("repo")).unwrap().count(), 0, "it changes nothing");
}

#[test]
fn codex_says_itself_whether_it_is_logged_in() {
    let script = "#!/bin/sh\ncase $1 in login) echo WARNING >&2; echo \"Not logged in\" >&2; exit 1;; esac\necho codex-cli 1\n";
    let place = Place::new().with("codex", script);
    says(&place.check("login"), "fail", "Not logged in");
    let home = place.home().join(".codex");
    fs::create_dir(&home).unwrap();
    let configure = |text: &str| {
        fs::File::create(home.join("config.toml")).unwrap().write_all(text.as_bytes()).unwrap();
    };
    configure("[profiles.x]\nmodel_provider = \"local\"\n");
    says(&place.check("login"), "fail", "Not logged in");
    configure("model = \"m\"\nmodel_provider = \"local\"\n");
    says(&place.check("login"), "ok", "names a model_provider of its own");
    let flags = ["--server-command", env!("CARGO_BIN_EXE_codexd"), "--server-arg", "stub-app-server"];
    says(&place.check_with("login", &flags), "ok", "not asked");
    says(&place.with("codex", CODEX).check("login"), "ok", "codex-cli 0.1.2");
}

#[test]
fn folders_and_tokens_are_looked_at() {
    let place = Place::new().with("codex", CODEX);
    fs::File::create(place.folder.path().join("file")).unwrap();
    says(&place.check_with("folders", &["--state-dir", "../file/state"]), "fail", "/file is no folder");
    says(&place.check_with("folders", &["--repo-root", "nowhere"]), "fail", "/repo/nowhere is no folder");
    says(&place.check_with("logs", &["--logs-dir", "../logs"]), "ok", "none yet");

    let token = place.folder.path().join("token");
    let flags = ["--token-file", token.to_str().unwrap()];
    says(&place.check_with("access", &flags), "ok", "will be made");
    fs::File::create(&token).unwrap().write_all(b"0123456789abcdefghijklmnopqrst\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    says(&place.check_with("access", &flags), "fail", "others may use it");
    says(&place.check_with("access", &["--allow-other-users"]), "warn", "every user of this host");
}

#[test]
fn an_external_app_server_is_reached() {
    let place = Place::new();
    let fake = Fake::start(|_| {});
    let check =
        |url: &str| place.check_with("codex", &["--server-strategy", "external", "--server-endpoint", url]);
    says(&check(&fake.url()), "ok", &format!("the app-server runs elsewhere ({})", fake.url()));
    let url = fake.url();
    drop(fake);
    let gone = check(&url);
    says(&gone, "fail", "cannot be reached");
    assert!(gone["todo"].as_str().unwrap().contains("connection refused"), "{gone}");
    let of_exec = ["--mode", "exec", "--server-strategy", "external", "--server-endpoint", &url];
    says(&place.check_with("codex", &of_exec), "ok", "the app-server runs elsewhere");
}

/// Answers one request so, whatever it is: where, and the thread.
fn stranger(answer: &'static [u8]) -> (String, std::thread::JoinHandle<()>) {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", stranger.local_addr().unwrap());
    let answering = std::thread::Builder::new().name("stranger".into()).spawn(move || {
        let (mut client, _) = stranger.accept().unwrap();
        // Read to its end, or closing would be a reset.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        client.write_all(answer).unwrap();
    });
    (base, answering.unwrap())
}

#[test]
fn the_port_may_be_a_strangers() {
    let place = Place::new().with("codex", CODEX);
    let (base, answering) = stranger(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let taken = place.check_with("port", &["--local-api-base", &base]);
    says(&taken, "fail", "is taken: what answers at");
    assert!(taken["what"].as_str().unwrap().ends_with(" is not codexd: its answer is no JSON"), "{taken}");
    answering.join().unwrap();
    // Its listener is closed now.
    says(&place.check_with("port", &["--local-api-base", &base]), "ok", "is free");
    // No token helps with the daemon of another user.
    let (base, answering) = stranger(
        b"HTTP/1.1 403 Forbidden\r\n\r\n{\"ok\":false,\"error\":\"forbidden_peer\",\"message\":\"Not you.\"}",
    );
    let closed = place.check_with("port", &["--local-api-base", &base]);
    says(&closed, "fail", "does not let us in: Not you.");
    assert_eq!(
        closed["todo"],
        "ask as the user whose daemon it is, or name another port with --local-api-base"
    );
    answering.join().unwrap();
}

/// The flags by which the doctor finds this daemon.
fn flags_of(daemon: &Daemon) -> Vec<String> {
    let parent = |path: PathBuf| path.parent().unwrap().parent().unwrap().to_str().unwrap().to_owned();
    [
        "--state-dir",
        &parent(daemon.state("x")),
        "--logs-dir",
        &parent(daemon.log("x")),
        "--local-api-base",
        daemon.base(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn a_daemon_that_runs_is_asked() {
    let place = Place::new().with("codex", CODEX);
    let token = place.folder.path().join("token");
    let token = ["--token-file", token.to_str().unwrap()];
    let daemon = Daemon::builder().flags(&token).flags(&["--restart", "never"]).start();
    let flags = flags_of(&daemon);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let with_token = [&flags[..], &token].concat();
    let pid = daemon.pid();
    says(&place.check_with("daemon", &with_token), "ok", &format!("pid {pid} is ready; its child: running"));
    says(&place.check_with("port", &with_token), "ok", "answered by the daemon of this state folder");
    let closed = place.check_with("port", &flags);
    says(&closed, "fail", "does not let us in");
    assert_eq!(closed["todo"], "name its token with --token-file");
    let wrong = place.folder.path().join("wrong");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&wrong).unwrap();
    file.write_all(b"0123456789abcdefghijklmnopqrst\n").unwrap();
    let with_wrong = [&flags[..], &["--token-file", wrong.to_str().unwrap()]].concat();
    let closed = place.check_with("port", &with_wrong);
    says(&closed, "fail", "does not let us in: The token is not the right one");
    let todo = format!("its token is not that of {}: name its own with --token-file", wrong.display());
    assert_eq!(closed["todo"], todo);
    let lines = place.doctor(&with_wrong).stdout;
    assert!(lines.contains(&format!("The token is not the right one; {todo}\n")), "{lines}");
    says(&place.check_with("daemon", &flags), "ok", &format!("pid {pid} runs"));
    says(&place.check_with("logs", &with_token), "ok", "events ");
    says(&place.check_with("orphans", &with_token), "ok", "none");
    let others = place.check("others");
    assert!(others["what"].as_str().unwrap().contains(&pid.to_string()), "{others}");
    let log = [&flags[..], &["--state-dir", "elsewhere"]].concat();
    let in_use = format!("another codexd (pid {pid}) uses {}", daemon.log("x").parent().unwrap().display());
    says(&place.check_with("folders", &flags), "ok", "logs in ");
    says(&place.check_with("folders", &log), "fail", &in_use);
    // For another state folder it is in the way.
    let elsewhere = [&with_token[..], &["--state-dir", "elsewhere"]].concat();
    says(&place.check_with("port", &elsewhere), "fail", "is taken by the codexd of ");

    let stream = crate::client::Stream::try_open(
        daemon.ws_url(),
        &[("authorization", &format!("Bearer {}", fs::read_to_string(token[1]).unwrap().trim()))],
    );
    let stream = stream.unwrap_or_else(|refusal| panic!("{}", refusal.text()));
    let child = daemon.descendants()[0].0;
    let child = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    stream.wait_for_type("child.exited");
    says(&place.check_with("daemon", &with_token), "fail", &format!("pid {pid} is not ready: "));
    stream.close();
}

#[test]
fn what_a_dead_daemon_left_is_found() {
    let place = Place::new().with("codex", CODEX);
    let mut left = Command::new("sleep").arg("300").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&left);
    let listed = codexd::os::look_up(pid).unwrap();
    let entry = |start: &str| {
        json!({ "processes": [{
            "pid": listed.pid, "startTime": start, "group": listed.pid, "purpose": "run", "owner": "run-x",
            "mark": "x", "createdAt": "", "daemon": { "pid": listed.pid, "startTime": "another" },
            "boot": codexd::os::boot(),
        }]})
    };
    let folder = place.folder.path().join("repo/state/codexd");
    fs::create_dir_all(&folder).unwrap();
    let write = |text: &str| {
        fs::File::create(folder.join("processes.json")).unwrap().write_all(text.as_bytes()).unwrap();
    };
    write(&entry(&listed.started).to_string());
    says(&place.check("orphans"), "warn", &format!("has left pid {} (run)", listed.pid));
    write(&entry("another start").to_string());
    says(&place.check("orphans"), "ok", "none");
    write("{");
    says(&place.check("orphans"), "warn", "no valid state");
    left.kill().unwrap();
    left.wait().unwrap();
}

#[test]
fn it_looks_with_the_eyes_of_the_service() {
    let place = Place::new().with("codex", CODEX);
    let service = |words: &[&str]| {
        let mut service = command(["service"]);
        service.args(words).env("PATH", place.bin()).env("HOME", place.home());
        service.current_dir(place.folder.path().join("repo"));
        assert!(service.output().unwrap().status.success(), "{words:?}");
    };
    service(&["install", "--local-api-base", "http://127.0.0.1:0", "--node-id", "n1"]);
    // From a shell with another PATH, in another folder.
    let elsewhere = |words: &[&str]| -> Ran {
        let mut doctor = command(["doctor"]);
        doctor.args(words).env("PATH", "/nowhere").env("HOME", place.home());
        doctor.output().unwrap().into()
    };
    let ran = elsewhere(&[]);
    let path = place.bin().join("codex");
    assert!(ran.stdout.contains(&format!("ok codex: codex-cli 0.1.2 at {}", path.display())), "{ran:?}");
    assert!(ran.stdout.contains("what follows is seen with its environment"), "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
    // A daemon of another place is not the service's.
    let other = elsewhere(&["--repo-root", "/tmp", "--local-api-base", "http://127.0.0.1:0"]);
    assert!(
        other.stdout.contains("ok service: ") && other.stdout.contains("which is for another place"),
        "{other:?}"
    );
    assert!(other.stdout.contains("fail codex: codex is not on PATH=/nowhere"), "{other:?}");

    let unit = codexd::cli::service::Manager::of_this_system().path(&place.home(), None);
    let text = fs::read_to_string(&unit).unwrap();
    let edit = |text: &str| fs::File::create(&unit).unwrap().write_all(text.as_bytes()).unwrap();
    edit(&text.replace(env!("CARGO_BIN_EXE_codexd"), "/nowhere/codexd"));
    assert!(elsewhere(&[]).stdout.contains("starts /nowhere/codexd, which is no program"));
    edit(&text.replace("127.0.0.1:0", "192.0.2.1:1"));
    assert!(elsewhere(&[]).stdout.contains("fail service: "), "settings of no use");
    edit("[Service]\n");
    assert!(elsewhere(&[]).stdout.contains("warn service: "), "somebody else's");
}

#[test]
fn the_real_codex_passes() {
    let codex = real_codex_or_skip!("the_real_codex_passes");
    let model = crate::model_server::ModelServer::start();
    let home = CodexHome::new(&model);
    let mut doctor = command(["doctor", "--json", "--local-api-base", "http://127.0.0.1:0"]);
    let repo = tempfile::tempdir().unwrap();
    doctor.arg("--server-command").arg(codex.wrapper()).current_dir(repo.path());
    doctor.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(home.env());
    let ran: Ran = doctor.output().unwrap().into();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let check =
        |name: &str| report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).cloned();
    says(&check("codex").unwrap(), "ok", "codex-cli ");
    says(&check("node").unwrap(), "ok", "v");
    says(&check("app-server").unwrap(), "ok", "it answers as baa-conductor-codexd/");
    says(&check("protocol").unwrap(), "ok", "; it has all that codexd needs");
    // Its home is a test's, with a model provider of its own and without a login.
    says(&check("login").unwrap(), "ok", "Not logged in, but ");
}

#[test]
fn what_a_codex_lacks_is_told() {
    let place = Place::new().with("codex", CODEX);
    says(&place.check("protocol"), "ok", "codex 0.1.2 was not tried (0.1");
    says(&place.check("app-server"), "ok", "it answers as baa-conductor-codexd/0.169.0 (codexd stub)");
    place.tells(|method| method != "turn/steer");
    let check = place.check("protocol");
    says(&check, "warn", "were); turn/steer is gone: a running turn cannot be steered");
    assert_eq!(check["todo"], "codexd needs codex 0.120 or newer: npm install -g @openai/codex@latest");
    place.tells(|method| method != "thread/start");
    says(&place.check("protocol"), "fail", "thread/start is gone: sessions and turns do not work");
    let old = CODEX.replace("exec /bin/cp", "echo unrecognized subcommand >&2; exit 2; exec /bin/cp");
    says(&place.with("codex", &old).check("protocol"), "warn", "it tells no schema: unrecognized subcommand");
}

#[test]
fn a_program_that_is_no_app_server_is_told() {
    let place = Place::new();
    let check = |script: &str| {
        let script =
            format!("#!/bin/sh\ncase $1 in --version) echo codex-cli 0.1.2; exit;; esac\n{script}\n");
        let place = Place::new().with("codex", &script);
        place.check("app-server")
    };
    says(&check("exit 0"), "fail", "has ended with code 0. It had answered nothing yet; it wrote nothing");
    says(&check("echo 'error: no such thing' >&2; exit 2"), "fail", "it wrote `error: no such thing`");
    says(&check("while read -r line; do echo \"$line\"; done"), "fail", "it sends back what it is sent");
    let refuses = place.doctor_with(
        &["--server-command", env!("CARGO_BIN_EXE_codexd"), "--server-arg", "stub-app-server"],
        &[("CODEXD_STUB", "refuse-initialize")],
    );
    assert!(
        refuses.stdout.contains("\nfail app-server: the app-server refused initialize (JSON-RPC"),
        "{refuses:?}"
    );
    let old = place.doctor_with(
        &["--server-command", env!("CARGO_BIN_EXE_codexd"), "--server-arg", "stub-app-server"],
        &[("CODEXD_STUB", "version=0.20.0,no-thread-start")],
    );
    assert!(old.stdout.contains("\nfail app-server: codex 0.20.0 does not know thread/start ("), "{old:?}");
    assert!(!old.stdout.contains("looks closer"), "{old:?}");
}
