//! One daemon a state folder and one a log: a POSIX record lock (fcntl(2), F_SETLK) over the whole of
//! `<state>/codexd/lock`, and another over that of `<logs>/codexd/events.lock`. Their names differ, so that one folder may
//! be both.
//!
//! The kernel drops the lock when the process ends, however it ends, and tells who holds it (F_GETLK), so `status`
//! needs neither a write nor a guess about recycled process ids. Children do not inherit it. The file stays after the
//! end: removing it would let two daemons lock two files of one name.
//!
//! **Invariant:** a process that holds the lock never opens the file a second time, because closing *any* descriptor
//! of the file would drop the lock. [`acquire`] and [`holder`] therefore look at the list of held locks first.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::process::{Flock, FlockOffsetType, FlockType, Pid, fcntl_getlk, getpid};
use thiserror::Error;

use super::private;
use crate::os;

/// Device and inode of the lock files that this process holds.
static HELD: Mutex<Vec<(FileId, PathBuf)>> = Mutex::new(Vec::new());

type FileId = (u64, u64);

/// The lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another daemon works in this folder: leave everything alone and say so.
    #[error("another codexd (pid {pid}) uses {}; stop it or choose another {flag}", folder(.path))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock.
        pid: i32,
        /// The flag that names the folder.
        flag: &'static str,
    },
    /// The file cannot be created or locked.
    #[error("cannot lock {}: {source}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The lock, held until this is dropped or the process ends.
#[must_use = "dropping it gives the lock up"]
#[derive(Debug)]
pub struct Lock {
    // Closing it is what unlocks; `None` only while this is dropped.
    file: Option<File>,
    id: FileId,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut held = held();
        held.retain(|(id, _)| *id != self.id);
        // With the list still locked: closing the file later would take the lock from whoever got it in between.
        drop(self.file.take());
    }
}

/// Takes the lock without waiting, creating the file (0600) if it is missing; the folder must exist. `flag` is what names
/// the folder on the command line, for the refusal.
///
/// # Errors
/// [`LockError::Held`] when a process holds it, this one included.
pub fn acquire(path: &Path, flag: &'static str) -> Result<Lock, LockError> {
    let failed = |source: io::Error| LockError::Io { path: path.to_owned(), source };
    let mut held = held();
    if is_held_here(&held, path) {
        return Err(LockError::Held { path: path.to_owned(), pid: getpid().as_raw_pid(), flag });
    }
    let options = &mut OpenOptions::new();
    let mut file = private::open(path, options.read(true).write(true).create(true)).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if let Err(refusal) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        return match holder_of(&file, path) {
            Ok(Some(pid)) => Err(LockError::Held { path: path.to_owned(), pid: pid.as_raw_pid(), flag }),
            _ => Err(failed(refusal.into())),
        };
    }
    let id = file_id(&found);
    // For people; nobody decides anything by it.
    file.set_len(0).and_then(|()| writeln!(file, "{}", getpid())).map_err(failed)?;
    held.push((id, path.to_owned()));
    Ok(Lock { file: Some(file), id })
}

/// Takes the lock once more where somebody has removed or replaced the file of one that this process holds: others would
/// find it free. `None` where there is nothing to do.
///
/// # Errors
/// As [`acquire`].
pub fn keep(path: &Path, flag: &'static str) -> Result<Option<Lock>, LockError> {
    let held = held();
    if is_held_here(&held, path) || !held.iter().any(|(_, held)| held == path) {
        return Ok(None);
    }
    drop(held);
    acquire(path, flag).map(Some)
}

