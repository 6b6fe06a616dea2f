//! TCP sockets that are not yet bound or connected, and writing to those that are.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, sockopt};

/// One for such an address; closed on exec.
///
/// # Errors
/// What socket(2) says.
pub fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    #[cfg(not(target_vendor = "apple"))]
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    #[cfg(target_vendor = "apple")]
    let socket = {
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        socket
    };
    Ok(socket)
}

/// Whether the port could be listened at, without listening there. On Linux nobody else's bind(2) notices: among those
/// with `SO_REUSEADDR` only a port that somebody listens at is taken (socket(7)). Elsewhere it may find the port taken while
/// this looks.
///
/// # Errors
/// What bind(2) says: in use, no such address, not permitted.
pub fn could_listen(address: SocketAddr) -> io::Result<()> {
    let socket = tcp(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(bind(&socket, &address)?)
}

/// Writes all of `bytes`, of which each `part` (in bytes) has to be taken within `limit`. The timeout of the socket bounds
/// each wait, and should be no longer than `limit`; the clock bounds a side that takes byte by byte.
///
/// # Errors
/// What the system says of the socket (`WouldBlock` or `TimedOut` when its timeout is over), and `TimedOut`; some of it may
/// have been written.
pub fn write_within(mut socket: impl Write, bytes: &[u8], part: usize, limit: Duration) -> io::Result<()> {
    for part in bytes.chunks(part) {
        let until = Instant::now() + limit;
        let mut left = part;
        while !left.is_empty() {
            match socket.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !left.is_empty() && Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_taken_while_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(could_listen(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        could_listen(address).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whoever_only_looks_is_in_nobodys_way() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let looking = tcp(address).unwrap();
        sockopt::set_socket_reuseaddr(&looking, true).unwrap();
        bind(&looking, &address).unwrap();
        could_listen(address).unwrap();
        TcpListener::bind(address).unwrap();
    }

    /// Takes one byte at a time, and is interrupted before each.
    #[derive(Default)]
    struct Drip(Vec<u8>, bool);

    impl Write for Drip {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            self.0.push(bytes[0]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_takes_byte_by_byte_has_until_the_limit_for_each_part() {
        let mut drip = Drip::default();
        write_within(&mut drip, b"a whole thing", 4, Duration::from_secs(60)).unwrap();
        assert_eq!(drip.0, b"a whole thing");
        // Each part that is taken whole is in time.
        write_within(&mut Drip::default(), b"abc", 1, Duration::from_secs(60)).unwrap();
        let mut drip = Drip::default();
        let late = write_within(&mut drip, b"abc", 3, Duration::ZERO).unwrap_err();
        assert_eq!((late.kind(), drip.0.len()), (ErrorKind::TimedOut, 0));
    }
}
