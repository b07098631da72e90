//! Rows as JSON, for people.

use seabed_kv::staged::read_chunk_key;
use serde_json::{Value, json};

use crate::keys::{
    CHANGE, ChangeRow, DELETED, DOCUMENT, DeletedRow, FORMAT, FormatRow, IDENTITY, PEER, PeerRow, QUARANTINE,
    QuarantineRow, SHARDS, SNAPSHOT, Stored, identity_from_bytes, read_document_key, read_numbered_key,
    read_peer_key, read_snapshot_key, shards_from_bytes, snapshot_from_bytes,
};
use crate::meta::Meta;

// As the kernel's `Staging` spells them; `tests/verify.rs` reads rows of both.
const CHUNK: &str = "automerge.chunk";
const PENDING: &str = "automerge.pending";

/// The categories of this layer.
pub(crate) const CATEGORIES: [&str; 11] =
    [FORMAT, SHARDS, IDENTITY, DOCUMENT, CHANGE, SNAPSHOT, PEER, QUARANTINE, DELETED, CHUNK, PENDING];

/// What a row says: a JSON object whose `row` is the kind of row, or, for one that does not read, with `damaged` and its
/// length. `None` for a category that is not this layer's. Never panics. Of changes it tells which they are, of other contents their length.
///
/// ```
/// let row = seabed_automerge::decode_row(b"automerge.shards", b"", &[1, 0, 1]).expect("a category of ours");
/// assert_eq!(row, serde_json::json!({ "row": "shards", "shards": 1 }));
/// assert_eq!(seabed_automerge::decode_row(b"sds.meta", b"", b""), None);
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
        IDENTITY => json!({ "storage": hex(&identity_from_bytes(payload).filter(|_| key.is_empty())?) }),
        SHARDS => json!({ "shards": shards_from_bytes(payload).filter(|_| key.is_empty())? }),
        DOCUMENT => {
            let (document, meta) = (read_document_key(key)?, Meta::from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "generation": meta.generation,
                "next": meta.next,
                "rows": meta.rows,
                "odd_rows": meta.odd_rows,
                "changes": meta.changes,
                "change_bytes": meta.change_bytes,
                "snapshots": meta.snapshots,
                "snapshot_bytes": meta.snapshot_bytes,
                "peers": meta.peers,
                "peer_bytes": meta.peer_bytes,
                "quarantined": meta.quarantined,
                "created_unix_s": meta.created_unix_s,
                "written_unix_s": meta.written_unix_s,
            })
        }
        CHANGE => {
            let ((document, number), row) = (read_numbered_key(key)?, ChangeRow::from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "number": number,
                "address": row.address.as_ref().map(|address| json!({
                    "actor": hex(&address.actor),
                    "seq": address.seq,
                })),
                "bytes": row.value.bytes(),
                "staged": row.value.staged().map(|value| hex(&value.id)),
                "changes": changes(&row),
            })
        }
        SNAPSHOT => {
            let ((document, digest), stored) = (read_snapshot_key(key)?, snapshot_from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "sha256": hex(&digest),
                "bytes": stored.bytes(),
                "staged": stored.staged().map(|value| hex(&value.id)),
            })
        }
        PEER => {
            let ((document, peer), row) = (read_peer_key(key)?, PeerRow::from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "peer": String::from_utf8_lossy(peer),
                "written_unix_s": row.written_unix_s,
                "bytes": row.state.len(),
            })
        }
        QUARANTINE => {
            let ((document, number), row) = (read_numbered_key(key)?, QuarantineRow::from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "number": number,
                "since_unix_s": row.since_unix_s,
                "was": if row.snapshot { "snapshot" } else { "change" },
                "reason": row.reason,
                "bytes": row.payload.len(),
            })
        }
        DELETED => {
            let (document, row) = (read_document_key(key)?, DeletedRow::from_bytes(payload)?);
            json!({
                "document": document.to_string(),
                "removing": row.removing,
                "since_unix_s": row.since_unix_s,
            })
        }
        CHUNK => {
            let (id, position) = read_chunk_key(key)?;
            json!({ "staged": hex(&id), "position": position, "bytes": payload.len() })
        }
        PENDING => {
            let (mark, since) = payload.split_first()?;
            let state = match mark {
                b'w' => "writing",
                b'd' => "discarded",
                _ => return None,
            };
            let id: [u8; 16] = key.try_into().ok()?;
            let since = u64::from_be_bytes(since.try_into().ok()?);
            json!({ "staged": hex(&id), "state": state, "since_unix_ms": since })
        }
        _ => return None,
    })
}

/// Which changes a row holds; `None` for one whose bytes are elsewhere, or are none.
fn changes(row: &ChangeRow) -> Option<Vec<Value>> {
    let Stored::Inline(bytes) = &row.value else { return None };
    let changes = if row.address.is_none() { crate::chunks::changes(bytes)? } else { return None };
    let tell = |change: &automerge::Change| {
        json!({
            "hash": change.hash().to_string(),
            "actor": change.actor_id().to_hex_string(),
            "seq": change.seq(),
        })
    };
    Some(changes.iter().map(tell).collect())
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
