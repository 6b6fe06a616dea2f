//! Whose the members of a process group are when the process that led it is gone: what has cleared its environment
//! carries no mark, and its parents are dead.
//!
//! A pid is not given out again while there is a group of that number. So a member of the group on record is of the
//! process on record, unless the group was empty for a time and the number was used again: that is looked for here.

use std::cmp::Ordering;

use super::ledger::Entry;
use crate::os::{self, Listed};

/// The process that adopts orphans where nobody else does.
const INIT: i32 = 1;

/// What a member of the group on record is to the process on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    /// It descends from it.
    Descendant,
    /// That cannot be told.
    Unknown,
    /// The group's number is another's by now.
    Stranger,
}

/// The members of an entry's group among those listed, none of which is the process on record, and what they are.
pub(super) fn of_group<'a>(
    entry: &'a Entry,
    listed: &'a [Listed],
) -> impl Iterator<Item = (&'a Listed, Kinship)> {
    let reused = listed.iter().any(|process| process.pid == entry.group);
    let members = listed.iter().filter(|process| process.group == entry.group && !process.zombie);
    members.map(move |member| {
        (member, if reused { Kinship::Stranger } else { of_member(entry, member, listed) })
    })
}

fn of_member(entry: &Entry, member: &Listed, listed: &[Listed]) -> Kinship {
    // A group is of one session, and nobody is older than the ancestor.
    if entry.session.is_some_and(|session| session != member.session) {
        return Kinship::Stranger;
    }
    match os::compare_started(&member.started, &entry.start_time) {
        Some(Ordering::Less) => return Kinship::Stranger,
        None => return Kinship::Unknown,
        Some(_) => {}
    }
    // Its parent is of the group or has adopted it. Somebody else of the session may be a shell, and this its job.
    let parent = listed.iter().find(|process| process.pid == member.parent && process.pid != INIT);
    let shell = parent.is_some_and(|parent| parent.group != entry.group && parent.session == member.session);
    if shell || entry.session.is_none() { Kinship::Unknown } else { Kinship::Descendant }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::ledger::{DaemonProcess, Purpose};
    use super::*;

    const SESSION: i32 = 50;

    fn entry(session: Option<i32>) -> Entry {
        Entry {
            pid: 200,
            start_time: "2000".to_owned(),
            group: 200,
            session,
            purpose: Purpose::AppServer,
            owner: "generation-1".to_owned(),
            mark: "x/100-1000/generation-1".to_owned(),
            created_at: String::new(),
            daemon: DaemonProcess { pid: 100, start_time: "1000".to_owned() },
            boot: String::new(),
        }
    }

    fn process(pid: i32, parent: i32, group: i32, started: &str) -> Listed {
        Listed { pid, parent, group, session: SESSION, started: started.to_owned(), zombie: false }
    }

    /// What process 300 is, among these others.
    fn kinship(entry: &Entry, member: Listed, others: &[Listed]) -> Kinship {
        let listed = [&[member], others].concat();
        let found: Vec<_> = of_group(entry, &listed).filter(|(process, _)| process.pid == 300).collect();
        assert_eq!(found.len(), 1);
        found[0].1
    }

    #[test]
    fn an_orphan_of_the_group_on_record_is_a_descendant() {
        let entry = entry(Some(SESSION));
        // Younger or just as old; adopted by init, by another session's process, or with a parent in the group.
        let systemd = Listed { session: 9, ..process(9, 1, 9, "10") };
        let init = process(1, 0, 1, "1");
        let sibling = process(301, 1, 200, "2001");
        for (parent, started) in [(1, "2000"), (9, "2001"), (301, "10000")] {
            let others = [init.clone(), systemd.clone(), sibling.clone()];
            assert_eq!(kinship(&entry, process(300, parent, 200, started), &others), Kinship::Descendant);
        }
    }

    #[test]
    fn whoever_uses_the_groups_number_again_is_a_stranger() {
        let member = || process(300, 1, 200, "2001");
        let entry = entry(Some(SESSION));
        assert_eq!(kinship(&entry, member(), &[process(200, 1, 200, "2500")]), Kinship::Stranger);
        assert_eq!(kinship(&entry, member(), &[process(200, 1, 7, "2500")]), Kinship::Stranger);
        assert_eq!(kinship(&entry, Listed { session: 51, ..member() }, &[]), Kinship::Stranger);
        assert_eq!(kinship(&entry, process(300, 1, 200, "999"), &[]), Kinship::Stranger);
    }

    #[test]
    fn what_may_be_a_shells_job_or_was_recorded_by_an_older_version_is_left_open() {
        let shell = process(60, 1, 60, "10");
        let member = process(300, 60, 200, "2001");
        assert_eq!(kinship(&entry(Some(SESSION)), member, &[shell]), Kinship::Unknown);
        assert_eq!(kinship(&entry(None), process(300, 1, 200, "2001"), &[]), Kinship::Unknown);
        let undated = process(300, 1, 200, "");
        assert_eq!(kinship(&entry(Some(SESSION)), undated, &[]), Kinship::Unknown);
    }
}
