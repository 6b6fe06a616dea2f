//! Faults on demand, for the tests: only a debug build has them, a release build compiles every point to nothing.
//!
//! `CODEXD_FAULT=ACTION:POINT:N` with the actions `die` (SIGKILL, at the N-th time the point is passed), `panic` (then),
//! `half` (for writes: half of the bytes, then SIGKILL), `once` (an `EIO`, then) and `fail` (an `EIO`, from then on).
//! `CODEXD_FAULT=clock:jump` makes the wall clock jump to and fro by an hour, `clock:before-1970` leaves it there.

use std::io;

/// Somewhere that a fault can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A write to the event log.
    LogWrite,
    /// A write to the event log that has happened.
    LogWritten,
    /// fdatasync of the event log.
    LogSync,
    /// The rename of a full segment.
    LogRename,
    /// The new segment after it.
    LogOpen,
    /// The log's folder, opened to be forced to disk.
    LogFolder,
    /// The torn end of the log, on its way to a file of its own.
    TailWrite,
    /// The temporary file of a state file.
    StateOpen,
    /// Its contents.
    StateWrite,
    /// Its fsync.
    StateSync,
    /// Its rename to the final name.
    StateRename,
    /// The fsync of its folder.
    StateFolderSync,
    /// The start of a thread.
    ThreadStart,
    /// The last message of a run.
    LastMessage,
    /// poll(2) for the next client.
    PortPoll,
    /// A request on its way to a handler.
    InnerSend,
    /// The handler's answer.
    InnerAnswer,
}

impl Point {
    /// As it stands in the variable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogWrite => "log.write",
            Self::LogWritten => "log.written",
            Self::LogSync => "log.sync",
            Self::LogRename => "log.rename",
            Self::LogOpen => "log.open",
            Self::LogFolder => "log.folder",
            Self::TailWrite => "tail.write",
            Self::StateOpen => "state.open",
            Self::StateWrite => "state.write",
            Self::StateSync => "state.sync",
            Self::StateRename => "state.rename",
            Self::StateFolderSync => "state.folder-sync",
            Self::ThreadStart => "thread.start",
            Self::LastMessage => "run.last-message",
            Self::PortPoll => "port.poll",
            Self::InnerSend => "inner.send",
            Self::InnerAnswer => "inner.answer",
        }
    }
}

/// Passes a point.
///
/// # Errors
/// The fault that was ordered for it.
#[inline]
pub fn point(point: Point) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return debug::point(point).map(|_| ());
    #[cfg(not(debug_assertions))]
    {
        let _ = point;
        Ok(())
    }
}

/// Passes a point with bytes to be written: with an ordered `half`, `write` gets the first half and the process dies.
///
/// # Errors
/// The fault that was ordered, or what `write` says.
#[inline]
pub fn writing(point: Point, bytes: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    #[cfg(debug_assertions)]
    if debug::point(point)? {
        write(&bytes[..bytes.len() / 2])?;
        debug::die();
    }
    let _ = point;
    write(bytes)
}

/// Milliseconds by which the wall clock is off now.
#[inline]
pub fn clock_offset() -> i64 {
    #[cfg(debug_assertions)]
    return debug::clock_offset();
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
mod debug {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use super::Point;

    #[derive(Debug, PartialEq, Eq)]
    enum Action {
        Die,
        Panic,
        Half,
        Fail,
        Once,
        Clock,
    }

    struct Order {
        action: Action,
        point: String,
        number: u64,
    }

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static TICKS: AtomicI64 = AtomicI64::new(0);

    fn order() -> Option<&'static Order> {
        static ORDER: OnceLock<Option<Order>> = OnceLock::new();
        ORDER.get_or_init(|| parse(&std::env::var("CODEXD_FAULT").ok()?)).as_ref()
    }

    fn parse(text: &str) -> Option<Order> {
        let mut parts = text.split(':');
        let action = match parts.next()? {
            "die" => Action::Die,
            "panic" => Action::Panic,
            "half" => Action::Half,
            "fail" => Action::Fail,
            "once" => Action::Once,
            "clock" => Action::Clock,
            _ => return None,
        };
        let point = parts.next()?.to_owned();
        let number = parts.next().and_then(|number| number.parse().ok()).unwrap_or(1);
        Some(Order { action, point, number })
    }

    /// `true` when half of the bytes are to be written.
    pub(super) fn point(point: Point) -> io::Result<bool> {
        let Some(order) = order().filter(|order| order.point == point.name()) else { return Ok(false) };
        let passed = PASSED.fetch_add(1, Ordering::AcqRel) + 1;
        match order.action {
            Action::Die if passed == order.number => die(),
            Action::Panic => {
                assert_ne!(passed, order.number, "CODEXD_FAULT");
                Ok(false)
            }
            Action::Half => Ok(passed == order.number),
            Action::Fail if passed >= order.number => Err(rustix::io::Errno::IO.into()),
            Action::Once if passed == order.number => Err(rustix::io::Errno::IO.into()),
            Action::Die | Action::Fail | Action::Once | Action::Clock => Ok(false),
        }
    }

    pub(super) fn die() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }

    pub(super) fn clock_offset() -> i64 {
        const HOUR: i64 = 3_600_000;
        let Some(order) = order().filter(|order| order.action == Action::Clock) else { return 0 };
        match order.point.as_str() {
            "jump" => HOUR * (TICKS.fetch_add(1, Ordering::Relaxed) % 3 - 1),
            "before-1970" => i64::MIN,
            _ => 0,
        }
    }
}
