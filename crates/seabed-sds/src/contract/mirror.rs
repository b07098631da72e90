//! A channel's rows in memory, for backends that are told whole states: folded into a snapshot, and taken apart again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use seabed_sds_core::snapshot::{
    ChannelData, ChannelMeta, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds_core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds_core::{
    AnswerEntry, Change, ChannelId, Config, DecodeError, HistoryEntry, IncomingEntry, Key, LogEntry, Message,
    MessageId, Meta, MissingEntry, ParticipantId, Profile, Record, SeenEntry, Unacknowledged, schedule,
};

use super::store::{ChannelBatch, StoreError, StoreResult};
use crate::lock::lock;
use crate::{Clock, SystemClock};

/// The channels of an adapter, for a manager of one participant and configuration.
pub(crate) struct Mirrors {
    participant: ParticipantId,
    config: Config,
    clock: Arc<dyn Clock>,
    channels: Mutex<BTreeMap<ChannelId, Arc<Mirror>>>,
}

impl Mirrors {
    pub(crate) fn new(participant: ParticipantId, config: Config) -> Self {
        Self { participant, config, clock: Arc::new(SystemClock), channels: Mutex::default() }
    }

    pub(crate) fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// A channel as its backend has it for certain.
    pub(crate) fn get(&self, channel: &ChannelId) -> Arc<Mirror> {
        lock(&self.channels).get(channel).cloned().unwrap_or_default()
    }

    /// The backend has that now.
    pub(crate) fn put(&self, channel: &ChannelId, mirror: Mirror) {
        lock(&self.channels).insert(channel.clone(), Arc::new(mirror));
    }

    /// The rows of what a backend has loaded: none of a channel that is not there, and nothing is remembered of such.
    pub(crate) fn load(&self, channel: &ChannelId, data: ChannelData) -> StoreResult<Vec<Record>> {
        if data == ChannelData::default() {
            self.forget(channel);
            return Ok(Vec::new());
        }
        let records = records(data, &self.participant, &self.config, self.clock.now_ms());
        let records = records.map_err(StoreError::from_source)?;
        self.put(channel, Mirror::new(&records));
        Ok(records)
    }

    pub(crate) fn forget(&self, channel: &ChannelId) {
        lock(&self.channels).remove(channel);
    }

    pub(crate) fn ids(&self) -> Vec<ChannelId> {
        lock(&self.channels).keys().cloned().collect()
    }
}

/// The rows of a channel of which a snapshot is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirror {
    rows: BTreeMap<Key, Record>,
    /// Where each message of the log is.
    positions: BTreeMap<MessageId, u64>,
}

impl Mirror {
    pub(crate) fn new(records: &[Record]) -> Self {
        let mut mirror = Self::default();
        for record in records {
            mirror.put(record);
        }
        mirror
    }

    fn put(&mut self, record: &Record) {
        if let Record::Log(entry) = record {
            self.positions.insert(entry.message.message_id.clone(), entry.position);
        }
        self.rows.insert(record.key(), record.clone());
    }