/// The process that holds the lock; `None` when nobody does or the file does not exist. Changes nothing.
///
/// # Errors
/// The file cannot be read.
pub fn holder(path: &Path) -> io::Result<Option<Pid>> {
    let held = held();
    if is_held_here(&held, path) {
        return Ok(Some(getpid()));
    }
    // Without waiting for somebody to write to what may be a pipe.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if !file.metadata()?.is_file() => Err(private::no_plain_file()),
        Ok(file) => holder_of(&file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn holder_of(file: &File, path: &Path) -> io::Result<Option<Pid>> {
    let question = Flock {
        start: 0,
        length: 0,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    let Some(answer) = fcntl_getlk(file, &question)? else { return Ok(None) };
    if let Some(pid) = answer.pid {
        return Ok(Some(pid));
    }
    // The holder lives in another pid namespace (a container): its own word is all there is.
    let own_word = io::read_to_string(file)?.trim().parse().ok().and_then(os::process_id);
    own_word.map(Some).ok_or_else(|| {
        io::Error::other(format!("{} is locked by a process that cannot be seen from here", path.display()))
    })
}

fn held() -> MutexGuard<'static, Vec<(FileId, PathBuf)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_held_here(held: &[(FileId, PathBuf)], path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| held.iter().any(|(id, _)| *id == file_id(&metadata)))
}

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

fn folder(path: &Path) -> std::path::Display<'_> {
    path.parent().unwrap_or(path).display()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--state-dir";

    #[test]
    fn a_process_takes_it_once_and_gives_it_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path).unwrap(), None, "no file, no holder");
        assert!(!path.exists(), "asking creates nothing");

        let lock = acquire(&path, FLAG).unwrap();
        assert_eq!(holder(&path).unwrap(), Some(getpid()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", getpid()));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let refusal = acquire(&path, FLAG).unwrap_err();
        assert!(matches!(refusal, LockError::Held { pid, .. } if pid == getpid().as_raw_pid()), "{refusal}");

        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        drop(acquire(&path, FLAG).unwrap());
    }

    #[test]
    fn what_is_no_file_of_its_own_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("lock"), folder.path().join("other"));
        io::Write::write_all(&mut File::create(&other).unwrap(), b"precious").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let refusal = acquire(&path, FLAG).unwrap_err().to_string();
        assert_eq!(refusal, format!("cannot lock {}: it is there, but is no plain file", path.display()));
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(acquire(&path, FLAG).is_err());
    }

    /// Asks a process of its own to take the lock: within one process POSIX locks never conflict.
    fn acquire_elsewhere(path: &Path) -> String {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::lock::tests::elsewhere", "--nocapture", "--include-ignored"])
            .env("CODEXD_TEST_LOCK", path)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let answer = text.split("answer<").nth(1).and_then(|rest| rest.split('>').next());
        answer.unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    #[test]
    #[ignore = "the other process of the test below"]
    fn elsewhere() {
        let Some(path) = std::env::var_os("CODEXD_TEST_LOCK") else { return };
        let answer =
            acquire(Path::new(&path), FLAG).map_or_else(|refusal| refusal.to_string(), |_| "taken".into());
        println!("answer<{answer}>");
    }

    #[test]
    fn another_process_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = acquire(&path, FLAG).unwrap();
        // Asking must not open and close the file here: that would drop the lock.
        assert!(holder(&path).unwrap().is_some());
        acquire(&path, FLAG).unwrap_err();
        let expected = format!("another codexd (pid {}) uses {}", getpid(), folder.path().display());
        let refusal = acquire_elsewhere(&path);
        assert!(
            refusal.starts_with(&expected) && refusal.ends_with("choose another --state-dir"),
            "{refusal}"
        );
        drop(lock);
        assert_eq!(acquire_elsewhere(&path), "taken");
        assert_eq!(holder(&path).unwrap(), None, "a process that ended holds nothing");
    }

    #[test]
    fn no_folder_is_an_error_with_the_path() {
        let refusal = acquire(Path::new("/nowhere/at/all/lock"), FLAG).unwrap_err();
        assert!(refusal.to_string().starts_with("cannot lock /nowhere/at/all/lock: "), "{refusal}");
    }
}
