//! What is measured. Repeats are interleaved with the reference's, so that a machine that slows down slows both.

use std::time::{Duration, Instant};

use super::clients::{Http, open_stream};
use super::daemon::Daemon;
use super::report::{Better, Report};
use super::{crowded, real, relay};

pub type Scenario = fn(&mut Report);

pub const ALL: &[(&str, Scenario)] = &[
    ("burst-64-1", |report| burst(report, "64 B deltas, 1 client", 600_000, 64, 1, Some(300_000.0))),
    ("burst-64-16", |report| {
        burst(report, "64 B deltas, 16 clients, deliveries", 150_000, 64, 16, Some(800_000.0))
    }),
    ("burst-4096-1", |report| burst(report, "4 KiB deltas, 1 client", 100_000, 4096, 1, Some(60_000.0))),
    ("latency-1000", |report| latency(report, 1_000, 5_000, Some((0.10, 0.30)))),
    ("latency-20000", |report| latency(report, 20_000, 60_000, None)),
    ("control", control_during_a_burst),
    ("rest", rest),
    ("sizes", answers_of_all_sizes),
    ("written", bytes_written),
    ("life", start_idle_stop),
    ("many-clients", many_idle_clients),
    ("stuck", crowded::one_is_stuck),
    ("flat", crowded::flat),
    ("real-stream", real::latency_of_the_real_stream),
];

fn burst(report: &mut Report, name: &str, count: usize, size: usize, clients: usize, target: Option<f64>) {
    let prompt = format!("burst {count} {size}");
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let readers: Vec<_> =
            (0..clients).map(|_| open_stream(daemon.address).count_deltas(count, false)).collect();
        let cpu = daemon.cpu();
        let began = Instant::now();
        daemon.turn(&session, &prompt);
        let last = readers.into_iter().map(|reader| reader.join().unwrap().0).max().unwrap();
        let took = last.duration_since(began).as_secs_f64();
        let cpu = (daemon.cpu() - cpu).as_secs_f64();
        report.add(name, "/s", Better::More, target, (count * clients) as f64 / took);
        if clients == 1 && size == 64 {
            let each = cpu / count as f64 * 1e6;
            report.add("daemon CPU per 64 B event", "µs", Better::Less, Some(3.0), each);
        }
        drop(daemon);
        let (took, _) = relay::run(&prompt, count, false);
        if clients == 1 {
            report.add_reference(name, count as f64 / took.as_secs_f64());
        }
    }
}

/// Of nanoseconds, in milliseconds.
pub fn percentile(ages: &mut [u64], share: f64) -> f64 {
    ages.sort_unstable();
    ages[((ages.len() - 1) as f64 * share) as usize] as f64 / 1e6
}

fn latency(report: &mut Report, rate: usize, count: usize, targets: Option<(f64, f64)>) {
    let prompt = format!("rate {count} 64 {rate}");
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let reader = open_stream(daemon.address).count_deltas(count, true);
        daemon.turn(&session, &prompt);
        let (_, mut ages) = reader.join().unwrap();
        drop(daemon);
        let (_, mut relayed) = relay::run(&prompt, count, true);
        let p99_target = targets.map_or(Some(2.0), |targets| Some(targets.1));
        for (what, share, target) in
            [("p50", 0.50, targets.map(|targets| targets.0)), ("p99", 0.99, p99_target)]
        {
            let name = format!("latency at {rate}/s, {what}");
            report.add(&name, "ms", Better::Less, target, percentile(&mut ages, share));
            report.add_reference(&name, percentile(&mut relayed, share));
        }
    }
}

/// POST session and GET status while a burst runs.
fn control_during_a_burst(report: &mut Report) {
    let count = 1_000_000;
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let reader = open_stream(daemon.address).count_deltas(count, false);
        daemon.turn(&session, &format!("burst {count} 64"));
        let mut http = daemon.http();
        let (mut status, mut posts) = (Vec::new(), Vec::new());
        while !reader.is_finished() {
            let began = Instant::now();
            http.get("/v1/codexd/status");
            status.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            http.post("/v1/codexd/sessions", "{}");
            posts.push(began.elapsed().as_secs_f64() * 1e3);
        }
        reader.join().unwrap();
        // The last ones may have been after the burst.
        for (name, mut times) in [("GET status", status), ("POST session", posts)] {
            times.sort_by(f64::total_cmp);
            let p99 = times[(times.len() - 1) * 99 / 100];
            report.add(&format!("{name} during a burst, p99"), "ms", Better::Less, Some(20.0), p99);
        }
    }
}

