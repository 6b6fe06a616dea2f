//! The JSON state files: read with care, replaced as a whole (temporary file, fsync, rename, fsync of the folder).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Repair, StoreError, list};
use crate::clock;
use crate::fault::{self, Point};
use crate::model::json;
use crate::model::record::Extra;

/// What the names of files begin with that are not whole yet.
pub(super) const TEMPORARY: &str = ".codexd-";

/// The contract's names for the list of a [`RegistryFile`].
const REGISTRY_LISTS: &[&str] = &["sessions", "runs", "requests"];

/// A registry as it stands on disk, under its contract name for the records.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryFile<T> {
    /// When a record last changed.
    pub updated_at: Option<String>,
    /// The records; `sessions`, `runs` or `requests` in the file.
    #[serde(alias = "sessions", alias = "runs", alias = "requests")]
    pub records: Vec<T>,
    /// The last event that is in it; start-up replays the log from there. Absent in files of older versions.
    pub applied_seq: Option<u64>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

impl<T> Default for RegistryFile<T> {
    fn default() -> Self {
        Self { updated_at: None, records: Vec::new(), applied_seq: None, extra: Extra::new() }
    }
}

/// Makes a folder and its parents, each new one 0700 whatever the umask.
///
/// # Errors
/// What mkdir(2) says.
pub fn make_folder(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StoreError::at("cannot make", path))
}

/// Reads a state file. One that is missing is `None`; one that is damaged is renamed to `<name>.<time>.damaged`,
/// reported in `repairs`, and `None` too.
///
/// # Errors
/// When it cannot be read or renamed at all.
pub fn load<T: DeserializeOwned>(path: &Path, repairs: &mut Vec<Repair>) -> Result<Option<T>, StoreError> {
    let problem = match peek(path)? {
        Peeked::Missing => return Ok(None),
        Peeked::Whole(value) => return Ok(Some(value)),
        Peeked::Damaged(problem) => problem,
    };
    let kept = set_aside(path).map_err(StoreError::at("cannot set aside", path))?;
    repairs.push(Repair { file: path.to_owned(), problem, kept_as: Some(kept) });
    Ok(None)
}

/// As [`load`], of a registry, record by record.
///
/// # Errors
/// As [`load`].
pub fn load_registry<T: DeserializeOwned>(
    path: &Path,
    repairs: &mut Vec<Repair>,
) -> Result<Option<RegistryFile<T>>, StoreError> {
    if let Some((frame, records)) = list::read(path, REGISTRY_LISTS)
        && let Ok(file) = serde_json::from_slice::<RegistryFile<T>>(&frame)
    {
        return Ok(Some(RegistryFile { records, ..file }));
    }
    load(path, repairs)
}

/// Everything of a state file but what is in its list of that name, which is its last member. What is in there, damage
/// too, is not looked at. `None` where the file seems to be of another form: see [`load`].
pub fn peek_head<F: DeserializeOwned>(path: &Path, list: &str) -> Option<F> {
    list::head(path, list).and_then(|head| serde_json::from_slice(&head).ok())
}

/// What reading a state file found.
#[derive(Debug)]
pub enum Peeked<T> {
    /// There is none.
    Missing,
    /// It is in order.
    Whole(T),
    /// It is not, and why.
    Damaged(String),
}

/// Reads a state file and changes nothing.
///
/// # Errors
/// When it cannot be read.
pub fn peek<T: DeserializeOwned>(path: &Path) -> Result<Peeked<T>, StoreError> {
    // Looked at first: reading a pipe would wait for ever.
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Ok(Peeked::Damaged("it was no file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Peeked::Missing),
        Err(error) => return Err(StoreError::at("cannot read", path)(error)),
    }
    let bytes = fs::read(path).map_err(StoreError::at("cannot read", path))?;
    if bytes.is_empty() {
        return Ok(Peeked::Damaged("it was empty".to_owned()));
    }
    Ok(match serde_json::from_slice(&bytes) {
        Ok(value) => Peeked::Whole(value),
        Err(error) => Peeked::Damaged(format!("it was no valid state: {error}")),
    })
}

/// Renames what is in the way of something better, and says to what.
///
/// # Errors
/// What rename(2) says.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let kept = damaged_name(path);
    fs::rename(path, &kept)?;
    Ok(kept)
}

