//! Processes without the one that started them: those an earlier life of the daemon has left ([`reap`]), and
//! descendants that became this process's own children when their parents died ([`Adoption`]).

use std::collections::HashSet;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use rustix::process::{Pid, Signal, getpid};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::{Handle, Signals};

use super::kinship::{self, Kinship};
use super::ledger::{self, Entry, Ledger, Leftovers};
use super::{MARK, SWEEPS, kill_verified, spawned, spawning};
use crate::os::{self, Listed};
use crate::threads::{self, Thread};

/// How long what was killed may take to be gone; only a process stuck in the kernel takes that long.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks: what has ended announces itself to its parent only.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether orphans become children of this process.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// The children this process had before it had started any: a shell that has left some behind became it by execve(2).
static STRANGERS: OnceLock<Vec<Listed>> = OnceLock::new();

/// A process of an earlier life that was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// Its process id.
    pub pid: i32,
    /// What the process on record was for that it is, or descends from; `None` when there is no record.
    pub purpose: Option<&'static str>,
    /// Which life of the child, or which run.
    pub owner: Option<String>,
    /// Whether it is the process on record itself, and no descendant.
    pub leader: bool,
}

/// Ends what an earlier life of this daemon has left, and takes it off the record: processes on record that still have
/// the start time on record, their groups and descendants, what is left of the group of one that is gone, and (Linux)
/// whatever carries a mark of this daemon. What
/// belongs to a daemon that runs is left alone (the state folder may be a copy), and so is this process with all its
/// ancestors (whoever is told by Codex to start the daemon anew is marked too).
pub fn reap(ledger: &Ledger, leftovers: &Leftovers) -> Vec<Reaped> {
    if leftovers.entries.is_empty() && !leftovers.unknown {
        return Vec::new();
    }
    let boot = os::boot();
    let entries: Vec<&Entry> =
        leftovers.entries.iter().filter(|entry| entry.boot == boot && !entry.daemon.is_alive()).collect();
    let mut reaped: Vec<Reaped> = Vec::new();
    let mut killed: Vec<Listed> = Vec::new();
    let mut clean = entries.is_empty() && !leftovers.unknown;
    let deadline = Instant::now() + GONE_WITHIN;
    let mut looked = 0;
    while !clean {
        let listed = os::list();
        let found = left(ledger, &entries, &listed);
        // What was killed may take a moment to die, and be found no more: its parent is gone already.
        let dying = |one: &Listed| {
            listed.iter().any(|now| now.pid == one.pid && now.started == one.started && !now.zombie)
        };
        // Twice: in the middle of execve(2) a process shows no environment.
        looked = if found.is_empty() && !killed.iter().any(dying) { looked + 1 } else { 0 };
        clean = looked == 2;
        if !clean && Instant::now() > deadline {
            let pids: Vec<i32> = killed.iter().filter(|one| dying(one)).map(|one| one.pid).collect();
            warn!("processes of an earlier life cannot be ended: {pids:?}");
            break;
        }
        let processes: Vec<Listed> = found.iter().map(|(process, _)| process.clone()).collect();
        kill_verified(&processes);
        for (process, one) in found {
            if killed.iter().all(|known| known.pid != process.pid || known.started != process.started) {
                killed.push(process);
                reaped.push(one);
            }
        }
        if !clean {
            threads::pause(LOOK_AGAIN);
        }
    }
    let listed = os::list();
    let there = |entry: &&Entry| {
        let leader = |process: &Listed| process.pid == entry.pid && process.started == entry.start_time;
        match listed.iter().find(|process| leader(process)) {
            Some(leader) => !leader.zombie,
            None => members_left(entry, &listed),
        }
    };
    let still_there: Vec<Entry> =
        leftovers.entries.iter().filter(|entry| entry.boot == boot).filter(there).cloned().collect();
    if let Err(error) = ledger.settle(&still_there) {
        warn!("processes that are gone stay on record: {error}");
    }
    reaped
}

