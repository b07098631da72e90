//! Frames: automerge-repo's messages, protocol version "1", each one CBOR map in a binary WebSocket message.
//!
//! What is unknown in a map is skipped, as the other implementations do. A message that does not read is told why.

use std::collections::BTreeMap;
use std::io::Cursor;

use automerge::ChangeHash;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use super::limits::{HEADS_MAX, ID_BYTES_MAX, REMOTES_PER_DOCUMENT_MAX, SUBSCRIPTIONS_MAX};
use crate::DocumentId;

/// The only version there is.
pub(super) const PROTOCOL: &str = "1";

/// How deep a message may be nested; ours have three levels.
const DEPTH_MAX: usize = 16;

/// How many bytes of checksum follow a hash inside its text.
const CHECKSUM_BYTES: usize = 4;

/// The longest text of a hash: base58 of 36 bytes.
const HASH_TEXT_BYTES_MAX: usize = 50;

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    Join {
        peer: String,
        storage: Option<String>,
        versions: Option<Vec<String>>,
    },
    Leave,
    Document {
        document: DocumentId,
        said: Said,
    },
    Subscribe {
        add: Vec<String>,
        remove: Vec<String>,
    },
    /// Something that this version of the protocol does not know, or that needs no answer.
    Other,
}

/// What a client says about one document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// A sync message of automerge's. Whoever requests wants to know when there is no such document.
    Sync {
        data: Vec<u8>,
        request: bool,
    },
    Unavailable,
    Ephemeral(Ephemeral),
    /// What other storages have of it.
    Heads(BTreeMap<String, RemoteHeads>),
}

/// A message that is not stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ephemeral {
    pub(super) session: String,
    pub(super) count: u64,
    pub(super) data: Vec<u8>,
}

/// What one storage has of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RemoteHeads {
    pub(super) heads: Vec<ChangeHash>,
    /// Milliseconds since 1970, by the clock of who saw it.
    pub(super) unix_ms: u64,
}

