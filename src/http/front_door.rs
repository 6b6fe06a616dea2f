//! The accept loop and the life of its connections.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::api::Api;
use super::connection::{Connection, converse};
use super::guard::Guard;
use super::inner::{Pool, cut, sweep};
use super::limits::{self, Limits};
use super::open::{Open, Waiting};
use super::reply::{ApiError, Reply};
use crate::fault::{self, Point};
use crate::os;
use crate::threads::permits::Permits;
use crate::threads::{self, Thread};

/// Bodies of more than 64 KiB that may be held in memory at a time, 4 MiB each at most.
const LARGE_BODIES: usize = 32;
/// Descriptors that connections leave to the rest of the daemon where they are scarce: to look up whose a connection is,
/// to bring a request to a handler, to start a child.
const KEEP_AT_LEAST: usize = 8;
/// Connections that may wait to be accepted: as many as Linux allows without further setting. One that finds no place
/// waits a second until its SYN is sent again, and then two.
const BACKLOG: i32 = 4096;
/// Pause when the system has no descriptor, memory or thread for another connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Refused connections whose sockets are still open, so that the refusal is not lost in a reset.
const REFUSED_OPEN: usize = 16;
/// How long they stay open, at most.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
/// Time that connections get to end by themselves when the front door is dropped without [`FrontDoor::close`].
const DROP_GRACE: Duration = Duration::from_secs(2);

/// What the connections share.
pub(super) struct Shared {
    pub(super) api: Arc<dyn Api>,
    pub(super) guard: Guard,
    pub(super) limits: Limits,
    pub(super) handlers: Pool,
    pub(super) large_bodies: Permits,
    /// Disconnected when the front door closes.
    pub(super) stopping: Receiver<()>,
    closing: AtomicBool,
    pub(super) open: Open,
}

impl Shared {
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// A port that is ours, but not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// The address with the port it really has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts the handlers' server; clients wait on.
    ///
    /// # Errors
    /// What the system says when it has no thread, descriptor or temporary folder for it.
    pub fn prepare(self, api: Arc<dyn Api>, guard: Guard, mut limits: Limits) -> io::Result<Prepared> {
        limits.respect_descriptors();
        sweep();
        let (stop, stopping) = bounded(0);
        let shared = Shared {
            handlers: Pool::start(Arc::clone(&api))?,
            api,
            guard,
            limits,
            large_bodies: Permits::new(LARGE_BODIES),
            stopping,
            closing: AtomicBool::new(false),
            open: Open::new(limits),
        };
        Ok(Prepared { bound: self, shared: Arc::new(shared), stop })
    }
}

/// A port with handlers behind it, and nobody at the door yet.
pub struct Prepared {
    bound: Bound,
    shared: Arc<Shared>,
    stop: Sender<()>,
}

impl Prepared {
    /// Starts to serve: the accept thread.
    ///
    /// # Errors
    /// What the system says when it has no thread or descriptor for it.
    pub fn open(self) -> io::Result<FrontDoor> {
        let Self { bound: Bound { listener, .. }, shared, stop } = self;
        let (alive, done) = bounded(0);
        let (wake_read, wake) = os::pipe()?;
        let acceptor = Acceptor {
            listener,
            wake: wake_read,
            shared: Arc::clone(&shared),
            alive,
            scarce: limits::descriptors_are_scarce(),
            reserve: File::open("/dev/null").ok(),
            refused: VecDeque::new(),
            turned_away: 0,
            shortages: 0,
            troubles: 0,
            next: 1,
        };
        let accept = threads::spawn("accept", move || acceptor.run())?;
        Ok(FrontDoor { shared, stop: Some((stop, wake)), accept: Some(accept), done })
    }
}

/// The port, served. Dropping it closes it.
pub struct FrontDoor {
    shared: Arc<Shared>,
    stop: Option<(Sender<()>, OwnedFd)>,
    accept: Option<Thread>,
    done: Receiver<()>,
}

impl FrontDoor {
    /// Takes the port; port 0 is any free one. Clients wait from here on, and are served after [`Prepared::open`].
    ///
    /// # Errors
    /// What bind(2) says: in use, no such address, not permitted.
    pub fn bind(address: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(address)?;
        // std listens with a backlog of 128.
        rustix::net::listen(&listener, BACKLOG)?;
        // A client may be gone between poll and accept, and accept must not wait for the next one then.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.open.len()
    }

