//! Reads around damage: of a table whose file is damaged in places, every row that can be read, and the names of the clients whose rows
//! cannot. So a page that is lost costs the clients it concerns, and not the others.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result, Row, Statement, params_from_iter};
use uuid::Uuid;

use super::import::is_damage;

/// What stands for the type of a snapshot where the row of its client is lost.
pub(super) const LOST: &str = "lost";

/// The rows that were salvaged, in the columns in which the original's tables are read.
pub(super) const CLIENTS: &str = "SELECT * FROM clients ORDER BY name";
pub(super) const VERSIONS: &str = "SELECT * FROM versions ORDER BY name, number";
pub(super) const LATEST: &str = "SELECT name, latest FROM clients ORDER BY number";

// Each looks at all columns of all rows, but not at what long values continue in.
const EACH_CLIENT: &str =
    "SELECT sum(length(client_id) + length(latest_version_id) + length(snapshot_version_id)
        + length(versions_since_snapshot) + length(snapshot_timestamp) + length(snapshot))
    FROM clients NOT INDEXED";
const EACH_VERSION: &str = "SELECT sum(length(client_id) + length(version_id) + length(parent_version_id)
        + length(history_segment)) FROM versions NOT INDEXED";

const TABLES: &str = "
    CREATE TABLE clients (name, number INTEGER PRIMARY KEY, latest, snapshot, since, taken, type, length);
    CREATE TABLE versions (name, number INTEGER PRIMARY KEY, version, parent, type, length);
    BEGIN";
const ADD_CLIENT: &str = "INSERT INTO clients VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const ADD_VERSION: &str = "INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const ADD_LOST: &str = "INSERT OR IGNORE INTO clients (name, number, type) VALUES (?1, ?2, ?3)";

const NEXT_CLIENT: &str = "SELECT rowid FROM clients NOT INDEXED WHERE rowid > ?1 ORDER BY rowid LIMIT 1";
const NEXT_VERSION: &str = "SELECT rowid FROM versions NOT INDEXED WHERE rowid > ?1 ORDER BY rowid LIMIT 1";
const ONE_CLIENT: &str = "SELECT quote(client_id), rowid, latest_version_id, snapshot_version_id,
        versions_since_snapshot, snapshot_timestamp, typeof(snapshot), length(snapshot)
    FROM clients NOT INDEXED WHERE rowid = ?1";
const ONE_VERSION: &str =
    "SELECT quote(client_id), rowid, version_id, parent_version_id, typeof(history_segment),
        length(history_segment)
    FROM versions NOT INDEXED WHERE rowid = ?1";
// Ids stand in an index, too, in pages of its own.
const NAMES: &str = "SELECT quote(client_id), rowid FROM clients INDEXED BY sqlite_autoindex_clients_1";
const IS_NAMED: &str = "SELECT 1 FROM versions INDEXED BY sqlite_autoindex_versions_1 WHERE version_id = ?1";

/// Whether some of the original's rows cannot be read.
pub(super) fn is_damaged(connection: &Connection) -> Result<bool> {
    for look in [EACH_CLIENT, EACH_VERSION] {
        match connection.query_row(look, [], |_| Ok(())) {
            Err(error) if is_damage(&error) => return Ok(true),
            looked => looked?,
        }
    }
    Ok(false)
}

/// What could be read, apart: a connection in whose transaction a page was found damaged writes nothing any more.
#[derive(Debug)]
pub(super) struct Salvaged {
    pub(super) connection: Connection,
    /// Whether there are versions that could not be read.
    pub(super) misses_versions: bool,
}

impl Salvaged {
    /// Reads all that can be read.
    ///
    /// # Errors
    /// As damage, when it cannot be told which clients are missing.
    pub(super) fn from(source: &Connection) -> Result<Self> {
        // Of no name: a file of SQLite's own, as long as it is needed.
        let connection = Connection::open("")?;
        connection.execute_batch(TABLES)?;
        if copy(source, NEXT_CLIENT, ONE_CLIENT, &mut connection.prepare(ADD_CLIENT)?)? {
            let mut add = connection.prepare(ADD_LOST)?;
            let mut names = source.prepare(NAMES)?;
            let mut names = names.query([])?;
            while let Some(name) = names.next()? {
                let lost = [name.get::<_, Value>(0)?, name.get(1)?, LOST.to_owned().into()];
                add.execute(params_from_iter(lost))?;
            }
        }
        let misses_versions = copy(source, NEXT_VERSION, ONE_VERSION, &mut connection.prepare(ADD_VERSION)?)?;
        Ok(Self { connection, misses_versions })
    }
}

/// Whether a version may be one of those that cannot be read.
pub(super) fn may_be_lost(connection: &Connection, version: Uuid) -> bool {
    let named = connection.query_row(IS_NAMED, [version.hyphenated().to_string()], |_| Ok(())).optional();
    !matches!(named, Ok(None))
}

/// Copies each row that can be read; answers whether there was one that cannot.
fn copy(source: &Connection, next: &str, one: &str, add: &mut Statement<'_>) -> Result<bool> {
    let (mut next, mut one) = (source.prepare(next)?, source.prepare(one)?);
    let columns = one.column_count();
    let values = |row: &Row<'_>| (0..columns).map(|at| row.get(at)).collect::<Result<Vec<Value>>>();
    let (mut after, mut is_missing) = (i64::MIN, false);
    loop {
        match readable(row_after(&mut next, after))? {
            Some(Some(row)) => {
                match readable(one.query_row([row], values))? {
                    Some(values) => drop(add.execute(params_from_iter(values))?),
                    None => is_missing = true,
                }
                after = row;
            }
            Some(None) => return Ok(is_missing),
            None => {
                is_missing = true;
                match beyond_damage(&mut next, after)? {
                    Some(beyond) => after = beyond,
                    None => return Ok(true),
                }
            }
        }
    }
}

fn row_after(next: &mut Statement<'_>, row: i64) -> Result<Option<i64>> {
    next.query_row([row], |row| row.get(0)).optional()
}

/// `None` for what lies in a damaged part.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if is_damage(&error) => Ok(None),
        read => read.map(Some),
    }
}

/// The least number of a row behind which rows can be read again, or there are none; `None` when that is not found. Rows are in the order of their
/// numbers, so that a page that is lost takes one stretch of them.
fn beyond_damage(next: &mut Statement<'_>, damaged_after: i64) -> Result<Option<i64>> {
    let (mut below, mut step) = (damaged_after, 1_u64);
    let mut beyond = loop {
        let far = below.saturating_add_unsigned(step);
        if readable(row_after(next, far))?.is_some() {
            break far;
        }
        if far == i64::MAX {
            return Ok(None);
        }
        (below, step) = (far, step.saturating_mul(2));
    };
    while beyond.abs_diff(below) > 1 {
        let middle = below.saturating_add_unsigned(beyond.abs_diff(below) / 2);
        if readable(row_after(next, middle))?.is_some() {
            beyond = middle;
        } else {
            below = middle;
        }
    }
    Ok(Some(beyond))
}
