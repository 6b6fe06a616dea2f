//! The README's sections on installing, operating and mending codexd: every command in them is run here, as it stands, with
//! stand-ins for the service managers and `sudo`, and placeholders filled in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::client::Client;
use crate::daemon::Daemon;
use crate::processes;

/// The `sh` blocks below a heading (`## …` or `### …`), up to the next one of its own or a higher level.
pub(crate) fn blocks(heading: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let level = heading.split(' ').next().unwrap().len();
    let mut lines = readme.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "the README has no {heading}");
    let mut found = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    for line in lines {
        let hashes = line.bytes().take_while(|&byte| byte == b'#').count();
        if block.is_none() && (1..=level).contains(&hashes) && line[hashes..].starts_with(' ') {
            break;
        }
        block = match (block, line) {
            (None, "```sh") => Some(Vec::new()),
            (Some(lines), "```") => {
                found.push(lines.join("\n"));
                None
            }
            (Some(mut lines), line) => {
                lines.push(line);
                Some(lines)
            }
            (None, _) => None,
        };
    }
    found
}

#[test]
fn a_section_ends_where_the_next_begins() {
    assert_eq!(blocks("### Disk use").len(), 1);
    assert!(blocks("## Operating it").len() >= 5);
    assert_eq!(blocks("### Under launchd").len(), 1);
}

/// A user's host: home, commands, a repository with logs and state of a daemon that runs.
pub(crate) struct Host {
    daemon: Daemon,
    /// What the stand-ins were called with.
    calls: PathBuf,
    bin: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host::with(&[])
    }

    fn with(flags: &[&str]) -> Host {
        let daemon = Daemon::builder().flags(flags).start();
        let folder = daemon.repo().parent().unwrap().to_owned();
        for name in ["bin", "home", "prefix", "target/release"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let host = Host { daemon, calls: folder.join("calls"), bin: folder.join("bin") };
        for name in ["systemctl", "launchctl", "loginctl", "journalctl"] {
            host.command(name, &format!("echo \"{name} $*\" >> '{}'", host.calls.display()));
        }
        host.command("sudo", "exec \"$@\"");
        let stub = env!("CARGO_BIN_EXE_codexd");
        let codex = format!("[ \"$1\" = app-server ] && exec '{stub}' stub-app-server\necho codex-cli 1.2.3");
        host.command("codex", &codex);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_codexd"), folder.join("target/release/codexd"))
            .unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_codexd"), host.bin.join("codexd")).unwrap();
        host
    }

    pub(crate) fn command(&self, name: &str, script: &str) {
        processes::write_program(&self.bin.join(name), &format!("#!/bin/sh\n{script}\n"));
    }

    /// The folder with repository, logs and state.
    pub(crate) fn folder(&self) -> &Path {
        self.bin.parent().unwrap()
    }

    /// Runs a block there; what it printed.
    fn run(&self, block: &str) -> String {
        self.run_in(block, self.folder())
    }

    fn run_in(&self, block: &str, cwd: &Path) -> String {
        let output = self.shell(block, cwd).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{said}");
        said.into_owned()
    }

    /// A shell that runs a block.
    pub(crate) fn shell(&self, block: &str, cwd: &Path) -> Command {
        let folder = self.folder().to_str().unwrap();
        let script = block
            .replace("/path/to/your/new/repository", &format!("{folder}/new"))
            .replace("/path/to/your/repository", &format!("{folder}/repo"))
            .replace("/path/to/backup", &format!("{folder}/backup"))
            .replace("/tmp/codexd-tour", &format!("{folder}/tour"))
            .replace("/usr/local", &format!("{folder}/prefix"))
            .replace("http://127.0.0.1:4319", self.daemon.base());
        assert!(!script.contains("/path/to"), "a placeholder is left: {script}");
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-euc", &script])
            .current_dir(cwd)
            .env_clear()
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("HOME", self.folder().join("home"))
            // Nothing is built here: the release binary of this make is the one that is tested.
            .env("CARGO", "true")
            .env("CARGO_TARGET_DIR", self.folder().join("target"))
            .env("PREFIX", self.folder().join("prefix"))
            .env("BAA_CODEXD_LOCAL_API_BASE", "http://127.0.0.1:0")
            .stdin(Stdio::null());
        command
    }

    /// What the stand-ins were called with since the last look.
    pub(crate) fn called(&self) -> String {
        let calls = fs::read_to_string(&self.calls).unwrap_or_default();
        let _ = fs::remove_file(&self.calls);
        calls
    }
}

