//! What ps(1) tells of processes, where there is no `/proc`.

use std::process::{Command, Stdio};

use super::{Listed, session_of};

const PS: &str = "/bin/ps";

/// Those that these words choose, without ps(1) itself, which is gone by then.
///
/// Start times are those of UTC: what is on record of one life is compared in another, whose time zone may be another.
pub(super) fn listed(which: &[&str]) -> Vec<Listed> {
    let lines = lines(&[&["-o", "pid=,ppid=,pgid=,stat=,lstart="], which].concat());
    let listed = lines.iter().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let pid = fields.next()?.parse().ok()?;
        Some(Listed {
            pid,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            // What ps(1) calls a session there is an address.
            session: session_of(pid),
            zombie: fields.next()?.starts_with('Z'),
            started: fields.collect::<Vec<_>>().join(" "),
        })
    });
    listed.collect()
}

/// As [`super::command_lines`]. Words with blanks in them fall apart, which does no harm to what they are looked at for.
pub(super) fn command_lines() -> Vec<(i32, Vec<String>)> {
    let lines = lines(&["-A", "-ww", "-o", "pid=,stat=,args="]);
    let command_lines = lines.iter().filter_map(|line| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let ended = words.next()?.starts_with('Z');
        (!ended).then(|| (pid, words.map(str::to_owned).collect()))
    });
    command_lines.collect()
}

/// What it prints about others; each line begins with a process id.
fn lines(words: &[&str]) -> Vec<String> {
    let started = Command::new(PS)
        .args(words)
        .envs([("LC_ALL", "C"), ("TZ", "UTC0")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(ps) = started else { return Vec::new() };
    let own = ps.id().to_string();
    let Ok(output) = ps.wait_with_output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let of_itself = |line: &&str| line.split_ascii_whitespace().next() == Some(own.as_str());
    text.lines().filter(|line| !of_itself(line)).map(str::to_owned).collect()
}
