//! The commands of README.md, run as a reader would run them.
//!
//! What stands between `<!-- tested -->` and `<!-- /tested -->` (each on a line of its own) is one shell session: its
//! blocks fenced as `sh` go to one bash in their order, in an empty folder that is also its home, with `codexd` in the
//! PATH and a daemon with the built-in stand-in beside it. Every command must succeed. Two things more:
//!
//! - a block fenced as `sh ctrl-c` holds one command that does not end by itself: it must write something once
//!   something happens, and is then interrupted as by Ctrl-C;
//! - a line `<!-- first: COMMAND -->` is run as well, for what the reader has done elsewhere.
//!
//! What differs from a reader's machine is put into the text first: see [`Place::fit`].

use std::fs::File;
use std::process::Command;

use tempfile::TempDir;

use crate::DEADLINE;
use crate::daemon::Daemon;
use crate::processes::Process;
use crate::skipped::skipped;

/// A part of a tested region.
#[derive(Debug, PartialEq)]
enum Part {
    /// Commands that end by themselves.
    Commands(String),
    /// One that ends by Ctrl-C.
    Endless(String),
}

/// A tested region: the heading it stands under, and what is run.
#[derive(Debug)]
struct Region {
    heading: String,
    parts: Vec<Part>,
}

/// The tested regions of a text; an error names what is wrong with its marks.
fn regions(text: &str) -> Result<Vec<Region>, String> {
    let (mut done, mut open): (Vec<Region>, Option<Region>) = (Vec::new(), None);
    let mut heading = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        }
        let fence = line.strip_prefix("```").filter(|info| !info.is_empty());
        match (line, &mut open) {
            ("<!-- tested -->", None) => open = Some(Region { heading: heading.into(), parts: Vec::new() }),
            ("<!-- tested -->", Some(_)) => return Err(format!("tested within tested, under {heading}")),
            ("<!-- /tested -->", _) => {
                let region = open.take().ok_or(format!("/tested without tested, under {heading}"))?;
                if region.parts.is_empty() {
                    return Err(format!("nothing is tested under {}", region.heading));
                }
                done.push(region);
            }
            (line, Some(region)) if line.starts_with("<!-- first: ") => {
                let command = line.trim_start_matches("<!-- first: ").strip_suffix(" -->");
                region.parts.push(Part::Commands(format!("{}\n", command.ok_or("first is open")?)));
            }
            _ => {}
        }
        if let Some(info) = fence {
            let block: String = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .fold(String::new(), |block, line| block + line + "\n");
            match (info, &mut open) {
                ("sh", Some(region)) => region.parts.push(Part::Commands(block)),
                ("sh ctrl-c", Some(region)) => region.parts.push(Part::Endless(block)),
                _ => {}
            }
        }
    }
    match open {
        None => Ok(done),
        Some(region) => Err(format!("tested is open under {}", region.heading)),
    }
}

/// The program of one bash. An endless command is a job of its own, as at a terminal: in its own process group, and
/// with Ctrl-C not ignored.
fn script(parts: &[Part]) -> String {
    let mut script = "set -eu; api=$BAA_CODEXD_LOCAL_API_BASE; PS4='$ '; set -x\n".to_owned();
    for part in parts {
        match part {
            Part::Commands(block) => script.push_str(block),
            Part::Endless(block) => script.push_str(&format!(
                "set -m +x; : > endless.out\n{{ {}\n}} > endless.out & job=$!; set +m\n\
                 until test -s endless.out || ! kill -0 $job; do\n\
                 curl -s $api/v1/codexd/sessions -H 'content-type: application/json' -d '{{}}' > /dev/null; sleep 0.05\n\
                 done\n\
                 kill -INT -- -$job; code=0; wait $job || code=$?\n\
                 if test $code -ne 0 && test $code -ne 130; then echo \"exit code $code after Ctrl-C\"; exit 1; fi\n\
                 set -x\n",
                block.trim_end()
            )),
        }
    }
    script
}

/// A reader's machine: a home, and a daemon.
struct Place {
    daemon: Daemon,
    home: TempDir,
}

