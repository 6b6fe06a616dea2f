//! `codexd service`: what it renders, for both managers, held against golden files, against the managers' own rules, and
//! against what codexd makes of it again; what it writes and removes, and what it leaves alone.
//!
//! `CODEXD_BLESS=1 cargo test --test it service` writes the golden files anew.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codexd::cli::config_of;
use codexd::cli::service::{Manager, Plan};

use crate::cli_support::{Ran, command};
use crate::skipped::skipped;

/// What no shell, unit or XML file takes as it is.
const AWKWARD: &str = "/srv/a b/100% \"q\" 'r' \\s $HOME <&> ä";

fn plain() -> Plan {
    Plan {
        program: "/usr/local/bin/codexd".to_owned(),
        home: "/home/u".to_owned(),
        repo_root: "/srv/app".to_owned(),
        logs_root: "/srv/app/logs".into(),
        path: "/home/u/.nvm/bin:/usr/bin:/bin".to_owned(),
        variables: vec![("BAA_CODEXD_REPO_ROOT".to_owned(), "/srv/app".to_owned())],
        stop_seconds: 35,
    }
}

fn awkward() -> Plan {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Plan {
        // systemd starts no program with quotes or backslashes in its path.
        program: "/srv/a b/100% $HOME ä/codexd".to_owned(),
        home: format!("{AWKWARD}/home"),
        repo_root: AWKWARD.to_owned(),
        logs_root: Path::new(AWKWARD).join("other logs"),
        path: format!("{AWKWARD}/bin:/bin"),
        variables: vec![
            variable("BAA_CODEXD_REPO_ROOT", AWKWARD),
            variable("BAA_CODEXD_LOGS_DIR", &format!("{AWKWARD}/other logs")),
            variable("BAA_CODEXD_SERVER_ARGS", r#"["app-server","-c","a=\"b c\""]"#),
            variable("BAA_CODEXD_TOKEN_FILE", &format!("{AWKWARD}/token")),
            variable("CODEX_HOME", &format!("{AWKWARD}/.codex")),
        ],
        stop_seconds: 100,
    }
}

fn extension(manager: Manager) -> &'static str {
    match manager {
        Manager::Launchd => "plist",
        Manager::Systemd => "service",
    }
}

/// Every rendering there is a golden file of.
fn renderings() -> Vec<(String, Manager, Plan, String)> {
    let mut all = Vec::new();
    for (name, plan) in [("plain", plain()), ("awkward", awkward())] {
        for manager in Manager::ALL {
            let unit = manager.render(&plan).unwrap();
            all.push((format!("{name}.{}", extension(manager)), manager, plan.clone(), unit));
        }
    }
    all
}

#[test]
fn both_units_are_the_golden_ones() {
    for (name, _, _, unit) in renderings() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/service").join(&name);
        if std::env::var_os("CODEXD_BLESS").is_some_and(|value| value == "1") {
            #[expect(clippy::disallowed_methods, reason = "a file of the repository, on request")]
            fs::write(&path, &unit).unwrap();
        }
        assert_eq!(unit, fs::read_to_string(&path).unwrap(), "{name}; CODEXD_BLESS=1 writes it anew");
        assert!(!unit.contains("__"), "{name}: a placeholder is left");
    }
}

#[test]
fn what_a_unit_says_is_read_back_as_it_was_meant() {
    for (name, manager, plan, unit) in renderings() {
        let variables = manager.variables(&unit);
        let value = |name: &str| {
            let mut all = variables.iter().filter(|(known, _)| known == name);
            let one = all.next().map(|(_, value)| value.clone());
            assert!(all.next().is_none(), "{name} stands there twice");
            one
        };
        assert_eq!(value("PATH").as_ref(), Some(&plan.path), "{name}");
        for (variable, meant) in &plan.variables {
            assert_eq!(value(variable).as_ref(), Some(meant), "{name}: {variable}");
        }
        // codexd started with them works for the same repository.
        let env = |name: &str| value(name).map(Into::into);
        let config = config_of(&["start"], &env, Path::new("/nowhere")).unwrap().unwrap();
        assert_eq!(config.paths.repo_root, Path::new(&plan.repo_root), "{name}");
        assert_eq!(config.paths.logs_root, plan.logs_root, "{name}");
    }
}

