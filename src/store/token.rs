//! The file with the bearer token: made if missing, refused if it protects nothing, read again when it changes.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use uuid::Uuid;

use super::StoreError;
use super::files::{force, make_folder, sync_folder};

/// 128 bits have as many characters in base64; in any denser text they are random less often.
const MIN_LENGTH: usize = 22;
const MAX_LENGTH: usize = 1024;
/// A random token has more; `aaaa…` and `0000…` are placeholders.
const MIN_DIFFERENT: usize = 8;
/// A file that was changed less than this before it was read may change again without its time changing.
const SETTLED: Duration = Duration::from_secs(2);

/// A token. It shows in no log and no error: only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

impl Secret {
    /// 244 random bits (of two version 4 UUIDs, RFC 9562), as 64 hexadecimal digits.
    fn random() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// What stands in the file, without the white space around it.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let text = text.trim_ascii();
        let mut seen = [false; 256];
        text.iter().for_each(|&byte| seen[usize::from(byte)] = true);
        let different = seen.iter().filter(|&&seen| seen).count();
        if text.is_empty() {
            return Err("it is empty; remove it, and codexd makes a new one".to_owned());
        }
        if text.len() > MAX_LENGTH || !text.iter().all(u8::is_ascii_graphic) {
            return Err(format!("a token is one word of at most {MAX_LENGTH} visible ASCII characters"));
        }
        if text.len() < MIN_LENGTH || different < MIN_DIFFERENT {
            return Err(format!(
                "its token can be guessed: at least {MIN_LENGTH} random characters are needed (128 bits); remove \
                 the file, and codexd makes a new one"
            ));
        }
        Ok(Self(String::from_utf8_lossy(text).into_owned()))
    }

    /// The token, for a request of our own.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the token, in a time that tells nothing of how much of it is right.
    pub fn matches(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let mut difference = own.len() ^ given.len();
        for (at, byte) in given.iter().enumerate() {
            // The token is not empty; its length is no secret.
            difference |= usize::from(byte ^ own[at % own.len()]);
        }
        black_box(difference) == 0
    }
}

/// Reads a token file.
///
/// # Errors
/// When it cannot be read, may be read or written by others, belongs to another user (root excepted), or holds no
/// token worth the name.
pub fn read(path: &Path) -> Result<Secret, StoreError> {
    read_with_stamp(path).map(|(secret, _)| secret)
}

fn read_with_stamp(path: &Path) -> Result<(Secret, Stamp), StoreError> {
    let bad = |problem: String| {
        StoreError::at("cannot use the token file", path)(io::Error::new(io::ErrorKind::InvalidData, problem))
    };
    let failed = || StoreError::at("cannot read the token file", path);
    // Without waiting for the other end of a pipe.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed())?;
    let found = file.metadata().map_err(failed())?;
    if !found.is_file() {
        return Err(bad("it is no regular file".to_owned()));
    }
    let own = geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return Err(bad(format!("it belongs to another user (uid {})", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o777;
        return Err(bad(format!(
            "others may use it (mode {mode:04o}); chmod 600 it, and better change the token"
        )));
    }
    let mut text = Vec::new();
    file.take(MAX_LENGTH as u64 + 64).read_to_end(&mut text).map_err(failed())?;
    let secret = Secret::parse(&text).map_err(bad)?;
    Ok((secret, Stamp::of(&found)))
}

/// Makes the file with a new token, in a folder that is made 0700 if it is missing.
fn make(path: &Path) -> Result<(), StoreError> {
    let failed = || StoreError::at("cannot make the token file", path);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    make_folder(folder)?;
    // Under another name first (O_EXCL, 0600), so that there is never half a token under its own.
    let mut file = tempfile::Builder::new().prefix(".codexd-token-").tempfile_in(folder).map_err(failed())?;
    writeln!(file, "{}", Secret::random().expose()).map_err(failed())?;
    force(file.as_file(), File::sync_all).map_err(failed())?;
    match file.persist_noclobber(path) {
        // Another start was faster: its token counts.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed()(error.error)),
        Ok(_) => sync_folder(folder).map_err(failed()),
    }
}

/// By which a change of the file shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    mode: u32,
    owner: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            mode: found.mode(),
            owner: found.uid(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a further change would show: clocks of file systems are coarse.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        now.saturating_sub(changed) > SETTLED
    }
}

/// A token file in use.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// None after a failure, and while another change might not show: it is read again the next time.
    stamp: Option<Stamp>,
    secret: Option<Arc<Secret>>,
}

