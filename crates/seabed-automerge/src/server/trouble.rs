//! Why a document could not be worked on, which decides who is told what.

use crate::error::{Error, ErrorKind};

/// Why the document could not be worked on.
pub(super) enum Trouble {
    /// It was deleted, and stays so.
    Deleted,
    /// It is damaged, or of another version.
    Unreadable(Error),
    /// The store does not work; what was not stored is forgotten.
    Store(Error),
    /// It may not become so large; what was not stored is forgotten.
    Full(Error),
    /// It is to be loaded again, for this reason.
    Lost(String),
}

/// What work on a document comes to.
pub(super) type Work<T> = Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Unsupported => Self::Unreadable(error),
            ErrorKind::InvalidArgument => Self::Full(error),
            _ => Self::Store(error),
        }
    }
}
