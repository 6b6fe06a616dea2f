//! TCP sockets that are not yet bound or connected, and writing to those that are.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
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

/// Sends as much as goes without waiting, on a socket that waits. Of two that send at the same time one may wait.
///
/// # Errors
/// What send(2) says; `EAGAIN` when nothing went.
pub fn send_now(socket: &impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    #[cfg(not(target_vendor = "apple"))]
    return rustix::net::send(socket, bytes, rustix::net::SendFlags::DONTWAIT);
    #[cfg(target_vendor = "apple")]
    return send_while_there_is_room(socket, bytes);
}

/// [`send_now`] where `MSG_DONTWAIT` is for receiving alone: on macOS send(2) passes over it and waits for room. That
/// there is room for so many bytes poll(2) tells: `SO_SNDLOWAT` of XNU, which nobody here changes.
#[cfg(any(test, target_vendor = "apple"))]
fn send_while_there_is_room(socket: &impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const ROOM: usize = 2048;
    let mut sent = 0;
    for part in bytes.chunks(ROOM) {
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
        if fds[0].revents().is_empty() {
            return if sent == 0 { Err(Errno::AGAIN) } else { Ok(sent) };
        }
        match rustix::net::send(socket, part, rustix::net::SendFlags::empty()) {
            Ok(taken) if taken == part.len() => sent += taken,
            Ok(taken) => return Ok(sent + taken),
            // It shows again with the next one.
            Err(_) if sent > 0 => return Ok(sent),
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
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

    #[test]
    fn what_finds_no_room_is_left_and_nobody_waits_for_it() {
        use std::io::Read;
        use std::net::{Shutdown, TcpStream};

        for send in [send_now, send_while_there_is_room] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut writer, _) = listener.accept().unwrap();
            // Whoever waits for room all the same is told so, or fails.
            writer.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
            let began = Instant::now();
            let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
            let mut sent = Vec::new();
            loop {
                match send(&writer, &bytes) {
                    Ok(length) => sent.extend_from_slice(&bytes[..length]),
                    Err(error) => break assert_eq!(error, Errno::AGAIN),
                }
            }
            assert!(!sent.is_empty() && began.elapsed() < Duration::from_secs(30));
            let mut received = vec![0; sent.len()];
            reader.read_exact(&mut received).unwrap();
            assert!(received == sent, "nothing is missing, nothing twice");
            writer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(send(&writer, &bytes), Err(Errno::PIPE));
            assert!(writer.write(&bytes).is_err());
        }
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