#[test]
fn install() {
    let host = Host::new();
    let blocks = blocks("## Install");
    let [build, unpack, doctor] = blocks.as_slice() else { panic!("{blocks:?}") };
    host.run_in(build, Path::new(env!("CARGO_MANIFEST_DIR")));
    let installed = host.folder().join("prefix/bin/codexd");
    assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    fs::remove_file(&installed).unwrap();

    let dist =
        format!("sh '{}/ops/dist.sh' '{}' x .", env!("CARGO_MANIFEST_DIR"), host.bin.join("small").display());
    host.command("small", "echo codexd 1.2.3");
    host.run(&dist);
    host.run(unpack);
    assert_eq!(fs::read(&installed).unwrap(), fs::read(host.bin.join("small")).unwrap());
    assert!(host.run(doctor).contains("ok codex: codex-cli 1.2.3"));
}

#[test]
fn as_a_service() {
    let host = Host::new();
    let [systemd] = &blocks("### Under systemd")[..] else { panic!() };
    host.run(systemd);
    assert_eq!(
        host.called(),
        "systemctl --user daemon-reload\nsystemctl --user enable --now codexd.service\n"
    );
    let unit = fs::read_to_string(host.folder().join("home/.config/systemd/user/codexd.service")).unwrap();
    assert!(unit.contains(&format!("BAA_CODEXD_REPO_ROOT={}\"", host.daemon.repo().display())), "{unit}");
    let [launchd] = &blocks("### Under launchd")[..] else { panic!() };
    host.run(launchd);
    let plist = host.folder().join("home/Library/LaunchAgents/so.makefile.baa-codexd.plist");
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(host.called(), format!("launchctl bootstrap gui/{uid} {}\n", plist.display()));
    assert!(plist.is_file());
}

