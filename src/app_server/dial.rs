//! From the URL of an external app-server to a WebSocket: connect, TLS where it is asked for, upgrade. All of it within
//! one deadline, and every failure says what to check.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;

use super::upgrade;
use crate::config::{Endpoint, Server};
use crate::duplex::{Duplex, Reader, Transport, Writer};
use crate::os;

/// The longest a dial may take, name resolution aside.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a token file: more is no token.
const MAX_TOKEN: u64 = 16 * 1024;

/// Why the app-server was not reached, for a person: what happened and what to check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

impl DialError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Where to dial, and with what.
#[derive(Debug, Clone)]
pub struct Target {
    endpoint: Endpoint,
    token_file: Option<PathBuf>,
    #[cfg(feature = "tls")]
    ca_file: Option<PathBuf>,
    max_message: usize,
    timeout: Duration,
}

impl Target {
    /// The external app-server of this configuration.
    ///
    /// # Errors
    /// When the endpoint cannot be dialled; the command line was refused then.
    pub fn of(server: &Server) -> Result<Self, DialError> {
        Ok(Self {
            endpoint: Endpoint::parse(&server.endpoint)
                .map_err(|problem| DialError(format!("the endpoint {problem}")))?,
            token_file: server.token_file.clone(),
            #[cfg(feature = "tls")]
            ca_file: server.ca_file.clone(),
            max_message: server.max_line_bytes,
            timeout: server.call_timeout.min(DIAL_TIMEOUT),
        })
    }

    /// Dials. Ends early, with an error, when the other end of `cancel` is dropped; only the resolution of a name
    /// cannot be hurried.
    ///
    /// # Errors
    /// See [`DialError`].
    pub fn dial(&self, cancel: &OwnedFd) -> Result<(Reader, Writer), DialError> {
        // Read each time: tokens are changed while a daemon runs.
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let addresses = self.resolve()?;
        let limit = Limit { until: Instant::now() + self.timeout, cancel };
        let stream = Arc::new(self.connect(&addresses, &limit)?);
        let (transport, leftover) = if self.endpoint.tls {
            self.secure(stream, token.as_deref(), &limit)?
        } else {
            let mut timed = Timed { stream: &stream, limit: &limit };
            let leftover = upgrade::upgrade(&mut timed, &self.endpoint, token.as_deref(), self.timeout)?;
            (stream as Arc<dyn Transport>, leftover)
        };
        Duplex::client(transport, leftover, self.max_message)
            .map_err(|error| DialError(format!("the connection was lost: {error}")))
    }

    #[cfg(feature = "tls")]
    fn secure(
        &self,
        stream: Arc<TcpStream>,
        token: Option<&str>,
        limit: &Limit<'_>,
    ) -> Result<(Arc<dyn Transport>, Vec<u8>), DialError> {
        super::tls::secure(stream, &self.endpoint, self.ca_file.as_deref(), token, limit, self.timeout)
    }

    #[cfg(not(feature = "tls"))]
    fn secure(
        &self,
        _: Arc<TcpStream>,
        _: Option<&str>,
        _: &Limit<'_>,
    ) -> Result<(Arc<dyn Transport>, Vec<u8>), DialError> {
        Err(DialError::new(
            "this codexd was built without TLS (feature `tls`): use ws:// in --server-endpoint",
        ))
    }

    fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let found = (host.as_str(), *port).to_socket_addrs().map_err(|error| {
            DialError(format!(
                "the host {host} cannot be resolved ({error}): check --server-endpoint and DNS"
            ))
        })?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err(DialError(format!(
                "the host {host} has no address: check --server-endpoint and DNS"
            )));
        }
        Ok(addresses)
    }

    /// Tries the addresses in order; the last one's failure is told.
    fn connect(&self, addresses: &[SocketAddr], limit: &Limit<'_>) -> Result<TcpStream, DialError> {
        let mut last = None;
        for (at, address) in addresses.iter().enumerate() {
            // What is left is shared by those that are left, so that one that is silent leaves time for the others.
            let left = limit.until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - at).unwrap_or(1);
            match connect(*address, &Limit { until: Instant::now() + share, ..*limit }) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some((address, error)),
            }
        }
        Err(match last {
            Some((address, error)) if error.kind() == ErrorKind::ConnectionRefused => DialError(format!(
                "nothing listens at {address} (connection refused): start `codex app-server --listen ws://…` there, or \
                 check host and port of --server-endpoint"
            )),
            Some((address, error)) if error.kind() == ErrorKind::TimedOut => DialError(format!(
                "{address} does not answer within {} ms: check host and port of --server-endpoint, and firewalls",
                self.timeout.as_millis()
            )),
            Some((address, error)) => DialError(format!("{address} cannot be reached: {error}")),
            None => DialError("the dial was broken off".to_owned()),
        })
    }
}

/// The token, from a file that may end with a line end.
fn read_token(path: &std::path::Path) -> Result<String, DialError> {
    let about = |problem: &str| DialError(format!("the --server-token-file {} {problem}", path.display()));
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
        .map_err(|error| about(&format!("cannot be read: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(about("is empty"));
    }
    // What goes into a header as it is (RFC 6750 has fewer characters still).
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(about("must hold one token of visible ASCII characters"));
    }
    Ok(token.to_owned())
}

/// How long something may take, and what ends it before.
pub(super) struct Limit<'a> {
    until: Instant,
    cancel: &'a OwnedFd,
}

impl Limit<'_> {
    /// Waits for the socket to be ready.
    fn wait(&self, stream: &TcpStream, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let timeout = left.try_into().map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
            let mut fds = [PollFd::new(stream, flags), PollFd::new(self.cancel, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            if !fds[1].revents().is_empty() {
                return Err(io::Error::new(ErrorKind::ConnectionAborted, "codexd is stopping"));
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
        }
    }
}

/// connect(2) that can be waited for and broken off.
fn connect(address: SocketAddr, limit: &Limit<'_>) -> io::Result<TcpStream> {
    let socket = os::socket::tcp(address)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    let connecting = rustix::net::connect(&socket, &address);
    let stream = TcpStream::from(socket);
    match connecting {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => {
            limit.wait(&stream, PollFlags::OUT)?;
            sockopt::socket_error(&stream)??;
        }
        Err(error) => return Err(error.into()),
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A socket whose every wait is within the limit.
pub(super) struct Timed<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) limit: &'a Limit<'a>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit.wait(self.stream, PollFlags::IN)?;
        (&mut &*self.stream).read(buffer)
    }
}

impl Write for Timed<'_> {
    /// A handshake is small: a socket that takes anything takes all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit.wait(self.stream, PollFlags::OUT)?;
        (&mut &*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