/// Whether the group on record has members that may be the process's on record, which is gone. Those of which that cannot
/// be told are named in a warning.
fn members_left(entry: &Entry, listed: &[Listed]) -> bool {
    let members: Vec<(&Listed, Kinship)> =
        kinship::of_group(entry, listed).filter(|(_, kinship)| *kinship != Kinship::Stranger).collect();
    let unknown = members.iter().filter(|(_, kinship)| *kinship == Kinship::Unknown);
    let unknown: Vec<i32> = unknown.map(|(process, _)| process.pid).collect();
    if !unknown.is_empty() && !entry.daemon.is_alive() {
        let (purpose, group) = (entry.purpose.as_str(), entry.group);
        warn!(
            "processes {unknown:?} are of the group of {purpose} process {group}, which an earlier life has left, or somebody \
             else's by now: they are let alone"
        );
    }
    !members.is_empty()
}

/// The processes among those listed that an earlier life has left.
fn left(ledger: &Ledger, entries: &[&Entry], listed: &[Listed]) -> Vec<(Listed, Reaped)> {
    let spared = own_line(listed);
    let mut found: Vec<(Listed, Reaped)> = Vec::new();
    let mut take = |process: &Listed, entry: Option<&Entry>, leader: bool| {
        let known = found.iter().any(|(known, _)| known.pid == process.pid);
        if known || process.zombie || spared.contains(&process.pid) {
            return;
        }
        let reaped = Reaped {
            pid: process.pid,
            purpose: entry.map(|entry| entry.purpose.as_str()),
            owner: entry.map(|entry| entry.owner.clone()),
            leader,
        };
        found.push((process.clone(), reaped));
    };
    for entry in entries {
        let Some(leader) =
            listed.iter().find(|process| process.pid == entry.pid && process.started == entry.start_time)
        else {
            for (process, kinship) in kinship::of_group(entry, listed) {
                if kinship == Kinship::Descendant {
                    take(process, Some(entry), false);
                }
            }
            continue;
        };
        take(leader, Some(entry), true);
        for process in os::descendants(leader.pid, listed) {
            take(&process, Some(entry), false);
        }
        for process in listed.iter().filter(|process| process.group == entry.group) {
            take(process, Some(entry), false);
        }
    }
    for process in listed.iter().filter(|process| !process.zombie) {
        let Some(mark) = os::variable(process.pid, MARK) else { continue };
        if ledger.marked_by(&mark).is_some_and(|daemon| !daemon.is_alive()) {
            take(process, entries.iter().copied().find(|entry| entry.mark == mark), false);
        }
    }
    found
}

/// This process and its ancestors.
fn own_line(listed: &[Listed]) -> HashSet<i32> {
    let mut line = HashSet::new();
    let mut pid = getpid().as_raw_pid();
    while line.insert(pid) {
        match listed.iter().find(|process| process.pid == pid) {
            Some(process) => pid = process.parent,
            None => break,
        }
    }
    line
}

/// Orphaned descendants become children of this process (Linux), and are reaped when they end. Lasts until dropped;
/// the adoption itself until the process ends. Elsewhere nothing is adopted, so there is nothing to reap: what children
/// there are belong to whoever waits for them, and to look at them by ps(1) would be the next child to end.
pub struct Adoption {
    reaper: Option<(Handle, Thread)>,
}

impl Adoption {
    /// Begins to adopt and to reap.
    ///
    /// # Errors
    /// When the system refuses, or has no thread.
    pub fn begin() -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Ok(Self { reaper: None });
        }
        let mut signals = Signals::new([SIGCHLD])?;
        let handle = signals.handle();
        os::become_subreaper()?;
        STRANGERS.get_or_init(strangers);
        ADOPTING.store(true, Ordering::Release);
        let thread = threads::spawn("reaper", move || {
            for _ in signals.forever() {
                reap_adopted();
            }
        })?;
        Ok(Self { reaper: Some((handle, thread)) })
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.reaper.take() {
            handle.close();
            thread.join();
        }
    }
}

