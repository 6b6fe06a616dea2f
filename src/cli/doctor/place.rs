//! Folders, disk, logs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{Check, Host};
use crate::ops::ready::MIN_FREE;
use crate::store::lock;
use crate::store::usage::{self, Usage};

const MIB: u64 = 1024 * 1024;
/// Below this it will not be for long.
const LITTLE: u64 = 1024 * MIB;
/// Logs without a limit are worth a word from here on.
const LARGE: u64 = 1024 * MIB;

/// The folders that codexd works in and for.
pub(super) fn folders(host: &Host) -> Vec<Check> {
    const NAME: &str = "folders";
    let paths = &host.config.paths;
    let mut checks = Vec::new();
    for (what, folder, flag) in [
        ("the repository", &paths.repo_root, "--repo-root"),
        ("the child's folder", &host.config.server.cwd, "--server-cwd"),
    ] {
        if !folder.is_dir() {
            let what = format!("{what} {} is no folder", folder.display());
            checks.push(Check::fail(NAME, what, format!("make it, or name another with {flag}")));
        }
    }
    for (folder, flag) in [(&paths.logs_dir, "--logs-dir"), (&paths.state_dir, "--state-dir")] {
        if let Err(problem) = writable(folder) {
            checks.push(Check::fail(NAME, problem, format!("mend it, or choose another folder with {flag}")));
        }
    }
    let own = host.holder.as_ref().ok().copied().flatten();
    if let Some(pid) = lock::holder(&paths.log_lock()).ok().flatten().filter(|&pid| Some(pid) != own) {
        let what = format!("another codexd (pid {pid}) uses {}", paths.logs_dir.display());
        checks.push(Check::fail(NAME, what, "stop it, or choose another folder with --logs-dir"));
    }
    if checks.is_empty() {
        let (logs, state) = (paths.logs_dir.display(), paths.state_dir.display());
        checks.push(Check::ok(NAME, format!("logs in {logs}, state in {state}")));
    }
    checks
}

/// The folder itself, or where it will be made.
fn nearest(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn writable(folder: &Path) -> Result<(), String> {
    let found = nearest(folder);
    let shown = found.display();
    let metadata = fs::metadata(&found).map_err(|error| format!("{shown}: {error}"))?;
    if !metadata.is_dir() {
        return Err(format!("{shown} is no folder"));
    }
    let own = rustix::process::geteuid().as_raw();
    if found == folder && metadata.uid() != own {
        return Err(format!("{shown} belongs to another user (uid {})", metadata.uid()));
    }
    rustix::fs::access(&found, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{shown} cannot be written: {error}"))
}

/// Room for logs and state.
pub(super) fn disk(host: &Host) -> Vec<Check> {
    const NAME: &str = "disk";
    const TODO: &str = "make room, or let codexd keep less (--keep-segments, --max-log-bytes)";
    let paths = &host.config.paths;
    let least = [&paths.logs_dir, &paths.state_dir]
        .into_iter()
        .map(|folder| usage::free(&nearest(folder)).map(|free| (free, folder)))
        .collect::<std::io::Result<Vec<_>>>()
        .map(|found| found.into_iter().min());
    let check = match least {
        Ok(Some((free, folder))) => {
            let what = format!("{} are free for {}", size(free), folder.display());
            match free {
                0..MIN_FREE => Check::fail(NAME, what, TODO),
                MIN_FREE..LITTLE => Check::warn(NAME, what, TODO),
                _ => Check::ok(NAME, what),
            }
        }
        Ok(None) => Check::ok(NAME, "nothing to look at"),
        Err(error) => Check::fail(NAME, format!("cannot tell how much is free: {error}"), TODO),
    };
    vec![check]
}

/// How large the logs are, and whether that has an end.
pub(super) fn logs(host: &Host) -> Vec<Check> {
    const NAME: &str = "logs";
    let config = &host.config;
    let folder = &config.paths.logs_dir;
    let usage = match Usage::of(folder) {
        Ok(usage) => usage,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Check::ok(NAME, "none yet")];
        }
        Err(error) => {
            let what = format!("cannot read {}: {error}", folder.display());
            return vec![Check::fail(NAME, what, "make it readable for you")];
        }
    };
    let what = format!(
        "{} in {} (events {} in {} files, the child's output {})",
        size(usage.total()),
        folder.display(),
        size(usage.events),
        usage.segments,
        size(usage.stdout + usage.stderr)
    );
    let endless = config.logs.max_bytes.is_none() || config.logs.keep_segments.is_none();
    let mut checks = vec![if endless && usage.total() > LARGE {
        Check::warn(
            NAME,
            what,
            "they grow for ever: set --max-log-bytes and --keep-segments, or make room yourself",
        )
    } else {
        Check::ok(NAME, what)
    }];
    // What runs wrote beyond what their records hold is kept until somebody removes it.
    let runs = Usage::of(&folder.join("runs")).map_or(0, |usage| usage.total());
    if runs > LARGE {
        let what = format!("the output of one-shot runs takes {} in {}/runs", size(runs), folder.display());
        checks.push(Check::warn(NAME, what, "remove what you do not need: codexd keeps no account of it"));
    }
    checks
}

/// Bytes for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1024)),
        MIB..LARGE => format!("{} MiB", bytes / MIB),
        _ => format!("{}.{} GiB", bytes / LARGE, bytes % LARGE * 10 / LARGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, shown) in
            [(0, "0 KiB"), (1, "1 KiB"), (MIB, "1 MiB"), (LARGE - 1, "1023 MiB"), (LARGE * 5 / 2, "2.5 GiB")]
        {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        assert!(writable(&folder.path().join("a/b")).is_ok());
        fs::File::create(folder.path().join("file")).unwrap();
        assert!(writable(&folder.path().join("file/b")).unwrap_err().ends_with("/file is no folder"));
    }
}
