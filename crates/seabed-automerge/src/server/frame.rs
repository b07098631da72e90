//! Frames: automerge-repo's messages, protocol version "1", each one CBOR map in a binary WebSocket message.
//!
//! What is unknown in a map is skipped, as the other implementations do. A message that does not read is told why.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;

use automerge::ChangeHash;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use super::limits::{
    EPHEMERAL_BYTES_MAX, HEADS_MAX, ID_BYTES_MAX, REMOTES_PER_DOCUMENT_MAX, SUBSCRIPTIONS_MAX,
};
use crate::DocumentId;

/// The only version there is.
pub(super) const PROTOCOL: &str = "1";

/// How deep a message may be nested; ours have three levels.
const DEPTH_MAX: usize = 16;

/// Among how many versions ours is looked for; clients name one.
const VERSIONS_MAX: usize = 64;

/// What stands before the length, of 32 bits, of bytes in CBOR.
const CBOR_BYTES_32: u8 = 0x5A;

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
    Sync { document: DocumentId, data_bytes: usize },
    Unavailable { document: DocumentId },
    Ephemeral { document: DocumentId, from: &'a str, session: &'a str, count: u64, data_bytes: usize },
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
    count: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_metadata: Option<PeerMetadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_protocol_versions: Option<List<VERSIONS_MAX>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_protocol_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add: Option<List<SUBSCRIPTIONS_MAX>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove: Option<List<SUBSCRIPTIONS_MAX>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_heads: Option<NewHeads>,
    /// The last one: what it holds is written apart from the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<ByteBuf>,
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
    heads: List<HEADS_MAX>,
    timestamp: Number,
}

/// Texts, of which no more than one too many is kept: a byte each on the wire, they would take much more in memory.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct List<const MAX: usize>(Vec<String>);

impl<'de, const MAX: usize> Deserialize<'de> for List<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(Vec::new()))
    }
}

impl<'de, const MAX: usize> Visitor<'de> for List<MAX> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self, A::Error> {
        while self.0.len() <= MAX
            && let Some(item) = items.next_element()?
        {
            self.0.push(item);
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self)
    }
}

/// The heads of storages, in the same way.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct NewHeads(BTreeMap<String, Heads>);

impl<'de> Deserialize<'de> for NewHeads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for NewHeads {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the heads of storages")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Self, A::Error> {
        while self.0.len() <= REMOTES_PER_DOCUMENT_MAX
            && let Some((storage, heads)) = entries.next_entry()?
        {
            self.0.insert(storage, heads);
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self)
    }
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
            let versions = fields.supported_protocol_versions.map(|versions| versions.0);
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
            if data.len() > EPHEMERAL_BYTES_MAX {
                return Err(format!(
                    "an ephemeral message of {} bytes, more than the {EPHEMERAL_BYTES_MAX} allowed (EPHEMERAL_BYTES_MAX)",
                    data.len()
                ));
            }
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

fn storages(ids: Option<List<SUBSCRIPTIONS_MAX>>) -> Result<Vec<String>, String> {
    let List(ids) = ids.unwrap_or_default();
    if ids.len() > SUBSCRIPTIONS_MAX {
        return Err(format!("more storages than the {SUBSCRIPTIONS_MAX} allowed (SUBSCRIPTIONS_MAX)"));
    }
    ids.into_iter().map(|id| bounded(id, "a storage id")).collect()
}

fn remote_heads(said: Option<NewHeads>) -> Result<BTreeMap<String, RemoteHeads>, String> {
    let NewHeads(said) = said.ok_or("remote-heads-changed without newHeads")?;
    if said.len() > REMOTES_PER_DOCUMENT_MAX {
        return Err(format!(
            "heads of more storages than the {REMOTES_PER_DOCUMENT_MAX} allowed (REMOTES_PER_DOCUMENT_MAX)"
        ));
    }
    let read = |(storage, said): (String, Heads)| {
        let List(heads) = said.heads;
        if heads.len() > HEADS_MAX {
            return Err(format!("more heads than the {HEADS_MAX} allowed (HEADS_MAX)"));
        }
        let heads = heads.iter().map(|head| parse_head(head).ok_or("a head that is none"));
        let heads = heads.collect::<Result<_, _>>()?;
        Ok((bounded(storage, "a storage id")?, RemoteHeads { heads, unix_ms: said.timestamp.get() }))
    };
    said.into_iter().map(read).collect()
}

