//! Events from the log for whoever asks for the past: a page, or a stream that begins with a cursor.
//!
//! Promise: what comes out is every event the log holds from the cursor on, in order, each once; where the log holds
//! nothing (retention, a lost or damaged part) a [`Gap`] stands in its place. A segment that retention or somebody else
//! removes while it is read becomes a gap too, never an error.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::batch::Subject;
use super::filter::{Filter, Wanted};
use super::subscription::Subscription;
use super::{Hub, HubError};
use crate::store::journal::LogView;
use crate::store::reader::EventReader;

/// A stream that is no further behind than this goes live with the next round; further ones read on from the log, so
/// that their live queue need not hold what they have not read yet.
const NEAR: u64 = 1024;
/// Rounds in a row that may find their segment removed. Each begins with a fresh look at what there is.
const MAX_LOST: u32 = 100;

/// Events that are not there any more, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

/// Where the log stands.
#[derive(Debug)]
pub struct Position {
    /// Where the events are.
    pub view: LogView,
    /// The oldest seq in it; the next one to come where there is none.
    pub oldest: u64,
    /// The last seq in it.
    pub latest: u64,
}

impl Position {
    /// Now, as the hub knows it.
    pub fn of(core: &super::Core) -> Self {
        let latest = core.latest_seq();
        Self { view: core.log_view(), oldest: core.oldest_seq().unwrap_or(latest + 1), latest }
    }
}

/// An event as it stands in the log, checked to be whole.
#[derive(Debug)]
pub struct Logged<'a> {
    /// Its number.
    pub seq: u64,
    /// Its type.
    pub kind: Cow<'a, str>,
    detail: Option<&'a RawValue>,
    /// Its JSON, one line.
    pub json: &'a str,
}

impl<'a> Logged<'a> {
    /// `None` if the line is damaged.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Head<'a> {
            seq: u64,
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            detail: Option<&'a RawValue>,
        }
        let json = std::str::from_utf8(line).ok()?;
        let Head { seq, kind, detail } = serde_json::from_str(json).ok()?;
        Some(Self { seq, kind, detail, json })
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        Subject::of_detail(self.detail)
    }

    /// Whether the filter wants it.
    pub fn passes(&self, filter: &mut Filter) -> bool {
        // The subject first, though it costs more: a filter learns from events of every type.
        let about = !filter.needs_subject() || filter.takes_subject(&self.subject());
        about && filter.takes_type(&self.kind)
    }
}

/// What a walk comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A line: see [`Walk::event`].
    Line,
    /// Events that are not there.
    Gap(Gap),
    /// The end.
    End,
}

/// Goes through a range of the log once.
#[derive(Debug)]
pub struct Walk {
    reader: EventReader,
    next: u64,
    to: u64,
    /// A line that was come to, but whose place is after a gap.
    held: Option<u64>,
}

impl Walk {
    /// From `next` to `to`, both included.
    pub fn new(view: LogView, next: u64, to: u64) -> Self {
        Self { reader: EventReader::new(view, next, to), next, to, held: None }
    }

    /// One step on.
    ///
    /// # Errors
    /// What reading says; `NotFound` when retention has removed a segment: begin anew at [`Walk::next`].
    pub fn step(&mut self) -> io::Result<Step> {
        let came_to = match self.held.take() {
            Some(seq) => Some(seq),
            None => self.reader.advance()?,
        };
        let Some(seq) = came_to else {
            if self.next > self.to {
                return Ok(Step::End);
            }
            return Ok(Step::Gap(self.gap_up_to(self.to)));
        };
        if seq > self.next {
            self.held = came_to;
            return Ok(Step::Gap(self.gap_up_to(seq - 1)));
        }
        self.next = seq + 1;
        Ok(Step::Line)
    }

    fn gap_up_to(&mut self, to: u64) -> Gap {
        let gap = Gap { from: self.next, to };
        self.next = to + 1;
        gap
    }

