//! A document in memory, and its store: loaded, kept up with what others store, compacted, given back.

use std::sync::Arc;

use automerge::{Automerge, Change};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::Inner;
use super::limits::STORED_PEERS_MAX;
use super::replica::Replica;
use super::room::{Answer, Room};
use super::trouble::{Trouble, Work};
use crate::append::{Append, Appended, Written};
use crate::chunks::guarded;
use crate::clock::now_unix_ms;
use crate::committed::Committed;
use crate::compact::Replace;
use crate::error::ErrorKind;
use crate::limits::COMMIT_PEERS_MAX;
use crate::meta::Meta;
use crate::{DocumentId, salvage};

/// The document, as far as it is in memory.
#[derive(Debug)]
pub(super) struct Resident {
    server: Arc<Inner>,
    document: DocumentId,
    /// `None` while it is not in memory.
    replica: Option<Replica>,
    /// The state of the document that was seen last, in memory or not.
    seen: Option<Meta>,
    /// Something of what is in memory may not be durable: it was read, and others write as they like.
    unflushed: bool,
}

/// What became of changes and the answers that waited for them.
pub(super) enum Stored {
    Applied(Committed<Vec<Answer>>),
    /// Others have stored something in between, which is in memory now.
    Behind(Vec<Answer>),
}

impl Resident {
    pub(super) fn new(server: Arc<Inner>, document: DocumentId) -> Self {
        Self { server, document, replica: None, seen: None, unflushed: false }
    }

    pub(super) fn replica(&self) -> Option<&Replica> {
        self.replica.as_ref()
    }

    pub(super) fn seen(&self) -> Option<&Meta> {
        self.seen.as_ref()
    }

    /// What is in memory is not to be believed; what was not stored is forgotten.
    pub(super) fn drop_replica(&mut self) {
        self.replica = None;
    }

    /// There is no such document any more.
    pub(super) fn forget(&mut self) {
        self.replica = None;
        self.seen = None;
    }

    /// Loads the document, unless it is in memory. A document that is not there is an empty one.
    pub(super) async fn load(&mut self) -> Work<()> {
        if self.replica.is_some() {
            return Ok(());
        }
        let loaded = match self.server.documents.load(self.document).await {
            Ok(loaded) => loaded,
            Err(error) if error.kind() == ErrorKind::Corrupt => return self.recover().await,
            Err(error) => return Err(error.into()),
        };
        let Some(loaded) = loaded else {
            if self.server.documents.is_deleted(self.document).await? {
                return Err(Trouble::Deleted);
            }
            self.replica = Some(Replica::new(Automerge::new(), None));
            return Ok(());
        };
        let bytes = loaded.bytes;
        match self.server.blocking(move || salvage::load(&bytes)).await {
            Some(Ok(automerge)) => {
                self.replica = Some(Replica::new(automerge, Some(loaded.meta)));
                self.unflushed = true;
                self.server.metrics.loads.add(1);
                Ok(())
            }
            _ => self.recover().await,
        }
    }

    /// What of it can be read; the rest goes into quarantine.
    async fn recover(&mut self) -> Work<()> {
        let (documents, document) = (self.server.documents.clone(), self.document);
        let runtime = Handle::current();
        // It takes the document apart between its reads and writes.
        let recover = move || runtime.block_on(Box::pin(documents.recover(document, now_unix_ms())));
        let recovered = self.server.blocking(recover).await;
        match recovered.ok_or_else(|| Trouble::Lost("its recovery was broken off".to_owned()))?? {
            Some(recovered) => {
                self.unflushed = true;
                self.replica = Some(Replica::new(recovered.document, Some(recovered.meta)));
                Ok(())
            }
            None => Err(Trouble::Deleted),
        }
    }

    /// Stores what is new in it, and states of synchronisation along with it; what rests on that is told when it is done.
    pub(super) async fn store(
        &mut self,
        changes: Vec<Change>,
        room: &mut Room,
        answers: Vec<Answer>,
    ) -> Work<Stored> {
        if changes.is_empty() {
            // All that they name was there before.
            if self.unflushed && !answers.is_empty() {
                self.server.documents.flush(self.document).await?;
                self.unflushed = false;
            }
            return Ok(Stored::Applied(Committed::durable(answers)));
        }
        let expected = self.replica.as_ref().and_then(|replica| replica.meta.clone());
        let states = if expected.as_ref().is_some_and(|meta| meta.peers >= STORED_PEERS_MAX) {
            Vec::new()
        } else {
            room.unstored_states_of_writers(COMMIT_PEERS_MAX)
        };
        let count = changes.len() as u64;
        let append = Append {
            changes,
            sync_states: states.clone(),
            now_unix_ms: now_unix_ms(),
            staged_id: *Uuid::new_v4().as_bytes(),
        };
        match self.server.documents.append(self.document, expected.as_ref(), append, answers).await? {
            Appended::Applied { meta, effects } => {
                // With all that came before it.
                self.unflushed = false;
                self.server.metrics.commits.add(1);
                self.server.metrics.changes.add(count);
                if let Some(replica) = &mut self.replica {
                    replica.set_stored(meta);
                }
                room.set_stored_states(&states);
                room.set_changes_stored();
                if let Some(hints) = self.server.hints.get() {
                    hints.tell(self.document.as_bytes());
                }
                Ok(Stored::Applied(effects))
            }
            Appended::Behind { effects } => {
                self.catch_up().await?;
                Ok(Stored::Behind(effects))
            }
            Appended::Deleted => Err(Trouble::Deleted),
        }
    }

