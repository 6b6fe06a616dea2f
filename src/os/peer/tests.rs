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
fn who_listens_reads_until_somebody_has_accepted() {
    let listeners = |address| {
        let known =
            [linux::listener_by_sock_diag(address).unwrap(), linux::listener_by_table(address).unwrap()];
        assert_eq!(listener(address).unwrap(), known[0]);
        known
    };
    let me = Some(geteuid().as_raw());
    for (at, to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::]:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
    ] {
        let Ok(listener) = TcpListener::bind(at) else { continue };
        let address = SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
        assert_eq!(listeners(address), [me, me], "{at}");
        let client = TcpStream::connect(address).unwrap();
        let ours = client.local_addr().unwrap();
        assert_eq!(reader(address, ours).unwrap(), me, "{at}, not accepted");
        // Without the one it is known by the other.
        let accepted = listener.accept().unwrap();
        drop(listener);
        assert_eq!(reader(address, ours).unwrap(), me, "{at}, accepted");
        drop(accepted);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(listeners(nobody), [None, None]);
    assert_eq!(reader(nobody, "127.0.0.1:1".parse().unwrap()).unwrap(), None);
}

/// Root can give sockets away, and then whoever listens, or has accepted, is somebody else.
#[test]
fn another_user_who_reads_is_known() {
    const STRANGER: u32 = 12_345;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    if std::os::unix::fs::fchown(&listener, Some(STRANGER), None).is_err() {
        println!("skipped: only root can give a socket to another user");
        return;
    }
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let ours = client.local_addr().unwrap();
    assert_eq!(stranger(address, ours), Some(STRANGER), "whatever older kernels say of its socket");
    assert_eq!(linux::listener_by_table(address).unwrap(), Some(STRANGER));
    let (accepted, _) = listener.accept().unwrap();
    let me = geteuid().as_raw();
    assert_eq!((reader(address, ours).unwrap(), stranger(address, ours)), (Some(me), None));
    std::os::unix::fs::fchown(&accepted, Some(STRANGER), None).unwrap();
    drop(listener);
    assert_eq!(stranger(address, ours), Some(STRANGER));
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
