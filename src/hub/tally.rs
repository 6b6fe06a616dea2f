//! How many events there were in this life of the daemon. The hub's thread counts them as they are logged: two additions
//! an event, nothing shared, nothing allocated.

use crate::model::event::{EventType, Level};

/// Events by type and by level.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    types: [u64; EventType::ALL.len()],
    levels: [u64; Level::ALL.len()],
}

impl Default for Tally {
    fn default() -> Self {
        Self { types: [0; EventType::ALL.len()], levels: [0; Level::ALL.len()] }
    }
}

impl Tally {
    /// One more.
    pub(super) fn count(&mut self, kind: EventType, level: Level) {
        self.types[kind as usize] += 1;
        self.levels[level as usize] += 1;
    }

    /// Those of a type.
    pub fn of_type(&self, kind: EventType) -> u64 {
        self.types[kind as usize]
    }

    /// Those of a level.
    pub fn of_level(&self, level: Level) -> u64 {
        self.levels[level as usize]
    }
}
