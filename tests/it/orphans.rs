//! Whatever way the daemon ends, what it started is gone: at once when it can act, at its next start when it could not.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::conversation::{
    child, fake_codex, full_access, kill, on_script, on_stub, rounds, run, session, talk, turn, until,
};
use crate::daemon::{Builder, Daemon};
use crate::model_server::ModelServer;
use crate::processes::{Process, write_program};
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};
use crate::skipped::skipped;

/// How long what was left may still be there after the stop, or after the next start.
const GONE_WITHIN: Duration = Duration::from_secs(2);

fn pid(number: &Value) -> Pid {
    Pid::from_raw(i32::try_from(number.as_i64().expect("a pid")).unwrap()).unwrap()
}

fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "MEASURED {line}");
}

/// Waits until the child has written to its stderr, which may have been before anybody could listen.
fn ready(daemon: &Daemon) {
    let written = || daemon.log_events().iter().any(|event| event["type"] == "child.stderr");
    until("a line of the child", DEADLINE, || written().then_some(()));
}

/// What the ledger names.
fn on_record(daemon: &Daemon) -> Vec<Value> {
    daemon.state_json("processes.json")["processes"].as_array().unwrap().clone()
}

#[test]
fn the_child_is_on_record_while_it_lives() {
    let mut daemon = Daemon::builder().start();
    let child = child(&daemon.client());
    let record = on_record(&daemon);
    assert_eq!(record.len(), 1);
    assert_eq!((&record[0]["pid"], &record[0]["group"]), (&child["pid"], &child["pid"]));
    assert_eq!((&record[0]["purpose"], &record[0]["owner"]), (&json!("app-server"), &json!("generation-1")));
    assert_eq!(record[0]["daemon"]["pid"], daemon.pid());
    assert!(record[0]["startTime"].as_str().is_some_and(|time| !time.is_empty()));
    daemon.stop();
    assert!(on_record(&daemon).is_empty());
}

/// A process that hides: in a session of its own, without parent and environment. It is found by its arguments, and
/// killed when the test is over.
struct Hidden {
    seconds: String,
}

impl Hidden {
    fn new() -> Hidden {
        Hidden { seconds: format!("600.{:09}", uuid::Uuid::new_v4().as_u128() % 1_000_000_000) }
    }

    /// Starts it, in sh.
    fn script(&self) -> String {
        format!("setsid env -i sleep {} &", self.seconds)
    }

    /// A child that leaves as much behind as it can: in its group, in sessions of their own, orphaned, hidden. It does
    /// not end by SIGTERM.
    fn litters(&self) -> String {
        let hides = self.script();
        format!(
            "trap '' TERM; {hides} sleep 601 & setsid sleep 602 & (setsid sh -c 'sleep 604 & exec sleep 605' &); \
             echo ready >&2; while :; do sleep 1; done"
        )
    }

    fn pids(&self) -> Vec<Pid> {
        codexd::os::list()
            .iter()
            .filter(|process| {
                let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
                line == format!("sleep\0{}\0", self.seconds).as_bytes()
            })
            .filter_map(|process| Pid::from_raw(process.pid))
            .collect()
    }

    fn is_there(&self) -> bool {
        !self.pids().is_empty()
    }

