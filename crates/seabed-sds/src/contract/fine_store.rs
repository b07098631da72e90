//! A backend of contract (A) as a store: each row that changed becomes a call.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use seabed_sds_core::snapshot::{
    IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry, UnacknowledgedMessage,
};
use seabed_sds_core::{Change, ChannelId, Config, Key, Message, MessageId, ParticipantId, Record};

use super::fine::FineGrainedPersistence;
use super::mirror::{self, Mirror, Mirrors};
use super::store::{ChannelBatch, ChannelStore, StoreResult};
use crate::Clock;

/// A [`FineGrainedPersistence`] plugged in as a [`ChannelStore`].
///
/// A batch is expanded into one call for each row that changed, in the order of sds.md section 22.1, and ends at the first that fails: what
/// was before it is stored, what is after it is not.
pub struct FineGrainedStore {
    backend: Arc<dyn FineGrainedPersistence>,
    mirrors: Mirrors,
}

impl FineGrainedStore {
    /// The backend as a store, for a manager of this participant and configuration: they decide what is made of a loaded channel.
    pub fn new(backend: Arc<dyn FineGrainedPersistence>, participant: ParticipantId, config: Config) -> Self {
        Self { backend, mirrors: Mirrors::new(participant, config) }
    }

    /// The clock of the manager, by default the system's: from its time on is missed what the backend cannot say since when.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { mirrors: self.mirrors.with_clock(clock), ..self }
    }

    async fn call(&self, channel: &ChannelId, call: &Call) -> StoreResult<()> {
        let backend = &self.backend;
        match call {
            Call::SaveLamport(lamport) => backend.save_lamport(channel, *lamport).await,
            Call::SetHint(id, hint) => backend.set_retrieval_hint(id, hint).await,
            Call::SaveOutgoing(entry) => backend.save_outgoing(channel, entry).await,
            Call::SaveIncoming(entry) => backend.save_incoming(channel, entry).await,
            Call::SaveOutgoingRepair(id, entry) => backend.save_outgoing_repair(channel, id, entry).await,
            Call::SaveIncomingRepair(id, entry) => backend.save_incoming_repair(channel, id, entry).await,
            Call::AppendLog(_, message) => backend.append_log_entry(channel, message).await,
            Call::RemoveOutgoing(id) => backend.remove_outgoing(channel, id).await,
            Call::RemoveIncoming(id) => backend.remove_incoming(channel, id).await,
            Call::RemoveOutgoingRepair(id) => backend.remove_outgoing_repair(channel, id).await,
            Call::RemoveIncomingRepair(id) => backend.remove_incoming_repair(channel, id).await,
            Call::RemoveLog(id) => backend.remove_log_entry(channel, id).await,
        }
    }
}

#[async_trait]
impl ChannelStore for FineGrainedStore {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        let before = self.mirrors.get(channel);
        let changes = before.changes(batch);
        let mut after = Mirror::clone(&before);
        after.apply(&changes);
        for call in calls(&before, &after, &changes, &batch.hints) {
            self.call(channel, &call).await?;
        }
        // Not before: what failed comes again, and is then held against what the backend has for certain.
        self.mirrors.put(channel, after);
        Ok(())
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        let data = self.backend.load_all_for_channel(channel).await?;
        self.mirrors.load(channel, data)
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.backend.drop_channel(channel).await?;
        self.mirrors.forget(channel);
        Ok(())
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        Ok(self.mirrors.ids())
    }

    fn forget(&self, channel: &ChannelId) {
        self.mirrors.forget(channel);
    }
}

/// One call, in the order in which those of a batch are made: what is new before what it replaces, so that a channel that is torn in
/// between says something twice rather than not at all.
#[derive(Debug, PartialEq)]
enum Call {
    SaveLamport(u64),
    SetHint(MessageId, Arc<[u8]>),
    SaveOutgoing(UnacknowledgedMessage),
    SaveIncoming(IncomingMessage),
    SaveOutgoingRepair(MessageId, OutgoingRepairEntry),
    SaveIncomingRepair(MessageId, IncomingRepairEntry),
    AppendLog(u64, Arc<Message>),
    RemoveIncoming(MessageId),
    RemoveOutgoing(MessageId),
    RemoveOutgoingRepair(MessageId),
    RemoveIncomingRepair(MessageId),
    RemoveLog(MessageId),
}

