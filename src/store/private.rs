//! What is on disk is this user's alone: folders 0700, files 0600, whatever the umask, nobody else's folder.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{geteuid, umask};
use tempfile::TempDir;

use super::StoreError;
use super::files::make_folder;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;
/// What shows that a folder has been one of codexd's.
const OURS: [&str; 2] = ["identity.json", "events.jsonl"];

/// A umask only ever takes rights away, so what is made with 0600 is never open to others; but one that takes the
/// owner's own rights would leave files that the next start cannot open. Such a umask is mended for this process and
/// its children. To be called before there are threads that make files.
pub fn mend_umask() {
    let given = umask(Mode::RWXG | Mode::RWXO);
    umask(given & (Mode::RWXG | Mode::RWXO));
}

/// A temporary folder of that prefix, removed when dropped.
///
/// # Errors
/// What mkdir(2) says.
pub fn temporary_folder(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(FOLDER)).tempdir_in(parent)
}

/// Makes a folder for private files, or takes one that is there, if it is this user's. Missing parents are made 0700
/// too. Older versions left folders and files that others could read: they are closed, and `closed` names them.
///
/// # Errors
/// When it belongs to another user (who could read and replace whatever is put there), when a link below `root` leads to
/// it (what lies there may have come with a repository) and it was not codexd's before, or what the system says.
pub fn folder(root: &Path, path: &Path, closed: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    // The root of the file system is no repository: /home, /var or /tmp may well be links. And what was used before there
    // were such checks goes on.
    let is_strange = root.parent().is_some() && !OURS.iter().any(|name| path.join(name).is_file());
    let below = path.ancestors().take_while(|place| is_strange && *place != root && place.starts_with(root));
    for place in below {
        if fs::symlink_metadata(place).is_ok_and(|found| found.is_symlink()) {
            let problem = "it is a symbolic link, and in the repository none is followed to a folder that codexd has not used \
                           before: put a folder there, or give one outside as --state-dir or --logs-dir";
            return Err(StoreError::at("cannot use", place)(io::Error::other(problem)));
        }
    }
    make_folder(path)?;
    let found = fs::metadata(path).map_err(StoreError::at("cannot look at", path))?;
    check_owner(path, &found)?;
    if close(path, &found, FOLDER).map_err(StoreError::at("cannot make private", path))? {
        closed.push(path.to_owned());
    }
    for entry in fs::read_dir(path).map_err(StoreError::at("cannot read", path))? {
        let entry = entry.map_err(StoreError::at("cannot read", path))?.path();
        // Not what a link points to: that may be anything.
        let Ok(found) = fs::symlink_metadata(&entry) else { continue };
        if found.is_file()
            && found.uid() == geteuid().as_raw()
            && close(&entry, &found, FILE).map_err(StoreError::at("cannot make private", &entry))?
        {
            closed.push(entry);
        }
    }
    Ok(())
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), StoreError> {
    let (owner, own) = (found.uid(), geteuid().as_raw());
    if owner == own {
        return Ok(());
    }
    let problem = format!(
        "it belongs to another user (uid {owner}, codexd runs as {own}); choose a folder of your own or give it to \
         this user with chown"
    );
    Err(StoreError::at("cannot use", path)(io::Error::new(io::ErrorKind::PermissionDenied, problem)))
}

/// Takes the rights of others away, if they have some; whether they had.
fn close(path: &Path, found: &Metadata, mode: u32) -> io::Result<bool> {
    if found.mode() & 0o777 == mode {
        return Ok(false);
    }
    // Without following a link that may have been put there since.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = if found.is_dir() { OFlags::RDONLY | OFlags::CLOEXEC } else { flags };
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => rustix::fs::fchmod(&file, Mode::from_raw_mode(mode as _))?,
        // It is the owner who may not read: only its mode can be changed, by name.
        Err(Errno::ACCESS) => fs::set_permissions(path, Permissions::from_mode(mode))?,
        Err(error) => return Err(error.into()),
    }
    Ok(found.mode() & 0o077 != 0)
}

