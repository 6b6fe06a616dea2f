//! What a process inherits about signals from the one that started it.

use rustix::process::Signal;

/// Whether this process was started with a signal ignored, as nohup(1) does with SIGHUP; `None` where that cannot be
/// told (Linux: `SigIgn` of `/proc/self/status`). To be asked before anybody handles the signal.
pub fn ignored(signal: Signal) -> Option<bool> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    set(&status, "SigIgn:").map(|set| holds(set, signal))
}

/// A set of signals of `/proc/PID/status` (proc_pid_status(5)): signal 1 is the lowest bit.
fn set(status: &str, name: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn holds(set: u64, signal: Signal) -> bool {
    u32::try_from(signal.as_raw() - 1).is_ok_and(|bit| set.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_signals_is_read_as_the_system_writes_it() {
        let status = "Name:\tcodexd\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000001001\n";
        let ignored = set(status, "SigIgn:").unwrap();
        assert!(holds(ignored, Signal::HUP) && holds(ignored, Signal::PIPE) && !holds(ignored, Signal::TERM));
        assert!(holds(set(status, "SigBlk:").unwrap(), Signal::TERM));
        assert_eq!(set("Name:\tcodexd\n", "SigIgn:"), None);
        assert_eq!(set("SigIgn:\tnone\n", "SigIgn:"), None);
    }
}