    /// The event of the line come to.
    ///
    /// # Errors
    /// The gap that stands for it when the line is damaged.
    pub fn event(&self) -> Result<Logged<'_>, Gap> {
        let seq = self.next - 1;
        Logged::parse(self.reader.line()).filter(|event| event.seq == seq).ok_or(Gap { from: seq, to: seq })
    }

    /// The first seq that was not come to yet.
    pub fn next(&self) -> u64 {
        self.next
    }
}

/// A stream that begins in the past: round after round from the log until it has caught up.
pub struct Replay {
    hub: Hub,
    next: u64,
    walk: Option<Walk>,
    /// Where it goes live when the walk is done.
    live: Option<(u64, Subscription)>,
    lost: u32,
}

/// What a replay comes to.
#[derive(Debug)]
pub enum Replayed {
    /// A line: see [`Replay::event`].
    Line,
    /// Events that are not there.
    Gap(Gap),
    /// The round is over; more is to come.
    Round,
    /// Everything up to this seq was come to; what comes after is in the subscription.
    Live(u64, Subscription),
}

/// Why a replay ends early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The hub has stopped, or does not answer.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The log cannot be read.
    #[error("the event log cannot be read: {0}")]
    Log(#[from] io::Error),
}

impl Replay {
    /// The events after `after`. A cursor beyond the end goes live at once: it is from a log that was lost.
    pub fn new(hub: Hub, after: u64) -> Self {
        Self { hub, next: after.saturating_add(1), walk: None, live: None, lost: 0 }
    }

    /// One step on.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn step(&mut self) -> Result<Replayed, ReplayError> {
        let Some(walk) = &mut self.walk else { return self.begin_round() };
        match walk.step() {
            Ok(Step::Line) => {
                self.lost = 0;
                Ok(Replayed::Line)
            }
            Ok(Step::Gap(gap)) => Ok(Replayed::Gap(gap)),
            Ok(Step::End) => {
                self.next = walk.next();
                self.walk = None;
                Ok(self.live.take().map_or(Replayed::Round, |(seq, queue)| Replayed::Live(seq, queue)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.lost < MAX_LOST => {
                self.lost += 1;
                self.next = walk.next();
                self.walk = None;
                self.live = None;
                Ok(Replayed::Round)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The event of the line come to.
    ///
    /// # Errors
    /// As [`Walk::event`].
    pub fn event(&self) -> Result<Logged<'_>, Gap> {
        match &self.walk {
            Some(walk) => walk.event(),
            // Asked at another time than after a line.
            None => Err(Gap { from: self.next, to: self.next }),
        }
    }

    fn begin_round(&mut self) -> Result<Replayed, ReplayError> {
        let (next, missed) = (self.next, self.lost > 0);
        // The subscription and the end of this round are of one moment: nothing is missed or sent twice between them.
        let (position, queue) = self.hub.ask(move |core| {
            if missed {
                core.look_for_removed();
            }
            let near = core.latest_seq().saturating_sub(next) < NEAR;
            (Position::of(core), near.then(|| core.subscribe()))
        })?;
        if let Some(queue) = queue {
            if next > position.latest {
                return Ok(Replayed::Live(position.latest, queue));
            }
            self.live = Some((position.latest, queue));
        }
        self.walk = Some(Walk::new(position.view, next, position.latest));
        Ok(Replayed::Round)
    }
}

impl Hub {
    /// A filter that knows which session is on which thread now, and where the log stands.
    ///
    /// # Errors
    /// As [`Hub::ask`].
    pub fn filter(&self, wanted: Wanted) -> Result<(Filter, Position), HubError> {
        self.ask(move |core| (Filter::new(wanted, core), Position::of(core)))
    }

    /// Where the log stands now, with the files that are there, after one was missed.
    ///
    /// # Errors
    /// As [`Hub::ask`].
    pub fn position(&self) -> Result<Position, HubError> {
        self.ask(|core| {
            core.look_for_removed();
            Position::of(core)
        })
    }
}
