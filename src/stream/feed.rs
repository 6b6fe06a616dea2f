//! What a stream client gets, whatever it speaks: the past from the log if it came with a cursor, then what happens,
//! in order, nothing missing, nothing twice.
//!
//! The past is read in rounds until the client is near the present; only then does it get a live queue. So a client far
//! behind fills no queue, and one that reads slowly is slow at the log, where nobody waits for it.

use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError, after, never, select};

use crate::hub::HubError;
use crate::hub::batch::{Batch, Entry};
use crate::hub::filter::Filter;
use crate::hub::replay::{Gap, Logged, Replay, ReplayError, Replayed};
use crate::hub::subscription::{self, Subscription};

/// Steps through the past between two looks at whether anybody is still there.
const LOOK_EVERY: u32 = 64;

/// Where a stream begins.
pub enum Origin {
    /// Now: after this seq, with everything else in the queue.
    Live(u64, Subscription),
    /// With the first event after a cursor.
    Past(Box<Replay>),
}

/// How the client is spoken to.
pub trait Sink {
    /// The client is not there any more.
    type Gone;

    /// Whether the client is there, but has taken nothing for too long.
    fn is_stalled(gone: &Self::Gone) -> bool;

    /// An event as it happens.
    ///
    /// # Errors
    /// The client is gone; so for all the others.
    fn live(&mut self, batch: &Batch, entry: &Entry) -> Result<(), Self::Gone>;
    /// An event of the past.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn logged(&mut self, event: &Logged<'_>) -> Result<(), Self::Gone>;
    /// Events that are not there any more.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn gap(&mut self, gap: Gap) -> Result<(), Self::Gone>;
    /// The past is over: everything up to this seq was sent.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn synced(&mut self, seq: u64) -> Result<(), Self::Gone>;
    /// Nothing has happened for the time of [`Feed::heartbeat`].
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn idle(&mut self) -> Result<(), Self::Gone>;
    /// What was given so far is to go out.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn flush(&mut self) -> Result<(), Self::Gone>;
}

/// Why a stream ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// There is nobody to write to.
    ClientGone,
    /// The daemon stops.
    Stopping,
    /// The client was too slow. It has what there is up to that seq.
    Lagged(u64),
    /// The past cannot be read.
    Failed(String),
}

/// One client's stream.
pub struct Feed {
    /// Where it begins.
    pub origin: Origin,
    /// What the client wants.
    pub filter: Filter,
    /// Is disconnected when the daemon stops.
    pub stopping: Receiver<()>,
    /// After how much silence [`Sink::idle`] is called.
    pub heartbeat: Option<Duration>,
}

impl Feed {
    /// Feeds the client until one side ends it. `gone` is disconnected when the client is.
    ///
    /// # Errors
    /// What the sink says.
    pub fn run<S: Sink>(self, sink: &mut S, gone: &Receiver<()>) -> Result<End, S::Gone> {
        let Self { origin, mut filter, stopping, heartbeat } = self;
        let (last, queue) = match origin {
            Origin::Live(seq, queue) => (seq, queue),
            Origin::Past(replay) => match past(replay, &mut filter, sink, gone, &stopping)? {
                Past::Caught(seq, queue) => {
                    sink.synced(seq)?;
                    (seq, queue)
                }
                Past::Ended(end) => {
                    sink.flush()?;
                    return Ok(end);
                }
            },
        };
        let mut live = Live { queue, last, filter, stopping, heartbeat };
        let ended = live.run(sink, gone);
        if ended.as_ref().is_err_and(S::is_stalled) {
            live.queue.lagged_after(live.last);
        }
        ended
    }
}

enum Past {
    /// The client is up to date; the rest is in the queue.
    Caught(u64, Subscription),
    Ended(End),
}

fn past<S: Sink>(
    mut replay: Box<Replay>,
    filter: &mut Filter,
    sink: &mut S,
    gone: &Receiver<()>,
    stopping: &Receiver<()>,
) -> Result<Past, S::Gone> {
    let mut steps = 0;
    loop {
        steps += 1;
        if steps % LOOK_EVERY == 0 {
            if gone.try_recv() == Err(TryRecvError::Disconnected) {
                return Ok(Past::Ended(End::ClientGone));
            }
            if stopping.try_recv() == Err(TryRecvError::Disconnected) {
                return Ok(Past::Ended(End::Stopping));
            }
        }
        match replay.step() {
            Ok(Replayed::Line) => match replay.event() {
                Ok(event) if event.passes(filter) => sink.logged(&event)?,
                Ok(_) => {}
                Err(gap) => sink.gap(gap)?,
            },
            Ok(Replayed::Gap(gap)) => sink.gap(gap)?,
            Ok(Replayed::Round) => sink.flush()?,
            Ok(Replayed::Live(seq, queue)) => return Ok(Past::Caught(seq, queue)),
            Err(ReplayError::Hub(HubError::Stopped)) => return Ok(Past::Ended(End::Stopping)),
            Err(error) => return Ok(Past::Ended(End::Failed(error.to_string()))),
        }
    }
}

struct Live {
    queue: Subscription,
    /// The last seq that was come to, sent or not wanted.
    last: u64,
    filter: Filter,
    stopping: Receiver<()>,
    heartbeat: Option<Duration>,
}

impl Live {
    fn run<S: Sink>(&mut self, sink: &mut S, gone: &Receiver<()>) -> Result<End, S::Gone> {
        loop {
            match self.queue.try_next() {
                Ok(Some(batch)) => self.send(&batch, sink)?,
                Ok(None) => {
                    sink.flush()?;
                    if let Some(end) = self.wait(sink, gone)? {
                        return Ok(end);
                    }
                }
                Err(end) => {
                    sink.flush()?;
                    return Ok(self.ended(end));
                }
            }
        }
    }

    /// Waits for the next batch and sends it, or finds a reason to end.
    fn wait<S: Sink>(&mut self, sink: &mut S, gone: &Receiver<()>) -> Result<Option<End>, S::Gone> {
        let silence = self.heartbeat.map_or_else(never, after);
        select! {
            recv(self.queue.receiver()) -> batch => match batch {
                Ok(batch) => {
                    let batch = self.queue.taken(batch);
                    self.send(&batch, sink)?;
                    Ok(None)
                }
                Err(_) => Ok(Some(self.ended(self.queue.end()))),
            },
            recv(gone) -> _ => Ok(Some(End::ClientGone)),
            recv(self.stopping) -> _ => {
                // Whatever was queued before the stop still goes out.
                while let Ok(Some(batch)) = self.queue.try_next() {
                    self.send(&batch, sink)?;
                }
                sink.flush()?;
                Ok(Some(End::Stopping))
            }
            recv(silence) -> _ => {
                sink.idle()?;
                Ok(None)
            }
        }
    }

    fn ended(&self, end: subscription::End) -> End {
        match end {
            subscription::End::Shutdown => End::Stopping,
            subscription::End::Lagged => End::Lagged(self.last),
        }
    }

    fn send<S: Sink>(&mut self, batch: &Batch, sink: &mut S) -> Result<(), S::Gone> {
        for entry in batch.entries() {
            if entry.seq <= self.last {
                continue;
            }
            if self.filter.is_open()
                || self.filter.takes_subject(&entry.subject) && self.filter.takes_type(entry.kind.name())
            {
                sink.live(batch, entry)?;
            }
            // Also of what was passed over: it is where the client is to come back.
            self.last = entry.seq;
        }
        Ok(())
    }
}
