//! What is printed, against what the older implementation printed.

use std::path::Path;

use codexd::cli::print;
use codexd::cli::{config_of, status};
use codexd::config::Config;
use codexd::model::record::ChildStatus;
use codexd::model::view::{EventList, ServiceView, Snapshot, Summary};
use codexd::smoke::Check;

use crate::cli_support::{codexd, fixture, recorded_state};

fn config(words: &[&str]) -> Config {
    config_of(words, &|_| None, Path::new("/srv/codexd")).unwrap().expect("an action")
}

/// The snapshot by the recorded files, shown with `config`.
fn recorded(words: &[&str]) -> (Config, Snapshot) {
    let state = recorded_state();
    let mut here = config(words);
    here.paths.state_dir = state.path().join("codexd");
    let snapshot = status::snapshot(&here, None, &mut |complaint| panic!("{complaint}")).unwrap();
    (config(words), snapshot)
}

#[test]
fn config_as_lines() {
    let ran = codexd(&["config", "--repo-root", "/srv/codexd"]);
    assert_eq!((ran.code, ran.stdout, ran.stderr), (0, fixture("cli-config.txt"), String::new()));
}

#[test]
fn config_lines_name_what_is_absent() {
    let text = print::config_lines(
        &config_of(
            &["config", "--version=7"],
            &|name| (name == "BAA_CODEXD_SERVER_ARGS").then(|| " ".into()),
            Path::new("/"),
        )
        .unwrap()
        .expect("an action"),
    );
    assert!(text.contains("\nversion: 7\n") && text.contains("\nchild_args: (none)\n"), "{text}");
}

#[test]
fn config_as_json_begins_with_the_contracts_fields_in_their_order() {
    let ran = codexd(&["config", "--json", "--repo-root", "/srv/codexd"]);
    let golden = fixture("cli-config.json");
    let contract = golden.trim_end().strip_suffix("\n}").expect("an object");
    let additions = ran.stdout.strip_prefix(contract).unwrap_or_else(|| panic!("{}", ran.stdout));
    assert!(additions.starts_with(",\n  \"supervision\": {\n    \"restart\": true,\n"), "{additions}");
    assert!(additions.ends_with("\n  }\n}\n"), "{additions}");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn status_line() {
    let (config, snapshot) = recorded(&[]);
    assert_eq!(
        format!("{}\n", print::status_line(&config, &Summary::from(&snapshot))),
        fixture("cli-status.txt")
    );
}

/// That many events, whatever they say.
fn events(count: usize) -> EventList {
    EventList::new(vec![std::sync::Arc::from("{}"); count])
}

#[test]
fn start_lines() {
    let golden = fixture("cli-start.txt");
    let lines: Vec<&str> = golden.lines().collect();
    let (config, mut snapshot) = recorded(&["--local-api-base", "http://127.0.0.1:4455/"]);
    let mut service = ServiceView {
        configured_base_url: "http://127.0.0.1:4455".into(),
        event_stream_path: "/v1/codexd/events".into(),
        event_stream_url: None,
        listening: false,
        resolved_base_url: None,
        websocket_clients: 0,
    };
    snapshot.session_registry.sessions.truncate(1);
    snapshot.recent_events.events = events(16);
    assert_eq!(print::start_line(&config, &Summary::from(&snapshot), &service), lines[2]);

    snapshot.daemon.started = true;
    snapshot.daemon.child.status = ChildStatus::Running;
    snapshot.session_registry.sessions.clear();
    snapshot.run_registry.runs.clear();
    snapshot.recent_events.events = events(2);
    service.listening = true;
    service.resolved_base_url = Some("http://127.0.0.1:4455".into());
    service.event_stream_url = Some("ws://127.0.0.1:4455/v1/codexd/events".into());
    assert_eq!(print::start_line(&config, &Summary::from(&snapshot), &service), lines[0]);
}

#[test]
fn smoke_lines_and_json() {
    let golden = fixture("cli-smoke.txt");
    let names = [
        "structured_event_log",
        "stdout_log",
        "stderr_log",
        "daemon_state",
        "recent_event_cache",
        "session_registry",
    ];
    let details = golden.lines().skip(1).map(|line| line.split_once(": ").map_or("", |(_, detail)| detail));
    let mut checks: Vec<Check> = names
        .into_iter()
        .zip(details)
        .map(|(name, detail)| Check { name, ok: true, detail: detail.to_owned() })
        .collect();
    let (config, snapshot) = recorded(&["--server-endpoint", "stdio://embedded-smoke-child"]);
    assert_eq!(print::smoke_lines(&config, &checks, &snapshot), golden);

    checks[1].ok = false;
    assert!(print::smoke_lines(&config, &checks, &snapshot).contains("\n- failed stdout_log: /srv/"));
    let report = print::SmokeReport { checks: &checks[1..2], snapshot: &snapshot };
    let json = print::json_text(&report).unwrap();
    let begins = "{\n  \"checks\": [\n    {\n      \"name\": \"stdout_log\",\n      \"status\": \"failed\",\n      \"detail\": \"/srv/";
    assert!(json.starts_with(begins), "{json}");
    assert!(
        json.contains("\n  \"snapshot\": {\n    \"config\": {\n      \"nodeId\": \"mini-main\",\n"),
        "{json}"
    );
}
