//! Events that are worth waking somebody for, as lines of the daemon's own log: those of level warn and error, once they
//! are in the event log. What a child writes to its standard error is not among them: it has a file of its own.
//!
//! They are read and worded by a thread of their own, for which the hub never waits; and a flood of them is cut short,
//! for the events themselves are all in the log.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{Level as LogLevel, log, log_enabled, warn};
use serde::Deserialize;

use super::batch::Batch;
use crate::model::event::{EventType, Level};
use crate::model::preview;
use crate::threads::{self, Thread};

/// What logging filters by and shows as the place.
const TARGET: &str = "codexd::events";
/// Events that wait to be told, at most.
const BOUND: usize = 64;
/// Lines in a span of time, at most.
const LINES: u32 = 20;
const SPAN: Duration = Duration::from_secs(1);

/// The hub's side.
pub(super) struct Voice {
    events: Sender<(LogLevel, Bytes)>,
    /// Events that found no room.
    missed: u64,
    /// Whether there was a child in this life: that there is none from the start is what the start itself says.
    had_child: bool,
}

/// As much of an event as a line says.
#[derive(Deserialize)]
struct Told<'a> {
    seq: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    message: String,
}

impl Voice {
    /// Starts the thread; it ends when the voice is dropped.
    pub(super) fn start() -> io::Result<(Self, Thread)> {
        let (events, inbox) = bounded(BOUND);
        let thread = threads::spawn_contained("voice", move || speak(&inbox))?;
        Ok((Self { events, missed: 0, had_child: false }, thread))
    }

    /// Tells what is worth it of events that are in the log.
    pub(super) fn tell(&mut self, batch: &Batch) {
        for entry in batch.entries() {
            self.had_child |= entry.kind == EventType::ChildStarted;
            let level = match entry.level {
                Level::Info => continue,
                Level::Warn => LogLevel::Warn,
                Level::Error => LogLevel::Error,
            };
            let noise = match entry.kind {
                EventType::ChildStderr | EventType::CommandOutputDelta => true,
                EventType::ChildSpawnFailed => !self.had_child,
                _ => false,
            };
            if noise || !log_enabled!(target: TARGET, level) {
                continue;
            }
            // A copy: the rest of the batch need not stay in memory for it.
            let event = Bytes::copy_from_slice(batch.event(entry));
            self.missed += u64::from(self.events.try_send((level, event)).is_err());
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if self.missed > 0 {
            warn!(target: TARGET, "{} more events of this kind were not told here", self.missed);
        }
    }
}

/// The thread.
fn speak(inbox: &Receiver<(LogLevel, Bytes)>) {
    let mut span = Span { began: Instant::now(), lines: 0, skipped: 0 };
    loop {
        let next = match span.skipped {
            0 => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => inbox.recv_deadline(span.began + SPAN),
        };
        if span.is_over(Instant::now()) {
            span = span.next();
        }
        match next {
            Ok((level, event)) => {
                if span.has_room()
                    && let Ok(Told { seq, kind, message }) = serde_json::from_slice(&event)
                {
                    log!(target: TARGET, level, "{kind}: {} (seq {seq})", preview(&message));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let _ = span.next();
                return;
            }
        }
    }
}

/// How much was told lately.
struct Span {
    began: Instant,
    lines: u32,
    skipped: u64,
}

impl Span {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.began + SPAN
    }

    /// Whether one more line is not too many; counts it either way.
    fn has_room(&mut self) -> bool {
        let room = self.lines < LINES;
        if room {
            self.lines += 1
        } else {
            self.skipped += 1
        }
        room
    }

    /// The span after this one, which says what it left out.
    fn next(self) -> Self {
        if self.skipped > 0 {
            warn!(target: TARGET, "and {} more events of level warn or error; `codexd tail` has them all", self.skipped);
        }
        Self { began: Instant::now(), lines: 0, skipped: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_room_for_so_many_lines_and_counts_the_rest() {
        let mut span = Span { began: Instant::now(), lines: 0, skipped: 0 };
        let told = (0..100).filter(|_| span.has_room()).count();
        assert_eq!((told, span.skipped), (20, 80));
        assert!(!span.is_over(span.began) && span.is_over(span.began + SPAN));
        assert!(span.next().has_room());
    }
}
