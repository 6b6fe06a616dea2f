//! Open files: their limit (getrlimit(2), RLIMIT_NOFILE), raised for this process and restored for its children, and those
//! that were open before.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for every connection the front door takes, many times over; and what macOS takes at most is `OPEN_MAX`.
const WANTED: u64 = if cfg!(target_os = "linux") { 65_536 } else { 10_240 };

/// The limit this process was started with, once it has been raised.
static INHERITED: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit towards the hard one; what it is then (`None`: unlimited). Only the first call counts.
pub fn raise_limit() -> Option<u64> {
    let inherited = getrlimit(Resource::Nofile);
    let wanted = inherited.maximum.map_or(WANTED, |hard| hard.min(WANTED));
    if inherited.current.is_some_and(|soft| soft < wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: inherited.maximum }).is_ok()
    {
        let _ = INHERITED.set(inherited);
    }
    getrlimit(Resource::Nofile).current
}

/// Keeps from children what this process was started with beside its standard streams; what it opens itself they do not
/// get anyway.
pub fn keep_inherited() {
    let open = std::fs::read_dir("/dev/fd").into_iter().flatten();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for descriptor in numbers.filter(|&number: &i32| number > 2) {
        super::close_on_exec(descriptor);
    }
}

/// Gives the calling process the limit back that this one was started with: programs that use select(2) break with
/// descriptors above 1023. For the time between fork and exec: it neither locks nor allocates.
///
/// # Errors
/// What setrlimit(2) says.
pub(super) fn restore_limit() -> io::Result<()> {
    match INHERITED.get() {
        Some(inherited) => {
            let limit = Rlimit { current: inherited.current, maximum: inherited.maximum };
            Ok(setrlimit(Resource::Nofile, limit)?)
        }
        None => Ok(()),
    }
}
