//! What a group of batches is in SQL.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use crate::{Batch, KeyRange, Refusal, Write};

const GET: &str = "SELECT payload FROM kv WHERE category=?1 AND key=?2";
// In place, where REPLACE deletes and inserts; and bytes that do not change cost no page, no frame and no flush.
pub(super) const PUT: &str = "INSERT INTO kv(category,key,payload) VALUES(?1,?2,?3) \
                   ON CONFLICT(category,key) DO UPDATE SET payload=excluded.payload";
const DELETE: &str = "DELETE FROM kv WHERE category=?1 AND key=?2";
const DELETE_RANGE: &str = "DELETE FROM kv WHERE category=?1 AND key>=?2 AND key<?3";
const DELETE_FROM: &str = "DELETE FROM kv WHERE category=?1 AND key>=?2";

/// The statements of one group, each taken out of the connection's cache when it is first needed.
pub(super) struct Statements<'a> {
    connection: &'a Connection,
    get: Option<CachedStatement<'a>>,
    put: Option<CachedStatement<'a>>,
    delete: Option<CachedStatement<'a>>,
    delete_range: Option<CachedStatement<'a>>,
    delete_from: Option<CachedStatement<'a>>,
}

impl<'a> Statements<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, get: None, put: None, delete: None, delete_range: None, delete_from: None }
    }

    pub(super) fn refusal(&mut self, batch: &Batch) -> rusqlite::Result<Option<Refusal>> {
        for (position, check) in batch.checks().iter().enumerate() {
            let get = prepared(self.connection, &mut self.get, GET)?;
            let found: Option<Vec<u8>> =
                get.query_row(params![check.category, check.key.as_bytes()], |row| row.get(0)).optional()?;
            if !check.condition.holds(found.as_deref()) {
                return Ok(Some(Refusal { check: position, found }));
            }
        }
        Ok(None)
    }

    pub(super) fn write(&mut self, batch: &Batch) -> rusqlite::Result<u64> {
        let mut deleted = 0;
        for write in batch.writes() {
            match write {
                Write::Put { category, key, payload } => {
                    let put = prepared(self.connection, &mut self.put, PUT)?;
                    put.execute(params![category, key.as_bytes(), payload])?;
                }
                Write::Delete { category, key } => {
                    let delete = prepared(self.connection, &mut self.delete, DELETE)?;
                    deleted += delete.execute(params![category, key.as_bytes()])?;
                }
                Write::DeletePrefix { category, prefix } => {
                    let range = KeyRange::prefix(prefix);
                    let (start, stop) = (range.start.as_bytes(), range.stop.as_bytes());
                    deleted += if stop.is_empty() {
                        let delete = prepared(self.connection, &mut self.delete_from, DELETE_FROM)?;
                        delete.execute(params![category, start])?
                    } else {
                        let delete = prepared(self.connection, &mut self.delete_range, DELETE_RANGE)?;
                        delete.execute(params![category, start, stop])?
                    };
                }
            }
        }
        Ok(deleted as u64)
    }
}

fn prepared<'a, 'b>(
    connection: &'a Connection,
    slot: &'b mut Option<CachedStatement<'a>>,
    text: &str,
) -> rusqlite::Result<&'b mut CachedStatement<'a>> {
    Ok(match slot {
        Some(statement) => statement,
        none => none.insert(connection.prepare_cached(text)?),
    })
}
