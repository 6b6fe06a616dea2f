//! What a stream client gets, whatever it speaks: the past from the log if it came with a cursor, then what happens,
//! in order, nothing missing, nothing twice.
//!
//! The past is read in rounds until the client is near the present; only then does it get a live queue. So a client far
//! behind fills no queue, and one that reads slowly is slow at the log, where nobody waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never, select, tick};

use crate::hub::HubError;
use crate::hub::batch::{Batch, Entry};
use crate::hub::filter::Filter;
use crate::hub::replay::{Gap, Logged, Replay, ReplayError, Replayed};
use crate::hub::subscription::{self, Direct, Subscription};

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
pub trait Sink: Send + 'static {
    /// The client is not there any more.
    type Gone;

    /// Whether the client is there, but has taken nothing for too long.
    fn is_stalled(gone: &Self::Gone) -> bool;

    /// Events as they happen: some that follow each other in a batch.
    ///
    /// # Errors
    /// The client is gone; so for all the others.
    fn live(&mut self, batch: &Batch, run: &[Entry]) -> Result<(), Self::Gone>;
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
    /// The time of [`Feed::heartbeat`] is over, once more.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn beat(&mut self) -> Result<(), Self::Gone>;
    /// What was given so far is to go out.
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn flush(&mut self) -> Result<(), Self::Gone>;
    /// The same as far as that needs no waiting. Whether all is out; the rest goes with [`Sink::flush`].
    ///
    /// # Errors
    /// See [`Sink::live`].
    fn flush_now(&mut self) -> Result<bool, Self::Gone>;
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
    /// How often [`Sink::beat`] is called, whatever else happens: all of that may be what the client does not want.
    pub heartbeat: Option<Duration>,
}

impl Feed {
    /// Feeds the client until one side ends it; `farewell` is told how, and has the client to itself then. `gone` is
    /// disconnected when the client is.
    pub fn run<S: Sink, R>(
        self,
        mut sink: S,
        gone: &Receiver<()>,
        farewell: impl FnOnce(&mut S, Result<End, S::Gone>) -> R,
    ) -> R {
        let Self { origin, mut filter, stopping, heartbeat } = self;
        let (last, queue) = match origin {
            Origin::Live(seq, queue) => (seq, queue),
            Origin::Past(replay) => match past(replay, &mut filter, &mut sink, gone, &stopping) {
                Ok(Past::Caught(seq, queue)) => (seq, queue),
                Ok(Past::Ended(end)) => {
                    let ended = sink.flush().map(|()| end);
                    return farewell(&mut sink, ended);
                }
                Err(error) => return farewell(&mut sink, Err(error)),
            },
        };
        let place = Arc::new(Place::new(Client { sink, last, filter, ended: false }));
        let live = Live { queue, stopping, beats: heartbeat.map_or_else(never, tick) };
        let (ended, mut client) = live.run(&place, gone);
        if ended.as_ref().is_err_and(S::is_stalled) {
            live.queue.lagged_after(client.last);
        }
        client.ended = true;
        farewell(&mut client.sink, ended)
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
            Ok(Replayed::Live(seq, queue)) => {
                sink.synced(seq)?;
                return Ok(Past::Caught(seq, queue));
            }
            Err(ReplayError::Hub(HubError::Stopped)) => return Ok(Past::Ended(End::Stopping)),
            Err(error) => return Ok(Past::Ended(End::Failed(error.to_string()))),
        }
    }
}

/// The client and how far it has come. Who holds the lock writes to it: its thread, which keeps it until nothing is left
/// to send, or the hub's.
type Place<S> = Mutex<Client<S>>;

struct Client<S> {
    sink: S,
    /// The last seq that was come to, sent or not wanted.
    last: u64,
    filter: Filter,
    ended: bool,
}

fn lock<S>(place: &Place<S>) -> MutexGuard<'_, Client<S>> {
    // Only a panic leaves it poisoned. One of the client's thread ends the client, one of the hub's the daemon.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Sink> Direct for Place<S> {
    fn take(&self, batch: &Batch) -> bool {
        let Ok(mut client) = self.try_lock() else { return false };
        // An error is found again by the client's thread.
        !client.ended && client.send(batch).is_ok() && client.sink.flush_now().unwrap_or(false)
    }
}

impl<S: Sink> Client<S> {
    fn send(&mut self, batch: &Batch) -> Result<(), S::Gone> {
        let Self { sink, last, filter, .. } = self;
        let known = batch.entries().partition_point(|entry| entry.seq <= *last);
        let new = &batch.entries()[known..];
        let Some(newest) = new.last() else { return Ok(()) };
        if filter.is_open() {
            sink.live(batch, new)?;
        } else {
            let unwanted = |entry: &Entry| {
                !(filter.takes_subject(batch.subject(entry)) && filter.takes_type(entry.kind.name()))
            };
            new.split(unwanted).filter(|run| !run.is_empty()).try_for_each(|run| sink.live(batch, run))?;
        }
        // Also of what was passed over: it is where the client is to come back.
        *last = newest.seq;
        Ok(())
    }
}