    fn wait(&self) {
        until("what hides", DEADLINE, || self.is_there().then_some(()));
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_stop_leaves_nothing_of_a_child_that_litters() {
    for _ in 0..rounds(3, 20) {
        let hidden = Hidden::new();
        let mut daemon = on_script(&hidden.litters(), &["--stop-timeout-ms", "100"]).start();
        ready(&daemon);
        hidden.wait();
        // Fails the test when anything else is left.
        assert_eq!(daemon.stop().status.code(), Some(0));
        assert!(!hidden.is_there());
    }
}

/// Two SIGTERMs, the second while the child is being waited for: the port is still open then.
fn stop_cut_short(daemon: &mut Daemon) {
    daemon.signal(Signal::TERM);
    until("the stop", DEADLINE, || {
        (daemon.client().get("/readyz").json()["checks"]["work"]["ok"] == false).then_some(())
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().status.code(), Some(143));
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_second_sigterm_leaves_nothing_of_a_child_that_litters() {
    let hidden = Hidden::new();
    let mut daemon = on_script(&hidden.litters(), &["--stop-timeout-ms", "600000"]).start();
    ready(&daemon);
    stop_cut_short(&mut daemon);
    let gone = || (!hidden.is_there()).then_some(());
    until("the end of what hides", GONE_WITHIN, gone);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_second_sigterm_leaves_nothing_of_what_forks_while_it_is_killed() {
    let forks = "n=0; while [ $n -lt 3000 ]; do sleep 606 & n=$((n + 1)); done";
    let child = format!("trap '' TERM; setsid sh -c '{forks}' & echo ready >&2; while :; do sleep 1; done");
    let mut daemon = on_script(&child, &["--stop-timeout-ms", "600000"]).start();
    ready(&daemon);
    stop_cut_short(&mut daemon);
}

/// codexd, started by this script.
fn entrypoint(folder: &tempfile::TempDir, script: &str) -> std::path::PathBuf {
    let path = folder.path().join("entrypoint");
    let program = env!("CARGO_BIN_EXE_codexd");
    write_program(
        &path,
        &format!("#!/bin/sh\n{}\n", script.replace("CODEXD", &format!("'{program}' \"$@\""))),
    );
    path
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn what_an_entrypoint_has_left_before_it_became_the_daemon_is_let_alone() {
    let (hidden, folder) = (Hidden::new(), tempfile::tempdir().unwrap());
    let before = hidden.script().replace('&', "<&- >&- 2>&- &");
    let program = entrypoint(&folder, &format!("{before}\nexec CODEXD"));
    let mut daemon =
        on_script("trap '' TERM; echo ready >&2; while :; do sleep 1; done", &["--stop-timeout-ms", "50"])
            .program(program)
            .start();
    hidden.wait();
    let first = hidden.pids();
    ready(&daemon);
    let stream = daemon.stream();
    kill(&child(&daemon.client())["pid"]);
    stream.wait_for_type("child.restarted");
    daemon.stop();
    // And when the stop is cut short.
    let mut daemon = daemon.again().flags(&["--stop-timeout-ms", "600000"]).start();
    until("another", DEADLINE, || (hidden.pids().len() == 2).then_some(()));
    ready(&daemon);
    stop_cut_short(&mut daemon);
    assert!(first.iter().all(|pid| hidden.pids().contains(pid)) && hidden.pids().len() == 2);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "there is unshare(1) on Linux only")]
fn as_process_1_a_daemon_lets_what_others_have_left_alone() {
    let apart = ["-pf", "--mount-proc", "--kill-child"];
    let can = std::process::Command::new("unshare").args(apart).arg("true").output();
    if !can.is_ok_and(|output| output.status.success()) {
        return skipped(
            "as_process_1_a_daemon_lets_what_others_have_left_alone",
            "no process namespace can be made here",
        );
    }
    let (hidden, folder) = (Hidden::new(), tempfile::tempdir().unwrap());
    let program = entrypoint(&folder, &format!("exec unshare {} CODEXD", apart.join(" ")));
    let mut daemon = on_script("echo ready >&2; read line; exit 3", &[]).program(program).start();
    let stream = daemon.stream();
    ready(&daemon);
    let unshare = i32::try_from(daemon.pid()).unwrap();
    let inner = codexd::os::list().into_iter().find(|process| process.parent == unshare).unwrap().pid;
    let entered = std::process::Command::new("nsenter")
        .args(["-t", &inner.to_string(), "-p", "-m", "sh", "-c", &hidden.script()])
        .status();
    assert!(entered.unwrap().success());
    hidden.wait();
    until("its adoption", DEADLINE, || {
        let adopted = |process: &codexd::os::Listed| {
            process.parent == inner
                && Pid::from_raw(process.pid).is_some_and(|pid| hidden.pids().contains(&pid))
        };
        codexd::os::list().iter().any(adopted).then_some(())
    });
    assert_eq!(daemon.client().post("/v1/codexd/sessions", &json!({})).status, 503);
    stream.wait_for_type("child.restarted");
    assert!(hidden.is_there(), "somebody else's process was killed");
    // With process 1 the others end too.
    kill_process(Pid::from_raw(inner).unwrap(), Signal::TERM).unwrap();
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_crash_of_the_child_leaves_nothing_of_it() {
    let hidden = Hidden::new();
    let script =
        format!("{} setsid sleep 602 & sleep 604 & echo ready >&2; read line; exit 3", hidden.script());
    let mut daemon = on_script(&script, &["--restart", "never"]).start();
    let stream = daemon.stream();
    ready(&daemon);
    hidden.wait();
    assert!(daemon.descendants().len() >= 3);
    // Its input's first line: initialize.
    let answer = daemon.client().post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 503, "{}", answer.text());
    stream.wait_for_type("child.exited");
    assert!(daemon.descendants().is_empty() && !hidden.is_there(), "{:?}", daemon.descendants());
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_dead_childs_full_input_that_somebody_else_holds_is_waited_for_by_nobody() {
    let hidden = Hidden::new();
    // While a run goes on, a process without parent and mark may be the run's: it outlives the child.
    let codex = fake_codex("sleep 600");
    let script = format!(
        "exec 3<&0; ({} <&3 3<&-) & read line; echo '{{\"id\":1,\"result\":{{\"userAgent\":\"sh\"}}}}'; \
         read line; head -c 1000 >/dev/null; exit 3",
        hidden.script().trim_end_matches('&')
    );
    let mut daemon = on_script(&script, &["--codex-command", codex.to_str().unwrap()]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    run(&client, &stream, &json!({"prompt": "x"}));
    hidden.wait();
    // More than a pipe takes; the child has read of it when it ends, so that it was being written.
    let answer = client.post("/v1/codexd/sessions", &json!({"baseInstructions": "x".repeat(1_000_000)}));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(stream.wait_for_type("child.exited")["detail"]["code"], 3);
    stream.wait_for_type("child.restarted");
    until("ready", DEADLINE, || (client.get("/readyz").status == 200).then_some(()));
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(!hidden.is_there());
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn adopted_orphans_leave_no_zombies_and_the_childs_own_status_is_kept() {
    // Forty grandchildren whose parents are gone end while the child lives; then it ends with a status of its own.
    let script = "i=0; while [ $i -lt 40 ]; do (setsid sh -c 'sleep 0.2' &); i=$((i+1)); done; \
        echo ready >&2; read line; exit 7";
    let mut daemon = on_script(script, &["--restart", "never"]).start();
    let stream = daemon.stream();
    ready(&daemon);
    let zombies = || {
        let listed = codexd::os::list();
        let own = i32::try_from(daemon.pid()).unwrap();
        listed.iter().filter(|process| process.parent == own && process.zombie).count()
    };
    let children = || {
        let own = i32::try_from(daemon.pid()).unwrap();
        codexd::os::list().iter().filter(|process| process.parent == own).count()
    };
    until("only the child is left", DEADLINE, || (children() == 1).then_some(()));
    assert_eq!(zombies(), 0);
    daemon.client().post("/v1/codexd/sessions", &json!({}));
    assert_eq!(stream.wait_for_type("child.exited")["detail"]["code"], 7, "the status was not stolen");
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn the_next_start_ends_what_a_killed_daemon_has_left() {
    for _ in 0..rounds(3, 20) {
        let hidden = Hidden::new();
        let mut daemon = on_script(&hidden.litters(), &["--stop-timeout-ms", "100"]).start();
        ready(&daemon);
        hidden.wait();
        let hides = hidden.pids();
        let child = pid(&child(&daemon.client())["pid"]);
        let crashed = daemon.crash();
        let left = crashed.left(Duration::ZERO);
        assert!(left.len() >= 5, "{left:?}");
        daemon.restart();
        let reaped: Vec<Value> =
            daemon.log_events().into_iter().filter(|event| event["type"] == "child.orphan.reaped").collect();
        let leaders: Vec<&Value> = reaped.iter().filter(|event| event["detail"]["leader"] == true).collect();
        assert_eq!(leaders.len(), 1, "{reaped:?}");
        assert_eq!(pid(&leaders[0]["detail"]["pid"]), child);
        assert_eq!(leaders[0]["detail"]["purpose"], "app-server");
        assert_eq!(on_record(&daemon).len(), 1, "the new child's");
        // Of the earlier life nothing runs, whatever was done to hide it.
        let numbers: Vec<u32> = left.iter().map(|(pid, _)| *pid).collect();
        for number in numbers {
            let gone = until("its end", GONE_WITHIN, || {
                let pid = Pid::from_raw(i32::try_from(number).unwrap()).unwrap();
                codexd::os::look_up(pid).is_none_or(|listed| listed.zombie).then_some(true)
            });
            assert!(gone);
        }
        // The new life's child hides another one.
        let there = hidden.pids();
        assert!(hides.iter().all(|pid| !there.contains(pid)), "found as a child of the one on record");
        daemon.stop();
    }
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn what_has_cleared_its_environment_is_known_by_the_group_of_a_child_that_is_gone() {
    let mut daemon = Daemon::builder().start();
    let mut group = on_record(&daemon).remove(0);
    daemon.stop();
    // A group as the child would leave it, and nobody but this test can say when its leader is gone.
    let hidden = Hidden::new();
    let script = format!("{} read line", hidden.script().replace("setsid ", ""));
    let mut leader = Process::spawn(
        std::process::Command::new("sh").args(["-c", &script]).stdin(std::process::Stdio::piped()),
    );
    hidden.wait();
    let look = |pid: Pid| codexd::os::look_up(pid).filter(|listed| !listed.zombie);
    let listed = look(Pid::from_raw(i32::try_from(leader.pid()).unwrap()).unwrap()).unwrap();
    assert_eq!(group["session"], listed.session, "of one session are the test, its daemons and this");
    (group["pid"], group["group"]) = (json!(listed.pid), json!(listed.pid));
    group["startTime"] = json!(listed.started);
    drop(leader.child().stdin.take());
    assert!(leader.wait(DEADLINE).is_some());
    let left = hidden.pids();
    let gone = |pid: &Pid| look(*pid).is_none();
    let parent = look(left[0]).and_then(|left| look(Pid::from_raw(left.parent)?));
    if parent.is_some_and(|parent| parent.pid != 1 && parent.session == listed.session) {
        return skipped(
            "what_has_cleared_its_environment_is_known_by_the_group_of_a_child_that_is_gone",
            "who adopts orphans here may be a shell as well",
        );
    }

    // An entry of an older version names no session: whose it is remains open, and so does the entry.
    let mut older = group.clone();
    older["session"] = Value::Null;
    forge(&daemon, &[older.clone()]);
    daemon.restart();
    assert!(!gone(&left[0]));
    assert!(on_record(&daemon).contains(&older));
    assert!(daemon.stderr().contains("or somebody else's by now: they are let alone"), "{}", daemon.stderr());
    daemon.stop();
    assert_eq!(hidden.pids(), left, "an ordered stop ends its own");

    // In another session the group's number is another's.
    let mut elsewhere = group.clone();
    elsewhere["session"] = json!(group["session"].as_i64().unwrap() + 1);
    forge(&daemon, &[elsewhere]);
    daemon.restart();
    assert!(!gone(&left[0]));
    assert_eq!(on_record(&daemon).len(), 1, "the new child's");
    daemon.stop();

    forge(&daemon, &[group]);
    daemon.restart();
    until("its end", GONE_WITHIN, || gone(&left[0]).then_some(()));
    let reaped = daemon.log_events().into_iter().rfind(|event| event["type"] == "child.orphan.reaped");
    let detail = reaped.expect("told")["detail"].take();
    assert_eq!((pid(&detail["pid"]), &detail["purpose"]), (left[0], &json!("app-server")));
    assert_eq!(on_record(&daemon).len(), 1, "the new child's");
    daemon.stop();
    assert!(!hidden.is_there());
}

/// The ledger of a daemon that is gone, with other entries.
#[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
fn forge(daemon: &Daemon, entries: &[Value]) {
    std::fs::write(daemon.state("processes.json"), json!({"processes": entries}).to_string()).unwrap();
}

#[test]
fn a_stranger_is_never_taken_for_a_leftover() {
    let mut daemon = Daemon::builder().start();
    let mut entry = on_record(&daemon).remove(0);
    daemon.stop();
    // A process that has inherited the pid; and one that a living daemon has started, of which this folder is a copy.
    let mut stranger = Process::spawn(std::process::Command::new("sleep").arg("600"));
    let started =
        |pid: u32| codexd::os::look_up(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).unwrap().started;
    entry["pid"] = json!(stranger.pid());
    entry["group"] = json!(stranger.pid());
    if entry["startTime"] == started(stranger.pid()) {
        // Where it is told in whole seconds.
        entry["startTime"] = json!("a second before");
    }
    let mut copied = entry.clone();
    copied["startTime"] = json!(started(stranger.pid()));
    let own = std::process::id();
    copied["daemon"] = json!({"pid": own, "startTime": started(own)});
    let mut older = copied.clone();
    older["daemon"] = entry["daemon"].clone();
    older["boot"] = json!("another-boot");
    forge(&daemon, &[entry.clone(), copied, older]);
    daemon.restart();
    assert!(stranger.wait(Duration::ZERO).is_none(), "it was killed");
    assert!(daemon.log_events().iter().all(|event| event["type"] != "child.orphan.reaped"));
    daemon.stop();

    // The same process, rightly named, is one.
    entry["startTime"] = json!(started(stranger.pid()));
    forge(&daemon, &[entry]);
    daemon.restart();
    assert!(stranger.wait(DEADLINE).is_some());
    let reaped = daemon.log_events().into_iter().find(|event| event["type"] == "child.orphan.reaped");
    assert_eq!(reaped.expect("told")["detail"]["pid"], stranger.pid());
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn without_its_ledger_a_daemon_knows_its_own_by_their_mark() {
    let mut daemon = on_script("trap '' TERM; echo ready >&2; while :; do sleep 1; done", &[]).start();
    ready(&daemon);
    let crashed = daemon.crash();
    assert!(!crashed.left(Duration::ZERO).is_empty());
    std::fs::remove_dir_all(daemon.state("x").parent().unwrap()).unwrap();
    daemon.restart();
    assert!(crashed.left(GONE_WITHIN).is_empty());
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_run_of_a_killed_daemon_is_ended_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script =
        format!("trap '' TERM; setsid sleep 602 & touch {}; while :; do sleep 1; done", ready.display());
    let codex = fake_codex(&script);
    let mut daemon = Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).start();
    let id = run(&daemon.client(), &daemon.stream(), &json!({"prompt": "x"}));
    until("its process", DEADLINE, || ready.exists().then_some(()));
    assert_eq!(on_record(&daemon).len(), 2);
    let crashed = daemon.crash();
    daemon.restart();
    assert!(crashed.left(GONE_WITHIN).is_empty());
    let events = daemon.log_events();
    let reaped = events.iter().find(|event| event["detail"]["purpose"] == "run").expect("told");
    assert_eq!((&reaped["type"], &reaped["detail"]["owner"]), (&json!("child.orphan.reaped"), &json!(id)));
    let shown = daemon.client().get(&format!("/v1/codexd/runs/{id}")).json()["data"]["run"].take();
    assert_eq!(
        (&shown["status"], &shown["result"]["error"]["code"]),
        (&json!("failed"), &json!("CODEX_EXEC_INTERRUPTED"))
    );
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_daemon_that_was_started_by_what_an_earlier_life_has_left_spares_itself() {
    let mut daemon = on_script("trap '' TERM; echo ready >&2; while :; do sleep 1; done", &[]).start();
    ready(&daemon);
    let mark = on_record(&daemon)[0]["mark"].as_str().unwrap().to_owned();
    let crashed = daemon.crash();
    // Codex was told to start it anew: it carries the same mark as everything else that Codex has started.
    let mut next = daemon.again().env(codexd::process::MARK, &mark).start();
    assert!(crashed.left(GONE_WITHIN).is_empty());
    assert_eq!(next.client().get("/healthz").status, 200);
    assert_eq!(next.stop().status.code(), Some(0));
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_copy_of_a_running_daemons_folders_ends_nothing_of_it() {
    let mut daemon = Daemon::builder().start();
    let before = child(&daemon.client())["pid"].clone();
    let copy = Daemon::builder();
    for (from, to) in [(daemon.state("x"), copy.state()), (daemon.log("x"), copy.logs())] {
        let to = to.join("codexd");
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from.parent().unwrap()).unwrap().map(Result::unwrap) {
            // Without the ledger everything that carries a mark of this daemon's id is looked at.
            // What is being written has another name yet.
            let name = file.file_name().into_string().unwrap();
            if !name.starts_with('.') && name != "processes.json" && file.path().is_file() {
                std::fs::copy(file.path(), to.join(name)).unwrap();
            }
        }
    }
    let mut copy = copy.start();
    let id = |daemon: &Daemon| daemon.state_json("identity.json")["daemonId"].clone();
    assert_eq!(id(&copy), id(&daemon), "that is what makes its processes look like the copy's own");
    assert!(copy.log_events().iter().all(|event| event["type"] != "child.orphan.reaped"));
    copy.stop();
    assert_eq!(child(&daemon.client())["pid"], before);
    assert_eq!(child(&daemon.client())["restarts"], 0);
    daemon.stop();
    assert!(daemon.log_events().iter().all(|event| event["type"] != "child.restarting"));
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn a_stranger_that_holds_the_output_of_a_run_is_not_waited_for() {
    let go = tempfile::tempdir().unwrap();
    let codex =
        fake_codex(&format!("while [ ! -e {}/now ]; do sleep 0.02; done; echo done", go.path().display()));
    let mut daemon = Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = run(&client, &stream, &json!({"prompt": "x"}));
    let process = until("its process", DEADLINE, || {
        on_record(&daemon).into_iter().find(|entry| entry["owner"] == *id).map(|entry| pid(&entry["pid"]))
    });
    // On record it is before it has become the program; its output it has by then.
    let output = format!("/proc/{}/fd/1", process.as_raw_nonzero());
    let held = std::fs::OpenOptions::new().write(true).open(output).unwrap();
    std::fs::File::create(go.path().join("now")).unwrap();
    stream.wait_for(|event| event["type"] == "run.completed" && event["detail"]["runId"] == *id, DEADLINE);
    let shown = client.get(&format!("/v1/codexd/runs/{id}")).json()["data"]["run"].take();
    assert_eq!(shown["result"]["result"]["stdout"], "done\n");
    drop(held);
    daemon.stop();
}

/// A turn of the real Codex whose command has left a grandchild and a session of its own, and still runs.
fn litter(codex: &RealCodex, home: &CodexHome) -> Builder {
    Daemon::builder().codex(codex.wrapper(), home)
}

fn begin_to_litter(daemon: &Daemon, home: &CodexHome, round: usize) {
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &full_access(home));
    let mark = home.outside(&format!("litter-{round}"));
    let command = format!(
        "sh -c 'sleep 601 & setsid sleep 602 & setsid sh -c \"sleep 603; :\" & touch {}; wait'",
        mark.display()
    );
    turn(&client, &id, &format!("plainrun: {command}"));
    until("the command", DEADLINE, || mark.exists().then_some(()));
    drop(stream);
}

#[test]
fn real_codex_in_a_turn_leaves_nothing_after_a_stop() {
    let codex = real_codex_or_skip!("real_codex_in_a_turn_leaves_nothing_after_a_stop");
    let (model, count) = (ModelServer::start(), rounds(2, 50));
    let home = CodexHome::new(&model);
    let mut daemon = litter(&codex, &home).start();
    let mut slowest = Duration::ZERO;
    for round in 0..count {
        begin_to_litter(&daemon, &home, round);
        let running = daemon.descendants();
        assert!(running.iter().filter(|(_, line)| line.contains("sleep 60")).count() >= 3, "{running:?}");
        let asked = Instant::now();
        daemon.signal(Signal::TERM);
        // Fails the test when a process is left after 5 s; what counts is less.
        assert_eq!(daemon.wait().status.code(), Some(0));
        slowest = slowest.max(asked.elapsed());
        let last = daemon.log_events().last().unwrap().clone();
        assert_eq!(last["type"], "daemon.stopped");
        daemon.restart();
        let session = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"][round].take();
        assert_eq!(session["lastTurnStatus"], "interrupted", "{session}");
    }
    report(&format!("{count} x SIGTERM in a turn: 0 processes left, stopped after {slowest:?} at most"));
    assert!(slowest < Duration::from_secs(5) + GONE_WITHIN, "{slowest:?}");
    daemon.stop();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn real_codex_in_a_turn_leaves_nothing_after_the_start_that_follows_a_kill() {
    let codex =
        real_codex_or_skip!("real_codex_in_a_turn_leaves_nothing_after_the_start_that_follows_a_kill");
    let (model, count) = (ModelServer::start(), rounds(2, 50));
    let home = CodexHome::new(&model);
    let mut daemon = litter(&codex, &home).start();
    let (mut slowest, mut left_by_kill) = (Duration::ZERO, 0);
    for round in 0..count {
        begin_to_litter(&daemon, &home, round);
        let crashed = daemon.crash();
        left_by_kill += crashed.left(Duration::ZERO).len();
        let began = Instant::now();
        daemon.restart();
        let left = crashed.left(GONE_WITHIN);
        slowest = slowest.max(began.elapsed());
        assert!(left.is_empty(), "round {round}: {left:?}");
        let missing = daemon
            .log_events()
            .into_iter()
            .filter(|event| event["type"] == "app-server.turn.completed.missing");
        assert_eq!(missing.count(), round + 1);
    }
    report(&format!(
        "{count} x SIGKILL in a turn: {left_by_kill} processes were left at once, 0 at {slowest:?} after the next start at most"
    ));
    // And sessions work again on their next turn.
    let (client, stream) = (daemon.client(), daemon.stream());
    let first = client.get("/v1/codexd/sessions").json()["data"]["sessions"][0]["sessionId"].clone();
    talk(&client, &stream, first.as_str().unwrap(), "say 2 words");
    daemon.stop();
}

#[test]
fn sessions_work_again_after_a_restart_of_the_daemon() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let id = session(&daemon.client(), &json!({}));
    talk(&daemon.client(), &daemon.stream(), &id, "say 1 words");
    for clean in [true, false] {
        match clean {
            true => drop(daemon.stop()),
            false => drop(daemon.kill()),
        }
        daemon.restart();
        let (client, stream) = (daemon.client(), daemon.stream());
        talk(&client, &stream, &id, "say 1 words");
        let sessions = client.get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        assert_eq!(sessions.as_array().map(Vec::len), Some(1), "{sessions}");
        let recovered = stream.events().into_iter().filter(|event| event["type"] == "session.recovered");
        assert_eq!(recovered.count(), 1);
    }
    daemon.stop();
}

#[test]
fn a_killed_child_process_is_no_zombie_for_long() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let stream = daemon.stream();
    let gone = pid(&child(&daemon.client())["pid"]);
    kill_process(gone, Signal::KILL).unwrap();
    stream.wait_for_type("child.restarted");
    assert!(test_kill_process(gone).is_err(), "it was reaped before the next life");
    daemon.stop();
}

/// A process that is being started has no mark yet, and the only other one ends at that moment.
#[test]
#[cfg(target_os = "linux")]
fn what_is_being_started_is_not_taken_for_what_the_other_has_left() {
    // The first ends when the daemon has another child: one that was born and waits until it is on record.
    let codex = fake_codex(
        "case \"$*\" in *first)
            until [ $# = 2 ]; do
                children=
                for task in /proc/$PPID/task/*/children; do line=; read -r line <\"$task\"; children=\"$children $line\"; done
                set -- $children
            done
        esac",
    );
    let external = ["--server-strategy", "external", "--server-endpoint", "ws://127.0.0.1:1"];
    let flags = ["--codex-command", codex.to_str().unwrap(), "--max-concurrent-runs", "2"];
    let mut daemon = Daemon::builder().flags(&external).flags(&flags).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    for _ in 0..rounds(10, 100) {
        let both = ["first", "second"].map(|prompt| run(&client, &stream, &json!({"prompt": prompt})));
        for id in both {
            let ended = stream.wait_for(
                |event| {
                    let kind = event["type"].as_str().unwrap();
                    matches!(kind, "run.completed" | "run.failed") && event["detail"]["runId"] == *id
                },
                DEADLINE,
            );
            assert_eq!(ended["type"], "run.completed", "{ended}");
        }
    }
    daemon.stop();
}
