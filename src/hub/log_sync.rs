//! Forces the log to disk in the background, at most once an interval while there is something new (`--sync interval`).
//!
//! The hub wakes the thread for the first batch after a sync only: to wake a thread takes longer than to write a batch.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::actor::log_not_forced;
use crate::fault;
use crate::threads::{self, Thread, lock};

/// The interval of `--sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The file that has something the disk may not have; the newest, for an older one was forced when it was finished.
type Unforced = Arc<Mutex<Option<Arc<File>>>>;

/// The hub's side.
pub(super) struct LogSync {
    unforced: Unforced,
    wake: Sender<()>,
}

impl LogSync {
    /// Starts the thread; it ends, after a last sync, when this is dropped.
    pub(super) fn start() -> io::Result<(Self, Thread)> {
        let unforced = Unforced::default();
        let (wake, woken) = bounded(1);
        let files = Arc::clone(&unforced);
        let thread = threads::spawn("log-sync", move || run(&files, &woken))?;
        Ok((Self { unforced, wake }, thread))
    }

    /// Something was written to that file.
    pub(super) fn written(&self, file: &Arc<File>) {
        let mut unforced = lock(&self.unforced);
        let was_asked = unforced.is_some();
        if unforced.as_ref().is_none_or(|other| !Arc::ptr_eq(other, file)) {
            *unforced = Some(Arc::clone(file));
        }
        drop(unforced);
        if !was_asked {
            // There is room: the thread took the last one before it took the file.
            let _ = self.wake.try_send(());
        }
    }
}

fn run(unforced: &Unforced, woken: &Receiver<()>) {
    let mut last: Option<Instant> = None;
    while woken.recv().is_ok() {
        if let Some(last) = last {
            // Nobody wakes it now; only the hub's end cuts the wait short.
            let _ = woken.recv_timeout(SYNC_INTERVAL.saturating_sub(last.elapsed()));
        }
        let Some(file) = lock(unforced).take() else { continue };
        if let Err(error) = fault::point(fault::Point::LogSync).and_then(|()| file.sync_data()) {
            log_not_forced(&error);
        }
        last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_after_a_sync_wakes_it_and_the_newest_file_is_what_waits() {
        let (wake, woken) = bounded(1);
        let sync = LogSync { unforced: Unforced::default(), wake };
        let [old, new] = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        for file in [&old, &old, &new] {
            sync.written(file);
        }
        assert_eq!(woken.try_iter().count(), 1);
        let waits = sync.unforced.lock().unwrap().take().unwrap();
        assert!(Arc::ptr_eq(&waits, &new));
        sync.written(&new);
        assert_eq!(woken.try_iter().count(), 1);
    }

    #[test]
    fn what_was_written_is_forced_before_the_end_whatever_is_left_of_the_interval() {
        let (sync, thread) = LogSync::start().unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let unforced = Arc::clone(&sync.unforced);
        sync.written(&file);
        while unforced.lock().unwrap().is_some() {
            std::thread::yield_now();
        }
        sync.written(&file);
        drop(sync);
        thread.join();
        assert!(unforced.lock().unwrap().is_none());
    }
}
