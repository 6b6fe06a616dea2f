//! Threads on disk: one small file each, a line for what a thread is and a line for whatever happens in it.

use super::shapes::{TurnView, now_ms};
use super::state::{Thread, ThreadState, lock};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The file of a thread.
pub(super) fn path(rollouts: &Path, id: &str) -> PathBuf {
    rollouts.join(format!("{id}.jsonl"))
}

/// Adds a line. A file that cannot be written costs the resume, not the turn, as with the real Codex.
pub(super) fn append(rollouts: &Path, id: &str, line: &Value) {
    let file = path(rollouts, id);
    let _ = std::fs::create_dir_all(rollouts);
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(file) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// Records that a turn began; the first one makes the file.
pub(super) fn turn_started(rollouts: &Path, thread: &Thread, state: &mut ThreadState, turn: &str) {
    if thread.ephemeral {
        return;
    }
    if !state.persisted {
        state.persisted = true;
        let line = json!({"thread": thread.id, "cwd": thread.cwd, "model": thread.model,
            "modelProvider": thread.provider, "sandbox": thread.sandbox, "createdAt": thread.created_at,
            "preview": state.preview});
        append(rollouts, &thread.id, &line);
    }
    let line = json!({"started": turn, "at": now_ms(), "approvalPolicy": state.approval_policy});
    append(rollouts, &thread.id, &line);
}

/// Reads a thread back. A turn that began and did not end was cut short and is `interrupted`.
pub(super) fn load(rollouts: &Path, id: &str) -> Option<Thread> {
    let text = std::fs::read_to_string(path(rollouts, id)).ok()?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let meta = lines.next().filter(|meta| meta["thread"] == id)?;
    let mut thread = Thread::new(&meta);
    thread.id = id.to_owned();
    thread.created_at = meta["createdAt"].as_u64().unwrap_or(thread.created_at);
    let mut state = std::mem::take(&mut *lock(&thread.state));
    state.persisted = true;
    state.updated_at = thread.created_at;
    state.preview = meta["preview"].as_str().unwrap_or_default().to_owned();
    let mut open: Option<(String, u64, Vec<Value>)> = None;
    for line in lines {
        if let Some(turn) = line["started"].as_str() {
            state.turns.extend(open.take().map(cut_short));
            open = Some((turn.to_owned(), line["at"].as_u64().unwrap_or_default(), Vec::new()));
            state.approval_policy = line["approvalPolicy"].clone();
        } else if let Some((_, _, items)) = open.as_mut().filter(|_| !line["item"].is_null()) {
            items.push(line["item"].clone());
        } else if !line["completed"].is_null() {
            open = None;
            state.answers = line["answers"].as_u64().unwrap_or_default();
            state.updated_at = line["completed"]["completedAt"].as_u64().unwrap_or(state.updated_at);
            state.turns.push(line["completed"].clone());
        }
    }
    state.turns.extend(open.map(cut_short));
    thread.state = Mutex::new(state);
    Some(thread)
}

fn cut_short((id, started, items): (String, u64, Vec<Value>)) -> Value {
    let view = TurnView {
        id: &id,
        status: "interrupted",
        items: &items,
        view: "full",
        error: &Value::Null,
        started_ms: Some(started),
        completed_ms: None,
    };
    view.json()
}
