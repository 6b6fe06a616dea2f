//! codexd's own log lines: to standard error, with the time in UTC, each on one line and without anything that a
//! terminal would obey, wherever the text comes from.
//!
//! Standard error may be a pipe that nobody reads, or a terminal that somebody stopped. No thread of the daemon may hang
//! on that, so its lines are written by a thread of their own; the time of a line is that of its writing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use super::print;
use crate::model::printable;
use crate::threads;

/// Lines that wait to be written, at most. What finds no room is counted, and the count told when there is room again.
const BOUND: usize = 256;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The way to the thread that writes, in a process that has one.
static QUEUE: OnceLock<Sender<Line>> = OnceLock::new();
/// Lines that found no room and are yet to be told of.
static MISSED: AtomicU64 = AtomicU64::new(0);

enum Line {
    Record {
        level: Level,
        target: String,
        text: String,
    },
    /// One that is written as it is.
    Plain(String),
    /// In the place of so many that found no room.
    Missed(u64),
    /// Nothing; whoever has the other end learns that all before it is written.
    Mark(Sender<()>),
}

/// Starts logging, in the thread that logs. Only the first call of a process counts.
pub fn init(level: LevelFilter) {
    install(Unbreakable(simple(level)), level);
}

/// Starts logging for the daemon. The thread that writes, of which nobody waits, lasts as long as the process, like the
/// one that waits for signals; `flush` is for the end.
///
/// # Errors
/// What the system says when it can start no thread.
pub fn init_daemon(level: LevelFilter) -> std::io::Result<()> {
    let (queue, lines) = bounded(BOUND);
    let logger = Unbreakable(simple(level));
    threads::spawn_contained("log", move || write(&logger, &lines))?.leave();
    if QUEUE.set(queue).is_ok() {
        install(Queued(simple(level)), level);
    }
    Ok(())
}

fn simple(level: LevelFilter) -> SimpleLogger {
    SimpleLogger::new()
        // Our own lines only: tungstenite's trace has the whole request of a handshake, the token included, and tiny_http
        // calls the end of its socket at every stop an error.
        .with_level(LevelFilter::Off)
        .with_module_level("codexd", level)
        .with_utc_timestamps()
}

fn install(logger: impl Log + 'static, level: LevelFilter) {
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// Hands a line to the thread that writes, for which it waits up to a second: such a line says why the daemon ends.
/// `false` in a process without that thread.
pub(super) fn queue(line: &str) -> bool {
    QUEUE.get().is_some_and(|queue| {
        send(queue, Line::Plain(line.to_owned()), Instant::now() + LAST_LINES);
        true
    })
}

/// Hands a line on, with word of those before it that found no room; counts it among them when there is none by then.
fn send(queue: &Sender<Line>, line: Line, until: Instant) -> bool {
    let missed = MISSED.swap(0, Ordering::Relaxed);
    let told = missed == 0 || queue.send_deadline(Line::Missed(missed), until).is_ok();
    let sent = told && queue.send_deadline(line, until).is_ok();
    MISSED.fetch_add(if told { 0 } else { missed } + u64::from(!sent), Ordering::Relaxed);
    sent
}

/// Waits until what was logged so far is written, but no longer than a second.
pub(super) fn flush() {
    let until = Instant::now() + LAST_LINES;
    let Some(queue) = QUEUE.get() else { return };
    let (mark, marked) = bounded(0);
    if send(queue, Line::Mark(mark), until) {
        // Disconnected when it is reached.
        let _ = marked.recv_deadline(until);
    }
}

/// The thread.
fn write(logger: &Unbreakable, lines: &Receiver<Line>) {
    for line in lines {
        match line {
            Line::Record { level, target, text } => logger.write(level, &target, &text),
            Line::Plain(line) => print::write_progress(&line),
            Line::Missed(count) => {
                let text =
                    format!("{count} lines are missing here: standard error did not take them in time");
                logger.write(Level::Warn, module_path!(), &text);
            }
            Line::Mark(mark) => drop(mark),
        }
    }
}

/// The daemon's logger.
struct Queued(SimpleLogger);

impl Log for Queued {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(queue) = QUEUE.get()
            && self.enabled(record.metadata())
        {
            let (target, text) = (record.target().to_owned(), record.args().to_string());
            // Without waiting.
            send(queue, Line::Record { level: record.level(), target, text }, Instant::now());
        }
    }

    fn flush(&self) {
        flush();
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

impl Unbreakable {
    fn write(&self, level: Level, target: &str, text: &str) {
        WRITING.set(true);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let text = printable(text);
            let mut record = Record::builder();
            // In one expression: what format_args! makes lives no longer.
            self.0.log(&record.level(level).target(target).args(format_args!("{text}")).build());
        }));
        WRITING.set(false);
    }
}

impl Log for Unbreakable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), record.target(), &record.args().to_string());
        }
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
