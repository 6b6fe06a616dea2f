//! The unit as a file: written whole or not at all, and removed only if it is ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Manager, Variables};
use crate::store::files;

/// What stands in a unit that `codexd service install` wrote, and in no other.
pub(super) const MARK: &str = "Made by `codexd service install`";

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is new.
    Made,
    /// It was ours, and says something else now.
    Replaced,
    /// It is gone.
    Removed,
}

/// A unit of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Whose it is.
    pub manager: Manager,
    /// Where it is.
    pub path: PathBuf,
    /// Whether `codexd service install` wrote it.
    pub ours: bool,
    /// The variables in it.
    pub variables: Variables,
    /// The program it starts.
    pub program: Option<String>,
}

/// Writes the unit.
///
/// # Errors
/// A file there that somebody else wrote, or what the system says.
pub(super) fn install(path: &Path, unit: &str) -> Result<Change, String> {
    let change = match read(path)? {
        Some(old) if old == unit => return Ok(Change::None),
        Some(old) if !is_ours(&old) => {
            return Err(format!(
                "{} was not written by `codexd service install`: move it away first",
                path.display()
            ));
        }
        Some(_) => Change::Replaced,
        None => Change::Made,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    files::make_folder(folder).map_err(|error| error.to_string())?;
    files::replace_text(path, unit.as_bytes()).map_err(|error| error.to_string())?;
    Ok(change)
}

/// Removes the unit, and the link by which systemd starts it.
///
/// # Errors
/// A file there that somebody else wrote, or what the system says.
pub(super) fn uninstall(path: &Path) -> Result<Change, String> {
    let Some(old) = read(path)? else { return Ok(Change::None) };
    if !is_ours(&old) {
        return Err(format!(
            "{} was not written by `codexd service install`: remove it yourself if you mean to",
            path.display()
        ));
    }
    // What `systemctl enable` made of our [Install]; it would point to nothing.
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
        let link = folder.join("default.target.wants").join(name);
        if fs::read_link(&link).is_ok_and(|target| target == path) {
            fs::remove_file(&link).map_err(|error| format!("cannot remove {}: {error}", link.display()))?;
        }
    }
    fs::remove_file(path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    Ok(Change::Removed)
}

/// The unit there, if there is one.
pub(super) fn look(manager: Manager, path: &Path) -> Option<Installed> {
    let unit = read(path).ok()??;
    Some(Installed {
        manager,
        path: path.to_owned(),
        ours: is_ours(&unit),
        variables: manager.variables(&unit),
        program: manager.program(&unit),
    })
}

fn is_ours(unit: &str) -> bool {
    unit.contains(MARK)
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}