fn rest(report: &mut Report) {
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        for (path, name, target, count) in [
            ("/healthz", "GET /healthz, 4 kept connections", Some(60_000.0), 20_000),
            ("/v1/codexd/status", "GET status, 4 kept connections", Some(15_000.0), 5_000),
        ] {
            let began = Instant::now();
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let mut http = Http::new(daemon.address);
                    std::thread::spawn(move || {
                        (0..count)
                            .map(|_| {
                                let began = Instant::now();
                                http.get(path);
                                began.elapsed().as_secs_f64() * 1e3
                            })
                            .collect::<Vec<f64>>()
                    })
                })
                .collect();
            let mut times: Vec<f64> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
            let took = began.elapsed().as_secs_f64();
            times.sort_by(f64::total_cmp);
            report.add(name, "/s", Better::More, target, times.len() as f64 / took);
            let p99 = times[(times.len() - 1) * 99 / 100];
            report.add(&format!("{name}, p99"), "ms", Better::Less, Some(1.0), p99);
        }
    }
}

/// An answer of 100 KB, and whether any size stalls (Nagle's algorithm and delayed acknowledgements: 40 ms).
fn answers_of_all_sizes(report: &mut Report) {
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let reader = open_stream(daemon.address).count_deltas(5_000, false);
        daemon.turn(&session, "burst 5000 64");
        reader.join().unwrap();
        let mut http = daemon.http();
        let mut slowest = 0_f64;
        for limit in [1, 2, 3, 4, 5, 7, 10, 20, 30, 50, 100, 200, 250, 500, 1000, 3000] {
            let path = format!("/v1/codexd/events?after=100&limit={limit}");
            let mut size = 0;
            let mut times: Vec<f64> = (0..40)
                .map(|_| {
                    let began = Instant::now();
                    size = http.get(&path).len();
                    began.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            slowest = slowest.max(times[times.len() / 2]);
            if limit == 250 {
                assert!((80_000..130_000).contains(&size), "{size}");
                report.add("answers of 100 KB, p50", "ms", Better::Less, Some(0.4), times[times.len() / 2]);
            }
        }
        report.add("slowest p50 of 16 sizes up to 1.2 MB", "ms", Better::Less, Some(40.0), slowest);
    }
}

/// What the disk gets for each event: its line in the log and the child's own line, and the state files now and then.
fn bytes_written(report: &mut Report) {
    let count = 1_000_000;
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let before = daemon.written();
        let reader = open_stream(daemon.address).count_deltas(count, false);
        daemon.turn(&session, &format!("burst {count} 64"));
        reader.join().unwrap();
        let written = daemon.written() - before;
        let (_, folder) = daemon.stop();
        let logs: u64 = std::fs::read_dir(folder.path().join("logs/codexd"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        // The sockets' bytes are not in this figure (proc_pid_io(5), write_bytes counts what goes to storage).
        let share = written as f64 / logs as f64;
        report.add("written to storage, of the size of the logs", "", Better::Less, Some(1.02), share);
    }
}

fn start_idle_stop(report: &mut Report) {
    for _ in 0..report.repeats {
        let daemon = Daemon::start(&[]);
        report.add("start to serving", "ms", Better::Less, Some(10.0), daemon.started_in.as_secs_f64() * 1e3);
        daemon.http().get("/healthz");
        report.add("idle memory", "MB", Better::Less, Some(5.0), daemon.resident() as f64 / 1024.0);
        // The state files of the start are written by then.
        std::thread::sleep(Duration::from_secs(2));
        let before = daemon.wake_ups();
        std::thread::sleep(Duration::from_secs(3));
        let woken = (daemon.wake_ups() - before) as f64;
        report.add("wake-ups of an idle daemon in 3 s", "", Better::Less, Some(0.0), woken);
        let (took, _folder) = daemon.stop();
        report.add("stop, idle", "ms", Better::Less, Some(50.0), took.as_secs_f64() * 1e3);
    }
}

fn many_idle_clients(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let clients: Vec<_> = (0..200).map(|_| open_stream(daemon.address)).collect();
    // The daemon has nothing to do but to be there.
    std::thread::sleep(Duration::from_millis(200));
    let resident = daemon.resident() as f64 / 1024.0;
    report.add("memory with 200 idle stream clients", "MB", Better::Less, Some(30.0), resident);
    drop(clients);
}