impl TokenFile {
    /// Opens the file, making it if there is none.
    ///
    /// # Errors
    /// As [`read`], or when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            make(path)?;
            log::info!("the token is in {}", path.display());
        }
        let secret = Some(Arc::new(read(path)?));
        Ok(Self { path: path.to_owned(), known: Mutex::new(Known { stamp: None, secret }) })
    }

    /// The token as it stands in the file now: one stat(2) as long as the file does not change.
    ///
    /// # Errors
    /// As [`read`]. Nobody gets in then: the token that was there before may have been taken away on purpose.
    pub fn current(&self) -> Result<Arc<Secret>, StoreError> {
        let mut known = self.known();
        let stamp = fs::metadata(&self.path).ok().map(|found| Stamp::of(&found));
        if let (Some(secret), Some(stamp)) = (&known.secret, stamp)
            && known.stamp == Some(stamp)
        {
            return Ok(Arc::clone(secret));
        }
        match read_with_stamp(&self.path) {
            Ok((secret, stamp)) => {
                if known.secret.as_deref() != Some(&secret) {
                    log::info!("the token in {} has changed", self.path.display());
                }
                let secret = Arc::new(secret);
                *known =
                    Known { stamp: stamp.is_settled().then_some(stamp), secret: Some(Arc::clone(&secret)) };
                Ok(secret)
            }
            Err(error) => {
                // Told once, not with every request.
                if known.secret.is_some() {
                    log::error!("{error}; requests are refused until that is mended");
                }
                *known = Known { stamp: None, secret: None };
                Err(error)
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    const GOOD: &str = "0123456789abcdefghijkl";

    #[expect(clippy::disallowed_methods, reason = "a token file as a person would write it")]
    fn put(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_missing_one_is_made_private_and_random() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/folder/token");
        let token = TokenFile::open(&path).unwrap().current().unwrap();
        assert_eq!(token.expose().len(), 64);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", token.expose()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(TokenFile::open(&path).unwrap().current().unwrap(), token, "it is made once");
        let other = TokenFile::open(&parent.path().join("other")).unwrap().current().unwrap();
        assert_ne!(other, token);
        assert_eq!(format!("{token:?}"), "Secret(…)");
    }

    #[test]
    fn what_protects_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, mode, problem) in [
            ("", 0o600, "it is empty"),
            (" \n\t", 0o600, "it is empty"),
            ("secret", 0o600, "can be guessed"),
            (&"a".repeat(64), 0o600, "can be guessed"),
            ("two words of which each is long enough", 0o600, "one word"),
            ("ünsichtbar-0123456789abcdef", 0o600, "visible ASCII"),
            (&GOOD.repeat(50), 0o600, "at most 1024"),
            (GOOD, 0o640, "mode 0640"),
            (GOOD, 0o604, "mode 0604"),
            (GOOD, 0o620, "mode 0620"),
        ] {
            put(&path, text, mode);
            let error = TokenFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("token"), "{text:?} {mode:o}: {error}");
            assert!(text.trim().is_empty() || !error.contains(text), "the token is not told: {error}");
        }
        put(&path, GOOD, 0o600);
        TokenFile::open(&path).unwrap();
        let error = TokenFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    #[test]
    fn comparing() {
        let secret = Secret(GOOD.to_owned());
        assert!(secret.matches(GOOD));
        for wrong in ["", "0", "0123456789abcdefghijk", "0123456789abcdefghijkm", &format!("{GOOD}{GOOD}")] {
            assert!(!secret.matches(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_change_counts_at_once_and_a_loss_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::open(&path).unwrap();
        for round in 0..50 {
            let text = format!("{GOOD}{round:02}");
            put(&path, &text, 0o600);
            assert!(file.current().unwrap().matches(&text), "{round}");
        }
        fs::remove_file(&path).unwrap();
        file.current().unwrap_err();
        put(&path, GOOD, 0o644);
        file.current().unwrap_err();
        put(&path, GOOD, 0o600);
        assert!(file.current().unwrap().matches(GOOD));
    }

    #[test]
    fn an_old_file_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::open(&path).unwrap();
        let (secret, stamp) = read_with_stamp(&path).unwrap();
        // As it would be known two seconds from now.
        *file.known() = Known { stamp: Some(stamp), secret: Some(Arc::new(secret)) };
        let began = Instant::now();
        let first = file.current().unwrap();
        assert!((0..1000).all(|_| Arc::ptr_eq(&file.current().unwrap(), &first)));
        println!("{:?} a look", began.elapsed() / 1000);
    }
}
