//! codexd's own log lines: to standard error, with the time in UTC, each on one line and without anything that a
//! terminal would obey, wherever the text comes from.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::model::printable;

/// Starts logging. Only the first call of a process counts.
pub fn init(level: LevelFilter) {
    let logger = SimpleLogger::new()
        .with_level(level)
        // It calls the end of its socket at every stop an error; faults of handlers are told by our own lines.
        .with_module_level("tiny_http", LevelFilter::Off)
        .with_utc_timestamps();
    if log::set_boxed_logger(Box::new(Unbreakable(logger))).is_ok() {
        log::set_max_level(level);
        std::panic::set_hook(Box::new(log_panic));
    }
}

thread_local! {
    /// Whether this thread is writing a line: what panics then has nowhere to be told.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// A panic's message may quote text from outside.
fn log_panic(info: &PanicHookInfo<'_>) {
    if WRITING.get() {
        return;
    }
    let thread = std::thread::current();
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message =
        message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    log::error!("thread {} panicked at {place}: {message}", thread.name().unwrap_or("without a name"));
}

/// simple_logger panics when standard error is closed or its disk is full. That must cost a line, not the daemon.
/// The text is made printable here, once for all.
struct Unbreakable(SimpleLogger);

impl Log for Unbreakable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        WRITING.set(true);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let text = record.args().to_string();
            let text = printable(&text);
            // In one expression: what format_args! makes lives no longer.
            self.0.log(
                &Record::builder().metadata(record.metadata().clone()).args(format_args!("{text}")).build(),
            );
        }));
        WRITING.set(false);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[ignore = "the process of the test below, whose standard error it reads"]
    fn logs_hostile_text() {
        init(LevelFilter::Info);
        log::warn!("evil\u{1b}[2J\nforged line{}", '\u{202e}');
        let _ = catch_unwind(|| panic!("panic\u{1b}]0;title\u{7}"));
    }

    #[test]
    fn a_terminal_obeys_nothing_of_a_log_line() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::logging::tests::logs_hostile_text", "--nocapture", "--ignored"])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("codexd::cli::logging")).collect();
        assert_eq!(lines.len(), 2, "{stderr}");
        assert!(lines[0].ends_with("evil\\u{1b}[2J\\nforged line\\u{202e}"), "{stderr}");
        assert!(
            lines[1].ends_with("panic\\u{1b}]0;title\\u{7}") && lines[1].contains("logging.rs:"),
            "{stderr}"
        );
        assert!(!stderr.contains(['\u{1b}', '\u{7}']), "{stderr}");
    }

    #[test]
    #[ignore = "the process of the test below, whose standard error nobody reads"]
    fn logs_into_a_closed_pipe() {
        init(LevelFilter::Info);
        log::info!("into the void");
        println!("still here");
    }

    #[test]
    fn a_closed_standard_error_costs_a_line_and_nothing_else() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::logging::tests::logs_into_a_closed_pipe", "--nocapture", "--ignored"])
            .stderr(Stdio::from(writer))
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("still here"), "{stdout}");
    }
}
