//! `GET /metrics`: every line of it is held against the text format 0.0.4 of Prometheus and against the table it is made
//! from; what happens in the daemon shows in it; and Prometheus's own tool has nothing to say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use codexd::ops::metrics::{CONTENT_TYPE, Kind, METRICS, PREFIX};
use serde_json::json;

use crate::client::Client;
use crate::daemon::Daemon;
use crate::skipped::skipped;

/// Samples by name and label as they stand in the text, `name` or `name{key="value"}`.
type Samples = BTreeMap<String, f64>;

/// What one metric said of itself before its samples.
#[derive(Debug, Clone, PartialEq)]
struct Header {
    name: String,
    help: String,
    kind: String,
}

/// Reads an exposition; an error for whatever the format, or a careful exporter, does not do.
fn parse(text: &str) -> Result<(Vec<Header>, Samples), String> {
    let mut headers: Vec<Header> = Vec::new();
    let mut samples = Samples::new();
    let body = text.strip_suffix('\n').ok_or("the last line has no end")?;
    let mut lines = body.split('\n').peekable();
    while let Some(line) = lines.next() {
        let at = |what: &str| format!("{what}: {line:?}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').ok_or_else(|| at("no help"))?;
            let kind = lines.next().and_then(|next| next.strip_prefix(&format!("# TYPE {name} ")));
            let kind =
                kind.filter(|kind| ["counter", "gauge"].contains(kind)).ok_or_else(|| at("no TYPE"))?;
            if headers.iter().any(|known| known.name == name) {
                return Err(at("a second HELP"));
            }
            headers.push(Header { name: name.to_owned(), help: help.to_owned(), kind: kind.to_owned() });
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or_else(|| at("no value"))?;
        let number = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let value: f64 = value.parse().ok().filter(|_| number).ok_or_else(|| at("no number"))?;
        let (name, label) = match series.split_once('{') {
            None => (series, None),
            Some((name, rest)) => {
                let pair = rest.strip_suffix("\"}").and_then(|rest| rest.split_once("=\""));
                (name, Some(pair.ok_or_else(|| at("no label"))?))
            }
        };
        if headers.last().is_none_or(|header| header.name != name) {
            return Err(at("a sample that does not follow its HELP"));
        }
        if label
            .is_some_and(|(key, value)| !is_name(key) || value.contains(['"', '\\', ',']) || value.is_empty())
        {
            return Err(at("a label that is none"));
        }
        if !is_name(name) || samples.insert(series.to_owned(), value).is_some() {
            return Err(at("a name that is none, or a second sample"));
        }
    }
    Ok((headers, samples))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn a_wrong_exposition_is_found() {
    let head = "# HELP a A.\n# TYPE a gauge\n";
    assert!(parse(&format!("{head}a 1\n")).is_ok());
    assert!(parse(&format!("{head}a{{b=\"c\"}} 1.5\na{{b=\"d\"}} 0\n")).is_ok());
    for wrong in [
        "a 1\n",
        "# HELP a A.\na 1\n",
        "# HELP a A.\n# TYPE a thing\n",
        &format!("{head}a 1"),
        &format!("{head}a one\n"),
        &format!("{head}a NaN\n"),
        &format!("{head}a 1\na 1\n"),
        &format!("{head}b 1\n"),
        &format!("{head}a{{b=c}} 1\n"),
        &format!("{head}a{{b=\"\"}} 1\n"),
        &format!("{head}a 1\n{head}a 1\n"),
        &format!("{head}\n"),
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}

fn scrape(client: &Client) -> Samples {
    let answer = client.get("/metrics");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some(CONTENT_TYPE)),
        "{}",
        answer.text()
    );
    let (headers, samples) = parse(&answer.text()).unwrap();
    let table: Vec<Header> = METRICS
        .iter()
        .map(|metric| Header {
            name: format!("{PREFIX}{}", metric.name),
            help: metric.help.to_owned(),
            kind: metric.kind.as_str().to_owned(),
        })
        .collect();
    assert_eq!(headers, table, "the answer and the table it is made from");
    for metric in METRICS {
        let name = format!("{PREFIX}{}", metric.name);
        let own: Vec<&String> =
            samples.keys().filter(|series| series.split('{').next() == Some(name.as_str())).collect();
        let start = metric.label.map_or(name.clone(), |label| format!("{name}{{{label}=\""));
        assert!(!own.is_empty() && own.iter().all(|series| series.starts_with(&start)), "{name}: {own:?}");
    }
    samples
}

#[test]
fn what_happens_shows() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    let before = scrape(&client);
    for (series, value) in [
        ("codexd_child_up", 1.0),
        ("codexd_child_generation", 1.0),
        ("codexd_child_restarts_total", 0.0),
        ("codexd_event_log_segments", 1.0),
        ("codexd_event_log_stalled", 0.0),
        ("codexd_sessions{status=\"active\"}", 0.0),
        ("codexd_events_total{type=\"daemon.started\"}", 1.0),
        ("codexd_contained_panics_total", 0.0),
    ] {
        assert_eq!(before[series], value, "{series}");
    }
    for check in ["hub", "log", "disk", "child", "appServer", "work"] {
        assert_eq!(before[&format!("codexd_ready{{check=\"{check}\"}}")], 1.0, "{check}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = before["codexd_process_start_time_seconds"];
    assert!(started <= now && now - started < 3600.0, "{started}, now {now}");

    let stream = daemon.stream();
    stream.hello();
    let created = client.post("/v1/codexd/sessions", &json!({}));
    let session = created.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned();
    client.post("/v1/codexd/turn", &json!({ "sessionId": session, "prompt": "hang: until interrupted" }));
    stream.wait_for_type("app-server.turn.started");
    assert_eq!(client.get("/v1/codexd/nothing-here").status, 404);

    let after = scrape(&client);
    for (series, value) in [
        ("codexd_sessions{status=\"active\"}", 1.0),
        ("codexd_turns_in_flight", 1.0),
        ("codexd_stream_clients{protocol=\"websocket\"}", 1.0),
        ("codexd_stream_clients_opened_total{protocol=\"websocket\"}", 1.0),
        ("codexd_http_answers_total{class=\"1xx\"}", 1.0),
        ("codexd_http_answers_total{class=\"4xx\"}", 1.0),
        ("codexd_http_answers_total{class=\"5xx\"}", 0.0),
        ("codexd_events_total{type=\"session.created\"}", 1.0),
    ] {
        assert_eq!(after[series], value, "{series}");
    }
    // Of this client's own answers, the two POSTs and the first scrape at least are behind us.
    assert!(after["codexd_http_answers_total{class=\"2xx\"}"] >= 3.0);
    assert!(after["codexd_event_seq"] > before["codexd_event_seq"]);
    assert!(after["codexd_log_bytes{log=\"events\"}"] > before["codexd_log_bytes{log=\"events\"}"]);
    let events = |by: &str| -> f64 {
        after.iter().filter(|(series, _)| series.starts_with(by)).map(|(_, value)| value).sum()
    };
    assert_eq!(events("codexd_events_total{"), events("codexd_events_by_level_total{"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "the series are fixed");
    let ids = after.keys().filter(|series| series.contains(&session)).count();
    assert_eq!(ids, 0, "no id is a label");
    stream.close();
}

#[test]
fn a_token_guards_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let daemon = Daemon::builder().flags(&["--token-file", file.to_str().unwrap()]).start();
    let client = daemon.client();
    assert_eq!(client.get("/metrics").status, 401);
    let bearer = format!("Bearer {}", std::fs::read_to_string(&file).unwrap().trim());
    assert_eq!(client.request("GET", "/metrics", &[("authorization", &bearer)], b"").status, 200);
}

const RULES: &str = "ops/prometheus/codexd.rules.yml";
const RULES_TEST: &str = "tests/prometheus/rules.test.yml";

#[test]
fn the_alerts_name_metrics_that_exist() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES)).unwrap();
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let named: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix(PREFIX)).collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{RULES}: there is no {PREFIX}{name}"));
        let grows = text.contains(&format!("increase({PREFIX}{name}"));
        assert_eq!(
            metric.kind == Kind::Counter,
            grows,
            "a counter, and only that, is looked at by its increase: {name}"
        );
    }
}

/// Debian has it in the package `prometheus`.
fn promtool_or_skip(test: &str) -> Option<Command> {
    if Command::new("promtool").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("promtool");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::piped()).stderr(Stdio::piped());
        return Some(command);
    }
    skipped(test, "no promtool; Debian has it in the package prometheus");
    None
}

#[test]
fn promtool_has_nothing_to_say_of_the_metrics() {
    let Some(mut promtool) = promtool_or_skip("promtool_has_nothing_to_say_of_the_metrics") else { return };
    let daemon = Daemon::builder().start();
    let text = daemon.client().get("/metrics").text();
    let mut child = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn promtool_accepts_the_alerts_and_they_fire() {
    let Some(mut promtool) = promtool_or_skip("promtool_accepts_the_alerts_and_they_fire") else { return };
    let output = promtool.args(["check", "rules", RULES]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = promtool_or_skip("").unwrap().args(["test", "rules", RULES_TEST]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
