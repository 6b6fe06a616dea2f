//! What `GET /metrics` shows: the text format 0.0.4 of Prometheus, made from one table ([`METRICS`]) that the README and
//! the tests read too. No label holds an id: the number of time series is fixed.
//!
//! Counters begin anew with each life of the daemon, as Prometheus expects (`codexd_process_start_time_seconds`).

mod counters;
mod scrape;

use std::fmt::{Display, Write};

pub use counters::{Counters, Protocol};
pub use scrape::Scrape;

use super::Ops;
use crate::model::event::{EventType, Level};

/// What the names begin with.
pub const PREFIX: &str = "codexd_";
/// The format, as it is named in the content type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the daemon's start; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As it stands in the format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A row of [`METRICS`].
pub struct Metric {
    /// Its name without [`PREFIX`].
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts, in which unit.
    pub help: &'static str,
    /// The name of its one label, if it has one.
    pub label: Option<&'static str>,
    /// Adds its samples; none when what they would say is not known now.
    sample: fn(&Scrape, &mut Samples<'_>),
}

/// Takes the samples of one metric.
struct Samples<'a> {
    metric: &'a Metric,
    out: &'a mut String,
}

impl Samples<'_> {
    /// The only one.
    fn one(&mut self, value: impl Display) {
        self.with("", value);
    }

    /// The one with this value of the label.
    fn with(&mut self, label: &str, value: impl Display) {
        let name = self.metric.name;
        // Writing to a String cannot fail. Values of labels are our own words, without quotes or backslashes.
        let _ = match self.metric.label {
            Some(key) => writeln!(self.out, "{PREFIX}{name}{{{key}=\"{label}\"}} {value}"),
            None => writeln!(self.out, "{PREFIX}{name} {value}"),
        };
    }
}

/// `metric!(kind name, help, sample)`, with `[label]` after the name if it has one.
macro_rules! metric {
    ($kind:ident $name:literal, $help:literal, $sample:expr) => {
        Metric { name: $name, kind: Kind::$kind, help: $help, label: None, sample: $sample }
    };
    ($kind:ident $name:literal [$label:literal], $help:literal, $sample:expr) => {
        Metric { name: $name, kind: Kind::$kind, help: $help, label: Some($label), sample: $sample }
    };
}