impl Call {
    fn rank(&self) -> (u8, u64) {
        match self {
            Self::SaveLamport(_) => (0, 0),
            Self::SetHint(..) => (1, 0),
            Self::SaveOutgoing(_) => (2, 0),
            Self::SaveIncoming(_) => (3, 0),
            Self::SaveOutgoingRepair(..) => (4, 0),
            Self::SaveIncomingRepair(..) => (5, 0),
            // The order of the log.
            Self::AppendLog(position, _) => (6, *position),
            Self::RemoveIncoming(_) => (7, 0),
            Self::RemoveOutgoing(_) => (8, 0),
            Self::RemoveOutgoingRepair(_) => (9, 0),
            Self::RemoveIncomingRepair(_) => (10, 0),
            Self::RemoveLog(_) => (11, 0),
        }
    }
}

/// What must be said of a batch, read off the rows before and after it.
fn calls(before: &Mirror, after: &Mirror, changes: &[Change], hints: &[(MessageId, Arc<[u8]>)]) -> Vec<Call> {
    let mut calls: Vec<_> = hints.iter().map(|(id, hint)| Call::SetHint(id.clone(), hint.clone())).collect();
    let (mut outgoing, mut incoming) = (BTreeSet::new(), BTreeSet::new());
    for change in changes {
        match change {
            Change::Put(Record::Meta(meta)) if before.lamport() != Some(meta.lamport) => {
                calls.push(Call::SaveLamport(meta.lamport));
            }
            Change::Put(Record::Log(entry)) => {
                let id = &entry.message.message_id;
                match (before.logged(id), &entry.retrieval_hint) {
                    // Only its hint is new.
                    (Some(known), Some(hint)) if known.message == entry.message => {
                        if !hints.iter().any(|(hinted, _)| hinted == id) {
                            calls.push(Call::SetHint(id.clone(), hint.clone()));
                        }
                    }
                    _ => calls.push(Call::AppendLog(entry.position, entry.message.clone())),
                }
            }
            // What failed may have left one place of the log before the same message came into another.
            Change::Delete(Key::Log(_, id)) if after.logged(id).is_none() => {
                calls.push(Call::RemoveLog(id.clone()));
            }
            // Whether the log has it as well is nothing to such a backend.
            Change::Put(Record::Outgoing { number, .. }) | Change::Delete(Key::Outgoing(number)) => {
                outgoing.insert(*number);
            }
            Change::Put(Record::Incoming(entry)) => {
                incoming.insert(entry.message.message_id.clone());
            }
            Change::Put(Record::Waits { message_id, .. })
            | Change::Delete(Key::Waits(message_id, _) | Key::Incoming(message_id)) => {
                incoming.insert(message_id.clone());
            }
            Change::Put(Record::Missing(entry)) => {
                let id = &entry.entry.message_id;
                match mirror::outgoing_repair(entry) {
                    Some(request) => calls.push(Call::SaveOutgoingRepair(id.clone(), request)),
                    None if before.asks(id) => calls.push(Call::RemoveOutgoingRepair(id.clone())),
                    None => {}
                }
            }
            Change::Delete(Key::Missing(id)) if before.asks(id) => {
                calls.push(Call::RemoveOutgoingRepair(id.clone()));
            }
            Change::Put(Record::Answer(entry)) => {
                let id = entry.entry.message_id.clone();
                calls.push(Call::SaveIncomingRepair(id, after.incoming_repair(entry)));
            }
            Change::Delete(Key::Answer(id)) => calls.push(Call::RemoveIncomingRepair(id.clone())),
            _ => {}
        }
    }
    for number in outgoing {
        match (after.outgoing(number), before.outgoing(number)) {
            (Some(entry), _) => calls.push(Call::SaveOutgoing(entry)),
            (None, Some(gone)) => calls.push(Call::RemoveOutgoing(gone.message.message_id)),
            (None, None) => {}
        }
    }
    for id in incoming {
        match (after.waiting(&id), before.waiting(&id)) {
            (Some(entry), _) => calls.push(Call::SaveIncoming(entry)),
            (None, Some(_)) => calls.push(Call::RemoveIncoming(id)),
            (None, None) => {}
        }
    }
    calls.sort_by_key(Call::rank);
    calls
}

impl fmt::Debug for FineGrainedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FineGrainedStore")
            .field("channels", &self.mirrors.ids().len())
            .finish_non_exhaustive()
    }
}
