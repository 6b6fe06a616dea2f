//! Which requests are kept once they are settled. All that are kept are written anew with each request, and what became
//! of older ones is in the log.

use std::sync::Arc;

use crate::model::record::{Request, RequestStatus};

/// Of those that are settled, the ones that were settled last are kept, so many.
const MOST: usize = 1_000;
/// Of what those asked, so many bytes: the changes of a file may be as long as `--max-line-bytes`. The one that was settled
/// last is kept however long it is.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Settled requests that there are now.
#[derive(Debug, Default)]
pub(super) struct Settled {
    count: usize,
    bytes: usize,
}

impl Settled {
    /// Takes note of a request as it is now; `before`: as it was.
    pub(super) fn note(&mut self, before: Option<&Request>, now: &Request) {
        if let Some(before) = before.filter(|before| is_settled(before)) {
            self.count -= 1;
            self.bytes -= size(before);
        }
        if is_settled(now) {
            self.count += 1;
            self.bytes += size(now);
        }
    }

    /// Whether it is time to let some go: not with each, which would look through all of them.
    pub(super) fn are_too_many(&self) -> bool {
        self.count > MOST + MOST / 4 || self.count > 1 && self.bytes > MOST_BYTES + MOST_BYTES / 4
    }
}

/// Those that stay, in their order: all that wait, and of the settled ones as many as are kept.
pub(super) fn kept(requests: &[Arc<Request>]) -> Vec<Arc<Request>> {
    let mut settled: Vec<usize> = (0..requests.len()).filter(|&at| is_settled(&requests[at])).collect();
    settled.sort_by(|&one, &other| {
        requests[other].updated_at.cmp(&requests[one].updated_at).then(other.cmp(&one))
    });
    let mut bytes = 0;
    let fits = |&(nth, &at): &(usize, &usize)| {
        bytes += size(&requests[at]);
        nth == 0 || nth < MOST && bytes <= MOST_BYTES
    };
    let stay = settled.iter().enumerate().take_while(fits).count();
    let mut goes = vec![false; requests.len()];
    settled[stay..].iter().for_each(|&at| goes[at] = true);
    requests.iter().zip(goes).filter(|(_, goes)| !goes).map(|(request, _)| Arc::clone(request)).collect()
}

fn is_settled(request: &Request) -> bool {
    request.status != RequestStatus::Pending
}

fn size(request: &Request) -> usize {
    request.params.get().len()
}

#[cfg(test)]
mod tests {
    use super::super::change::Change;
    use super::super::state::{Registry, State};
    use super::*;

    /// The request of that number as it is at that time.
    fn request(number: usize, status: &str, at: usize, asks: usize) -> Arc<Request> {
        let record = serde_json::json!({
            "requestId": format!("request-{number}"), "method": "m", "kind": "command", "sessionId": null,
            "threadId": "t", "turnId": null, "itemId": null, "params": { "asks": "x".repeat(asks) },
            "status": status, "createdAt": "", "updatedAt": format!("{at:09}"), "deadline": null, "answer": null,
            "appServerRequestId": number, "generation": 1,
        });
        Arc::new(serde_json::from_value(record).unwrap())
    }

    fn state(requests: Vec<Arc<Request>>) -> State {
        let daemon =
            serde_json::from_str(include_str!("../../tests/fixtures/file-daemon-state.json")).unwrap();
        let requests = Registry::load(None, requests);
        State::new(None, daemon, Registry::default(), Registry::default(), requests)
    }

    /// The numbers of those that are there, each found where it is.
    fn there(state: &State) -> Vec<usize> {
        let number = |request: &Arc<Request>| request.request_id.rsplit('-').next()?.parse().ok();
        let all: Vec<usize> = state.requests.all().iter().filter_map(number).collect();
        for number in &all {
            let id = format!("request-{number}");
            assert_eq!(state.requests.get(&id).unwrap().request_id, id);
            assert_eq!(state.request_with_id(Some("t"), &number.to_string()).unwrap().request_id, id);
        }
        all
    }

    #[test]
    fn all_that_wait_and_those_settled_last_are_kept() {
        const ALL: usize = 3 * MOST;
        let waiting = (0..ALL).map(|number| request(number, "pending", 0, 0)).collect();
        let mut state = state(waiting);
        // The first is answered last.
        for (at, number) in (2..ALL).chain([0]).enumerate() {
            state.apply(Change::Request(request(number, "answered", at, 0)), "");
            let settled = state.requests.all().len() - state.pending_requests().count();
            assert!(
                settled <= MOST + MOST / 4 && (settled == at + 1 || settled >= MOST),
                "{settled} of {at}"
            );
        }
        let left = there(&state);
        assert_eq!(left[..2], [0, 1]);
        let settled_last: Vec<usize> = (ALL - (left.len() - 2)..ALL).collect();
        assert_eq!(left[2..], settled_last);
        assert_eq!(state.pending_requests().count(), 1);
        // Told again, it is the same.
        let count = left.len();
        state.apply(Change::Request(request(0, "answered", ALL, 0)), "");
        assert_eq!(there(&state).len(), count);
    }

    #[test]
    fn of_long_ones_few_are_kept_and_at_least_one() {
        let all = (0..10).map(|number| request(number, "answered", 10 - number, MOST_BYTES / 4)).collect();
        let mut state = state(all);
        assert!(state.requests.dirty);
        assert_eq!(there(&state), [0, 1, 2]);
        state.apply(Change::Request(request(10, "answered", 11, 2 * MOST_BYTES)), "");
        assert_eq!(there(&state), [10]);
        state.apply(Change::Request(request(11, "answered", 12, 0)), "");
        assert_eq!(there(&state), [11]);
    }
}