/// Reaps adopted children that have ended. A child that was started here is left to its owner, who wants its status.
fn reap_adopted() {
    // While nothing is being started, every child that is not in the list was adopted.
    let _spawning = spawning();
    let own = getpid().as_raw_pid();
    let spawned = spawned().clone();
    for process in os::list().iter().filter(|process| process.parent == own && process.zombie) {
        if let Some(pid) = Pid::from_raw(process.pid).filter(|pid| !spawned.contains(pid)) {
            os::reap_if_ended(pid);
        }
    }
}

/// The children of this process that it did not start.
fn strangers() -> Vec<Listed> {
    let _spawning = spawning();
    let own = getpid().as_raw_pid();
    let spawned = spawned().clone();
    let unknown = |process: &Listed| Pid::from_raw(process.pid).is_some_and(|pid| !spawned.contains(&pid));
    os::list()
        .into_iter()
        .filter(|process| process.parent == own && !process.zombie && unknown(process))
        .collect()
}

/// Adopted children among those listed, with their descendants: see [`Household::adopted`].
pub(super) fn adopted(listed: &[Listed]) -> Vec<i32> {
    if !ADOPTING.load(Ordering::Acquire) {
        return Vec::new();
    }
    let own = getpid().as_raw_pid();
    let started = listed.iter().find(|process| process.pid == own).map(|process| &process.started);
    let household = Household {
        own,
        spawned: &spawned().clone(),
        strangers: STRANGERS.get().map_or(&[], Vec::as_slice),
        is_marked: &|pid| {
            let mark = os::variable(pid, MARK);
            started.is_some_and(|started| mark.is_some_and(|mark| ledger::is_mark_of(&mark, own, started)))
        },
    };
    household.adopted(listed)
}

/// This process, and how its children are told apart.
struct Household<'a> {
    own: i32,
    spawned: &'a [Pid],
    strangers: &'a [Listed],
    /// Whether a process carries a mark of this one.
    is_marked: &'a dyn Fn(i32) -> bool,
}

impl Household<'_> {
    /// Adopted children among those listed, with their descendants: children of this process that it did not start. In
    /// its own group are only those it did. Where somebody else's orphans may be among them, only what is marked is ours:
    /// process 1 gets everybody's, and what a stranger leaves becomes a child of ours too.
    fn adopted(&self, listed: &[Listed]) -> Vec<i32> {
        let own_group = listed.iter().find(|process| process.pid == self.own).map(|process| process.group);
        let all_ours = self.own != 1 && self.strangers.is_empty();
        let mut found = Vec::new();
        for process in listed.iter().filter(|process| process.parent == self.own) {
            let same = |known: &Listed| known.pid == process.pid && known.started == process.started;
            let started_here = Pid::from_raw(process.pid).is_none_or(|pid| self.spawned.contains(&pid));
            if started_here || Some(process.group) == own_group || self.strangers.iter().any(same) {
                continue;
            }
            if all_ours || (self.is_marked)(process.pid) {
                found.push(process.pid);
                found.extend(os::descendants(process.pid, listed).iter().map(|process| process.pid));
            }
        }
        found
    }
}

/// Kills adopted descendants that are still there when everything started here has ended: they had neither parent nor
/// mark left to be known by.
pub fn end_adopted() {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = kill_adopted();
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            return warn!("processes {left:?} do not end, though they were killed");
        }
        threads::pause(LOOK_AGAIN);
    }
}

/// SIGKILL to each of them; those that there were.
fn kill_adopted() -> Vec<i32> {
    let _spawning = spawning();
    let listed = os::list();
    let adopted = adopted(&listed);
    let left: Vec<Listed> =
        listed.into_iter().filter(|process| adopted.contains(&process.pid) && !process.zombie).collect();
    kill_verified(&left);
    left.iter().map(|process| process.pid).collect()
}