    /// Takes no more connections, lets requests under way and stream clients end for up to `grace`, then cuts them.
    /// Whatever handlers wait for should be ended before.
    pub fn close(mut self, grace: Duration) {
        self.close_now(grace);
    }

    fn close_now(&mut self, grace: Duration) {
        let Some(stop) = self.stop.take() else { return };
        self.shared.closing.store(true, Ordering::Release);
        drop(stop);
        drop(self.accept.take());
        self.shared.open.each(|connection| {
            // Whoever waits for a request sees its end; whoever works on one can still answer.
            if !connection.streaming.load(Ordering::Acquire) {
                drop(connection.stream.shutdown(Shutdown::Read));
            }
        });
        let until = Instant::now() + grace;
        if !self.wait(until) {
            self.shared.open.each(|connection| {
                drop(connection.stream.shutdown(Shutdown::Both));
                cut(&connection.slot);
            });
            if !self.wait(Instant::now() + DROP_GRACE) {
                log::warn!("{} connections did not end", self.connections());
            }
        }
        self.shared.handlers.close(DROP_GRACE);
    }

    /// Whether every connection has ended.
    fn wait(&self, until: Instant) -> bool {
        matches!(self.done.recv_deadline(until), Err(crossbeam_channel::RecvTimeoutError::Disconnected))
    }

    /// Ends the inner server as if it had died.
    #[cfg(test)]
    pub(super) fn kill_inner(&self) {
        self.shared.handlers.kill_server();
    }
}

impl Drop for FrontDoor {
    fn drop(&mut self) {
        self.close_now(DROP_GRACE);
    }
}

/// The accept thread. Ends when the other end of `wake` is closed.
struct Acceptor {
    listener: TcpListener,
    wake: OwnedFd,
    shared: Arc<Shared>,
    /// A clone in every connection's thread: the channel is disconnected when the last one has ended.
    alive: Sender<()>,
    /// Whether the connections that there may be do not leave enough descriptors.
    scarce: bool,
    /// Given up for a moment when there is no other descriptor, so that a client can be told.
    reserve: Option<File>,
    /// Since when, and which; the oldest first.
    refused: VecDeque<(Instant, Arc<TcpStream>)>,
    /// How many were refused for want of room.
    turned_away: u64,
    /// How often there was no descriptor.
    shortages: u64,
    /// How often poll(2) or accept(2) failed otherwise.
    troubles: u64,
    next: u64,
}

