//! One life of the inner server: a tiny_http at a Unix socket in a folder that only we can enter.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::os;
use crate::store::private;

/// What the names of the folders with the sockets begin with.
const PREFIX: &str = "codexd-";
/// The socket's name in its folder.
const SOCKET: &str = "http";
/// Its name until it listens.
const NEW_SOCKET: &str = "new";
/// A Unix socket's path may have 104 bytes on macOS, the terminating NUL included.
const MAX_SOCKET_PATH: usize = 100;

/// One life of the server. It ends when its last user lets go.
///
/// Nobody but tiny_http's accept thread holds the listening socket: that thread ends for good when it has no descriptor
/// or thread for a client (it panics, tiny_http 0.12), and only then is whoever comes next refused, and a new life begun.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) server: tiny_http::Server,
    home: Home,
    #[cfg(test)]
    listener: std::sync::Mutex<Option<UnixListener>>,
}

/// Where the socket is.
struct Home {
    path: PathBuf,
    _folder: TempDir,
}

impl Drop for Home {
    /// The accept thread sees that its server was dropped when somebody comes, and tiny_http itself only knows the
    /// socket's first name. Where the name is gone too, because somebody has tidied up, the thread waits for the daemon's
    /// end.
    fn drop(&mut self) {
        drop(UnixStream::connect(&self.path));
    }
}

impl Generation {
    pub(super) fn start(number: u64) -> io::Result<Self> {
        let (folder, path) = private_folder()?;
        // Under its final name only once it listens: whoever finds it there and is refused knows that nobody does.
        let new = path.with_file_name(NEW_SOCKET);
        let listener = UnixListener::bind(&new)?;
        fs::rename(&new, &path)?;
        Ok(Self {
            number,
            #[cfg(test)]
            listener: std::sync::Mutex::new(Some(listener.try_clone()?)),
            server: tiny_http::Server::from_listener(listener, None)
                .map_err(|error| io::Error::other(error.to_string()))?,
            home: Home { path, _folder: folder },
        })
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        &self.home.path
    }

    /// Each of so many workers that wait for a request is told that there will be none.
    pub(super) fn end(&self, workers: usize) {
        for _ in 0..workers {
            self.server.unblock();
        }
    }

    /// Has `accept` fail, if it has not failed already: the one under way takes one more client, the next finds nobody.
    /// To shut the socket down would do on Linux only.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        if let Some(listener) = self.listener.lock().unwrap().take() {
            listener.set_nonblocking(true).unwrap();
            drop(UnixStream::connect(self.path()).unwrap());
        }
    }
}

/// Where the folders are: `TMPDIR` or, where that is too long for a socket, `/tmp`.
fn parent() -> PathBuf {
    let parent = std::env::temp_dir();
    let longest = parent.join(format!("{PREFIX}{}-xxxxxx", u32::MAX)).join(SOCKET);
    if longest.as_os_str().len() <= MAX_SOCKET_PATH { parent } else { PathBuf::from("/tmp") }
}

/// A folder only we can enter.
fn private_folder() -> io::Result<(TempDir, PathBuf)> {
    let folder = private::temporary_folder(&parent(), &format!("{PREFIX}{}-", std::process::id()));
    let folder = folder.map_err(|error| {
        io::Error::new(error.kind(), format!("{error}; TMPDIR says where temporary files go, /tmp if unset"))
    })?;
    let path = folder.path().join(SOCKET);
    Ok((folder, path))
}

/// Removes the folders of daemons that were killed: ours, of a process that is gone, with a socket that nobody listens at
/// or none yet. What cannot be looked at or removed stays.
pub(in super::super) fn sweep() {
    let Ok(entries) = fs::read_dir(parent()) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let folder = entry.path();
        let ours = |found: &fs::Metadata| found.is_dir() && found.uid() == own;
        if is_of_the_dead(&entry.file_name().to_string_lossy())
            && fs::symlink_metadata(&folder).is_ok_and(|found| ours(&found))
            && UnixStream::connect(folder.join(SOCKET)).is_err_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
            })
        {
            for name in [SOCKET, NEW_SOCKET] {
                let _ = fs::remove_file(folder.join(name));
            }
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// Whether a folder's name is one of ours, and of a process that does not exist any more.
fn is_of_the_dead(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| os::process_id(rest.split_once('-')?.0.parse().ok()?))
        .is_some_and(|pid| !os::exists(pid))
}
