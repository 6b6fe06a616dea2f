//! Looks at a daemon while something is done to it: does /healthz answer, and what does the process hold.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::daemon::Daemon;

/// What a process holds at a moment (`/proc/PID`).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Resident memory, and its peak so far, in KiB.
    pub(crate) rss: u64,
    pub(crate) peak: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

/// Of the process `pid`, now.
pub(crate) fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    Held { rss: number("VmRSS:"), peak: number("VmHWM:"), threads: number("Threads:"), descriptors }
}

/// A thread that asks /healthz again and again, and the most that was held meanwhile.
pub(crate) struct Watch {
    pid: u32,
    stop: Arc<AtomicBool>,
    slowest: Arc<AtomicU64>,
    most: Arc<Mutex<Held>>,
    thread: Option<JoinHandle<u64>>,
}

impl Watch {
    pub(crate) fn start(daemon: &Daemon) -> Watch {
        let (pid, client) = (daemon.pid(), daemon.client().with_deadline(Duration::from_secs(20)));
        let stop = Arc::<AtomicBool>::default();
        let slowest = Arc::<AtomicU64>::default();
        let most = Arc::<Mutex<Held>>::default();
        let (stop_in, slowest_in, most_in) = (Arc::clone(&stop), Arc::clone(&slowest), Arc::clone(&most));
        let watch = move || {
            let mut asked = 0;
            while !stop_in.load(Ordering::Relaxed) {
                let micros = ask(&client);
                slowest_in.fetch_max(micros, Ordering::Relaxed);
                note(&most_in, held(pid));
                asked += 1;
                thread::park_timeout(Duration::from_millis(20));
            }
            asked
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(watch).unwrap();
        Watch { pid, stop, slowest, most, thread: Some(thread) }
    }

    /// The slowest answer and the most that was held since the last time.
    pub(crate) fn lap(&self) -> (Duration, Held) {
        note(&self.most, held(self.pid));
        let most = std::mem::take(&mut *self.most.lock().unwrap());
        (Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed)), most)
    }

    /// How often it has asked.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        thread.join().expect("/healthz answered each time")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn ask(client: &Client) -> u64 {
    let began = Instant::now();
    let answer = client.get("/healthz");
    assert_eq!(answer.status, 200, "{answer:?}");
    u64::try_from(began.elapsed().as_micros()).unwrap()
}

fn note(most: &Mutex<Held>, now: Held) {
    let mut most = most.lock().unwrap();
    most.rss = most.rss.max(now.rss);
    most.peak = most.peak.max(now.peak);
    most.threads = most.threads.max(now.threads);
    most.descriptors = most.descriptors.max(now.descriptors);
}

/// The table of a test, printed at its end (`--nocapture` shows it).
#[derive(Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    pub(crate) fn row(&mut self, case: &str, answer: impl Into<String>, (slowest, most): (Duration, Held)) {
        let held = format!(
            "{:>6.1} MB {:>5} threads {:>5} descriptors, healthz {:>4} ms",
            most.rss as f64 / 1024.0,
            most.threads,
            most.descriptors,
            slowest.as_millis()
        );
        self.0.push([case.to_owned(), answer.into(), held]);
    }

    pub(crate) fn print(&self, title: &str) {
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        println!("\n{title}");
        for [case, answer, held] in &self.0 {
            println!("  {case:<0$}  {answer:<1$}  {held}", width(0), width(1));
        }
    }
}
