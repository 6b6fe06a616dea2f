//! The daemon's own log lines on standard error.

use serde_json::json;

use crate::inbox_support::Bench;

/// Lines of its log about events.
fn told(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.contains("[codexd::events]")).collect()
}

#[test]
fn info_has_one_line_for_each_thing_worth_waking_for() {
    let mut bench = Bench::stub();
    let session = bench.session(json!({}));
    bench.turn(&session, "say 50 words");
    bench.event("app-server.turn.completed", |_| true);
    bench.turn(&session, "stderr: 50 noise");
    bench.event("app-server.turn.completed", |_| true);
    let turn = bench.turn(&session, "run: echo \u{1b}[2J");
    let request = bench.opened(&turn);
    bench.answered(&request, json!({ "decision": "decline" }));
    bench.ended(&turn);
    bench.turn(&session, "exit: 3");
    bench.event("child.restarted", |_| true);
    let ended = bench.daemon.stop();
    let lines = told(&ended.stderr);
    for (kind, level) in [
        ("request.opened", "WARN"),
        ("child.exited", "ERROR"),
        ("child.restarting", "WARN"),
        ("app-server.turn.completed.missing", "ERROR"),
    ] {
        let of: Vec<&&str> = lines.iter().filter(|line| line.contains(&format!("] {kind}: "))).collect();
        assert_eq!(of.len(), 1, "{kind}: {}", ended.stderr);
        assert!(of[0].contains(level) && of[0].contains("(seq "), "{kind}: {}", ended.stderr);
    }
    assert!(lines.len() <= 8, "{}", ended.stderr);
    assert!(!ended.stderr.contains("noise") && !ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
    // The time is UTC: as in the event log.
    let first = ended.stderr.lines().next().unwrap();
    assert!(
        first.get(..24).is_some_and(|time| time.ends_with('Z')) && first.contains("listens at"),
        "{first}"
    );
}

#[test]
fn the_level_is_the_flags_or_the_variables() {
    for (flags, variable, warnings, errors) in [
        (&["--log-level", "error"][..], None, false, true),
        (&["--log-level", "off"], Some("info"), false, false),
        (&[], Some("warn"), true, true),
    ] {
        let mut builder = crate::daemon::Daemon::builder().flags(flags);
        if let Some(level) = variable {
            builder = builder.env("BAA_CODEXD_LOG", level);
        }
        let mut bench = Bench::with(builder);
        let session = bench.session(json!({}));
        bench.turn(&session, "exit: 3");
        bench.event("child.restarted", |_| true);
        let stderr = bench.daemon.stop().stderr;
        assert!(!stderr.contains("INFO"), "{stderr}");
        assert_eq!(stderr.contains("child.restarting"), warnings, "{flags:?} {variable:?}: {stderr}");
        assert_eq!(stderr.contains("child.exited"), errors, "{flags:?} {variable:?}: {stderr}");
    }
}

#[test]
fn a_flood_is_cut_short_and_counted() {
    let mut bench = Bench::stub();
    let session = bench.session(json!({}));
    for _ in 0..3 {
        bench.turn(&session, "retry: 200");
        bench.event("app-server.turn.completed", |_| true);
    }
    let stderr = bench.daemon.stop().stderr;
    let errors = told(&stderr).len();
    assert!(errors > 10 && stderr.contains("more events"), "{errors}: {stderr}");
}
