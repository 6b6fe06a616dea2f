//! Deadlines: one thread that does what is due, by the monotonic clock. While nothing is due it is not woken.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::threads::{self, Thread, lock};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    /// By time, then by the order in which they came.
    jobs: BTreeMap<(Instant, u64), Job>,
    count: u64,
    stopping: bool,
}

/// The way to the timer; cheap to clone.
#[derive(Clone)]
pub struct Timer {
    shared: Arc<Shared>,
}

/// The timer's thread. Dropping it ends the thread after the job it may be at; what is not due yet is forgotten.
#[must_use = "dropping it ends the timer"]
pub struct TimerThread {
    timer: Timer,
    _thread: Thread,
}

impl Timer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<(Self, TimerThread)> {
        let timer = Self { shared: Arc::default() };
        let shared = Arc::clone(&timer.shared);
        let thread = threads::spawn("timer", move || run(&shared))?;
        Ok((timer.clone(), TimerThread { timer, _thread: thread }))
    }

    /// Has `job` done in the timer's thread `delay` from now, unless the timer is stopped before. The job holds up
    /// the others: it may wait for the hub, but for nothing slower.
    pub fn after(&self, delay: Duration, job: impl FnOnce() + Send + 'static) {
        // A time that the clock cannot express never comes.
        let Some(at) = Instant::now().checked_add(delay) else { return };
        let mut due = lock(&self.shared.due);
        if due.stopping {
            return;
        }
        let number = due.count;
        due.count += 1;
        due.jobs.insert((at, number), Box::new(job));
        drop(due);
        self.shared.changed.notify_one();
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        let forgotten = {
            let mut due = lock(&self.timer.shared.due);
            due.stopping = true;
            std::mem::take(&mut due.jobs)
        };
        // Outside the lock: what a job owns may be dropped with it.
        drop(forgotten);
        self.timer.shared.changed.notify_one();
    }
}

fn run(shared: &Shared) {
    while let Some(job) = next(shared) {
        job();
    }
}

/// The next job, when it is due; `None` at the end.
fn next(shared: &Shared) -> Option<Job> {
    let mut due = lock(&shared.due);
    loop {
        if due.stopping {
            return None;
        }
        let wait =
            due.jobs.first_key_value().map(|(&(at, _), _)| at.saturating_duration_since(Instant::now()));
        due = match wait {
            Some(wait) if wait.is_zero() => return due.jobs.pop_first().map(|(_, job)| job),
            Some(wait) => threads::sound(shared.changed.wait_timeout(due, wait)).0,
            None => threads::sound(shared.changed.wait(due)),
        };
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn jobs_are_done_in_the_order_of_their_times() {
        let (timer, thread) = Timer::start().unwrap();
        let (done, order) = bounded(3);
        for (name, delay) in [("last", 60), ("first", 0), ("middle", 20)] {
            let done = done.clone();
            timer.after(Duration::from_millis(delay), move || done.send(name).unwrap());
        }
        let got: Vec<_> = (0..3).map(|_| order.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
        assert_eq!(got, ["first", "middle", "last"]);
        drop(thread);
    }

    #[test]
    fn the_end_forgets_what_is_not_due() {
        let (timer, thread) = Timer::start().unwrap();
        let (done, ended) = bounded::<()>(0);
        let late = done.clone();
        timer.after(Duration::from_secs(3600), move || drop(late));
        timer.after(Duration::MAX, move || drop(done));
        drop(thread);
        timer.after(Duration::ZERO, || unreachable!("after the end"));
        let over = ended.recv_timeout(Duration::from_secs(30));
        assert_eq!(over, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "both jobs are dropped");
    }
}