struct Live {
    queue: Subscription,
    stopping: Receiver<()>,
    beats: Receiver<Instant>,
}

/// What a wait was ended by.
enum Woken {
    Batch(Arc<Batch>),
    QueueEnded,
    ClientGone,
    Stopping,
    Beat,
}

impl Live {
    fn run<'a, S: Sink>(
        &self,
        place: &'a Arc<Place<S>>,
        gone: &Receiver<()>,
    ) -> (Result<End, S::Gone>, MutexGuard<'a, Client<S>>) {
        let mut client = lock(place);
        let mut woken = None;
        loop {
            match self.go_on(&mut client, woken) {
                Ok(None) => {}
                Ok(Some(end)) => return (Ok(end), client),
                Err(error) => return (Err(error), client),
            }
            // Not earlier: with what the past has left to send, a direct batch could be too much to gather.
            self.queue.take_directly(place);
            drop(client);
            woken = Some(self.wait(gone));
            client = lock(place);
        }
    }

    /// Sends what there is, until there is nothing more for now or a reason to end.
    fn go_on<S: Sink>(&self, client: &mut Client<S>, woken: Option<Woken>) -> Result<Option<End>, S::Gone> {
        let mut end = None;
        match woken {
            None | Some(Woken::QueueEnded) => {}
            Some(Woken::Batch(batch)) => client.send(&self.queue.taken(batch))?,
            Some(Woken::ClientGone) => return Ok(Some(End::ClientGone)),
            // Whatever was queued before the stop still goes out.
            Some(Woken::Stopping) => end = Some(End::Stopping),
            Some(Woken::Beat) => client.sink.beat()?,
        }
        loop {
            match self.queue.try_next() {
                Ok(Some(batch)) => client.send(&batch)?,
                Ok(None) => break,
                Err(_) => {
                    end = end.or_else(|| Some(self.ended(client)));
                    break;
                }
            }
        }
        client.sink.flush()?;
        Ok(end)
    }

    fn wait(&self, gone: &Receiver<()>) -> Woken {
        select! {
            recv(self.queue.receiver()) -> batch => batch.map_or(Woken::QueueEnded, Woken::Batch),
            recv(gone) -> _ => Woken::ClientGone,
            recv(self.stopping) -> _ => Woken::Stopping,
            recv(self.beats) -> _ => Woken::Beat,
        }
    }

    fn ended<S>(&self, client: &Client<S>) -> End {
        match self.queue.end() {
            subscription::End::Shutdown => End::Stopping,
            subscription::End::Lagged => End::Lagged(client.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Sender, bounded};

    use super::*;
    use crate::hub::batch::Subject;
    use crate::hub::filter::{Wanted, tests::filter};
    use crate::hub::subscription::Offer;
    use crate::model::event::EventType;
    use crate::threads;

    /// Takes everything and tells of each beat.
    struct Told(Sender<()>);

    impl Sink for Told {
        type Gone = ();

        fn is_stalled((): &()) -> bool {
            false
        }

        fn live(&mut self, _: &Batch, _: &[Entry]) -> Result<(), ()> {
            Ok(())
        }

        fn logged(&mut self, _: &Logged<'_>) -> Result<(), ()> {
            Ok(())
        }

        fn gap(&mut self, _: Gap) -> Result<(), ()> {
            Ok(())
        }

        fn synced(&mut self, _: u64) -> Result<(), ()> {
            Ok(())
        }

        fn beat(&mut self) -> Result<(), ()> {
            // A test that failed hears no more.
            let _ = self.0.try_send(());
            Ok(())
        }

        fn flush(&mut self) -> Result<(), ()> {
            Ok(())
        }

        fn flush_now(&mut self) -> Result<bool, ()> {
            Ok(true)
        }
    }

    #[test]
    fn the_heart_beats_though_there_is_always_something_that_the_client_does_not_want() {
        let (hub, queue) = subscription::queue();
        let (told, beats) = bounded(1);
        let (stop, stopping) = bounded(0);
        let wanted = Wanted { types: vec!["none of these".to_owned()], ..Wanted::default() };
        let filter = filter(wanted);
        let heartbeat = Some(Duration::from_millis(200));
        let feed = Feed { origin: Origin::Live(0, queue), filter, stopping, heartbeat };
        let thread =
            threads::spawn_contained("test-feed", move || feed.run(Told(told), &never(), |_, _| ())).unwrap();
        // Goes first when an assertion fails, so that the feed ends.
        let stop = stop;
        let until = Instant::now() + Duration::from_secs(20);
        for seq in 1.. {
            let mut batch = Batch::default();
            let about = batch.about(Subject::default());
            let kind = EventType::Notification;
            batch.push(seq, kind, kind.level(), about, &[b"{}"]);
            assert_eq!(hub.offer(&Arc::new(batch), false), Offer::Queued);
            if beats.recv_timeout(Duration::from_millis(1)).is_ok() {
                break;
            }
            assert!(Instant::now() < until, "no beat among {seq} events");
        }
        drop(stop);
        thread.join();
    }
}