    /// What a batch changes: when it replaces the channel also that the other rows are gone.
    pub(crate) fn changes<'a>(&self, batch: &'a ChannelBatch) -> Cow<'a, [Change]> {
        if !batch.replaces {
            return Cow::Borrowed(&batch.changes);
        }
        let stay: BTreeSet<_> = batch.changes.iter().filter_map(put_key).collect();
        let gone = self.rows.keys().filter(|key| !stay.contains(key)).cloned();
        Cow::Owned(batch.changes.iter().cloned().chain(gone.map(Change::Delete)).collect())
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                // No snapshot carries these.
                Change::Put(Record::Seen { .. } | Record::Sync { .. } | Record::Met { .. }) => {}
                Change::Put(record) => self.put(record),
                Change::Delete(key) => {
                    if let Key::Log(position, id) = key
                        && self.positions.get(id) == Some(position)
                    {
                        self.positions.remove(id);
                    }
                    self.rows.remove(key);
                }
            }
        }
    }

    /// The complete fast-changing state.
    pub(crate) fn meta(&self) -> ChannelMeta {
        let mut meta = ChannelMeta::default();
        for record in self.rows.values() {
            match record {
                Record::Meta(row) => meta.lamport = row.lamport,
                Record::Outgoing { number, .. } => meta.outgoing.extend(self.outgoing(*number)),
                Record::Incoming(entry) => meta.incoming.push(self.incoming(entry)),
                Record::Missing(entry) => {
                    let entry = outgoing_repair(entry);
                    meta.outgoing_repair.extend(entry.map(|entry| (entry.entry.message_id.clone(), entry)));
                }
                Record::Answer(entry) => {
                    meta.incoming_repair.push((entry.entry.message_id.clone(), self.incoming_repair(entry)));
                }
                _ => {}
            }
        }
        meta
    }

    /// An own message that is not acknowledged.
    pub(crate) fn outgoing(&self, number: u64) -> Option<UnacknowledgedMessage> {
        let Some(Record::Outgoing { message_id, state, .. }) = self.rows.get(&Key::Outgoing(number)) else {
            return None;
        };
        let message = match self.rows.get(&Key::Kept(number)) {
            Some(Record::Kept { message, .. }) if message.message_id == *message_id => message,
            _ => &self.logged(message_id)?.message,
        };
        let (send_time_ms, resend_attempts) = (state.sent_ms, state.attempts);
        Some(UnacknowledgedMessage { message: Message::clone(message), send_time_ms, resend_attempts })
    }

    /// The logical clock, once there is one.
    pub(crate) fn lamport(&self) -> Option<u64> {
        match self.rows.get(&Key::Meta) {
            Some(Record::Meta(meta)) => Some(meta.lamport),
            _ => None,
        }
    }

    /// The entry of the log of that name.
    pub(crate) fn logged(&self, id: &MessageId) -> Option<&LogEntry> {
        match self.rows.get(&Key::Log(*self.positions.get(id)?, id.clone())) {
            Some(Record::Log(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Whether that message is missing and will be asked for.
    pub(crate) fn asks(&self, id: &MessageId) -> bool {
        let row = self.rows.get(&Key::Missing(id.clone()));
        matches!(row, Some(Record::Missing(entry)) if entry.request_due_ms.is_some())
    }

    /// A message that waits, with what it waits for.
    pub(crate) fn incoming(&self, entry: &IncomingEntry) -> IncomingMessage {
        let id = &entry.message.message_id;
        let first = Key::Waits(id.clone(), MessageId::default());
        let waits = self.rows.range(first..).map_while(|(key, _)| match key {
            Key::Waits(message, dependency) if message == id => Some(dependency.clone()),
            _ => None,
        });
        IncomingMessage { message: Message::clone(&entry.message), missing: waits.collect() }
    }

    /// The message that waits under this name.
    pub(crate) fn waiting(&self, id: &MessageId) -> Option<IncomingMessage> {
        match self.rows.get(&Key::Incoming(id.clone())) {
            Some(Record::Incoming(entry)) => Some(self.incoming(entry)),
            _ => None,
        }
    }

    /// A request, with the bytes that answer it.
    pub(crate) fn incoming_repair(&self, answer: &AnswerEntry) -> IncomingRepairEntry {
        let logged = self.logged(&answer.entry.message_id).map(|entry| &*entry.message);
        let message = answer.message.as_deref().or(logged);
        let cached = message.map(|message| wire::encode(message, Dialect::Nim)).unwrap_or_default();
        IncomingRepairEntry {
            entry: answer.entry.clone(),
            cached_message: cached.into(),
            t_resp_ms: answer.due_ms,
        }
    }
}

fn put_key(change: &Change) -> Option<Key> {
    match change {
        Change::Put(record) => Some(record.key()),
        Change::Delete(_) => None,
    }
}

/// What is asked for; none for what is only waited for, which a snapshot has no place for.
pub(crate) fn outgoing_repair(entry: &MissingEntry) -> Option<OutgoingRepairEntry> {
    entry.request_due_ms.map(|t_req_ms| OutgoingRepairEntry { entry: entry.entry.clone(), t_req_ms })
}

/// The rows of a channel whose state somebody else kept: what a snapshot does not carry begins anew, and the ids that were seen are
/// those of the history.
///
/// # Errors
/// A request whose cached answer does not read.
pub(crate) fn records(
    data: ChannelData,
    own: &ParticipantId,
    config: &Config,
    now_ms: u64,
) -> Result<Vec<Record>, DecodeError> {
    let ChannelData { meta, history } = data;
    let mut records = vec![Record::Meta(Meta { lamport: meta.lamport, ..Meta::default() })];
    let mut here = BTreeMap::new();
    for (number, message) in (0..).zip(history) {
        let message = Arc::new(message);
        here.insert(message.message_id.clone(), message.clone());
        records.push(Record::Seen { number, entry: seen(&message, own, true) });
        let position = match config.profile {
            Profile::Nim => number,
            Profile::Seabed => message.lamport.unwrap_or_default(),
        };
        records.push(Record::Log(LogEntry { message, position, retrieval_hint: None, anomalous: false }));
    }
    for (number, entry) in (0..).zip(meta.outgoing) {
        let state = Unacknowledged {
            sent_ms: entry.send_time_ms,
            due_ms: entry.send_time_ms.saturating_add(config.resend_interval_ms),
            attempts: entry.resend_attempts,
            possible_by: Vec::new(),
            possible_by_unnamed: 0,
        };
        let message_id = entry.message.message_id.clone();
        if here.get(&message_id).is_none_or(|logged| **logged != entry.message) {
            records.push(Record::Kept { number, message: Arc::new(entry.message) });
        }
        records.push(Record::Outgoing { number, message_id, state });
    }
    let mut missing = BTreeMap::new();
    let mut here: BTreeSet<MessageId> = here.into_keys().collect();
    let logged = here.clone();
    // A crash between two calls may have left a message in both places: then it was delivered.
    let waiting: Vec<_> =
        meta.incoming.into_iter().filter(|entry| !here.contains(&entry.message.message_id)).collect();
    for (number, entry) in (here.len() as u64..).zip(waiting) {
        here.insert(entry.message.message_id.clone());
        // What it waits for may have been delivered before a crash: then the channel delivers it, too.
        for dependency_id in entry.missing.into_iter().filter(|id| !logged.contains(id)) {
            let message_id = entry.message.message_id.clone();
            missing.insert(dependency_id.clone(), missed_anew(&dependency_id, own, config, now_ms));
            records.push(Record::Waits { message_id, dependency_id });
        }
        records.push(Record::Seen { number, entry: seen(&entry.message, own, false) });
        let message = Arc::new(entry.message);
        records.push(Record::Incoming(IncomingEntry {
            message,
            retrieval_hint: None,
            anomalous: false,
            gap: false,
        }));
    }
    let mut asked = BTreeSet::new();
    for (id, OutgoingRepairEntry { entry, t_req_ms }) in meta.outgoing_repair {
        let entry =
            MissingEntry { entry, first_missed_ms: t_req_ms, request_due_ms: Some(t_req_ms), requests: 0 };
        asked.insert(id.clone());
        missing.insert(id, entry);
    }
    // What is here, if only to wait itself, is not missing; nim-sds asks for that.
    missing.retain(|id, _| !logged.contains(id) && (asked.contains(id) || !here.contains(id)));
    records.extend(missing.into_values().map(Record::Missing));
    for (_, IncomingRepairEntry { entry, cached_message, t_resp_ms }) in meta.incoming_repair {
        let message = match config.profile {
            Profile::Nim => Some(Arc::new(cached(&cached_message)?)),
            // It takes the answer from the log.
            Profile::Seabed => None,
        };
        records.push(Record::Answer(AnswerEntry { entry, due_ms: t_resp_ms, message }));
    }
    Ok(records)
}

fn seen(message: &Message, own: &ParticipantId, delivered: bool) -> SeenEntry {
    let own = !own.is_empty() && message.sender_id == *own;
    SeenEntry { message_id: message.message_id.clone(), seen_ms: 0, own, delivered }
}

/// What a message waits for and nothing says when to ask for it: torn, or asked for before. It is missed from now on.
fn missed_anew(id: &MessageId, own: &ParticipantId, config: &Config, now_ms: u64) -> MissingEntry {
    // nim-sds asks once.
    let asks = config.repair && !own.is_empty() && config.profile == Profile::Seabed;
    let request_due_ms = asks.then(|| {
        let (min_ms, max_ms) = (config.repair_t_min_ms, config.repair_t_max_ms);
        now_ms.saturating_add(schedule::t_req(config.dialect, own, id, min_ms, max_ms))
    });
    let entry = HistoryEntry { message_id: id.clone(), ..HistoryEntry::default() };
    MissingEntry { entry, first_missed_ms: now_ms, request_due_ms, requests: 0 }
}

fn cached(bytes: &[u8]) -> Result<Message, DecodeError> {
    let decoded = wire::decode(bytes, ReadDialect::Strict(Dialect::Nim), &WireLimits::OFF)?;
    Ok(decoded.message)
}