#[test]
fn a_value_that_no_unit_can_hold_is_refused() {
    for manager in Manager::ALL {
        let mut plan = plain();
        plan.variables.push(("BAA_NODE_ID".to_owned(), "a\nExecStart=/bin/evil".to_owned()));
        let refusal = manager.render(&plan).unwrap_err();
        assert!(refusal.contains("control character"), "{refusal}");
    }
    let plan = Plan { program: format!("{AWKWARD}/codexd"), ..plain() };
    let refusal = Manager::Systemd.render(&plan).unwrap_err();
    assert!(refusal.contains("quotes or backslashes"), "{refusal}");
    assert!(Manager::Launchd.render(&plan).is_ok());
}

/// The unit with a program that exists, because that is checked too.
fn verify(unit: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("codexd.service");
    #[expect(clippy::disallowed_methods, reason = "a file for another program")]
    fs::write(&path, unit).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "verify"]).arg(&path).stdin(Stdio::null());
    verify.env("XDG_RUNTIME_DIR", folder.path()).env("HOME", folder.path());
    let output = verify.output().ok()?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn systemd_has_nothing_to_say_of_the_unit() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("a b 100% $HOME ä");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("codexd");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_codexd"), &program).unwrap();
    let plan = Plan { program: program.to_str().unwrap().to_owned(), ..awkward() };
    let unit = Manager::Systemd.render(&plan).unwrap();
    let Some(said) = verify(&unit) else {
        return skipped(
            "systemd_has_nothing_to_say_of_the_unit",
            "no systemd-analyze; Debian has it in systemd",
        );
    };
    // What it says of the host's own units is not ours.
    let said: Vec<&str> = said.lines().filter(|line| line.contains("codexd")).collect();
    assert!(said.is_empty(), "{said:?}");
    // It looks at all: a wrong key and a program that is not there are found.
    let wrong = verify(&unit.replace("KillMode=", "KilMode=")).unwrap();
    assert!(wrong.contains("KilMode"), "{wrong}");
    let missing =
        verify(&Manager::Systemd.render(&plain()).unwrap().replace("/usr/local/bin/codexd", "/nowhere/x"));
    assert!(missing.unwrap().contains("/nowhere/x"));
}

