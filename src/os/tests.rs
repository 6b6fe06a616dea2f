use super::*;

#[test]
fn this_process_is_listed_and_its_children_are_descendants() {
    let own = i32::try_from(std::process::id()).unwrap();
    let mut command = Command::new("sleep");
    command.arg("60");
    let mut child = spawn_group(command, None).unwrap();
    let pid = Pid::from_child(&child);
    let listed = list();
    assert!(descendants(own, &listed).iter().any(|process| process.pid == pid.as_raw_nonzero().get()));
    let found = look_up(pid).unwrap();
    assert_eq!(found.parent, own);
    assert_eq!(found.group, found.pid);
    assert_eq!(found.session, session_of(own));
    assert!(!found.zombie);
    signal_group(pid, Signal::KILL).unwrap();
    wait_ended(pid).unwrap();
    assert!(look_up(pid).unwrap().zombie);
    signal_group(pid, Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(signal_process(pid, Signal::TERM).is_ok());
}

#[test]
fn only_a_positive_number_is_a_process_id() {
    for (written, pid) in
        [(i32::MIN, None), (-1, None), (0, None), (1, Pid::from_raw(1)), (i32::MAX, Pid::from_raw(i32::MAX))]
    {
        assert_eq!(process_id(written), pid);
    }
}

fn touch(file: &std::path::Path) -> Command {
    let mut command = Command::new("touch");
    command.arg(file);
    command
}

#[test]
fn a_command_runs_only_after_it_was_announced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made");
    let (seen, look) = (file.clone(), crossbeam_channel::bounded(1));
    let announce: Announce = Box::new(move |pid| {
        let born = super::look_up(pid).is_some_and(|listed| !listed.started.is_empty());
        look.0.send((pid, born, seen.exists())).unwrap();
        Ok(())
    });
    let mut child = spawn_group(touch(&file), Some(announce)).unwrap();
    assert_eq!(look.1.recv().unwrap(), (Pid::from_child(&child), true, false));
    assert!(child.wait().unwrap().success());
    assert!(file.exists());
}

#[test]
fn a_refused_announcement_keeps_the_command_from_running() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made");
    let refused =
        spawn_group(touch(&file), Some(Box::new(|_| Err(io::Error::other("no room"))))).unwrap_err();
    assert_eq!(refused.to_string(), "no room");
    assert!(!file.exists());
    let missing = spawn_group(Command::new("/no/such/command"), Some(Box::new(|_| Ok(())))).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let mut nowhere = touch(&file);
    nowhere.current_dir("/no/such/folder");
    assert!(spawn_group(nowhere, Some(Box::new(|_| Ok(())))).is_err(), "it never gets to the gate");
}
