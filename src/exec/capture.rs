//! What a run's process writes: the end of it in memory, all of it in a file once it is more than that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use log::warn;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::os;
use crate::store::private;

/// Bytes of a stream that the record holds.
pub const KEPT: usize = 256 * 1024;
/// Bytes of the last message that the record holds: as many as a prompt may have.
pub const LAST_MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// What waits in a pipe at most, in bytes (`/proc/sys/fs/pipe-max-size` unless root raises it).
const LARGEST_PIPE: usize = 1024 * 1024;

/// The end of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// At most [`KEPT`] bytes (of the last message [`LAST_MESSAGE`]), with what is not UTF-8 replaced.
    pub text: String,
    /// Whether there was more; of output the file has all of it.
    pub truncated: bool,
}

/// Collects one stream.
#[derive(Debug)]
pub struct Capture {
    tail: Vec<u8>,
    path: PathBuf,
    file: Option<File>,
    /// The file could not be written: said once.
    failed: bool,
    truncated: bool,
}

impl Capture {
    /// A capture whose file, if it comes to that, is `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { tail: Vec::new(), path, file: None, failed: false, truncated: false }
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        if !self.truncated && self.tail.len() + bytes.len() > KEPT {
            self.truncated = true;
            match open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => self.fail(&error),
            }
            let tail = std::mem::take(&mut self.tail);
            self.write(&tail);
            self.tail = tail;
        }
        if self.truncated {
            self.write(bytes);
        }
        self.tail.extend_from_slice(bytes);
        // Cut only now and then: what is kept is moved at most once per KEPT bytes.
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            self.file = None;
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if !self.failed {
            warn!("{} cannot be written: {error}", self.path.display());
        }
        self.failed = true;
    }

    /// The end of the stream.
    pub fn finish(self) -> Captured {
        let kept = if self.truncated { from_a_character(&self.tail, KEPT) } else { &self.tail };
        Captured { text: String::from_utf8_lossy(kept).into_owned(), truncated: self.truncated }
    }
}

/// Makes the file anew. The folder may be where the run may write, so whatever it has put in this place is removed, and
/// a link to another folder is not followed.
fn open(path: &Path) -> io::Result<File> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Reads a pipe to its end, calling `seen` with each piece. Once the other end of `cancel` is dropped only what waits in
/// the pipe is still read: whoever keeps the other end open then is not waited for.
pub fn drain(
    mut input: impl Read + AsFd,
    cancel: &OwnedFd,
    mut capture: Capture,
    mut seen: impl FnMut(&[u8]),
) -> Captured {
    let mut chunk = vec![0; CHUNK];
    let mut cancelled = false;
    let mut left = LARGEST_PIPE;
    loop {
        cancelled = cancelled || !os::ready(&input, cancel).unwrap_or(false);
        if cancelled && (left == 0 || !os::readable(&input).unwrap_or(false)) {
            break;
        }
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => {
                capture.add(&chunk[..read]);
                seen(&chunk[..read]);
                left = if cancelled { left.saturating_sub(read) } else { left };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                warn!("reading a run's output failed: {error}");
                break;
            }
        }
    }
    capture.finish()
}