/// Writes one frame, from the server's peer id to the client's, but for its data: that follows as it is, and may be shared by many frames.
pub(super) fn encode(server: &str, client: &str, message: &Outgoing<'_>) -> Vec<u8> {
    let document_text = |document: DocumentId| Some(document.to_string());
    let mut fields =
        Fields { sender_id: server.to_owned(), target_id: Some(client.to_owned()), ..Fields::default() };
    match message {
        Outgoing::Peer { storage } => {
            "peer".clone_into(&mut fields.kind);
            let storage_id = Some((*storage).to_owned());
            fields.peer_metadata = Some(PeerMetadata { storage_id, is_ephemeral: Some(false) });
            fields.selected_protocol_version = Some(PROTOCOL.to_owned());
        }
        Outgoing::Error { message } => {
            "error".clone_into(&mut fields.kind);
            fields.message = Some((*message).to_owned());
        }
        Outgoing::Sync { document, .. } => {
            "sync".clone_into(&mut fields.kind);
            fields.document_id = document_text(*document);
        }
        Outgoing::Unavailable { document } => {
            "doc-unavailable".clone_into(&mut fields.kind);
            fields.document_id = document_text(*document);
        }
        Outgoing::Ephemeral { document, from, session, count, .. } => {
            "ephemeral".clone_into(&mut fields.kind);
            (*from).clone_into(&mut fields.sender_id);
            fields.document_id = document_text(*document);
            fields.session_id = Some((*session).to_owned());
            fields.count = Some(Number::new(*count));
        }
        Outgoing::Heads { document, storage, heads } => {
            "remote-heads-changed".clone_into(&mut fields.kind);
            fields.document_id = document_text(*document);
            let told = Heads {
                heads: List(heads.heads.iter().map(head_text).collect()),
                timestamp: Number::new(heads.unix_ms),
            };
            fields.new_heads = Some(NewHeads(BTreeMap::from([((*storage).to_owned(), told)])));
        }
    }
    let data_bytes = match message {
        Outgoing::Sync { data_bytes, .. } | Outgoing::Ephemeral { data_bytes, .. } => Some(*data_bytes),
        _ => None,
    };
    fields.data = data_bytes.map(|_| ByteBuf::new());
    let mut bytes = Vec::new();
    // Only writing fails, and a vector takes everything.
    let _ = ciborium::into_writer(&fields, &mut bytes);
    if let Some(data_bytes) = data_bytes {
        // In the place of the length of nothing, with which it ends. A document has less than what 32 bits count.
        bytes.pop();
        bytes.push(CBOR_BYTES_32);
        bytes.extend_from_slice(&u32::try_from(data_bytes).unwrap_or(u32::MAX).to_be_bytes());
    }
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

#[cfg(test)]
mod tests {
    use ciborium::cbor;
    use ciborium::value::Value;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    }

    fn read(value: Result<Value, ciborium::value::Error>) -> Result<Incoming, String> {
        decode(&bytes(&value.unwrap())).map(|(_, incoming)| incoming)
    }

    const DOCUMENT: &str = "4NMNnkMhL8jXrdJ9jamS58PAVdXu";

    #[test]
    fn a_join_tells_who_and_what_lasts() {
        let join = |storage: Option<&str>, ephemeral: bool| {
            read(cbor!({
                "type" => "join", "senderId" => "me", "supportedProtocolVersions" => ["1"],
                "peerMetadata" => { "storageId" => storage, "isEphemeral" => ephemeral, "later" => [1, 2] },
            }))
        };
        let joined = |storage: Option<&str>| Incoming::Join {
            peer: "me".to_owned(),
            storage: storage.map(str::to_owned),
            versions: Some(vec!["1".to_owned()]),
        };
        assert_eq!(join(Some("disk"), false), Ok(joined(Some("disk"))));
        assert_eq!(join(Some("disk"), true), Ok(joined(None)));
        assert_eq!(join(None, false), Ok(joined(None)));
    }

    #[test]
    fn numbers_are_read_and_written_as_javascript_has_them() {
        let time = 1_700_000_000_000_u64;
        let head = head_text(&ChangeHash([7; 32]));
        let said = read(cbor!({
            "type" => "remote-heads-changed", "senderId" => "me", "documentId" => DOCUMENT,
            "newHeads" => { "disk" => { "heads" => [head], "timestamp" => 1_700_000_000_000.0_f64 } },
        }));
        let heads = RemoteHeads { heads: vec![ChangeHash([7; 32])], unix_ms: time };
        let document = DOCUMENT.parse().unwrap();
        let expected = Said::Heads(BTreeMap::from([("disk".to_owned(), heads.clone())]));
        assert_eq!(said, Ok(Incoming::Document { document, said: expected }));
        let sent = encode("server", "client", &Outgoing::Heads { document, storage: "disk", heads: &heads });
        let mut double = vec![0xFB];
        double.extend_from_slice(&1_700_000_000_000.0_f64.to_be_bytes());
        assert!(sent.windows(9).any(|window| window == double), "an integer would be read as a BigInt");
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_reason() {
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for (value, why) in [
            (cbor!({ "type" => "join", "senderId" => long }), "ID_BYTES_MAX"),
            (cbor!({ "type" => "sync", "senderId" => "me", "documentId" => DOCUMENT }), "without data"),
            (cbor!({ "type" => "doc-unavailable", "senderId" => "me" }), "names no document"),
            (
                cbor!({ "type" => "doc-unavailable", "senderId" => "me", "documentId" => "nonsense" }),
                "no document id",
            ),
            (
                cbor!({ "type" => "ephemeral", "senderId" => "me", "documentId" => DOCUMENT, "count" => 1 }),
                "sessionId",
            ),
            (
                cbor!({ "type" => "remote-heads-changed", "senderId" => "me", "documentId" => DOCUMENT,
                    "newHeads" => { "disk" => { "heads" => ["nonsense"], "timestamp" => 1 } } }),
                "head",
            ),
            (cbor!(["join"]), "no message"),
        ] {
            let refused = read(value).unwrap_err();
            assert!(refused.contains(why), "{refused}, not {why}");
        }
        let many: Vec<_> = (0..=SUBSCRIPTIONS_MAX).map(|number| number.to_string()).collect();
        let value = cbor!({ "type" => "remote-subscription-change", "senderId" => "me", "add" => many });
        assert!(read(value).unwrap_err().contains("SUBSCRIPTIONS_MAX"));
        let value = cbor!({ "type" => "remote-heads-changed", "senderId" => "me", "documentId" => DOCUMENT,
            "newHeads" => { "disk" => { "heads" => vec![""; HEADS_MAX + 1], "timestamp" => 1 } } });
        assert!(read(value).unwrap_err().contains("HEADS_MAX"));
        let empty = cbor!({ "heads" => Vec::<String>::new(), "timestamp" => 1 }).unwrap();
        let many: Vec<_> = (0..=REMOTES_PER_DOCUMENT_MAX)
            .map(|number| (Value::Text(number.to_string()), empty.clone()))
            .collect();
        let value = cbor!({ "type" => "remote-heads-changed", "senderId" => "me", "documentId" => DOCUMENT,
            "newHeads" => Value::Map(many) });
        assert!(read(value).unwrap_err().contains("REMOTES_PER_DOCUMENT_MAX"));
        let value = cbor!({ "type" => "ephemeral", "senderId" => "me", "documentId" => DOCUMENT, "count" => 1,
            "sessionId" => "s", "data" => Value::Bytes(vec![0; EPHEMERAL_BYTES_MAX + 1]) });
        assert!(read(value).unwrap_err().contains("EPHEMERAL_BYTES_MAX"));
        let mut twice = bytes(&cbor!({ "type" => "leave", "senderId" => "me" }).unwrap());
        assert!(decode(&twice).is_ok());
        twice.push(0);
        assert!(decode(&twice).unwrap_err().contains("follows"));
        // Deep, and of a length that nobody has.
        assert!(decode(&[0x81; 10_000]).is_err());
        assert!(decode(&[0x5B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
        assert_eq!(read(cbor!({ "type" => "later", "senderId" => "me" })), Ok(Incoming::Other));
    }

    #[test]
    fn of_a_list_that_is_too_long_no_more_is_kept_than_shows_it() {
        let many = bytes(&cbor!(vec!["x"; 100_000]).unwrap());
        let List(kept) = ciborium::from_reader::<List<9>, _>(&many[..]).unwrap();
        assert_eq!(kept.len(), 10);
        assert!(kept.capacity() < 100, "as much as the sender says was asked for");
    }
}
