//! Vectors of databases: a listing of rows, and the files that must hold exactly these.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use seabed_kv::{KeyRange, ScanSpec, Store};
use serde_json::Value;

use super::{Tally, hex_bytes, list, same};
use crate::store_url::StoreUrl;

/// (category, key) to payload.
type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

/// What one directory holds of databases.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) listings: Vec<(PathBuf, Value)>,
    pub(super) databases: Vec<PathBuf>,
    pub(super) logs: Vec<PathBuf>,
}

impl Folder {
    /// Holds every database against its listing.
    pub(super) fn check(&self, tally: &mut Tally) {
        for (path, listing) in &self.listings {
            tally.begin(path);
            let expected = match rows_of(listing) {
                Ok(expected) => expected,
                Err(why) => {
                    tally.check(|| "its rows".to_owned(), Err(why));
                    continue;
                }
            };
            let count = listing.get("row_count").and_then(Value::as_u64);
            tally.check(|| "row_count".to_owned(), same(&Some(expected.len() as u64), &count));
            let databases: Vec<_> =
                self.databases.iter().filter(|database| self.listing_of(database) == Some(path)).collect();
            if databases.is_empty() {
                tally.check(|| "its databases".to_owned(), Err("there is none beside it".to_owned()));
            }
            for database in databases {
                tally.begin(database);
                match read(database) {
                    Ok(found) => compare(&found, &expected, tally),
                    Err(why) => tally.check(|| "opening a copy".to_owned(), Err(why)),
                }
            }
        }
        for database in self.databases.iter().filter(|database| self.listing_of(database).is_none()) {
            tally.skipped.push(database.display().to_string());
        }
        for log in &self.logs {
            if !self.databases.iter().any(|database| log_of(database) == *log) {
                tally.skipped.push(log.display().to_string());
            }
        }
    }

    /// The listing that a database is held against: the only one, or else the one whose name it shares most of.
    fn listing_of(&self, database: &Path) -> Option<&PathBuf> {
        let shared = |listing: &Path| {
            let (a, b) = (listing.file_name()?.to_str()?, database.file_name()?.to_str()?);
            Some(a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count())
        };
        self.listings.iter().map(|(path, _)| path).max_by_key(|path| shared(path))
    }
}

fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn rows_of(listing: &Value) -> Result<Rows, String> {
    let mut rows = Rows::new();
    for (number, row) in list(listing, "rows").iter().enumerate() {
        let row = hex_bytes(row, "category")
            .and_then(|category| Ok(((category, hex_bytes(row, "key")?), hex_bytes(row, "payload")?)));
        let (key, payload) = row.map_err(|why| format!("rows[{number}] {why}"))?;
        rows.insert(key, payload);
    }
    Ok(rows)
}

/// The rows of a copy of the database: opening one in place could change it.
fn read(database: &Path) -> Result<Rows, String> {
    let copy = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let target = copy.path().join("vector.db");
    fs::copy(database, &target).map_err(|error| error.to_string())?;
    let log = log_of(database);
    if log.exists() {
        fs::copy(log, log_of(&target)).map_err(|error| error.to_string())?;
    }
    let store =
        crate::open::store(&StoreUrl::Sqlite(copy.path().to_owned())).map_err(|error| error.to_string())?;
    let rows = rows_in(&store).map_err(|error| crate::output::sentence(&error.into()));
    let closed = store.close().wait().map_err(|error| error.to_string());
    rows.and_then(|rows| closed.map(|()| rows))
}

fn rows_in(store: &Store) -> seabed_kv::Result<Rows> {
    let tenant = store.open("vector").wait()?;
    let mut rows = Rows::new();
    for category in tenant.categories().wait()? {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait()? {
            rows.insert((category.clone(), row.key.into_bytes()), row.payload);
        }
    }
    Ok(rows)
}

fn compare(found: &Rows, expected: &Rows, tally: &mut Tally) {
    for (key, payload) in expected {
        let outcome = match found.get(key) {
            Some(found) => same(&hex::encode(found), &hex::encode(payload)),
            None => Err("the row is missing".to_owned()),
        };
        tally.check(|| name(key), outcome);
    }
    for key in found.keys().filter(|key| !expected.contains_key(*key)) {
        tally.check(|| name(key), Err("the row is not in the listing".to_owned()));
    }
}

fn name((category, key): &(Vec<u8>, Vec<u8>)) -> String {
    format!("row {} {}", crate::bytes::show(category), crate::bytes::show(key))
}
