//! Commit, then release.

/// An answer that rests on durable data alone, and so may leave. Only this crate makes one, where the store acknowledges the batch
/// that makes it true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an answer that is not released tells nobody anything"]
pub struct Committed<E>(E);

impl<E> Committed<E> {
    /// The answer, to be told.
    pub fn release(self) -> E {
        self.0
    }

    /// The batch was applied and is durable.
    pub(crate) fn durable(effects: E) -> Self {
        Self(effects)
    }
}
