//! What a failed statement means: what to do, and whether it may have taken effect.

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::{Error, ErrorKind};

/// Why a statement that was sent has no answer that counts.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said so, or the connection broke.
    Failed(tokio_postgres::Error),
    /// Nothing came back in time.
    Silent,
    /// The transaction did not begin, and what was sent behind its beginning may have been applied piece by piece.
    Unbegun(Box<Self>),
    /// The server found that its sender has given it up, or will have, and rolled it back.
    TooLate,
    /// It was committed, but the wait for a synchronous standby was cut off.
    Unreplicated,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    fn database(&self) -> Option<&DbError> {
        match self {
            Self::Failed(error) => error.as_db_error(),
            Self::Silent | Self::TooLate | Self::Unreplicated | Self::Unbegun(_) => None,
        }
    }

    /// Whether the server rolled the transaction back, so that it may be run again.
    pub(super) fn is_conflict(&self) -> bool {
        self.database().is_some_and(|error| {
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(error.code())
        })
    }

    /// Whether another connection may do better: this one leads to a server that takes no writes, or its clock is not the one that was
    /// asked.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(self, Self::TooLate)
            || self.is(&[SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::from_code(TOO_LATE)])
    }

    /// Whether the server said this code, so that nothing was applied.
    pub(super) fn is(&self, codes: &[SqlState]) -> bool {
        self.database().is_some_and(|error| codes.contains(error.code()))
    }

    /// Whether the connection broke under a statement that changes nothing, so that another one may answer it.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Failed(error) => error.as_db_error().is_none_or(|error| is_ending(error.code())),
            Self::Silent | Self::TooLate | Self::Unreplicated | Self::Unbegun(_) => false,
        }
    }

    /// The error of a statement that was to change nothing.
    pub(super) fn of_read(self) -> Error {
        self.error()
    }

    /// The error of a statement that was to commit: an error is an abort; what ends a session may come after the commit.
    pub(super) fn of_write(self) -> Error {
        let aborted = self.database().is_some_and(|error| {
            let failed = match error.parsed_severity() {
                Some(severity) => severity == Severity::Error,
                None => error.severity() == "ERROR",
            };
            failed && !is_ending(error.code()) && *error.code() != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        });
        let aborted = aborted || matches!(self, Self::TooLate);
        let error = self.error();
        if aborted { error } else { error.unknown() }
    }

    fn error(self) -> Error {
        match self {
            Self::Silent => Error::new(
                ErrorKind::Timeout,
                "PostgreSQL did not answer in time; the connection was given up",
            ),
            Self::TooLate => Error::new(ErrorKind::Busy, HELD_UP),
            Self::Unreplicated => Error::new(
                ErrorKind::Backend,
                "PostgreSQL stopped waiting for its synchronous standby; it holds the commit, the standby may not",
            ),
            Self::Unbegun(failure) => failure.error(),
            Self::Failed(error) => failed(error),
        }
    }
}

/// What functions.sql raises when the sender of a statement has given it up, or will have.
const TOO_LATE: &str = "SB002";

const HELD_UP: &str =
    "PostgreSQL was held up, by another session or by its load; nothing was applied, try again later";

/// A session that ends, or a server that does.
fn is_ending(code: &SqlState) -> bool {
    let ends = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    ends.contains(code) || code.code().starts_with("08")
}

/// The error of a connection that could not be made: nothing was sent.
pub(super) fn unreachable(error: tokio_postgres::Error) -> Error {
    let said = error.as_db_error().map(|error| error.code().code().to_owned());
    let (kind, advice) = match said.as_deref() {
        Some(code) if code.starts_with("28") => {
            (ErrorKind::Backend, "PostgreSQL refuses the user or its password; correct the address")
        }
        Some(code) if code.starts_with("3D") => {
            (ErrorKind::Backend, "PostgreSQL has no such database; create it, or correct the address")
        }
        _ => (ErrorKind::Busy, "PostgreSQL cannot be reached now; nothing was sent, try again later"),
    };
    Error::new(kind, format!("{advice}: {}", sentence(&error))).with_source(error)
}

fn failed(error: tokio_postgres::Error) -> Error {
    let Some(database) = error.as_db_error() else {
        let message = format!("the connection to PostgreSQL broke: {}", sentence(&error));
        return Error::new(ErrorKind::Busy, message).with_source(error);
    };
    let code = database.code();
    let (kind, advice) = if is_ending(code) {
        (ErrorKind::Busy, "PostgreSQL is ending or starting; try again later")
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        (ErrorKind::Busy, "PostgreSQL has no connection to spare; try again later, or raise max_connections")
    } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        (ErrorKind::Busy, "PostgreSQL is read-only here; try again once the address leads to the primary")
    } else if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
        (ErrorKind::Busy, "PostgreSQL rolled it back in favour of others again and again; try again later")
    } else if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code)
        || code.code() == TOO_LATE
    {
        (ErrorKind::Busy, HELD_UP)
    } else if *code == SqlState::FEATURE_NOT_SUPPORTED {
        (ErrorKind::Unsupported, "PostgreSQL is set up in a way that does not work here")
    } else if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
        (ErrorKind::Corrupt, "PostgreSQL finds its data damaged; restore from a backup")
    } else {
        (ErrorKind::Backend, "PostgreSQL failed")
    };
    Error::new(kind, format!("{advice}: {}", sentence(&error))).with_source(error)
}

/// What the server said, with its code; never the parameters.
fn sentence(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return format!("{} ({})", database.message(), database.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
