//! Which user of this host is at the other end of a loopback TCP connection.
//!
//! Linux tells by sock_diag(7), one question about one pair of addresses, whatever the number of sockets; where a
//! sandbox forbids netlink, `/proc/net/tcp` and `tcp6` say the same at a cost that grows with the sockets of the host.
//! Elsewhere there is no such answer without root's rights.

use std::io;
use std::net::SocketAddr;

/// What is known of the socket at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user who made it.
    pub uid: u32,
    /// Whether a process still holds it. Of one that was closed, kernels before 6.17 say that root made it.
    pub held: bool,
}

/// Whether this system can tell at all.
pub fn can_tell() -> bool {
    #[cfg(target_os = "linux")]
    return linux::can_tell();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// Who made the socket at `theirs` that is connected to `ours`; `None` when there is no such socket on this host.
///
/// # Errors
/// What the system says; `Unsupported` where it cannot tell.
pub fn owner(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
    #[cfg(target_os = "linux")]
    return linux::owner(theirs, ours);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (theirs, ours);
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::io;
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};
    use std::os::fd::OwnedFd;

    use rustix::net::netlink::{self, SocketAddrNetlink};
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
    };

    use super::Owner;

    /// linux/sock_diag.h.
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    /// linux/netlink.h.
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const HEADER: usize = 16;
    /// `struct inet_diag_req_v2` (linux/inet_diag.h).
    const REQUEST: usize = 56;
    /// `struct inet_diag_msg`.
    const ANSWER: usize = 72;
    const IPPROTO_TCP: u8 = 6;
    /// States of net/tcp_states.h.
    const TIME_WAIT: u8 = 6;
    const LISTEN: u8 = 10;
    const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

    pub(super) fn can_tell() -> bool {
        open().is_ok() || fs::File::open(TABLES[0]).is_ok()
    }

    pub(super) fn owner(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
        match by_sock_diag(theirs, ours) {
            Err(error) if !is_shortage(&error) => by_table(theirs, ours),
            known => known,
        }
    }

    /// Reading the table would meet it as well.
    fn is_shortage(error: &io::Error) -> bool {
        use rustix::io::Errno;
        matches!(
            Errno::from_io_error(error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
        )
    }

    fn open() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        Ok(socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?)
    }

    pub(super) fn by_sock_diag(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
        let socket = open()?;
        // The kernel answers within the call that asks; this is only so that nothing can ever hang here.
        set_socket_timeout(&socket, Timeout::Recv, Some(std::time::Duration::from_secs(1)))?;
        let question = question(theirs, ours);
        sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 512];
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
        parse(answer.get(..length).unwrap_or_default(), theirs.port(), ours.port())
    }

    /// "The socket whose own address is theirs and whose peer is ours", as one datagram.
    fn question(theirs: SocketAddr, ours: SocketAddr) -> [u8; HEADER + REQUEST] {
        let mut out = [0; HEADER + REQUEST];
        let family = if theirs.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&((HEADER + REQUEST) as u32).to_ne_bytes());
        put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        put(&NLM_F_REQUEST.to_ne_bytes());
        put(&[0; 8]); // sequence and port: one question a socket
        put(&[family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
        put(&u32::MAX.to_ne_bytes()); // in any state
        put(&theirs.port().to_be_bytes());
        put(&ours.port().to_be_bytes());
        for address in [theirs.ip(), ours.ip()] {
            match address {
                IpAddr::V4(address) => {
                    put(&address.octets());
                    put(&[0; 12]);
                }
                IpAddr::V6(address) => put(&address.octets()),
            }
        }
        put(&0_u32.to_ne_bytes()); // any interface
        put(&[0xff; 8]); // INET_DIAG_NOCOOKIE
        out
    }

    fn parse(answer: &[u8], theirs: u16, ours: u16) -> io::Result<Option<Owner>> {
        let bad = || io::Error::other("sock_diag gave an answer that cannot be read");
        let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        match u16_at(4).ok_or_else(bad)? {
            NLMSG_ERROR => {
                let errno = u32_at(HEADER).ok_or_else(bad)?.cast_signed().wrapping_neg();
                let error = io::Error::from_raw_os_error(errno);
                if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
            }
            SOCK_DIAG_BY_FAMILY if answer.len() >= HEADER + ANSWER => {
                let port = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
                let state = answer[HEADER + 1];
                // Without a connected socket the kernel offers one that listens at their port.
                if state == LISTEN || port(HEADER + 4) != Some(theirs) || port(HEADER + 6) != Some(ours) {
                    return Ok(None);
                }
                let uid = u32_at(HEADER + 64).ok_or_else(bad)?;
                let inode = u32_at(HEADER + 68).ok_or_else(bad)?;
                Ok(Some(Owner { uid, held: inode != 0 && state != TIME_WAIT }))
            }
            _ => Err(bad()),
        }
    }

    pub(super) fn by_table(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
        // A client may speak IPv4 over an IPv6 socket (Java does): that one is in the second table.
        let mut tables = TABLES.iter().skip(usize::from(theirs.is_ipv6()));
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
            IpAddr::V6(_) => address,
        };
        tables.try_fold(None, |found: Option<Owner>, path| {
            if found.is_some() {
                return Ok(found);
            }
            let table = match fs::read_to_string(path) {
                // Without IPv6 there is no second table.
                Err(error) if *path == TABLES[1] && error.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                read => read?,
            };
            let (theirs, ours) =
                if *path == TABLES[1] { (mapped(theirs), mapped(ours)) } else { (theirs, ours) };
            Ok(in_table(&table, theirs, ours))
        })
    }

    /// proc_pid_net(5), `/proc/pid/net/tcp`: the words of an address are in the host's byte order.
    pub(super) fn in_table(table: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<Owner> {
        let (theirs, ours) = (in_hex(theirs), in_hex(ours));
        table.lines().skip(1).find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            if fields.nth(1)? != theirs || fields.next()? != ours {
                return None;
            }
            let state = u8::from_str_radix(fields.next()?, 16).ok()?;
            let uid = fields.nth(3)?.parse().ok()?;
            let inode: u64 = fields.nth(1)?.parse().ok()?;
            (state != LISTEN).then_some(Owner { uid, held: inode != 0 && state != TIME_WAIT })
        })
    }

    fn in_hex(address: SocketAddr) -> String {
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
        };
        let words =
            octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        let mut text: String = words.map(|word| format!("{word:08X}")).collect();
        text.push_str(&format!(":{:04X}", address.port()));
        text
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use rustix::net::{AddressFamily, SocketAddrV6, SocketType, connect, socket};
    use rustix::process::geteuid;

    use super::*;
    use crate::threads;

    /// Both ways to tell.
    fn both(theirs: SocketAddr, ours: SocketAddr) -> [Option<Owner>; 2] {
        [linux::by_sock_diag(theirs, ours).unwrap(), linux::by_table(theirs, ours).unwrap()]
    }

    #[test]
    fn our_own_connections_are_ours() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, theirs) = listener.accept().unwrap();
            let ours = server.local_addr().unwrap();
            let me = Some(Owner { uid: geteuid().as_raw(), held: true });
            assert_eq!(both(theirs, ours), [me, me], "{address}");
            assert!(can_tell());
            drop(client);
            // A process that another test is just starting has a copy of it until it runs its command.
            let closed = (0..1000).any(|_| {
                let held = both(theirs, ours).into_iter().flatten().any(|owner| owner.held);
                if held {
                    threads::pause(Duration::from_millis(5));
                }
                !held
            });
            assert!(closed, "{address}: {:?}", both(theirs, ours));
        }
    }

    #[test]
    fn an_ipv4_client_on_an_ipv6_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let Ok(client) = socket(AddressFamily::INET6, SocketType::STREAM, None) else { return };
        let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        connect(&client, &SocketAddrV6::new(mapped, port, 0, 0)).unwrap();
        let (server, theirs) = listener.accept().unwrap();
        let me = Some(Owner { uid: geteuid().as_raw(), held: true });
        assert_eq!(both(theirs, server.local_addr().unwrap()), [me, me]);
    }

    #[test]
    fn a_listener_at_their_port_is_not_taken_for_them() {
        let [one, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let listening = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(both(one, other), [None, None]);
        assert_eq!(both(listening, other), [None, None]);
        assert_eq!(both("[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()), [None, None]);
    }

    #[test]
    #[ignore = "measures"]
    fn what_it_costs() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let many: Vec<_> = (0..2000)
            .map(|_| {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (client, listener.accept().unwrap())
            })
            .collect();
        let (_, (server, theirs)) = &many[1000];
        let ours = server.local_addr().unwrap();
        for (name, ask) in [
            ("sock_diag", linux::by_sock_diag as fn(SocketAddr, SocketAddr) -> _),
            ("/proc/net/tcp", linux::by_table),
        ] {
            let began = Instant::now();
            (0..200).for_each(|_| assert!(ask(*theirs, ours).unwrap().is_some()));
            println!("{name}: {:?} a question among {} sockets", began.elapsed() / 200, 2 * many.len());
        }
    }
}