    /// Whether others have stored something, or have deleted the document.
    pub(super) async fn is_behind(&mut self) -> Work<bool> {
        let meta = self.server.documents.meta(self.document).await?;
        self.see();
        if meta.is_none() && self.seen.is_some() {
            return Err(Trouble::Deleted);
        }
        let behind = meta != self.seen;
        // Also when it does not load: it is not tried again before it has changed.
        self.seen = meta;
        Ok(behind)
    }

    /// Takes in what others have stored.
    pub(super) async fn catch_up(&mut self) -> Work<()> {
        self.unflushed = true;
        let Some(seen) = self.replica.as_ref().and_then(|replica| replica.meta.clone()) else {
            return self.catch_up_whole().await;
        };
        let Some(loaded) = self.server.documents.since(self.document, &seen).await? else {
            return Err(Trouble::Deleted);
        };
        let (bytes, meta) = (loaded.bytes, loaded.meta);
        let absorbed = self.compute(move |replica| guarded(|| replica.absorb_changes(&bytes, &meta))).await?;
        match absorbed {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => self.catch_up_whole().await,
            Ok(Err(why)) | Err(why) => Err(Trouble::Lost(why)),
        }
    }

    async fn catch_up_whole(&mut self) -> Work<()> {
        let Some(loaded) = self.server.documents.load(self.document).await? else {
            let deleted = self.server.documents.is_deleted(self.document).await?;
            return if deleted { Err(Trouble::Deleted) } else { Ok(()) };
        };
        let absorbed = self
            .compute(move |replica| guarded(|| replica.absorb_document(&loaded.bytes, loaded.meta)))
            .await?;
        match absorbed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) | Err(why) => Err(Trouble::Lost(why)),
        }
    }

    /// What is in memory has been seen.
    pub(super) fn see(&mut self) {
        if let Some(replica) = &self.replica {
            self.seen.clone_from(&replica.meta);
        }
    }

    /// Stores states of synchronisation: of a peer that leaves, and of all when the document does; not for each of their messages. Losing
    /// one costs a round trip, so nobody waits for it.
    pub(super) async fn store_states(&mut self, room: &mut Room, states: Vec<(Vec<u8>, Vec<u8>)>) {
        let Some(meta) = self.replica.as_ref().and_then(|replica| replica.meta.clone()) else { return };
        if states.is_empty() || meta.peers >= STORED_PEERS_MAX {
            return;
        }
        let append = Append { sync_states: states.clone(), now_unix_ms: now_unix_ms(), ..Append::default() };
        let relaxed = seabed_kv::Durability::Relaxed;
        match self.server.documents.write(self.document, Some(&meta), append, relaxed).await {
            Ok(Written::Applied(meta)) => {
                if let Some(replica) = &mut self.replica {
                    replica.meta = Some(meta);
                }
                room.set_stored_states(&states);
            }
            // Others write, and the next one to leave tries again.
            Ok(Written::Behind | Written::Deleted) => {}
            Err(error) => tracing::warn!(document = ?self.document, %error, "a sync state was not stored"),
        }
    }

    /// Compacts the document when that is worth it.
    pub(super) async fn compact(&mut self) {
        let due = self.replica.as_ref().and_then(|replica| replica.meta.clone());
        let Some(meta) = due.filter(Meta::compaction_is_due) else { return };
        let snapshot = self.compute(|replica| guarded(|| replica.snapshot())).await;
        let Ok(Ok(Some(snapshot))) = snapshot else { return };
        let replace = Replace {
            snapshot,
            now_unix_ms: now_unix_ms(),
            staged_id: *Uuid::new_v4().as_bytes(),
            ..Replace::default()
        };
        match self.server.documents.replace(self.document, &meta, replace, ()).await {
            Ok(Appended::Applied { meta, effects }) => {
                effects.release();
                self.server.metrics.compactions.add(1);
                if let Some(replica) = &mut self.replica {
                    replica.meta = Some(meta);
                }
            }
            // Others write, and may compact it themselves.
            Ok(Appended::Behind { .. } | Appended::Deleted) => {}
            Err(error) => {
                // It may have happened all the same: the document is read again.
                tracing::warn!(document = ?self.document, %error, "the document was not compacted");
                self.unload();
            }
        }
    }

    /// Gives the memory back.
    pub(super) fn unload(&mut self) {
        // What is not stored is nobody's: the last round has ended.
        if let Some(replica) = self.replica.take() {
            self.seen = replica.meta;
            self.server.metrics.unloads.add(1);
        }
    }

    /// Runs what may take long on a thread that is for that.
    pub(super) async fn compute<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Replica) -> T + Send + 'static,
    ) -> Work<T> {
        let Some(mut replica) = self.replica.take() else {
            return Err(Trouble::Lost("it is not in memory".to_owned()));
        };
        let worked = self.server.blocking(move || {
            let answer = work(&mut replica);
            (replica, answer)
        });
        let broken_off = || Trouble::Lost("the work on it was broken off".to_owned());
        let (replica, answer) = worked.await.ok_or_else(broken_off)?;
        self.replica = Some(replica);
        Ok(answer)
    }
}
