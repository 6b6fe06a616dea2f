//! Where Codex's requests are among the records: those that wait, and the last one under each of the app-server's own
//! ids. So neither the end of a turn nor a request that is sent again has to look through all there ever were.

use std::collections::{BTreeSet, HashMap};

use crate::model::record::{Request, RequestStatus};

/// Places of requests in their registry.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pending: BTreeSet<usize>,
    last: HashMap<String, HashMap<String, usize>>,
}

impl Asked {
    /// Takes note of the request at place `at` as it is now.
    pub(super) fn note(&mut self, at: usize, request: &Request) {
        if request.status == RequestStatus::Pending {
            self.pending.insert(at);
        } else {
            self.pending.remove(&at);
        }
        if let Some(id) = &request.app_server_request_id {
            let thread = request.thread_id.clone().unwrap_or_default();
            // A request that is sent again, and one of a later process with the same id, take the place over; what
            // is noted again because it was answered does not take it back.
            let last = self.last.entry(thread).or_default().entry(id.get().to_owned()).or_insert(at);
            *last = (*last).max(at);
        }
    }

    /// The places of those that wait, in order of creation.
    pub(super) fn pending(&self) -> impl Iterator<Item = usize> + '_ {
        self.pending.iter().copied()
    }

    /// The place of the last one that had this id in this thread (empty for a request without a thread).
    pub(super) fn last(&self, thread: &str, id: &str) -> Option<usize> {
        self.last.get(thread)?.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_the_last_that_was_asked_under_it_whenever_an_older_one_is_settled() {
        let request = |status: &str| -> Request {
            let record = serde_json::json!({
                "requestId": "r", "method": "m", "kind": "command", "sessionId": null, "threadId": "t", "turnId": null,
                "itemId": null, "params": {}, "status": status, "createdAt": "", "updatedAt": "", "deadline": null,
                "answer": null, "appServerRequestId": 0, "generation": 1,
            });
            serde_json::from_value(record).unwrap()
        };
        let mut asked = Asked::default();
        for at in 0..2 {
            asked.note(at, &request("pending"));
            assert_eq!(asked.last("t", "0"), Some(at));
        }
        asked.note(0, &request("answered"));
        assert_eq!(asked.last("t", "0"), Some(1));
        assert_eq!(asked.pending().collect::<Vec<_>>(), [1]);
        assert_eq!(asked.last("", "0"), None);
    }
}
