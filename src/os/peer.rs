//! Which user of this host is at the other end of a loopback TCP connection.
//!
//! Linux tells by sock_diag(7), one question about one pair of addresses, whatever the number of sockets; where a
//! sandbox forbids netlink, `/proc/net/tcp` and `tcp6` say the same at a cost that grows with the sockets of the host.
//! Elsewhere there is no such answer without root's rights.

use std::io;
use std::net::SocketAddr;

const ROOT: u32 = 0;

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

/// Which user reads what `ours` sends to `theirs`, or will: a connection that nobody has accepted yet is its listener's.
/// `None` when no socket of this host is known to get it, or only one of a user that has no number here.
fn reader(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    let accepted = || {
        let held = owner(theirs, ours)?.filter(|owner| owner.held);
        Ok::<_, io::Error>(held.map(|owner| owner.uid))
    };
    let mut known = accepted()?;
    if known.is_none() {
        let listens = listener(theirs)?;
        // Whoever accepts it meanwhile, and may not even listen any more, has it.
        known = accepted()?.or(listens);
    }
    Ok(known.filter(|uid| !is_nameless(*uid)))
}

/// Whose it is what `ours` sends to `theirs`, if that is known to be neither this user nor root: as long as no daemon runs,
/// every user of this host may take its port.
///
/// Where the system does not tell, or where what listens is no process of this host (a forwarder's other end), nothing is
/// known.
pub fn stranger(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    match reader(theirs, ours) {
        Ok(uid) => uid.filter(|&uid| uid != ROOT && uid != rustix::process::geteuid().as_raw()),
        Err(error) => {
            log::debug!("whose {theirs} is cannot be told: {error}");
            None
        }
    }
}

/// Who listens at that address, if anybody does.
fn listener(address: SocketAddr) -> io::Result<Option<u32>> {
    #[cfg(target_os = "linux")]
    return linux::listener(address);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = address;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether this number may stand for any user that the namespace of this process has none for (user_namespaces(7)): seen
/// from a container, root outside has it too.
fn is_nameless(uid: u32) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let all = |map: &str| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    read("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid) && !all(&read("/proc/self/uid_map"))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

    pub(super) fn listener(address: SocketAddr) -> io::Result<Option<u32>> {
        match listener_by_sock_diag(address) {
            Err(error) if !is_shortage(&error) => listener_by_table(address),
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
        let found = ask(theirs, ours)?;
        // Without a connected socket the kernel offers one that listens at their port.
        let is_theirs =
            |found: &Found| !found.listens && found.port == theirs.port() && found.peer == ours.port();
        Ok(found.filter(is_theirs).map(|found| found.owner))
    }

    pub(super) fn listener_by_sock_diag(address: SocketAddr) -> io::Result<Option<u32>> {
        // None is connected to port 0, so this asks for the one that listens, at any address too.
        let found = ask(address, SocketAddr::new(any_of(address), 0))?;
        let listens = |found: &Found| found.listens && found.port == address.port();
        Ok(found.filter(listens).map(|found| found.owner.uid))
    }

    /// No address, of the family of that one.
    fn any_of(address: SocketAddr) -> IpAddr {
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    /// The socket that the kernel finds for a pair of addresses.
    struct Found {
        listens: bool,
        port: u16,
        /// The port of its other end.
        peer: u16,
        owner: Owner,
    }

    fn ask(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Found>> {
        let socket = open()?;
        // The kernel answers within the call that asks; this is only so that nothing can ever hang here.
        set_socket_timeout(&socket, Timeout::Recv, Some(std::time::Duration::from_secs(1)))?;
        let question = question(theirs, ours);
        sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 512];
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
        parse(answer.get(..length).unwrap_or_default())
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

    fn parse(answer: &[u8]) -> io::Result<Option<Found>> {
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
                let port_at = |at: usize| u16_at(at).map(u16::from_be).ok_or_else(bad);
                let state = answer[HEADER + 1];
                let uid = u32_at(HEADER + 64).ok_or_else(bad)?;
                let inode = u32_at(HEADER + 68).ok_or_else(bad)?;
                Ok(Some(Found {
                    listens: state == LISTEN,
                    port: port_at(HEADER + 4)?,
                    peer: port_at(HEADER + 6)?,
                    owner: Owner { uid, held: inode != 0 && state != TIME_WAIT },
                }))
            }
            _ => Err(bad()),
        }
    }

    pub(super) fn by_table(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
        in_tables(theirs, |table, in_family| in_table(table, in_family(theirs), in_family(ours)))
    }

    pub(super) fn listener_by_table(address: SocketAddr) -> io::Result<Option<u32>> {
        in_tables(address, |table, in_family| listener_in_table(table, in_family(address)))
    }

    /// What `find` finds first in the tables that a socket of this address may stand in; it is given what makes of an
    /// address one of the table's family.
    fn in_tables<T>(
        address: SocketAddr,
        find: impl Fn(&str, fn(SocketAddr) -> SocketAddr) -> Option<T>,
    ) -> io::Result<Option<T>> {
        // IPv4 may be spoken over an IPv6 socket (Java does): that one is in the second table.
        let mut tables = TABLES.iter().skip(usize::from(address.is_ipv6()));
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
            IpAddr::V6(_) => address,
        };
        tables.try_fold(None, |found: Option<T>, path| {
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
            Ok(find(&table, if *path == TABLES[1] { mapped } else { |address| address }))
        })
    }

    /// Who listens at this address, or at any.
    fn listener_in_table(table: &str, address: SocketAddr) -> Option<u32> {
        let (address, any) = (in_hex(address), in_hex(SocketAddr::new(any_of(address), address.port())));
        table.lines().skip(1).find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            if local != address && local != any {
                return None;
            }
            let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
            let uid = fields.nth(3)?.parse().ok()?;
            (state == LISTEN).then_some(uid)
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
mod tests;