#[test]
fn operating_it() {
    let host = Host::new();
    let look = &blocks("## Operating it")[0];
    let said = host.run(look);
    assert!(said.contains("daemon=running") && said.contains("\"status\": \"ready\""), "{said}");

    let [upgrade] = &blocks("### Upgrade")[..] else { panic!() };
    host.run_in(upgrade, Path::new(env!("CARGO_MANIFEST_DIR")));
    let uid = rustix::process::getuid().as_raw();
    let expected = format!(
        "systemctl --user restart codexd.service\nlaunchctl kill SIGTERM gui/{uid}/so.makefile.baa-codexd\n"
    );
    assert_eq!(host.called(), expected);

    let [disk] = &blocks("### Disk use")[..] else { panic!() };
    assert!(!host.folder().join("logs/codexd/runs").exists(), "no run has written much");
    assert!(host.run(disk).contains("logs/codexd"));
    fs::create_dir_all(host.folder().join("logs/codexd/runs")).unwrap();
    fs::File::create(host.folder().join("logs/codexd/runs/new.stdout.log")).unwrap();
    let old = fs::File::create(host.folder().join("logs/codexd/runs/old.stdout.log")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(host.run(disk).contains("logs/codexd"));
    let left: Vec<_> = fs::read_dir(host.folder().join("logs/codexd/runs")).unwrap().collect();
    assert_eq!(left.len(), 1, "the old one is gone, the new one is not");
}

fn session(client: &Client) -> String {
    let made = client.post("/v1/codexd/sessions", &json!({}));
    made.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned()
}

/// A daemon on the backup.
fn copy_of(host: &Host, further: &[&str]) -> Daemon {
    let root = host.folder().join("backup");
    let (logs, state) = (root.join("logs"), root.join("state"));
    let flags = ["--logs-dir", logs.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    Daemon::builder().flags(&[&flags, further].concat()).start()
}

#[test]
fn a_backup_of_a_running_daemon_is_as_good_as_the_original() {
    let host = Host::new();
    let client = host.daemon.client();
    let first = session(&client);
    let [backup] = &blocks("### Back up")[..] else { panic!() };
    host.run(backup);
    let latest =
        |client: &Client| client.get("/v1/codexd/events?limit=1").json()["data"]["latestSeq"].clone();
    let seq = latest(&client).as_u64().unwrap();
    // The original goes on; the copy knows nothing of it.
    let later = session(&client);

    let copy = copy_of(&host, &[]);
    let client = copy.client();
    assert_eq!(client.get(&format!("/v1/codexd/sessions/{first}")).status, 200);
    assert_eq!(client.get(&format!("/v1/codexd/sessions/{later}")).status, 404);
    let id = |daemon: &Daemon| {
        let status = daemon.client().get("/v1/codexd/status").json();
        status["data"]["snapshot"]["identity"]["daemonId"].clone()
    };
    assert_eq!(id(&copy), id(&host.daemon));
    let page = client.get(&format!("/v1/codexd/events?after={seq}")).json();
    assert_eq!(page["data"]["events"][0]["seq"], seq + 1, "{page}");
}

#[test]
fn a_backup_taken_while_logs_begin_new_files_lacks_nothing() {
    let host = Host::with(&["--max-log-bytes", "20000", "--keep-segments", "0"]);
    let client = host.daemon.client();
    let before: Vec<String> = (0..60).map(|_| session(&client)).collect();
    let (begin, begins) = crossbeam_channel::bounded::<()>(0);
    let writing = std::thread::Builder::new().name("writer".into()).spawn(move || {
        // A new file every few milliseconds, and for a bounded time: nobody can copy what grows faster than that.
        while begins.recv().is_ok() {
            (0..300).for_each(|_| drop(session(&client)));
        }
    });
    let [backup] = &blocks("### Back up")[..] else { panic!() };
    for _ in 0..5 {
        begin.send(()).unwrap();
        host.run(backup);
    }
    drop(begin);
    writing.unwrap().join().unwrap();

    let copy = copy_of(&host, &["--keep-segments", "0"]);
    let client = copy.client();
    for session in before {
        assert_eq!(client.get(&format!("/v1/codexd/sessions/{session}")).status, 200, "{session}");
    }
    let mut next = 1;
    loop {
        let page = client.get(&format!("/v1/codexd/events?limit=10000&after={}", next - 1)).json();
        assert!(page["data"]["gap"].is_null(), "{}", page["data"]["gap"]);
        for event in page["data"]["events"].as_array().unwrap() {
            assert_eq!(event["seq"], next);
            next += 1;
        }
        if page["data"]["more"] == false {
            break;
        }
    }
    let mut segments = 0;
    for entry in fs::read_dir(host.folder().join("backup/logs/codexd")).unwrap() {
        segments += usize::from(entry.unwrap().file_name().to_string_lossy().starts_with("events."));
    }
    assert!(segments > 3, "there was something to go wrong");
}

#[test]
fn moving_it() {
    let mut host = Host::new();
    // As the service's repository is this folder, its logs and state are in it.
    host.run("codexd service install");
    host.called();
    fs::create_dir(host.folder().join("new")).unwrap();
    // What the systemctl of a reader does.
    host.daemon.stop();
    let [moving] = &blocks("### Move")[..] else { panic!() };
    let said = host.run(moving);
    assert_eq!(host.called(), "systemctl --user stop codexd.service\n");
    assert!(said.contains("removed ") && said.contains("wrote "), "{said}");
    let new = host.folder().join("new");
    assert!(
        new.join("logs/codexd/events.jsonl").is_file() && new.join("state/codexd/identity.json").is_file()
    );
}

#[test]
fn when_something_is_wrong() {
    let host = Host::new();
    fs::File::options().append(true).create(true).open(host.folder().join("logs/codexd/stderr.log")).unwrap();
    let [look] = &blocks("## When something is wrong")[..] else { panic!() };
    let said = host.run(look);
    assert!(said.contains("ok codex: ") && said.contains("\"daemon.started\""), "{said}");
    assert_eq!(host.called(), "journalctl --user -u codexd -n 50 --no-pager\n");
}
