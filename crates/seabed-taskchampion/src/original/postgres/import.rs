//! Reads the database of the original server's PostgreSQL build. Everything is read in one view, and nothing is changed.

use std::fmt;

use seabed_kv::{Error, ErrorKind, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::super::chain::{Link, SnapshotHead, read_id};
use super::super::import::{ClientRow, Foreign, history};

// Named column by column: whoever ran the original may have added others. Ids as text, so that whatever stands in their place can be
// shown.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const CLIENT_COUNT: &str = "SELECT count(*) FROM clients";
const CLIENTS: &str = "SELECT client_id::text, latest_version_id::text, snapshot_version_id::text,
        versions_since_snapshot::bigint, snapshot_timestamp::bigint, octet_length(snapshot)::bigint
    FROM clients WHERE $1::text IS NULL OR client_id > $1::text::uuid ORDER BY client_id LIMIT 64";
const VERSIONS: &str =
    "SELECT version_id::text, parent_version_id::text, octet_length(history_segment)::bigint
    FROM versions WHERE client_id = $1::text::uuid";
const STRAYS: &str = "SELECT client_id::text, min(version_id::text) FROM versions
    WHERE NOT EXISTS (SELECT 1 FROM clients WHERE clients.client_id = versions.client_id)
    GROUP BY client_id ORDER BY client_id";
const VERSION_BYTES: &str = "SELECT history_segment FROM versions
    WHERE client_id = $1::text::uuid AND version_id = $2::text::uuid";
const SNAPSHOT_BYTES: &str = "SELECT snapshot FROM clients WHERE client_id = $1::text::uuid";

/// The original's database, in one view.
pub(in super::super) struct Database<'a> {
    client: &'a Client,
    /// How many clients it has.
    pub(in super::super) clients: u64,
}

impl fmt::Debug for Database<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

impl<'a> Database<'a> {
    /// Begins the view that everything is read from. It lasts as long as the session.
    pub(in super::super) async fn open(client: &'a Client) -> Result<Self> {
        client.batch_execute(BEGIN).await.map_err(unreadable)?;
        let mut database = Self { client, clients: 0 };
        let row = database.query(CLIENT_COUNT, &[]).await?.into_iter().next();
        database.clients = row.map(|row| unsigned(&row, 0)).transpose()?.flatten().unwrap_or(0);
        // So that a wrong database is told before anything is made for what it holds.
        database.page(Some(Uuid::max())).await?;
        database.query(VERSIONS, &[&Uuid::nil().to_string()]).await?;
        Ok(database)
    }

    /// Ends the view.
    pub(in super::super) async fn close(self) -> Result<()> {
        self.client.batch_execute("COMMIT").await.map_err(unreadable)
    }

    /// The clients that follow one in the order of ids, a page of them; empty after the last.
    pub(in super::super) async fn page(&self, after: Option<Uuid>) -> Result<Vec<Page>> {
        let after = after.map(|after| after.to_string());
        let rows = self.query(CLIENTS, &[&after]).await?;
        rows.iter().map(client_row).collect()
    }

    /// A client of a page with its versions.
    pub(in super::super) async fn foreign(&self, page: Page) -> Result<Foreign> {
        let Page { client, row } = page;
        let links = self.versions(client).await?;
        let history = links.and_then(|links| history(&client.to_string(), vec![row], links));
        Ok(Foreign { name: client.to_string(), history })
    }

    /// What stands in the place of clients: ids that versions name, and no client has.
    pub(in super::super) async fn strays(&self) -> Result<Vec<Foreign>> {
        let stray = |row: &Row| {
            let (client, version) = (text(row, 0)?, text(row, 1)?);
            let why = format!("version {version} names it, but there is no such client");
            Ok(Foreign { name: client, history: Err(why) })
        };
        self.query(STRAYS, &[]).await?.iter().map(stray).collect()
    }

    pub(in super::super) async fn version_bytes(&self, client: Uuid, version: Uuid) -> Result<Vec<u8>> {
        self.bytes(VERSION_BYTES, &[&client.to_string(), &version.to_string()]).await
    }

    pub(in super::super) async fn snapshot_bytes(&self, client: Uuid) -> Result<Vec<u8>> {
        self.bytes(SNAPSHOT_BYTES, &[&client.to_string()]).await
    }

