//! Rows as JSON, for people.

use serde_json::{Value, json};
use uuid::Uuid;

use seabed_kv::staged::read_chunk_key;

use crate::keys::{
    CLIENT, ClientRow, DELETING, DROPPED, DroppedRow, FORMAT, FormatRow, IMPORTED, PARENT, SHARDS, SNAPSHOT,
    SnapshotMeta, VERSION, VersionRow, deleting_from_bytes, imported_from_bytes, parent_from_bytes,
    read_client_key, read_pair_key, shards_from_bytes, snapshot_from_bytes,
};

// As the kernel's `Staging` spells them; `tests/verify.rs` reads rows of both.
pub(crate) const CHUNK: &str = "taskchampion.chunk";
pub(crate) const PENDING: &str = "taskchampion.pending";

/// The categories of this layer.
pub(crate) const CATEGORIES: [&str; 11] =
    [FORMAT, SHARDS, CLIENT, VERSION, PARENT, SNAPSHOT, DELETING, DROPPED, IMPORTED, CHUNK, PENDING];

/// What a row says: a JSON object whose `row` is the kind of row, or, for one that does not read, with `damaged` and its
/// length. `None` for a category that is not this layer's. Never panics. Contents, which are encrypted anyway, are told by
/// their length.
///
/// ```
/// let row = seabed_taskchampion::decode_row(b"taskchampion.shards", b"", &[1, 0, 1]).expect("a category of ours");
/// assert_eq!(row, serde_json::json!({ "row": "shards", "shards": 1 }));
/// assert_eq!(seabed_taskchampion::decode_row(b"sds.meta", b"", b""), None);
/// ```
pub fn decode_row(category: &[u8], key: &[u8], payload: &[u8]) -> Option<Value> {
    let category = std::str::from_utf8(category).ok().filter(|category| CATEGORIES.contains(category))?;
    let kind = category.split_once('.').map_or(category, |(_, kind)| kind);
    let mut row = read(category, key, payload)
        .unwrap_or_else(|| json!({ "damaged": true, "payload_bytes": payload.len() }));
    if let Some(row) = row.as_object_mut() {
        row.insert("row".to_owned(), json!(kind));
    }
    Some(row)
}

fn read(category: &str, key: &[u8], payload: &[u8]) -> Option<Value> {
    Some(match category {
        FORMAT => {
            let row = FormatRow::from_bytes(payload).filter(|_| key.is_empty())?;
            json!({ "version": row.version, "writer": row.writer })
        }
        SHARDS => json!({ "shards": shards_from_bytes(payload).filter(|_| key.is_empty())? }),
        CLIENT => {
            let (client, row) = (read_client_key(key)?, ClientRow::from_bytes(payload)?);
            json!({
                "client": client,
                "latest": row.latest,
                "created_unix_s": row.created_unix_s,
                "last_push_unix_s": row.last_push_unix_s,
                "versions": row.versions,
                "version_bytes": row.version_bytes,
                "snapshot": row.snapshot.as_ref().map(snapshot),
            })
        }
        VERSION => {
            let ((client, parent), row) = (read_pair_key(key)?, VersionRow::from_bytes(payload)?);
            json!({
                "client": client,
                "parent": parent,
                "version": row.version,
                "received_unix_s": row.received_unix_s,
                "bytes": row.value.bytes(),
                "staged": row.value.staged().map(|value| Uuid::from_bytes(value.id)),
            })
        }
        PARENT => {
            let (client, version) = read_pair_key(key)?;
            json!({ "client": client, "version": version, "parent": parent_from_bytes(payload)? })
        }
        SNAPSHOT => {
            let (client, (version, bytes)) = (read_client_key(key)?, snapshot_from_bytes(payload)?);
            json!({ "client": client, "version": version, "bytes": bytes.len() })
        }
        DELETING => json!({ "client": read_client_key(key)?, "since_unix_s": deleting_from_bytes(payload)? }),
        DROPPED => {
            let (client, row) = (read_client_key(key)?, DroppedRow::from_bytes(payload)?);
            json!({
                "client": client,
                "last": row.last,
                "versions": row.versions,
                "version_bytes": row.version_bytes,
            })
        }
        IMPORTED => {
            let (client, (latest, since)) = (read_client_key(key)?, imported_from_bytes(payload)?);
            json!({ "client": client, "latest": latest, "imported_unix_s": since })
        }
        CHUNK => {
            let (id, position) = read_chunk_key(key)?;
            json!({ "staged": Uuid::from_bytes(id), "position": position, "bytes": payload.len() })
        }
        PENDING => {
            let (mark, since) = payload.split_first()?;
            let state = match mark {
                b'w' => "writing",
                b'd' => "discarded",
                _ => return None,
            };
            let since = u64::from_be_bytes(since.try_into().ok()?);
            json!({ "staged": read_client_key(key)?, "state": state, "since_unix_ms": since })
        }
        _ => return None,
    })
}

fn snapshot(snapshot: &SnapshotMeta) -> Value {
    json!({
        "version": snapshot.version,
        "unix_s": snapshot.unix_s,
        "versions_since": snapshot.versions_since,
        "bytes": snapshot.bytes,
        "staged": snapshot.staged.map(Uuid::from_bytes),
    })
}
