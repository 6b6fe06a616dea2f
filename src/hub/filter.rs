//! Which events a client wants.

use std::collections::BTreeSet;

use super::Core;
use super::batch::Subject;

/// The largest number of names that a filter takes up on its way; a session has one thread, or a few after recoveries.
const MAX_LEARNED: usize = 1024;

/// What a client asks for. Several types mean any of them; everything else must hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Prefixes of types; none means every type.
    pub types: Vec<String>,
    /// A session: its events and those of its thread.
    pub session: Option<String>,
    /// A thread: its events and those of the sessions on it.
    pub thread: Option<String>,
    /// A run.
    pub run: Option<String>,
}

/// [`Wanted`], with what is known of which session is on which thread. It learns: an event that names both tells.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    wanted: Wanted,
    /// Threads of the wanted session.
    threads: BTreeSet<String>,
    /// Sessions on the wanted thread.
    sessions: BTreeSet<String>,
}

impl Filter {
    /// A filter that knows what the state knows.
    pub fn new(wanted: Wanted, core: &Core) -> Self {
        let state = core.state();
        let threads =
            wanted.session.iter().filter_map(|id| state.sessions.get(id)?.thread_id.clone()).collect();
        let sessions = wanted
            .thread
            .iter()
            .flat_map(|thread| state.sessions_of_thread(thread))
            .map(|session| session.session_id.clone())
            .collect();
        Self { wanted, threads, sessions }
    }

    /// Whether it lets everything through.
    pub fn is_open(&self) -> bool {
        self.wanted == Wanted::default()
    }

    /// Whether it looks at what an event is about, not only at its type.
    pub fn needs_subject(&self) -> bool {
        self.wanted.session.is_some() || self.wanted.thread.is_some() || self.wanted.run.is_some()
    }

    /// Whether an event of that type may be wanted.
    pub fn takes_type(&self, kind: &str) -> bool {
        self.wanted.types.is_empty() || self.wanted.types.iter().any(|prefix| kind.starts_with(prefix))
    }

    /// Whether an event about that is wanted. Every event in order is to be shown to it, wanted or not: see [`Filter`].
    pub fn takes_subject(&mut self, subject: &Subject) -> bool {
        self.learn(subject);
        let thread = subject.thread.as_deref();
        let session = subject.session.as_deref();
        let by_session = self.wanted.session.as_deref().is_none_or(|wanted| {
            session == Some(wanted) || thread.is_some_and(|thread| self.threads.contains(thread))
        });
        let by_thread = self.wanted.thread.as_deref().is_none_or(|wanted| {
            thread == Some(wanted) || session.is_some_and(|session| self.sessions.contains(session))
        });
        let by_run = self.wanted.run.as_deref().is_none_or(|wanted| subject.run.as_deref() == Some(wanted));
        by_session && by_thread && by_run
    }

    fn learn(&mut self, subject: &Subject) {
        let (Some(thread), Some(session)) = (subject.thread.as_deref(), subject.session.as_deref()) else {
            return;
        };
        if self.wanted.session.as_deref() == Some(session) && self.threads.len() < MAX_LEARNED {
            self.threads.insert(thread.to_owned());
        }
        if self.wanted.thread.as_deref() == Some(thread) && self.sessions.len() < MAX_LEARNED {
            self.sessions.insert(session.to_owned());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that knows of no session and no thread.
    pub(crate) fn filter(wanted: Wanted) -> Filter {
        Filter { wanted, ..Filter::default() }
    }

    #[test]
    fn types_are_prefixes_and_any_of_them_will_do() {
        let filter =
            filter(Wanted { types: vec!["turn.".to_owned(), "daemon.st".to_owned()], ..Wanted::default() });
        for (kind, taken) in [("turn.accepted", true), ("daemon.started", true), ("app-server.turn.x", false)]
        {
            assert_eq!(filter.takes_type(kind), taken, "{kind}");
        }
    }

    #[test]
    fn a_session_brings_its_thread_and_a_thread_its_sessions() {
        let mut by_session = filter(Wanted { session: Some("s".to_owned()), ..Wanted::default() });
        assert!(!by_session.takes_subject(&Subject::thread("t")));
        assert!(by_session.takes_subject(&Subject::session("s", Some("t"))));
        assert!(by_session.takes_subject(&Subject::thread("t")));
        assert!(!by_session.takes_subject(&Subject::session("other", None)));
        assert!(by_session.takes_subject(&Subject::run("r", Some("s"))));
        let mut by_thread = filter(Wanted { thread: Some("t".to_owned()), ..Wanted::default() });
        assert!(!by_thread.takes_subject(&Subject::session("s", None)));
        assert!(by_thread.takes_subject(&Subject::session("s", Some("t"))));
        assert!(by_thread.takes_subject(&Subject::session("s", None)));
        assert!(!by_thread.takes_subject(&Subject::thread("u")));
    }

    #[test]
    fn different_names_must_hold_together() {
        let mut both =
            filter(Wanted { session: Some("s".to_owned()), run: Some("r".to_owned()), ..Wanted::default() });
        assert!(both.takes_subject(&Subject::run("r", Some("s"))));
        assert!(!both.takes_subject(&Subject::run("r", None)));
        assert!(!both.takes_subject(&Subject::session("s", None)));
    }
}