impl Place {
    fn new() -> Place {
        let home = tempfile::Builder::new().prefix("readme-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Place { daemon: Daemon::builder().start(), home: home.unwrap() }
    }

    /// The reader's text with this machine's port, folders and program in it.
    fn fit(&self, text: &str) -> String {
        text.replace("http://127.0.0.1:4319", self.daemon.base())
            .replace("/tmp/codexd-tour", &self.home.path().to_string_lossy())
            .replace("/path/to/your/repository", &self.daemon.repo().to_string_lossy())
            .replace("target/release/codexd", "codexd")
    }

    /// Runs it to its end; what it wrote, as an error if a command failed.
    fn run(&self, parts: &[Part]) -> Result<String, String> {
        let log = self.home.path().join("session.log");
        let file = File::create(&log).unwrap();
        let programs = std::path::Path::new(env!("CARGO_BIN_EXE_codexd")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", &self.fit(&script(parts))])
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", self.home.path())
            .env("BAA_CODEXD_LOCAL_API_BASE", self.daemon.base())
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut process = Process::spawn(&mut command);
        let status = process.wait(4 * DEADLINE);
        process.sweep();
        let output = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        match status {
            Some(status) if status.success() => Ok(output),
            Some(status) => Err(format!("{status}\n{output}")),
            None => Err(format!("it does not end\n{output}")),
        }
    }
}

/// The blocks outside the regions, by heading and number, and what runs them.
const ELSEWHERE: &[(&str, usize, &str)] = &[
    ("The two commands", 1, ".ci/run"),
    ("Install", 3, "readme_operation.rs"),
    ("A tour in five minutes", 1, "readme_start.rs"),
    ("With the real Codex", 1, "readme_start.rs"),
    ("With an app-server that runs elsewhere", 2, "readme_start.rs"),
    ("Under systemd", 1, "readme_operation.rs"),
    ("Under launchd", 1, "readme_operation.rs"),
    ("Operating it", 1, "readme_operation.rs"),
    ("Upgrade", 1, "readme_operation.rs"),
    ("Back up", 1, "readme_operation.rs"),
    ("Move", 1, "readme_operation.rs"),
    ("Disk use", 1, "readme_operation.rs"),
    ("When something is wrong", 1, "readme_operation.rs"),
];

/// Headings and numbers of their blocks that stand in no tested region.
fn untested(text: &str) -> Vec<(&str, usize)> {
    let (mut found, mut heading, mut inside): (Vec<(&str, usize)>, &str, bool) = (Vec::new(), "", false);
    for line in text.lines() {
        match line {
            "<!-- tested -->" => inside = true,
            "<!-- /tested -->" => inside = false,
            "```sh" if !inside => match found.last_mut() {
                Some((last, blocks)) if *last == heading => *blocks += 1,
                _ => found.push((heading, 1)),
            },
            _ if line.starts_with("## ") || line.starts_with("### ") => {
                heading = line.trim_start_matches('#').trim();
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_block_is_run_by_some_test() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let elsewhere: Vec<(&str, usize)> =
        ELSEWHERE.iter().map(|(heading, blocks, _)| (*heading, *blocks)).collect();
    assert_eq!(untested(&readme), elsewhere);
}

/// Whether this machine has what the commands are run with.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped("the commands of README.md", &format!("{program} is not installed"));
    }
    found
}

#[test]
fn every_command_of_a_tested_region_works() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let regions = regions(&std::fs::read_to_string(readme).unwrap()).unwrap();
    assert!(!regions.is_empty(), "README.md has no tested region");
    if !has("bash") || !has("curl") {
        return;
    }
    for Region { heading, parts } in &regions {
        if let Err(problem) = Place::new().run(parts) {
            panic!("README.md, under {heading}: {problem}");
        }
    }
}

#[test]
fn a_command_that_does_not_work_is_found() {
    if !has("bash") || !has("curl") {
        return;
    }
    let place = Place::new();
    let commands = |text: &str| Part::Commands(format!("{text}\n"));
    let endless = |text: &str| Part::Endless(format!("{text}\n"));
    for wrong in [
        &[commands("codexd --no-such-flag"), commands("true")][..],
        &[commands("curl -sf http://127.0.0.1:4319/nothing")],
        &[endless("exit 3")],
    ] {
        assert!(place.run(wrong).is_err(), "{wrong:?}");
    }
    let right = [
        commands("seen=1"),
        endless("curl -sN $api/v1/codexd/events?after=0 -H 'accept: text/event-stream'"),
    ];
    place.run(&right).unwrap();
}

#[test]
fn regions_are_read_and_faulty_marks_are_found() {
    let text = "# A\n```sh\nno\n```\n## B\n<!-- tested -->\n<!-- first: cd / -->\n```sh\n# comment\nyes\n```\n\
                ```json\nno\n```\n```sh ctrl-c\nlong\n```\n<!-- /tested -->\n";
    let found = regions(text).unwrap();
    assert_eq!((found.len(), found[0].heading.as_str()), (1, "B"));
    let (first, block) = (Part::Commands("cd /\n".into()), Part::Commands("# comment\nyes\n".into()));
    assert_eq!(found[0].parts, [first, block, Part::Endless("long\n".into())]);
    for wrong in ["<!-- tested -->", "<!-- /tested -->", "<!-- tested -->\n<!-- /tested -->"] {
        assert!(regions(wrong).is_err(), "{wrong}");
    }
}