/// Has git pass over a folder that was made just now, with a `.gitignore` that ignores all of it, itself included:
/// it may lie in a repository, where the next `git add .` would take prompts and answers along. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn keep_out_of_git(folder: &Path) -> io::Result<()> {
    match create_new(&folder.join(".gitignore")) {
        Ok(mut file) => file.write_all(b"*\n"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file as `options` say, 0600 if that makes it: never what a link leads to. A repository can bring links along,
/// and a command in a sandbox can put them wherever it may write.
///
/// # Errors
/// What open(2) says, or that it is there, but is no plain file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Whatever it is, opening it does not wait for anybody.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = options.mode(FILE).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => no_plain_file(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_plain_file()) }
}

pub(super) fn no_plain_file() -> io::Error {
    io::Error::other("it is there, but is no plain file")
}

/// A file that must not be there yet, 0600.
///
/// # Errors
/// What open(2) says; `AlreadyExists`.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn folders_and_files_of_older_versions_are_closed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let mut closed = Vec::new();
        folder(parent.path(), &path, &mut closed).unwrap();
        assert_eq!((mode(&path), mode(&parent.path().join("a"))), (0o700, 0o700));
        assert!(closed.is_empty());

        create_new(&path.join("fine")).unwrap();
        create_new(&path.join("open")).unwrap();
        let outside = parent.path().join("outside");
        create_new(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        for open in [&path.join("open"), &outside] {
            fs::set_permissions(open, Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        folder(parent.path(), &path, &mut closed).unwrap();
        assert_eq!(closed, [path.clone(), path.join("open")]);
        assert_eq!((mode(&path), mode(&path.join("open")), mode(&outside)), (0o700, 0o600, 0o644));
    }

    #[test]
    fn links_below_the_root_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (outside, link) = (root.path().join("outside"), root.path().join("repo/logs"));
        fs::create_dir_all(root.path().join("repo")).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        for path in [link.clone(), link.join("codexd")] {
            let refusal = folder(&root.path().join("repo"), &path, &mut Vec::new()).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("cannot use {}: it is a symbolic link", link.display())));
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // Above the root it is the user's own doing, and so it was where a daemon has run before.
        for root in [&link, Path::new("/")] {
            folder(root, &link.join("codexd"), &mut Vec::new()).unwrap();
        }
        create_new(&outside.join("codexd/events.jsonl")).unwrap();
        folder(&root.path().join("repo"), &link.join("codexd"), &mut Vec::new()).unwrap();

        File::create(outside.join("precious")).unwrap().write_all(b"precious").unwrap();
        std::os::unix::fs::symlink(outside.join("precious"), outside.join("log")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(outside.join("fifo")).status().unwrap().success());
        for name in ["log", "fifo"] {
            let refusal = open(&outside.join(name), OpenOptions::new().read(true).append(true).create(true))
                .unwrap_err();
            assert_eq!(refusal.to_string(), "it is there, but is no plain file");
        }
        open(&outside.join("new"), OpenOptions::new().append(true).create(true)).unwrap();
        assert_eq!(mode(&outside.join("new")), FILE);
    }

    #[test]
    fn a_gitignore_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".gitignore");
        keep_out_of_git(folder.path()).unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("*\n", FILE));
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/null/nothing", &file).unwrap();
        keep_out_of_git(folder.path()).unwrap();
        assert!(keep_out_of_git(&folder.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        if !geteuid().is_root() {
            // A folder of root is there for everybody else.
            let refusal = folder(Path::new("/"), Path::new("/usr"), &mut Vec::new()).unwrap_err().to_string();
            assert!(refusal.contains("belongs to another user (uid 0"), "{refusal}");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(parent.path(), Some(65534), None).unwrap();
        let refusal = folder(Path::new("/"), parent.path(), &mut Vec::new()).unwrap_err().to_string();
        assert!(refusal.contains("belongs to another user (uid 65534, codexd runs as 0)"), "{refusal}");
    }
}
