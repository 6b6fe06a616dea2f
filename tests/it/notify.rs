//! The protocol of sd_notify(3), with a socket of the test's own as the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::DEADLINE;
use crate::daemon::{Builder, Daemon};

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn at_path(path: &Path) -> Manager {
        Manager(UnixDatagram::bind(path).unwrap()).patient()
    }

    #[cfg(target_os = "linux")]
    fn abstract_(name: &str) -> Manager {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        Manager(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()).patient()
    }

    fn patient(self) -> Manager {
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        self
    }

    /// The next datagram, line by line.
    fn hear(&self) -> Vec<String> {
        let mut datagram = [0; 4096];
        let length = self.0.recv(&mut datagram).expect("a datagram in time");
        String::from_utf8(datagram[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }
}

fn from_start_to_stop(manager: &Manager, builder: Builder) {
    let mut daemon = builder.env("WATCHDOG_USEC", "200000").start();
    let ready = [String::from("READY=1"), format!("STATUS=Serving at {}", daemon.base())];
    assert_eq!(manager.hear(), ready);
    for _ in 0..3 {
        assert_eq!(manager.hear(), ["WATCHDOG=1"]);
    }
    #[cfg(target_os = "linux")]
    for (pid, command) in daemon.descendants() {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        assert!(environ.contains("CODEXD_PROCESS="), "{command}: {environ}");
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            assert!(!environ.contains(name), "{command} was given {name}");
        }
    }
    assert!(daemon.stop().status.success());
    let stopping = std::iter::repeat_with(|| manager.hear()).find(|heard| heard != &["WATCHDOG=1"]);
    assert_eq!(stopping.unwrap(), ["STOPPING=1", "STATUS=Stopping"]);
}

#[test]
fn a_manager_at_a_path_hears_of_start_life_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::at_path(&path);
    from_start_to_stop(&manager, Daemon::builder().env("NOTIFY_SOCKET", path.to_str().unwrap()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_manager_at_an_abstract_address_too() {
    let name = format!("codexd-test-{}", std::process::id());
    let manager = Manager::abstract_(&name);
    from_start_to_stop(&manager, Daemon::builder().env("NOTIFY_SOCKET", &format!("@{name}")));
}

#[test]
fn a_start_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::at_path(&path);
    let builder = Daemon::builder().server("/nowhere/codex", &["app-server"]);
    let ended = builder.env("NOTIFY_SOCKET", path.to_str().unwrap()).try_start().err().expect("no codex");
    assert_eq!(ended.status.code(), Some(1));
    let heard = manager.hear();
    assert!(heard[0].starts_with("STATUS=Not started: /nowhere/codex"), "{heard:?}");
}

#[test]
fn a_manager_that_is_not_there_costs_a_line_of_the_log() {
    for (address, line) in [
        ("/nowhere/at/all", "could not be told READY=1"),
        ("vsock:2:1234", "cannot be told anything: it is neither an absolute path nor @NAME"),
    ] {
        let mut daemon = Daemon::builder().env("NOTIFY_SOCKET", address).start();
        assert_eq!(daemon.client().get("/readyz").status, 200);
        let ended = daemon.stop();
        assert!(ended.status.success());
        assert_eq!(ended.stderr.matches(line).count(), 1, "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("service manager").count(), 1, "{}", ended.stderr);
    }
}