/// `<name>.<time>.damaged`; the time moves on where that name is taken, so that nothing kept is ever overwritten.
fn damaged_name(path: &Path) -> PathBuf {
    let name = |millis: u64| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{millis}.damaged"));
        path.with_file_name(name)
    };
    let mut millis = clock::unix_millis();
    while fs::symlink_metadata(name(millis)).is_ok() {
        millis += 1;
    }
    name(millis)
}

/// Replaces a state file with this value as JSON indented by two spaces, with a final newline; mode 0600.
///
/// # Errors
/// What the first failing step says; the file is then the old one, whole.
pub fn replace(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let write = || StoreError::at("cannot write", path);
    let compact = serde_json::to_vec(value).map_err(|error| write()(error.into()))?;
    let mut text = json::pretty(&compact);
    text.push(b'\n');
    replace_text(path, &text)
}

/// Replaces a file with this text; mode 0600.
///
/// # Errors
/// What the first failing step says; the file is then the old one, whole.
pub fn replace_text(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let write = || StoreError::at("cannot write", path);
    fault::point(Point::StateOpen).map_err(write())?;
    let mut temporary = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder).map_err(write())?;
    fault::writing(Point::StateWrite, text, |text| temporary.write_all(text)).map_err(write())?;
    force_at(Point::StateSync, temporary.as_file(), File::sync_all).map_err(write())?;
    fault::point(Point::StateRename).map_err(write())?;
    temporary.persist(path).map_err(|error| write()(error.error))?;
    File::open(folder)
        .and_then(|folder| force_at(Point::StateFolderSync, &folder, File::sync_all))
        .map_err(write())
}

/// Forces a folder's entries to disk: a new or renamed file is safe only after that.
///
/// # Errors
/// What open(2) and fsync(2) say.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    force(&File::open(folder)?, File::sync_all)
}

/// Forces a file to disk `by` one of the ways that the standard library has. On macOS both are F_FULLFSYNC, which volumes
/// of other hosts (SMB, NFS) do not have (fcntl(2)); there the file is as safe as fsync(2) makes it.
///
/// # Errors
/// What fsync(2) or fdatasync(2) say.
pub(crate) fn force(file: &File, by: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let forced = by(file);
    #[cfg(target_vendor = "apple")]
    if let Err(error) = &forced
        && let Some(libc::ENOTSUP | libc::ENOTTY | libc::EINVAL) = error.raw_os_error()
    {
        return Ok(rustix::fs::fsync(file)?);
    }
    forced
}

/// As [`force`], at a point for faults. The two are one, so that a test that misses the fault misses the force as well.
///
/// # Errors
/// As [`force`], or the fault that was ordered.
pub(crate) fn force_at(point: Point, file: &File, by: fn(&File) -> io::Result<()>) -> io::Result<()> {
    fault::point(point)?;
    force(file, by)
}

/// Removes temporary files that a crash left in the folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn remove_temporary(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::at("cannot read", folder))? {
        let entry = entry.map_err(StoreError::at("cannot read", folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path()).map_err(StoreError::at("cannot remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_files_are_whole_private_and_indented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        replace(&path, &serde_json::json!({"a": [1]})).unwrap();
        replace(&path, &serde_json::json!({"a": []})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"a\": []\n}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_registry_is_read_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        for name in REGISTRY_LISTS {
            // The second is not read record by record.
            for records in [serde_json::json!([{"a": 1}]), serde_json::json!([{"a": 1}, 2])] {
                replace(&path, &serde_json::json!({ "appliedSeq": 7, *name: records })).unwrap();
                let file: RegistryFile<serde_json::Value> =
                    load_registry(&path, &mut Vec::new()).unwrap().unwrap();
                assert_eq!((serde_json::json!(file.records), file.applied_seq), (records, Some(7)));
                assert_eq!((file.updated_at, file.extra), (None, Extra::new()));
            }
        }
    }

    #[test]
    fn damaged_files_are_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        for damage in ["", "{\"a\":", "[]", "\0\0\0\0", "{\"records\":7}"] {
            #[expect(clippy::disallowed_methods, reason = "a damaged file is what the test makes")]
            fs::write(&path, damage).unwrap();
            let mut repairs = Vec::new();
            let loaded: Option<RegistryFile<String>> = load_registry(&path, &mut repairs).unwrap();
            assert!(loaded.is_none());
            assert_eq!(repairs.len(), 1, "{damage:?}");
            let kept = repairs[0].kept_as.clone().unwrap();
            assert_eq!(fs::read_to_string(&kept).unwrap(), damage);
            fs::remove_file(kept).unwrap();
            assert!(!path.exists());
        }
    }
}