/// Every metric, in the order of the answer.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric!(Gauge "build_info" ["version"], "Always 1; the label says which codexd this is.",
        |_, samples| samples.with(env!("CARGO_PKG_VERSION"), 1)),
    metric!(Gauge "process_start_time_seconds", "When the daemon started, in seconds since 1970.",
        |scrape, samples| samples.one(scrape.started_seconds)),
    metric!(Gauge "ready" ["check"], "The checks of /readyz: 1 for one that is well.",
        |scrape, samples| for (check, ok) in scrape.ready { samples.with(check, u8::from(ok)) }),
    metric!(Counter "events_total" ["type"], "Events logged, by type.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            for &kind in EventType::ALL { samples.with(kind.name(), hub.tally.of_type(kind)) }
        }),
    metric!(Counter "events_by_level_total" ["level"], "Events logged, by level.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            for &(name, level) in Level::ALL { samples.with(name, hub.tally.of_level(level)) }
        }),
    metric!(Gauge "event_seq", "Seq of the last event in the log.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(hub.seq) }),
    metric!(Gauge "event_oldest_seq", "Seq of the oldest event that retention has kept; 0 for an empty log.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(hub.oldest_seq) }),
    metric!(Gauge "event_log_stalled", "1 while the event log cannot be written and events wait.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(u8::from(hub.stalled)) }),
    metric!(Gauge "event_log_segments", "Files of the event log, the current one included.",
        |scrape, samples| if let Some(logs) = &scrape.logs { samples.one(logs.segments) }),
    metric!(Gauge "log_bytes" ["log"], "Size of the logs, older files included.",
        |scrape, samples| if let Some(logs) = &scrape.logs {
            for (log, bytes) in [("events", logs.events), ("stdout", logs.stdout), ("stderr", logs.stderr)] {
                samples.with(log, bytes);
            }
        }),
    metric!(Gauge "disk_free_bytes" ["folder"], "Room for the daemon's user where logs and state are.",
        |scrape, samples| for (folder, free) in scrape.free {
            if let Some(free) = free { samples.with(folder, free) }
        }),
    metric!(Gauge "hub_inbox_messages" ["inbox"], "Messages that wait for the hub: of the child, and of everybody else.",
        |scrape, samples| {
            samples.with("events", scrape.waiting.events);
            samples.with("control", scrape.waiting.control);
        }),
    metric!(Gauge "hub_inbox_bytes", "Size of the child's messages that wait for the hub.",
        |scrape, samples| samples.one(scrape.waiting.event_bytes)),
    metric!(Gauge "child_up", "1 while the app-server or child runs, or is an external one.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(u8::from(hub.child_up)) }),
    metric!(Gauge "child_generation", "Which life of the child this is, over all lives of the daemon.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(hub.child_generation) }),
    metric!(Counter "child_restarts_total", "Times that the child was started again.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(hub.child_restarts) }),
    metric!(Gauge "sessions" ["status"], "Sessions on record.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            for (status, count) in &hub.sessions { samples.with(status, *count) }
        }),
    metric!(Gauge "turns_in_flight", "Sessions whose turn runs.",
        |scrape, samples| if let Some(hub) = &scrape.hub { samples.one(hub.turns) }),
    metric!(Gauge "runs" ["status"], "One-shot runs on record; queued is the depth of their queue.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            for (status, count) in &hub.runs { samples.with(status, *count) }
        }),
    metric!(Gauge "requests" ["status"], "What Codex asked, on record; pending waits for somebody's answer.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            for (status, count) in &hub.requests { samples.with(status, *count) }
        }),
    metric!(Gauge "stream_clients" ["protocol"], "Clients of the event stream now.",
        |scrape, samples| for (protocol, streams) in scrape.streams {
            samples.with(protocol, streams.present());
        }),
    metric!(Counter "stream_clients_opened_total" ["protocol"], "Clients of the event stream that came.",
        |scrape, samples| for (protocol, streams) in scrape.streams { samples.with(protocol, streams.opened) }),
    metric!(Counter "stream_clients_closed_total" ["protocol"], "Clients of the event stream that went.",
        |scrape, samples| for (protocol, streams) in scrape.streams { samples.with(protocol, streams.closed) }),
    metric!(Counter "stream_clients_lagged_total", "Clients that could not keep up and were cut off.",
        |scrape, samples| if let Some(hub) = &scrape.hub {
            samples.one(hub.tally.of_type(EventType::StreamClientLagged));
        }),
    metric!(Counter "http_answers_total" ["class"], "Answers of the port, by class of their status; 1xx are WebSocket upgrades.",
        |scrape, samples| for (class, count) in scrape.answers { samples.with(class, count) }),
    metric!(Counter "contained_panics_total", "Threads of single clients that panicked; each is a fault of codexd.",
        |scrape, samples| samples.one(scrape.panics)),
];

/// A scrape as text. HELP and TYPE stand there also for what is not known now.
pub fn render(scrape: &Scrape) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for metric in METRICS {
        let Metric { name, kind, help, .. } = metric;
        let kind = kind.as_str();
        let _ = write!(out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n");
        (metric.sample)(scrape, &mut Samples { metric, out: &mut out });
    }
    out
}

impl Ops {
    /// What `GET /metrics` answers. Within about a second, whatever is wrong.
    pub fn metrics(&self) -> String {
        render(&Scrape::take(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_helps_follow_the_rules() {
        for (at, Metric { name, kind, help, .. }) in METRICS.iter().enumerate() {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains(['\\', '\n']), "{name}: {help}");
            assert!(METRICS[..at].iter().all(|other| other.name != *name), "{name} stands there twice");
        }
    }
}
