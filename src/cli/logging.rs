//! codexd's own log lines: to standard error, with the time in UTC.

use std::panic::{AssertUnwindSafe, catch_unwind};

use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Starts logging. Only the first call of a process counts.
pub fn init(level: LevelFilter) {
    let logger = SimpleLogger::new()
        .with_level(level)
        // It calls the end of its socket at every stop an error; faults of handlers are told by our own lines.
        .with_module_level("tiny_http", LevelFilter::Off)
        .with_utc_timestamps();
    if log::set_boxed_logger(Box::new(Unbreakable(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// simple_logger panics when standard error is closed or its disk is full. That must cost a line, not the daemon.
struct Unbreakable(SimpleLogger);

impl Log for Unbreakable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

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