/// The end of a file that the process was told to write, at most [`LAST_MESSAGE`] bytes from the beginning of a
/// character on; `None` where there is no such file.
///
/// # Errors
/// What the system says, or that it is no plain file.
pub fn last_message(path: &Path) -> io::Result<Option<Captured>> {
    let mut file = match private::open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (length, most) = (file.metadata()?.len(), LAST_MESSAGE as u64);
    let truncated = length > most;
    if truncated {
        file.seek(SeekFrom::Start(length - most))?;
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let kept = if truncated { from_a_character(&bytes, LAST_MESSAGE) } else { &bytes };
    Ok(Some(Captured { text: String::from_utf8_lossy(kept).into_owned(), truncated }))
}

/// The last bytes, so many at most, of a text whose beginning is left out: from the beginning of a character on (RFC 3629).
fn from_a_character(bytes: &[u8], most: usize) -> &[u8] {
    let kept = &bytes[bytes.len().saturating_sub(most)..];
    let continues = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    &kept[kept.iter().take(3).take_while(continues).count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_output_stays_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/x.log");
        let mut capture = Capture::new(path.clone());
        capture.add(b"hello \xff");
        assert_eq!(capture.finish(), Captured { text: "hello \u{fffd}".to_owned(), truncated: false });
        assert!(!path.exists());
    }

    #[test]
    fn much_output_is_whole_in_the_file_and_its_end_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/x.log");
        let mut capture = Capture::new(path.clone());
        let mut all = Vec::new();
        for number in 0..200_000 {
            let line = format!("{number}\n");
            capture.add(line.as_bytes());
            all.extend_from_slice(line.as_bytes());
        }
        let captured = capture.finish();
        assert!(captured.truncated);
        assert_eq!(captured.text.as_bytes(), &all[all.len() - KEPT..]);
        assert_eq!(fs::read(path).unwrap(), all);
    }

    #[test]
    fn what_a_run_has_put_in_the_files_place_is_not_written_through() {
        let place = tempfile::tempdir().unwrap();
        let (outside, folder) = (place.path().join("outside"), place.path().join("runs"));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir(&outside).unwrap();
        File::create(outside.join("precious")).unwrap().write_all(b"precious").unwrap();
        std::os::unix::fs::symlink(outside.join("precious"), folder.join("x.log")).unwrap();
        let much = vec![b'x'; KEPT + 1];
        let mut capture = Capture::new(folder.join("x.log"));
        capture.add(&much);
        assert_eq!(fs::read(folder.join("x.log")).unwrap(), much);

        std::os::unix::fs::symlink(&outside, place.path().join("link")).unwrap();
        let mut capture = Capture::new(place.path().join("link/y.log"));
        capture.add(&much);
        assert!(capture.failed && capture.finish().truncated, "it is said, and the end is in memory");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");

        std::os::unix::fs::symlink(outside.join("precious"), folder.join("last-message.txt")).unwrap();
        let refusal = last_message(&folder.join("last-message.txt")).unwrap_err();
        assert_eq!(refusal.to_string(), "it is there, but is no plain file");
    }

    #[test]
    fn the_end_in_memory_begins_with_a_whole_character() {
        let folder = tempfile::tempdir().unwrap();
        let mut capture = Capture::new(folder.path().join("x"));
        let text = format!("{}!", "ä".repeat(KEPT));
        capture.add(text.as_bytes());
        let captured = capture.finish();
        assert_eq!((captured.text.as_str(), captured.truncated), (&text[text.len() - KEPT + 1..], true));
    }

    #[test]
    fn what_waits_in_a_pipe_is_read_though_its_other_end_stays_open() {
        let pipe = || crate::os::pipe().unwrap();
        let (read, write) = pipe();
        rustix::io::write(&write, b"the rest").unwrap();
        let (cancelled, to_cancel) = pipe();
        drop(to_cancel);
        let folder = tempfile::tempdir().unwrap();
        let capture = Capture::new(folder.path().join("x"));
        let mut seen = Vec::new();
        let captured = drain(File::from(read), &cancelled, capture, |bytes| seen.extend_from_slice(bytes));
        assert_eq!((captured.text.as_str(), seen.as_slice()), ("the rest", &b"the rest"[..]));
        drop(write);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
    fn of_a_last_message_the_end_is_kept_from_a_whole_character_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-message.txt");
        assert_eq!(last_message(&path).unwrap(), None);
        for (text, kept) in [
            ("x".repeat(LAST_MESSAGE), LAST_MESSAGE),
            ("x".repeat(LAST_MESSAGE + 1), LAST_MESSAGE),
            // The cut is in the last of its bytes.
            (format!("{}{}", "\u{20ac}", "x".repeat(LAST_MESSAGE - 1)), LAST_MESSAGE - 1),
        ] {
            fs::write(&path, &text).unwrap();
            let captured = last_message(&path).unwrap().unwrap();
            assert_eq!((captured.text.len(), captured.truncated), (kept, text.len() > LAST_MESSAGE));
            assert!(text.ends_with(&captured.text), "nothing was replaced");
        }
        let error = last_message(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "it is there, but is no plain file");
    }
}
