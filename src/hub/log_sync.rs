//! Forces the log to disk in the background (`--sync interval`): a segment when it is finished, what is being written at
//! most once an interval while there is something new.
//!
//! The hub wakes the thread for the first batch after a sync only: to wake a thread takes longer than to write a batch.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::actor::log_not_forced;
use crate::fault::Point;
use crate::store::files;
use crate::store::journal::Finished;
use crate::threads::{self, Thread, lock};

/// The interval of `--sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Finished segments that may wait; with more the disk is too slow, and the hub waits for it.
const MOST_FINISHED: usize = 4;

/// What the disk may not have.
#[derive(Debug, Default)]
struct Unforced {
    /// In the order of the log.
    finished: Vec<Finished>,
    /// The file that is written.
    current: Option<Arc<File>>,
}

/// Something to force to disk.
enum Part<'a> {
    Finished(&'a Finished),
    Current(&'a File),
}

/// The hub's side.
pub(super) struct LogSync {
    unforced: Arc<Mutex<Unforced>>,
    wake: Sender<()>,
}

impl LogSync {
    /// Starts the thread; it ends, after a last sync, when this is dropped.
    pub(super) fn start() -> io::Result<(Self, Thread)> {
        Self::start_with(force)
    }

    fn start_with(force: impl Fn(&Part<'_>) + Send + 'static) -> io::Result<(Self, Thread)> {
        let unforced = Arc::default();
        let (wake, woken) = bounded(1);
        let to_thread = Arc::clone(&unforced);
        let thread = threads::spawn("log-sync", move || run(&to_thread, &woken, &force))?;
        Ok((Self { unforced, wake }, thread))
    }

    /// Something was written to that file, the newest.
    pub(super) fn written(&self, file: &Arc<File>) {
        let mut unforced = lock(&self.unforced);
        let was_asked = unforced.current.is_some();
        if unforced.current.as_ref().is_none_or(|other| !Arc::ptr_eq(other, file)) {
            unforced.current = Some(Arc::clone(file));
        }
        drop(unforced);
        if !was_asked {
            self.wake();
        }
    }

    /// That segment is finished, and forced to disk without waiting for the interval's end.
    pub(super) fn finished(&self, segment: Finished) {
        let mut unforced = lock(&self.unforced);
        if unforced.finished.len() < MOST_FINISHED {
            unforced.finished.push(segment);
            drop(unforced);
            self.wake();
        } else {
            drop(unforced);
            force(&Part::Finished(&segment));
        }
    }

    fn wake(&self) {
        // When it is full the thread has yet to look at what there is.
        let _ = self.wake.try_send(());
    }
}

fn force(part: &Part<'_>) {
    let forced = match part {
        Part::Finished(segment) => segment.force(),
        Part::Current(file) => files::force_at(Point::LogSync, file, File::sync_data),
    };
    if let Err(error) = forced {
        log_not_forced(&error);
    }
}

fn run(unforced: &Mutex<Unforced>, woken: &Receiver<()>, force: &dyn Fn(&Part<'_>)) {
    let mut last: Option<Instant> = None;
    while woken.recv().is_ok() {
        // Woken again in the interval, by a segment that was finished, or by the hub's end, which cuts it short.
        loop {
            let finished = std::mem::take(&mut lock(unforced).finished);
            finished.iter().for_each(|segment| force(&Part::Finished(segment)));
            let left = last.map_or(Duration::ZERO, |last| SYNC_INTERVAL.saturating_sub(last.elapsed()));
            if woken.recv_timeout(left).is_err() {
                break;
            }
        }
        let Some(file) = lock(unforced).current.take() else { continue };
        force(&Part::Current(&file));
        last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sync;
    use crate::store::journal::{Journal, Limits};

    #[test]
    fn the_first_batch_after_a_sync_wakes_it_and_the_newest_file_is_what_waits() {
        let (wake, woken) = bounded(1);
        let sync = LogSync { unforced: Arc::default(), wake };
        let [old, new] = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        for file in [&old, &old, &new] {
            sync.written(file);
        }
        assert_eq!(woken.try_iter().count(), 1);
        let waits = sync.unforced.lock().unwrap().current.take().unwrap();
        assert!(Arc::ptr_eq(&waits, &new));
        sync.written(&new);
        assert_eq!(woken.try_iter().count(), 1);
    }

    /// A thread that tells what it has forced to disk.
    fn told() -> (Thread, LogSync, Receiver<&'static str>) {
        let (tell, forced) = bounded(100);
        let (sync, thread) = LogSync::start_with(move |part| {
            force(part);
            let which = match part {
                Part::Finished(_) => "finished",
                Part::Current(_) => "current",
            };
            // A test that failed asks no more.
            let _ = tell.send(which);
        })
        .unwrap();
        // Dropped from the last to the first, should a test fail: the thread waits for the other two.
        (thread, sync, forced)
    }

    fn next(forced: &Receiver<&'static str>) -> &'static str {
        forced.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn what_was_written_is_forced_before_the_end_whatever_is_left_of_the_interval() {
        let (thread, sync, forced) = told();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let unforced = Arc::clone(&sync.unforced);
        sync.written(&file);
        assert_eq!(next(&forced), "current");
        sync.written(&file);
        drop(sync);
        thread.join();
        assert_eq!(forced.iter().collect::<Vec<_>>(), ["current"]);
        assert!(unforced.lock().unwrap().current.is_none());
    }

    /// Segments of a log, each just finished.
    fn segments(count: u64) -> (tempfile::TempDir, Vec<Finished>) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: Some(1), keep: None, sync: Sync::Interval };
        let mut journal = Journal::open(folder.path(), limits).unwrap().journal;
        let finish = |seq| {
            journal.append(format!("{{\"seq\":{seq}}}\n").as_bytes(), seq).unwrap();
            journal.take_finished()
        };
        (folder, (1..=count + 1).filter_map(finish).collect())
    }

    #[test]
    fn finished_segments_wake_it_and_no_more_than_some_wait() {
        let (wake, woken) = bounded(1);
        let sync = LogSync { unforced: Arc::default(), wake };
        let (_folder, segments) = segments(MOST_FINISHED as u64 + 2);
        segments.into_iter().for_each(|segment| sync.finished(segment));
        assert_eq!(sync.unforced.lock().unwrap().finished.len(), MOST_FINISHED);
        assert_eq!(woken.try_iter().count(), 1);
    }

    #[test]
    fn a_finished_segment_is_forced_while_the_log_goes_on() {
        let (thread, sync, forced) = told();
        let unforced = Arc::clone(&sync.unforced);
        let (_folder, segments) = segments(3);
        let file = Arc::new(tempfile::tempfile().unwrap());
        sync.written(&file);
        assert_eq!(next(&forced), "current");
        sync.written(&file);
        for segment in segments {
            sync.finished(segment);
            // What is written may have its turn between two of them, on a machine that takes a second for it.
            while next(&forced) != "finished" {}
        }
        drop(sync);
        thread.join();
        assert!(unforced.lock().unwrap().finished.is_empty());
        assert!(unforced.lock().unwrap().current.is_none());
    }
}
