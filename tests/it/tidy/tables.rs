//! The tables of README.md are those of the code.
//!
//! `CODEXD_BLESS=1 cargo test --test it tidy` writes them anew.

use std::fmt::Write;

use codexd::cli::flags::{FLAGS, Group};
use codexd::exec::FailureCode;
use codexd::http::reply::ErrorCode;
use codexd::http::routes::ROUTES;
use codexd::model::event::EventType;
use codexd::ops::metrics::{METRICS, PREFIX};

use super::{expect_none, read, root};

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", cell(text)) }
}

fn routes_table() -> String {
    let mut table = String::from("| route | what |\n|---|---|\n");
    table.push_str("| `GET /healthz` | whether the process serves |\n");
    for route in ROUTES {
        writeln!(table, "| {} | {} |", code(&format!("{} {}", route.method, route.path)), cell(route.doc))
            .unwrap();
    }
    table.push_str("| `GET /v1/codexd/events` | the event stream (WebSocket, Server-Sent Events) and pages of the log; the path is a setting |\n");
    table
}

fn bodies_table() -> String {
    let mut text = String::new();
    for route in ROUTES.iter().filter(|route| !route.spec.body.is_empty()) {
        write!(
            text,
            "\n**{}**\n\n| field | what | |\n|---|---|---|\n",
            code(&format!("{} {}", route.method, route.path))
        )
        .unwrap();
        for field in route.spec.body.iter().copied().flatten() {
            let required = if field.required { " (required)" } else { "" };
            let kind = cell(&field.kind.describe());
            writeln!(text, "| {}{required} | {kind} | {} |", code(field.name), cell(field.doc)).unwrap();
        }
    }
    text.push('\n');
    text
}

fn errors_table() -> String {
    let mut table = String::from("| status | `error` | when |\n|---|---|---|\n");
    for error in ErrorCode::ALL {
        writeln!(table, "| {} | {} | {} |", error.status(), code(error.name()), cell(error.doc())).unwrap();
    }
    table
}

fn run_failures_table() -> String {
    let mut table = String::from("| `code` | `retryable` | when |\n|---|---|---|\n");
    for failure in FailureCode::ALL {
        writeln!(table, "| {} | {} | {} |", code(failure.name()), failure.retryable(), cell(failure.doc()))
            .unwrap();
    }
    table
}

fn flags_table() -> String {
    let mut table = String::new();
    for &(heading, group) in Group::ALL {
        write!(table, "\n**{heading}**\n\n| flag | variable | default | what |\n|---|---|---|---|\n")
            .unwrap();
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let synopsis = format!("--{} {}", flag.name, flag.value().unwrap_or_default());
            let variables: Vec<String> = flag.env.iter().map(|name| code(name)).collect();
            writeln!(
                table,
                "| {} | {} | {} | {} |",
                code(synopsis.trim_end()),
                variables.join(", "),
                code(flag.default),
                cell(flag.doc)
            )
            .unwrap();
        }
    }
    table.push('\n');
    table
}

/// What the table in the source says of a type: the comment above it.
fn doc_of(kind: EventType, source: &str) -> String {
    let row = source.find(&format!("    {kind:?} = \"")).unwrap_or_else(|| panic!("{kind:?} has no row"));
    let comment = source[..row].trim_end().lines().last().unwrap_or_default().trim();
    comment.strip_prefix("/// ").unwrap_or_else(|| panic!("{kind:?} has no comment: {comment}")).to_owned()
}

fn events_table() -> String {
    let source = read("src/model/event.rs");
    let mut table = String::from(
        "| type | level | fields of detail | what it says, or the notification it is |\n|---|---|---|---|\n",
    );
    for kind in EventType::ALL.iter().copied() {
        let fields = kind.fields().join(", ");
        let doc = doc_of(kind, &source);
        writeln!(table, "| `{}` | {} | {} | {} |", kind.name(), kind.level().as_str(), fields, cell(&doc))
            .unwrap();
    }
    table
}

fn metrics_table() -> String {
    let mut table = String::from("| metric | type | what |\n|---|---|---|\n");
    for metric in METRICS {
        let label = metric.label.map(|label| format!("{{{label}}}")).unwrap_or_default();
        let name = format!("{PREFIX}{}{label}", metric.name);
        writeln!(table, "| {} | {} | {} |", code(&name), metric.kind.as_str(), cell(metric.help)).unwrap();
    }
    table
}

/// The text with what is between `<!-- name -->` and `<!-- /name -->` replaced.
fn with_section(text: &str, name: &str, content: &str) -> String {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let begin = text.find(&open).unwrap_or_else(|| panic!("README.md has no {open}")) + open.len();
    let end = begin + text[begin..].find(&close).unwrap_or_else(|| panic!("README.md has no {close}"));
    format!("{}{content}{}", &text[..begin], &text[end..])
}

#[test]
fn the_readme_has_the_tables_of_the_code() {
    let old = read("README.md");
    let mut new = with_section(&old, "routes", &routes_table());
    new = with_section(&new, "bodies", &bodies_table());
    new = with_section(&new, "errors", &errors_table());
    new = with_section(&new, "run-failures", &run_failures_table());
    new = with_section(&new, "flags", &flags_table());
    new = with_section(&new, "events", &events_table());
    new = with_section(&new, "metrics", &metrics_table());
    new = with_section(&new, "matrix", &crate::matrix::table(&codexd::app_server::needs::tried()));
    if old != new && std::env::var_os("CODEXD_BLESS").is_some_and(|value| value == "1") {
        #[expect(clippy::disallowed_methods, reason = "a file of the repository, on request")]
        std::fs::write(root().join("README.md"), &new).unwrap();
        return;
    }
    let stale = new.lines().filter(|line| !old.lines().any(|old| old == *line)).map(str::to_owned).collect();
    expect_none("README.md lacks these lines; CODEXD_BLESS=1 cargo test --test it tidy writes them", stale);
    assert!(
        old == new,
        "README.md has lines too many in its tables; CODEXD_BLESS=1 cargo test --test it tidy"
    );
    assert_eq!(
        with_section("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new\n"),
        "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    );
}