/// SIGKILL to everything that was started here and its descendants: the last thing before this process ends without
/// its destructors. Takes no lock that a fault could have left locked for ever.
pub fn kill_everything() {
    let groups: Vec<Pid> = spawned().clone();
    let mut killed: Vec<Listed> = Vec::new();
    // What was forked between a look and the signal is in the next look only, and one look may miss what is forking.
    let mut clean = 0;
    for _ in 0..SWEEPS {
        let listed = if ADOPTING.load(Ordering::Acquire) { os::list() } else { Vec::new() };
        let mut pids = adopted(&listed);
        for &group in &groups {
            let leader = group.as_raw_pid();
            pids.push(leader);
            pids.extend(os::descendants(leader, &listed).iter().map(|process| process.pid));
            // There is nobody left to tell of a failure.
            let _ = os::signal_group(group, Signal::KILL);
        }
        let is_new = |process: &Listed| {
            pids.contains(&process.pid)
                && !killed.iter().any(|known| known.pid == process.pid && known.started == process.started)
        };
        let new: Vec<Listed> = listed.into_iter().filter(is_new).collect();
        clean = if new.is_empty() { clean + 1 } else { 0 };
        if clean == 2 {
            return;
        }
        kill_verified(&new);
        killed.extend(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Exit, Input, Process, Spec};

    const OWN: i32 = 100;

    fn process(pid: i32, parent: i32, group: i32) -> Listed {
        Listed { pid, parent, group, session: 1, started: format!("{pid}0"), zombie: false }
    }

    /// This process, what it has started, one adopted process with a child, and one in its own group.
    fn family(own: i32) -> Vec<Listed> {
        let of = [(own, 0, own), (201, own, 201), (301, own, 301), (302, 301, 301), (401, own, own)];
        of.map(|(pid, parent, group)| process(pid, parent, group)).to_vec()
    }

    fn adopted_by(own: i32, strangers: &[Listed], marked: &[i32]) -> Vec<i32> {
        let spawned = [Pid::from_raw(201).unwrap()];
        let household =
            Household { own, spawned: &spawned, strangers, is_marked: &|pid| marked.contains(&pid) };
        household.adopted(&family(own))
    }

    #[test]
    fn what_is_adopted_is_ours_where_it_can_be_nobody_elses() {
        assert_eq!(adopted_by(OWN, &[], &[]), [301, 302]);
    }

    #[test]
    fn a_child_from_before_and_what_descends_from_it_is_nobodys_business_here() {
        assert_eq!(adopted_by(OWN, &[process(301, OWN, 301)], &[]), [] as [i32; 0]);
        // What a stranger that is gone has left is no more ours than the stranger.
        let gone = process(999, OWN, 999);
        assert_eq!(adopted_by(OWN, std::slice::from_ref(&gone), &[]), [] as [i32; 0]);
        assert_eq!(adopted_by(OWN, &[gone], &[301]), [301, 302]);
        // Its number may be another's by now.
        let namesake = Listed { started: "1".to_owned(), ..process(301, OWN, 301) };
        assert_eq!(adopted_by(OWN, &[namesake], &[301]), [301, 302]);
    }

    #[test]
    fn process_1_takes_only_what_is_marked_for_its_own() {
        assert_eq!(adopted_by(1, &[], &[]), [] as [i32; 0]);
        assert_eq!(adopted_by(1, &[], &[301]), [301, 302]);
    }

    #[test]
    fn what_has_inherited_a_number_is_not_killed() {
        let spec = Spec {
            command: "sh".into(),
            args: vec!["-c".into(), "read line; exit 3".into()],
            cwd: "/".into(),
            stdin: Input::Pipe,
            ..Spec::default()
        };
        let mut process = Process::spawn(&spec, crate::ids::daemon_id()).unwrap();
        let pid = os::process_id(i32::try_from(process.id()).unwrap()).unwrap();
        let listed = os::look_up(pid).unwrap();
        kill_verified(&[Listed { started: "another time".to_owned(), ..listed }]);
        // Left alone it ends by itself, when its input does.
        drop(process.take_stdin());
        process.ended().recv().unwrap_err();
        assert_eq!(process.finish(), Exit { code: Some(3), signal: None });
    }
}
