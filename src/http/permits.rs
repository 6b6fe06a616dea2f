//! A count of how many may do a thing at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many may do it at a time.
#[derive(Debug)]
pub(super) struct Permits(AtomicUsize);

/// One of [`Permits`], given back when dropped.
#[must_use]
pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    /// That many.
    pub(super) fn new(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    /// One, if one is left.
    pub(super) fn take(&self) -> Option<Permit<'_>> {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        taken.ok().map(|_| Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_are() {
        let permits = Permits::new(2);
        let one = permits.take();
        let two = permits.take();
        assert!(one.is_some() && two.is_some() && permits.take().is_none());
        drop(one);
        assert!(permits.take().is_some());
    }
}