#[test]
fn a_reader_of_property_lists_finds_what_was_meant() {
    const READ: &str =
        "import json, plistlib, sys; json.dump(plistlib.loads(sys.stdin.buffer.read()), sys.stdout)";
    for (name, manager, plan, unit) in renderings() {
        if manager != Manager::Launchd {
            continue;
        }
        let python = Command::new("python3")
            .args(["-c", READ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut python) = python else {
            return skipped("a_reader_of_property_lists_finds_what_was_meant", "no python3");
        };
        python.stdin.take().unwrap().write_all(unit.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} is no property list: {complaint}");
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(list["Label"], "so.makefile.baa-codexd");
        assert_eq!(list["ProgramArguments"], serde_json::json!([plan.program, "start"]));
        assert_eq!((&list["RunAtLoad"], &list["KeepAlive"]), (&true.into(), &true.into()));
        assert_eq!(list["ExitTimeOut"], plan.stop_seconds);
        assert_eq!(list["WorkingDirectory"], plan.repo_root.as_str());
        let log = plan.logs_root.join("launchd/so.makefile.baa-codexd.out.log");
        assert_eq!(list["StandardOutPath"], log.to_str().unwrap());
        let variables = list["EnvironmentVariables"].as_object().unwrap();
        assert_eq!(variables["HOME"], plan.home.as_str());
        for (variable, value) in manager.variables(&unit) {
            assert_eq!(variables[&variable], value.as_str(), "{name}: {variable}");
        }
    }
}

/// A user with a home, a repository and a PATH.
struct User {
    folder: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "repo", "bin"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        User { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn service(&self, words: &[&str]) -> Ran {
        let mut command = command(["service"]);
        command.args(words).env("HOME", self.path("home")).env("PATH", self.path("bin"));
        command.current_dir(self.path("repo")).output().unwrap().into()
    }

    fn unit(&self, manager: Manager) -> PathBuf {
        manager.path(&self.path("home"), None)
    }
}

#[test]
fn install_and_uninstall_are_each_others_inverse_and_can_be_repeated() {
    for (manager, flag) in [(Manager::Systemd, "--systemd"), (Manager::Launchd, "--launchd")] {
        let user = User::new();
        let unit = user.unit(manager);
        let printed = user.service(&["print", flag]);
        assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
        assert!(!unit.exists(), "print writes nothing");

        let installed = user.service(&["install", flag]);
        assert_eq!(installed.code, 0, "{installed:?}");
        assert!(installed.stdout.starts_with(&format!("wrote {}\nnow: ", unit.display())), "{installed:?}");
        assert_eq!(fs::read_to_string(&unit).unwrap(), printed.stdout);
        assert_eq!(fs::metadata(&unit).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(user.path("repo/logs/launchd").is_dir(), manager == Manager::Launchd);

        let again = user.service(&["install", flag]);
        assert_eq!(again.stdout, format!("nothing changed: {} is as it should be\n", unit.display()));
        let other = user.service(&["install", flag, "--node-id", "other"]);
        assert!(other.stdout.starts_with(&format!("replaced {}\nnow: ", unit.display())), "{other:?}");
        let variables = manager.variables(&fs::read_to_string(&unit).unwrap());
        assert!(variables.contains(&("BAA_NODE_ID".to_owned(), "other".to_owned())), "{variables:?}");
        let repo = user.path("repo").to_str().unwrap().to_owned();
        assert!(variables.contains(&("BAA_CODEXD_REPO_ROOT".to_owned(), repo)), "{variables:?}");
        let path = &variables.iter().find(|(name, _)| name == "PATH").unwrap().1;
        assert!(path.starts_with(&format!("{}:/opt/homebrew/bin:", user.path("bin").display())), "{path}");

        let removed = user.service(&["uninstall", flag]);
        assert!(removed.stdout.starts_with(&format!("removed {}\nnow: ", unit.display())), "{removed:?}");
        assert!(!unit.exists());
        assert_eq!(fs::read_dir(unit.parent().unwrap()).unwrap().count(), 0, "nothing is left beside it");
        let again = user.service(&["uninstall", flag]);
        assert_eq!(
            (again.code, again.stdout),
            (0, format!("nothing changed: there is no {}\n", unit.display()))
        );
    }
}

#[test]
fn a_unit_of_somebody_else_is_left_alone() {
    let user = User::new();
    let unit = user.unit(Manager::Systemd);
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a file of somebody else")]
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    for verb in ["install", "uninstall"] {
        let ran = user.service(&[verb, "--systemd"]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains("was not written by `codexd service install`"), "{ran:?}");
    }
    assert_eq!(fs::read_to_string(&unit).unwrap(), "[Service]\nExecStart=/bin/true\n");
}

#[test]
fn uninstall_takes_away_what_enabling_made() {
    let user = User::new();
    user.service(&["install", "--systemd"]);
    let unit = user.unit(Manager::Systemd);
    let wants = unit.parent().unwrap().join("default.target.wants");
    fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink(&unit, wants.join("codexd.service")).unwrap();
    assert_eq!(user.service(&["uninstall", "--systemd"]).code, 0);
    assert!(fs::symlink_metadata(wants.join("codexd.service")).is_err());
}

#[test]
fn wrong_words_are_named() {
    let user = User::new();
    fs::create_dir(user.path("repo").join("a\u{7}b")).unwrap();
    for (words, code, message) in [
        (&["instal"][..], 2, "codexd: service takes install|uninstall|print, not \"instal\""),
        (&["print", "--launchd", "--systemd"], 2, "are two services: name one"),
        (&["print", "--mode", "x"], 2, "--mode must be"),
        (&["install", "--systemd", "--server-cwd", "a\u{7}b"], 1, "control character"),
    ] {
        let ran = user.service(words);
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert!(ran.stderr.contains(message), "{words:?}: {ran:?}");
    }
    assert!(!user.unit(Manager::Systemd).exists());
    let outside = command(["status", "--systemd"]).output().unwrap();
    assert!(String::from_utf8_lossy(&outside.stderr).contains("--systemd is for codexd service only"));
}
