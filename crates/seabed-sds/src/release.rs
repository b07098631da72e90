//! What an operation answers: past the gate, and which way.

use std::ops::Deref;

use crate::Result;

/// The answer of an operation; reads as its content.
///
/// Made only where the store has answered: from the core's sealed [`Effects`](crate::core::Effects), by way of
/// [`Committed`](crate::core::Committed) or [`Uncommitted`](crate::core::Uncommitted). Under
/// [`ReleasePolicy::Strict`](crate::ReleasePolicy::Strict) it is always [`Committed`](Answer::Committed), because an operation whose commit
/// failed is an error.
///
/// ```
/// use seabed_sds::Answer;
///
/// let answer = Answer::Committed("hello");
/// assert_eq!((answer.len(), answer.is_committed(), answer.release()), (5, true, "hello"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<T> {
    /// The batch that makes it true is stored, with the durability that was asked for.
    Committed(T),
    /// It is not, and memory wins ([`BestEffort`](crate::ReleasePolicy::BestEffort)): a crash now forgets it. The next operation on the
    /// channel writes it again.
    Uncommitted(T),
}

impl<T> Answer<T> {
    /// The content, committed or not.
    pub fn release(self) -> T {
        match self {
            Self::Committed(content) | Self::Uncommitted(content) => content,
        }
    }

    /// Whether the store has it.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed(_))
    }

    pub(crate) fn try_map<U>(self, convert: impl FnOnce(T) -> Result<U>) -> Result<Answer<U>> {
        match self {
            Self::Committed(content) => convert(content).map(Answer::Committed),
            Self::Uncommitted(content) => convert(content).map(Answer::Uncommitted),
        }
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Committed(content) | Self::Uncommitted(content) => content,
        }
    }
}
