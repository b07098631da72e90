//! One document, for administrators: what automerge makes of it. Nothing here writes, but for what comes in from a file.

use std::collections::BTreeMap;

use automerge::{AutoSerde, Automerge, ReadDoc as _};
use serde::Serialize;
use serde_json::Value;

use crate::chunks::guarded;
use crate::error::{Error, ErrorKind, Result, invalid};
use crate::salvage::{Piece, Salvaged, load, salvage};
use crate::{DocStore, DocumentId, DocumentInfo};

/// A document as automerge has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentDetail {
    /// How it is stored.
    #[serde(flatten)]
    pub info: DocumentInfo,
    /// Which changes nothing else rests on, in hexadecimal: two documents of the same heads are the same.
    pub heads: Vec<String>,
    /// How many changes there are in all, in the snapshot too.
    pub history_changes: u64,
    /// How many operations those have.
    pub operations: u64,
    /// Who made them.
    pub actors: Vec<ActorInfo>,
    /// Why something of it does not read; empty when all is well. The next program that opens the document puts that into quarantine.
    pub damaged: Vec<String>,
}

/// Somebody who has changed a document: a program, in one of its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActorInfo {
    /// Its id, in hexadecimal.
    pub actor: String,
    /// How many changes it made.
    pub changes: u64,
}

impl DocStore {
    /// Tells of one document; `None` when there is none of that id. Loads it, and writes nothing.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` when the document's own row is damaged.
    ///
    /// ```
    /// use seabed_automerge::{Append, DocStore, DocumentId};
    ///
    /// # pollster::block_on(async {
    /// let store = DocStore::open(&seabed_kv::Store::memory()).await?;
    /// let id = DocumentId::from_bytes([7; 16]);
    /// store.append(id, None, Append::default(), ()).await?;
    /// let detail = store.examine(id).await?.expect("just stored");
    /// assert!(detail.heads.is_empty() && detail.damaged.is_empty());
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    pub async fn examine(&self, document: DocumentId) -> Result<Option<DocumentDetail>> {
        let Some(info) = self.document(document).await? else { return Ok(None) };
        let Some((automerge, damaged)) = self.look(document).await? else { return Ok(None) };
        let (changes, operations) = panics(|| {
            let changes: Vec<_> =
                automerge.get_changes_meta(&[]).into_iter().map(|change| change.actor.into_owned()).collect();
            (changes, automerge.stats().num_ops)
        })?;
        let mut actors: BTreeMap<_, u64> = BTreeMap::new();
        for actor in &changes {
            *actors.entry(actor.to_hex_string()).or_default() += 1;
        }
        Ok(Some(DocumentDetail {
            info,
            heads: automerge.get_heads().iter().map(ToString::to_string).collect(),
            history_changes: changes.len() as u64,
            operations,
            actors: actors.into_iter().map(|(actor, changes)| ActorInfo { actor, changes }).collect(),
            damaged,
        }))
    }

    /// The document as automerge saves it, for `automerge::Automerge::load` in any language; `None` when there is none of that id.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` when something of it does not read.
    pub async fn save(&self, document: DocumentId) -> Result<Option<Vec<u8>>> {
        let Some(automerge) = self.whole(document).await? else { return Ok(None) };
        Ok(Some(panics(|| automerge.save())?))
    }

    /// What the document says, as JSON: texts are strings, bytes lists of numbers, counters and times numbers. `None` when there is none of that id.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn json(&self, document: DocumentId) -> Result<Option<Value>> {
        let Some(automerge) = self.whole(document).await? else { return Ok(None) };
        let value = panics(|| serde_json::to_value(AutoSerde::from(&automerge)))?;
        let value = value.map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("{document:?} has no form in JSON: {error}"))
        })?;
        Ok(Some(value))
    }

    /// Takes in what `automerge::Automerge::save` wrote, here or anywhere: into a new document, or merged with what is here. May be repeated.
    /// Answers how many changes are new. `staged_id` gives sixteen fresh random bytes at each call.
    ///
    /// # Errors
    /// `InvalidArgument` when the bytes are none that automerge saved, in whole, when they hold another change of an actor and sequence number, and for a
    /// document that was deleted; those of the store.
    pub async fn merge(
        &self,
        document: DocumentId,
        saved: &[u8],
        now_unix_ms: u64,
        mut staged_id: impl FnMut() -> [u8; 16],
    ) -> Result<u64> {
        let pieces = [Piece::of(saved.to_vec())];
        let salvaged = salvage(&pieces);
        whole_of(saved, &salvaged)?;
        let merged = self.merge_in(document, &pieces, &salvaged, now_unix_ms, &mut staged_id).await?;
        merged.map_err(|why| invalid(format!("nothing was stored: {why}")))
    }

    /// All of it, or an error.
    async fn whole(&self, document: DocumentId) -> Result<Option<Automerge>> {
        let Some((automerge, damaged)) = self.look(document).await? else { return Ok(None) };
        match damaged.first() {
            None => Ok(Some(automerge)),
            Some(why) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{document:?} does not read in whole ({why}); `seabed docs compact --force` puts that into quarantine"),
            )
            .in_tenant(self.shard(document).tenant.id())),
        }
    }

    /// What there is of it, and why the rest is not. Writes nothing.
    async fn look(&self, document: DocumentId) -> Result<Option<(Automerge, Vec<String>)>> {
        match self.load(document).await {
            Ok(None) => return Ok(None),
            Ok(Some(loaded)) => {
                if let Ok(whole) = load(&loaded.bytes) {
                    return Ok(Some((whole, Vec::new())));
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
        let Some((_, pieces)) = self.pieces(document).await? else { return Ok(None) };
        let Salvaged { document, damaged } = salvage(&pieces);
        Ok(Some((document, damaged.iter().map(|damaged| damaged.reason().to_owned()).collect())))
    }
}

/// Whether automerge saved these bytes, in whole: what [`DocStore::merge`] takes in, to know it before anything is made for it.
///
/// # Errors
/// `InvalidArgument`, and why not.
pub fn check_saved(saved: &[u8]) -> Result<()> {
    whole_of(saved, &salvage(&[Piece::of(saved.to_vec())]))
}

fn whole_of(saved: &[u8], salvaged: &Salvaged) -> Result<()> {
    let none = |why: &str| Err(invalid(format!("this is no document that automerge saved: {why}")));
    match salvaged.damaged.first() {
        _ if saved.is_empty() => none("it is empty"),
        Some(damaged) => none(damaged.reason()),
        None => Ok(()),
    }
}

fn panics<T>(work: impl FnOnce() -> T) -> Result<T> {
    guarded(work).map_err(|panic| Error::new(ErrorKind::Corrupt, format!("automerge panicked: {panic}")))
}
