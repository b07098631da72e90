//! The tables and functions, made and versioned by whoever comes first.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::connection::{Connection, Parameter};
use super::failure::Failure;
use super::sql::Statements;
use super::{Dialect, pause};
use crate::limits::{POSTGRES_ANSWER_BYTES_MAX, POSTGRES_RETRIES_MAX, POSTGRES_STATEMENT_MS_MAX};
use crate::{Error, ErrorKind, Result};

/// The version of the tables and functions that this program writes. The tables of versions 1 and 2 are the same; their functions stay, for
/// servers that are not replaced yet.
const VERSION: i64 = 3;

/// Makes the schema unless it is there, with functions that are newer than those that are, and refuses one that is newer.
pub(super) async fn prepare(
    connection: &Connection,
    sql: &Statements,
    schema: &str,
    dialect: Dialect,
) -> Result<()> {
    for attempt in 0.. {
        if is_made(connection, sql, dialect).await? {
            break;
        }
        match make(connection, sql, schema, dialect).await {
            Ok(()) => {}
            // `IF NOT EXISTS` looks first and makes then: who comes in between is told so, and looks again.
            Err(failure) if attempt < POSTGRES_RETRIES_MAX && is_race(&failure) => pause(attempt).await,
            Err(failure) => return Err(failure.of_read()),
        }
    }
    Ok(())
}

/// Whether everything of this version is there. One that is newer, or of the other dialect, is refused.
pub(super) async fn is_made(connection: &Connection, sql: &Statements, dialect: Dialect) -> Result<bool> {
    let found = match version(connection, sql).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(false),
        // Nobody has made it yet.
        Err(failure) if failure.is(&[SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]) => {
            return Ok(false);
        }
        Err(failure) => return Err(failure.of_read()),
    };
    let refusal = if found.version > VERSION {
        format!(
            "the schema has version {}, written by {}; this is seabed {}, which knows version {VERSION}",
            found.version,
            found.writer,
            env!("CARGO_PKG_VERSION")
        )
    } else if found.dialect != dialect.name() {
        format!(
            "the schema is written in dialect {}, and this is dialect {}; the two do not see each other's locks: use one",
            found.dialect,
            dialect.name()
        )
    } else {
        return Ok(found.version == VERSION);
    };
    Err(Error::new(ErrorKind::Unsupported, refusal))
}

/// What stands in the table of versions.
struct Found {
    version: i64,
    dialect: String,
    writer: String,
}

async fn version(connection: &Connection, sql: &Statements) -> Result<Option<Found>, Failure> {
    let rows = connection.query(&sql.VERSION, &[]).await?;
    Ok(match rows.first() {
        Some(row) => {
            Some(Found { version: row.try_get(0)?, dialect: row.try_get(1)?, writer: row.try_get(2)? })
        }
        None => None,
    })
}

/// The version comes last: where it stands, everything does.
async fn make(
    connection: &Connection,
    sql: &Statements,
    schema: &str,
    dialect: Dialect,
) -> Result<(), Failure> {
    let mut scripts = vec![include_str!("schema.sql")];
    if dialect == Dialect::Postgres {
        scripts.push(include_str!("functions.sql"));
    }
    for statement in scripts.into_iter().flat_map(|script| script.split(";\n\n")) {
        let statement = statement.replace("{schema}", schema);
        let statement = statement.replace("{statement_ms_max}", &POSTGRES_STATEMENT_MS_MAX.to_string());
        let statement = statement.replace("{answer_bytes_max}", &POSTGRES_ANSWER_BYTES_MAX.to_string());
        connection.run(&statement).await?;
    }
    let writer = format!("seabed {}", env!("CARGO_PKG_VERSION"));
    let parameters: [Parameter<'_>; 3] =
        [(&VERSION, Type::INT8), (&dialect.name(), Type::TEXT), (&writer, Type::TEXT)];
    connection.execute(&sql.WRITE_VERSION, &parameters).await.map(|_| ())
}

fn is_race(failure: &Failure) -> bool {
    failure.is_conflict()
        || failure.is(&[
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
            SqlState::DUPLICATE_SCHEMA,
            SqlState::DUPLICATE_FUNCTION,
            SqlState::DUPLICATE_OBJECT,
            // "tuple concurrently updated", of two that replace a function.
            SqlState::INTERNAL_ERROR,
        ])
}