    async fn bytes(&self, sql: &str, ids: &[&(dyn ToSql + Sync)]) -> Result<Vec<u8>> {
        let row = self.query(sql, ids).await?.into_iter().next();
        let bytes = row.map(|row| row.try_get::<_, Option<Vec<u8>>>(0)).transpose().map_err(unreadable)?;
        Ok(bytes.flatten().unwrap_or_default())
    }

    /// The versions of a client, or why they are none, in a sentence.
    async fn versions(&self, client: Uuid) -> Result<Result<Vec<Link>, String>> {
        let mut links = Vec::new();
        for row in self.query(VERSIONS, &[&client.to_string()]).await? {
            let (version, parent, bytes) = (text(&row, 0)?, text(&row, 1)?, unsigned(&row, 2)?);
            let link = read_id("the id of a version", &version).and_then(|version| {
                let parent = read_id(&format!("the parent of version {version}"), &parent)?;
                let bytes = bytes.ok_or_else(|| format!("version {version} has no bytes"))?;
                Ok(Link { version, parent, bytes, row: 0 })
            });
            match link {
                Ok(link) => links.push(link),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(links))
    }

    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let typed: Vec<_> = parameters.iter().map(|parameter| (*parameter, Type::TEXT)).collect();
        self.client.query_typed(sql, &typed).await.map_err(unreadable)
    }
}

/// A client's row, without its versions.
pub(in super::super) struct Page {
    pub(in super::super) client: Uuid,
    row: Result<ClientRow, String>,
}

fn client_row(row: &Row) -> Result<Page> {
    let client = text(row, 0)?;
    let client = read_id("its id", &client).map_err(|why| Error::new(ErrorKind::Corrupt, why))?;
    let latest = optional(row, 1)?.map_or(Ok(Uuid::nil()), |latest| read_id("its latest version", &latest));
    let version = optional(row, 2)?;
    let (versions_since, unix_s, bytes) = (number(row, 3)?, number(row, 4)?, number(row, 5)?);
    // As the original reads it: without one of the three there is no snapshot.
    let snapshot = match (version, versions_since, unix_s) {
        (Some(version), Some(versions_since), Some(unix_s)) => {
            read_id("the version of its snapshot", &version).and_then(|version| {
                let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
                let bytes = bytes.ok_or_else(|| format!("its snapshot of version {version} has no bytes"))?;
                match (u64::try_from(versions_since), u64::try_from(unix_s)) {
                    (Ok(versions_since), Ok(unix_s)) => {
                        Ok(Some(SnapshotHead { version, unix_s, versions_since, bytes }))
                    }
                    _ => Err(format!("its snapshot of version {version} has a time or a count that is none")),
                }
            })
        }
        _ => Ok(None),
    };
    let row = latest.and_then(|latest| Ok(ClientRow { latest, snapshot: snapshot?, row: 0 }));
    Ok(Page { client, row })
}

fn optional(row: &Row, column: usize) -> Result<Option<String>> {
    row.try_get(column).map_err(unreadable)
}

/// A text, or what stands in its place.
fn text(row: &Row, column: usize) -> Result<String> {
    Ok(optional(row, column)?.unwrap_or_else(|| "NULL".to_owned()))
}

fn number(row: &Row, column: usize) -> Result<Option<i64>> {
    row.try_get(column).map_err(unreadable)
}

fn unsigned(row: &Row, column: usize) -> Result<Option<u64>> {
    Ok(number(row, column)?.and_then(|number| u64::try_from(number).ok()))
}

fn unreadable(error: tokio_postgres::Error) -> Error {
    let others = [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::CANNOT_COERCE,
    ];
    let (kind, message) = match error.code() {
        Some(code) if others.contains(code) => (
            ErrorKind::Unsupported,
            "it is not the database of a taskchampion-sync-server: its tables are others, or in a schema that is not searched".to_owned(),
        ),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => (
            ErrorKind::Unsupported,
            "this user may not read the original's tables: GRANT SELECT ON clients, versions".to_owned(),
        ),
        _ => (ErrorKind::Backend, "cannot read the original's database; run the import again once it answers".to_owned()),
    };
    Error::new(kind, message).with_source(error)
}
