//! A file change's request says nothing of the change: that was in the `item/started` before it. This remembers it.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde_json::value::RawValue;

use crate::model::members::Members;

/// File changes remembered at a time. One is remembered from its `item/started` to its `item/completed`, and few run
/// at once; a thread that was cut off never completes its own, so there is an end to it.
const MOST: usize = 64;
/// Bytes of changes remembered at a time.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The file changes in progress.
#[derive(Debug, Default)]
pub(super) struct Changes {
    items: VecDeque<Item>,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    thread: String,
    id: String,
    changes: Box<RawValue>,
}

impl Changes {
    /// Looks at a notification.
    pub(super) fn note(&mut self, method: &str, params: &RawValue) {
        let Some((thread, id, changes)) = change_in(method, params) else { return };
        self.forget(&thread, &id);
        if let Some(changes) = changes {
            self.remember(&thread, &id, changes);
        }
    }

    fn remember(&mut self, thread: &str, id: &str, changes: &RawValue) {
        self.bytes += changes.get().len();
        self.items.push_back(Item {
            thread: thread.to_owned(),
            id: id.to_owned(),
            changes: changes.to_owned(),
        });
        while self.items.len() > MOST || self.bytes > MOST_BYTES {
            self.drop_at(0);
        }
    }

    /// The params of a file change's request with `changes`, unless they have them or nothing is known.
    pub(super) fn complete(&self, params: &RawValue) -> Box<RawValue> {
        let with_changes = || {
            let asked = Members::of(params)?;
            let (thread, id) = (asked.text("threadId")?, asked.text("itemId")?);
            let item = self.items.iter().find(|item| item.thread == thread && item.id == id)?;
            if asked.get("changes").is_some_and(is_there) {
                return None;
            }
            // It has at least the two ids, so a comma is right.
            let open = params.get().trim_end().strip_suffix('}')?;
            RawValue::from_string(format!("{open},\"changes\":{}}}", item.changes.get())).ok()
        };
        with_changes().unwrap_or_else(|| params.to_owned())
    }

    fn forget(&mut self, thread: &str, id: &str) {
        if let Some(at) = self.items.iter().position(|item| item.thread == thread && item.id == id) {
            self.drop_at(at);
        }
    }

    fn drop_at(&mut self, at: usize) {
        if let Some(item) = self.items.remove(at) {
            self.bytes -= item.changes.get().len();
        }
    }
}

/// The file change that a notification is about: its thread, its item, and its changes unless it is over.
fn change_in<'a>(
    method: &str,
    params: &'a RawValue,
) -> Option<(Cow<'a, str>, Cow<'a, str>, Option<&'a RawValue>)> {
    match method {
        "item/fileChange/patchUpdated" => {
            let params = Members::of(params)?;
            Some((params.text("threadId")?, params.text("itemId")?, Some(params.get("changes")?)))
        }
        "item/started" | "item/completed" if params.get().contains("fileChange") => {
            let params = Members::of(params)?;
            let item =
                params.object("item").filter(|item| item.text("type").as_deref() == Some("fileChange"))?;
            let changes = item.get("changes").filter(|changes| method == "item/started" && is_there(changes));
            Some((params.text("threadId")?, item.text("id")?, changes))
        }
        _ => None,
    }
}

fn is_there(value: &RawValue) -> bool {
    value.get() != "null"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn note(changes: &mut Changes, method: &str, id: &str, diff: &str) {
        let item = json!({"type": "fileChange", "id": id, "changes": [{"path": "p", "diff": diff}]});
        let params = json!({"threadId": "t", "item": item}).to_string();
        changes.note(method, &RawValue::from_string(params).unwrap());
    }

    fn complete(changes: &Changes, params: &Value) -> Value {
        let params = RawValue::from_string(params.to_string()).unwrap();
        serde_json::from_str(changes.complete(&params).get()).unwrap()
    }

    #[test]
    fn a_request_gets_the_changes_of_its_item() {
        let mut changes = Changes::default();
        note(&mut changes, "item/started", "a", "+1");
        let asked = json!({"threadId": "t", "itemId": "a", "reason": null});
        assert_eq!(complete(&changes, &asked)["changes"][0]["diff"], "+1");
        assert_eq!(complete(&changes, &json!({"threadId": "u", "itemId": "a"}))["changes"], Value::Null);
        let newer = json!({"threadId": "t", "itemId": "a", "changes": []});
        assert_eq!(complete(&changes, &newer), newer);
        let updated =
            json!({"threadId": "t", "itemId": "a", "changes": [{"path": "p", "diff": "+2"}]}).to_string();
        changes.note("item/fileChange/patchUpdated", &RawValue::from_string(updated).unwrap());
        assert_eq!(complete(&changes, &asked)["changes"], json!([{"path": "p", "diff": "+2"}]));
        note(&mut changes, "item/completed", "a", "+1");
        assert_eq!(complete(&changes, &asked), asked);
        assert_eq!((changes.items.len(), changes.bytes), (0, 0));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut changes = Changes::default();
        for number in 0..MOST * 2 {
            note(&mut changes, "item/started", &number.to_string(), "+1");
        }
        assert_eq!(changes.items.len(), MOST);
        note(&mut changes, "item/started", "huge", &"x".repeat(MOST_BYTES));
        assert_eq!((changes.items.len(), changes.bytes), (0, 0));
    }
}
