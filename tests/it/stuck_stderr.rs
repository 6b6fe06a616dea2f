//! A standard error or output that nobody reads, as a pipe to a program that hangs or a terminal that somebody stopped,
//! costs lines and nothing else.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use crate::DEADLINE;
use crate::conversation::until;
use crate::daemon::{Builder, Daemon};
use crate::processes::{Process, write_program};

/// More than may wait to be told and to be written together.
const WARNINGS: usize = 1000;

/// A pipe with no room left, which stays so for as long as it is kept.
fn full_pipe(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    // For both directions: it needs nobody at the other end.
    let mut pipe =
        File::from(rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap());
    loop {
        match pipe.write(&[b'.'; 4096]).or_else(|_| pipe.write(b".")) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return pipe,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A daemon whose standard error is such a pipe, and whose child writes what is worth a warning each and then does that `last`.
fn unread(last: &str) -> (Builder, File, tempfile::TempDir) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (fifo, program) = (folder.path().join("stderr"), folder.path().join("codexd"));
    let pipe = full_pipe(&fifo);
    let codexd = env!("CARGO_BIN_EXE_codexd");
    write_program(&program, &format!("#!/bin/sh\nexec '{codexd}' \"$@\" 2<>'{}'\n", fifo.display()));
    let junk = format!("i=0; while [ $i -lt {WARNINGS} ]; do echo junk $i; i=$((i + 1)); done; {last}");
    let daemon = Daemon::builder().program(program).server("/bin/sh", &["-c", &junk]);
    (daemon, pipe, folder)
}

#[test]
fn a_standard_error_that_nobody_reads_holds_nothing_up() {
    let (builder, _pipe, _folder) = unread("exec sleep 600");
    let mut daemon = builder.start();
    let last = format!("junk {}", WARNINGS - 1);
    // From here on they are in the log, and there are as many as there will be.
    until("the last warning", DEADLINE, || {
        daemon.log_events().last()?["message"].as_str()?.ends_with(&last).then_some(())
    });
    assert_eq!(daemon.client().get("/healthz").status, 200);
    let ended = daemon.stop();
    assert!(ended.status.success(), "{ended:?}");
    let unreadable = daemon.log_events();
    let unreadable =
        unreadable.iter().filter(|event| event["type"] == "app-server.message.unreadable").count();
    assert_eq!(unreadable, WARNINGS);
}

#[test]
fn a_second_signal_ends_it_even_then() {
    let (builder, _pipe, _folder) = unread("trap '' TERM; exec sleep 600");
    let mut daemon = builder.flags(&["--stop-timeout-ms", "600000"]).start();
    let client = daemon.client();
    daemon.signal(Signal::INT);
    // Of two at once, nobody knows which is seen first.
    until("the stop", DEADLINE, || {
        (client.get("/readyz").json()["checks"]["work"]["ok"] == false).then_some(())
    });
    daemon.signal(Signal::TERM);
    let ended = daemon.wait();
    assert_eq!(ended.status.code(), Some(143), "{ended:?}");
}

#[test]
fn a_standard_output_that_nobody_reads_keeps_no_signal_from_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let fifo = folder.path().join("stdout");
    let _pipe = full_pipe(&fifo);
    for format in [&[][..], &["--json"]] {
        let root = tempfile::tempdir_in(folder.path()).unwrap();
        let log = root.path().join("logs/codexd/events.jsonl");
        let mut codexd = Command::new(env!("CARGO_BIN_EXE_codexd"));
        codexd.arg("start").args(format).arg("--repo-root").arg(root.path());
        codexd.args([
            "--local-api-base",
            "http://127.0.0.1:0",
            "--server-command",
            "sleep",
            "--server-arg",
            "600",
        ]);
        // Opened anew, for the pipe's other end is one that does not wait.
        let stdout = File::options().write(true).open(&fifo).unwrap();
        let mut codexd = Process::spawn(codexd.stdout(stdout).stderr(Stdio::null()));
        let started =
            || std::fs::read_to_string(&log).is_ok_and(|events| events.contains("\"daemon.started\""));
        until("the start", DEADLINE, || started().then_some(()));
        codexd.signal(Signal::TERM);
        let ended = codexd.wait(DEADLINE).expect("it stops");
        assert!(ended.success(), "{ended:?}");
        assert!(std::fs::read_to_string(&log).unwrap().contains("\"daemon.stopped\""));
    }
}
