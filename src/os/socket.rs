//! TCP sockets that are not yet bound or connected.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

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
}
