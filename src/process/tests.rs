use std::io::Read;

use super::*;

fn shell(script: &str) -> Process {
    let spec = Spec {
        command: "sh".into(),
        args: vec!["-c".into(), script.into()],
        cwd: "/".into(),
        ..Spec::default()
    };
    Process::spawn(&spec, crate::ids::daemon_id()).unwrap()
}

fn first_line(process: &mut Process) -> String {
    let mut line = Vec::new();
    let mut stdout = process.take_stdout().unwrap();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn an_exit_code_is_told() {
    let mut process = shell("exit 3");
    process.ended().recv().unwrap_err();
    assert_eq!(process.finish(), Exit { code: Some(3), signal: None });
}

#[test]
fn what_ignores_sigterm_is_killed() {
    let mut process = shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    assert_eq!(first_line(&mut process), "ready");
    let exit = process.terminate(Duration::from_millis(50));
    assert_eq!(exit, Exit { code: None, signal: Some("SIGKILL".to_owned()) });
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_in_a_session_of_its_own_goes_too() {
    let mut process = shell("setsid sh -c 'echo $$; exec sleep 300' & wait");
    let grandchild: i32 = first_line(&mut process).parse().unwrap();
    process.terminate(Duration::from_secs(5));
    assert_gone(grandchild);
}

/// Neither its mark nor, after the SIGTERM that ends it, its parent tells of it; and it could be the other process's.
#[cfg(target_os = "linux")]
#[test]
fn so_does_one_that_has_cleared_its_environment() {
    let _other = shell("sleep 300");
    let mut process = shell("setsid env -i sh -c 'echo $$; exec sleep 300' & wait");
    let grandchild: i32 = first_line(&mut process).parse().unwrap();
    process.terminate(Duration::from_secs(5));
    assert_gone(grandchild);
}

#[cfg(target_os = "linux")]
fn assert_gone(grandchild: i32) {
    let pid = Pid::from_raw(grandchild).unwrap();
    // It is reaped by whoever adopts it; what counts is that it does not run.
    let gone = (0..1000).any(|_| {
        let ended = os::look_up(pid).is_none_or(|listed| listed.zombie);
        if !ended {
            threads::pause(Duration::from_millis(5));
        }
        ended
    });
    assert!(gone, "the setsid grandchild {grandchild} still runs");
}