/// What the server says to one client.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outgoing<'a> {
    Peer { storage: &'a str },
    Error { message: &'a str },
    Sync { document: DocumentId, data: Vec<u8> },
    Unavailable { document: DocumentId },
    Ephemeral { document: DocumentId, from: &'a str, message: &'a Ephemeral },
    Heads { document: DocumentId, storage: &'a str, heads: &'a RemoteHeads },
}

/// Every field that any message has.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    sender_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<ByteBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_metadata: Option<PeerMetadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_protocol_versions: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_protocol_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_heads: Option<BTreeMap<String, Heads>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct PeerMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_id: Option<String>,
    is_ephemeral: Option<bool>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Heads {
    heads: Vec<String>,
    timestamp: Number,
}

/// JavaScript has one kind of number: small ones arrive as integers, those beyond 32 bits as floats.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(untagged)]
enum Number {
    Integer(u64),
    Float(f64),
}

impl Number {
    /// Integers beyond 32 bits would be read as `BigInt`, which their arithmetic refuses.
    #[allow(clippy::cast_precision_loss, reason = "counters and milliseconds stay below 2^53")]
    fn new(number: u64) -> Self {
        if u32::try_from(number).is_ok() { Self::Integer(number) } else { Self::Float(number as f64) }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as saturates, and NaN is 0")]
    fn get(self) -> u64 {
        match self {
            Self::Integer(number) => number,
            Self::Float(number) => number as u64,
        }
    }
}

/// Reads one frame; `Err` says what is wrong with it. With who says it, as they say.
pub(super) fn decode(bytes: &[u8]) -> Result<(String, Incoming), String> {
    let mut rest = Cursor::new(bytes);
    let fields: Fields = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|error| format!("this is no message of automerge-repo: {error}"))?;
    if usize::try_from(rest.position()) != Ok(bytes.len()) {
        return Err("something follows the message in its frame".to_owned());
    }
    let sender = bounded(fields.sender_id, "senderId")?;
    let document = || {
        let text = fields.document_id.as_deref().ok_or("the message names no document")?;
        text.parse::<DocumentId>().map_err(|error| error.to_string())
    };
    let said = match fields.kind.as_str() {
        "join" => {
            let metadata = fields.peer_metadata.unwrap_or_default();
            let lasting = metadata.storage_id.filter(|_| metadata.is_ephemeral != Some(true));
            let storage = lasting.map(|storage| bounded(storage, "storageId")).transpose()?;
            let versions = fields.supported_protocol_versions;
            return Ok((sender.clone(), Incoming::Join { peer: sender, storage, versions }));
        }
        "leave" => return Ok((sender, Incoming::Leave)),
        "remote-subscription-change" => {
            let add = storages(fields.add)?;
            return Ok((sender, Incoming::Subscribe { add, remove: storages(fields.remove)? }));
        }
        kind @ ("sync" | "request") => {
            let data = fields.data.ok_or("a sync message without data")?.into_vec();
            Said::Sync { data, request: kind == "request" }
        }
        "doc-unavailable" => Said::Unavailable,
        "ephemeral" => {
            let session =
                bounded(fields.session_id.ok_or("an ephemeral message without sessionId")?, "sessionId")?;
            let count = fields.count.ok_or("an ephemeral message without count")?.get();
            let data = fields.data.ok_or("an ephemeral message without data")?.into_vec();
            Said::Ephemeral(Ephemeral { session, count, data })
        }
        "remote-heads-changed" => Said::Heads(remote_heads(fields.new_heads)?),
        _ => return Ok((sender, Incoming::Other)),
    };
    Ok((sender, Incoming::Document { document: document()?, said }))
}

fn bounded(id: String, name: &str) -> Result<String, String> {
    if id.len() > ID_BYTES_MAX {
        return Err(format!(
            "{name} has {} bytes, more than the {ID_BYTES_MAX} allowed (ID_BYTES_MAX)",
            id.len()
        ));
    }
    Ok(id)
}

fn storages(ids: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let ids = ids.unwrap_or_default();
    if ids.len() > SUBSCRIPTIONS_MAX {
        return Err(format!(
            "{} storages, more than the {SUBSCRIPTIONS_MAX} allowed (SUBSCRIPTIONS_MAX)",
            ids.len()
        ));
    }
    ids.into_iter().map(|id| bounded(id, "a storage id")).collect()
}

fn remote_heads(said: Option<BTreeMap<String, Heads>>) -> Result<BTreeMap<String, RemoteHeads>, String> {
    let said = said.ok_or("remote-heads-changed without newHeads")?;
    if said.len() > REMOTES_PER_DOCUMENT_MAX {
        let count = said.len();
        return Err(format!(
            "heads of {count} storages, more than the {REMOTES_PER_DOCUMENT_MAX} allowed (REMOTES_PER_DOCUMENT_MAX)"
        ));
    }
    let read = |(storage, said): (String, Heads)| {
        if said.heads.len() > HEADS_MAX {
            return Err(format!("{} heads, more than the {HEADS_MAX} allowed (HEADS_MAX)", said.heads.len()));
        }
        let heads = said.heads.iter().map(|head| parse_head(head).ok_or("a head that is none"));
        let heads = heads.collect::<Result<_, _>>()?;
        Ok((bounded(storage, "a storage id")?, RemoteHeads { heads, unix_ms: said.timestamp.get() }))
    };
    said.into_iter().map(read).collect()
}

/// Writes one frame, from the server's peer id to the client's.
pub(super) fn encode(server: &str, client: &str, message: Outgoing<'_>) -> Vec<u8> {
    let document_text = |document: DocumentId| Some(document.to_string());
    let mut fields =
        Fields { sender_id: server.to_owned(), target_id: Some(client.to_owned()), ..Fields::default() };
    match message {
        Outgoing::Peer { storage } => {
            "peer".clone_into(&mut fields.kind);
            let storage_id = Some(storage.to_owned());
            fields.peer_metadata = Some(PeerMetadata { storage_id, is_ephemeral: Some(false) });
            fields.selected_protocol_version = Some(PROTOCOL.to_owned());
        }
        Outgoing::Error { message } => {
            "error".clone_into(&mut fields.kind);
            fields.message = Some(message.to_owned());
        }
        Outgoing::Sync { document, data } => {
            "sync".clone_into(&mut fields.kind);
            fields.document_id = document_text(document);
            fields.data = Some(ByteBuf::from(data));
        }
        Outgoing::Unavailable { document } => {
            "doc-unavailable".clone_into(&mut fields.kind);
            fields.document_id = document_text(document);
        }
        Outgoing::Ephemeral { document, from, message } => {
            "ephemeral".clone_into(&mut fields.kind);
            from.clone_into(&mut fields.sender_id);
            fields.document_id = document_text(document);
            fields.session_id = Some(message.session.clone());
            fields.count = Some(Number::new(message.count));
            fields.data = Some(ByteBuf::from(message.data.clone()));
        }
        Outgoing::Heads { document, storage, heads } => {
            "remote-heads-changed".clone_into(&mut fields.kind);
            fields.document_id = document_text(document);
            let told = Heads {
                heads: heads.heads.iter().map(head_text).collect(),
                timestamp: Number::new(heads.unix_ms),
            };
            fields.new_heads = Some(BTreeMap::from([(storage.to_owned(), told)]));
        }
    }
    let mut bytes = Vec::new();
    // Only writing fails, and a vector takes everything.
    let _ = ciborium::into_writer(&fields, &mut bytes);
    bytes
}

/// A head as automerge-repo writes it: base58 with a checksum, as document ids.
fn head_text(head: &ChangeHash) -> String {
    let mut bytes = head.0.to_vec();
    bytes.extend_from_slice(&checksum(&head.0));
    bs58::encode(bytes).into_string()
}

fn parse_head(text: &str) -> Option<ChangeHash> {
    let bytes = bs58::decode(Some(text).filter(|text| text.len() <= HASH_TEXT_BYTES_MAX)?).into_vec().ok()?;
    let (hash, sum) = bytes.split_first_chunk::<32>()?;
    (sum == checksum(hash)).then_some(ChangeHash(*hash))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::digest(Sha256::digest(bytes)).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}