impl Acceptor {
    fn run(mut self) {
        while self.wait() {
            match self.listener.accept() {
                Ok((stream, peer)) => self.welcome(stream, peer),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Waits for a client; `false` when it is time to end.
    fn wait(&mut self) -> bool {
        // Whoever was refused has read it by then.
        while self.refused.front().is_some_and(|(since, _)| since.elapsed() >= REFUSED_LINGER) {
            self.refused.pop_front();
        }
        let left = self.refused.front().map(|(since, _)| REFUSED_LINGER.saturating_sub(since.elapsed()));
        let left: Option<Timespec> = left.and_then(|left| left.try_into().ok());
        let mut events = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        let polled = fault::point(Point::PortPoll).and_then(|()| Ok(poll(&mut events, left.as_ref())?));
        match polled {
            Ok(_) => events[1].revents().is_empty(),
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => {
                self.troubled("poll on the port", &error);
                // What has no memory for two descriptors may have none for one.
                threads::pause(PAUSE);
                !self.shared.is_closing()
            }
        }
    }

    /// Waits a moment, or until it is time to end.
    fn pause(&self) {
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(PAUSE.subsec_nanos()) as _ };
        let mut events = [PollFd::new(&self.wake, PollFlags::IN)];
        if !matches!(poll(&mut events, Some(&pause)), Ok(_) | Err(Errno::INTR)) {
            threads::pause(PAUSE);
        }
    }

    /// Tells of what is tried again: not a line each, for neither a flood of clients nor a lasting want must fill the disk.
    fn troubled(&mut self, what: &str, error: &io::Error) {
        self.troubles += 1;
        let times = self.troubles;
        if times.is_power_of_two() {
            log::error!("{what}, {times} times so far: {error}");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        match Errno::from_io_error(error) {
            // The client is gone again (accept(2) names more of these on Linux).
            _ if matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
            ) => {}
            Some(Errno::PROTO | Errno::NETDOWN | Errno::HOSTUNREACH | Errno::NETUNREACH) => {}
            Some(Errno::MFILE | Errno::NFILE) => {
                self.shortages += 1;
                // Not a line each: a flood of clients must not fill the disk.
                let times = self.shortages;
                if times.is_power_of_two() {
                    log::warn!("no descriptor for another connection, {times} times so far: {error}");
                }
                if !self.shared.open.make_room(KEEP_AT_LEAST) {
                    self.refuse_without_descriptor();
                    self.pause();
                }
            }
            _ => {
                self.troubled("accept on the port", error);
                self.pause();
            }
        }
    }

    /// Whether enough descriptors are left for the rest of the daemon. Nothing tells but to take them for a moment.
    fn has_descriptors(&mut self) -> bool {
        let free = |reserve| fcntl_dupfd_cloexec(reserve, 0).ok();
        let taken = |reserve| (0..KEEP_AT_LEAST).map_while(|_| free(reserve)).collect::<Vec<_>>().len();
        if !self.scarce || self.reserve.as_ref().is_some_and(|reserve| taken(reserve) == KEEP_AT_LEAST) {
            return true;
        }
        self.refused.clear();
        false
    }

    fn refuse_without_descriptor(&mut self) {
        self.reserve = None;
        self.refused.clear();
        if let Ok((stream, _)) = self.listener.accept() {
            tell_unavailable(&stream);
        }
        self.reserve = File::open("/dev/null").ok();
    }

    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) {
        let limits = self.shared.limits;
        // On BSD and macOS the socket inherits the listener's mode. An error means that the client is gone.
        let ready = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| stream.set_write_timeout(Some(limits.write)));
        if ready.is_err() {
            return;
        }
        let number = self.next;
        self.next += 1;
        let connection = Arc::new(Connection {
            stream: Arc::new(stream),
            slot: Mutex::new(None),
            streaming: AtomicBool::new(false),
            waiting: Waiting::new(),
        });
        let instead_of = if self.has_descriptors() { 0 } else { KEEP_AT_LEAST };
        let spawned = if self.shared.open.admit(number, &connection, instead_of) {
            let entry = Entry { shared: Arc::clone(&self.shared), number, _alive: self.alive.clone() };
            let connection = Arc::clone(&connection);
            threads::spawn_contained(format!("conn-{number}"), move || {
                converse(&entry.shared, &connection, peer);
                drop(connection);
                drop(entry);
            })
        } else {
            Err(io::Error::other("too many connections"))
        };
        match spawned {
            // If it has ended already, joining takes no time.
            Ok(thread) => drop(self.shared.open.started(number, thread)),
            Err(error) => {
                self.turned_away += 1;
                // Not a line each: a flood of clients must not fill the disk.
                if self.turned_away.is_power_of_two() {
                    log::warn!("{} connections were refused so far, now: {error}", self.turned_away);
                }
                self.refuse(Arc::clone(&connection.stream));
            }
        }
    }

    fn refuse(&mut self, stream: Arc<TcpStream>) {
        self.shared.api.answered(503);
        tell_unavailable(&stream);
        self.refused.push_back((Instant::now(), stream));
        if self.refused.len() > REFUSED_OPEN {
            self.refused.pop_front();
        }
    }
}

/// Answers 503 without ever waiting: it fits into the socket's buffer, or the client does without.
fn tell_unavailable(mut stream: &TcpStream) {
    let error = ApiError::unavailable("There are too many connections; try again.").with_retry_after(1);
    if stream.set_nonblocking(true).is_ok() {
        let _ = stream.write(&Reply::from(error).to_http(false, true));
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// A connection's entry among the open ones, struck off when its thread ends, by whatever way.
struct Entry {
    shared: Arc<Shared>,
    number: u64,
    _alive: Sender<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let left = self.shared.open.strike_off(self.number);
        self.shared.handlers.trim(left);
    }
}
