//! Messages and entries in rows. The id of a message stands in the key of its row.

use std::sync::Arc;

use super::field::{Reader, Writer};
use super::id::{self, Form};
use crate::{HistoryEntry, Message, MessageId, ParticipantId, RecordError};

/// What the first byte of an entry says: the form of its id in the lowest two bits, then these.
const SENDER: u8 = 1 << 2;
const SAME_SENDER: u8 = 1 << 3;
const HINT: u8 = 1 << 4;
const FORM: u8 = SENDER - 1;

/// `before` is who sent what stands before it: nearly always several in a row are of one sender.
pub(super) fn write_entry(value: &mut Writer, entry: &HistoryEntry, before: Option<&ParticipantId>) {
    let form = Form::of(&entry.message_id);
    let sender = match &entry.sender_id {
        None => 0,
        same if same.as_ref() == before => SAME_SENDER,
        Some(_) => SENDER,
    };
    let hint = if entry.retrieval_hint.is_some() { HINT } else { 0 };
    form.write(&entry.message_id, value.byte(form.tag() | sender | hint));
    if let Some(sender_id) = entry.sender_id.as_ref().filter(|_| sender == SENDER) {
        value.bytes(sender_id.as_bytes());
    }
    if let Some(hint) = &entry.retrieval_hint {
        value.bytes(hint);
    }
}

pub(super) fn read_entry(
    value: &mut Reader<'_>,
    before: Option<&ParticipantId>,
) -> Result<HistoryEntry, RecordError> {
    let flags = value.byte()?;
    if flags > FORM | SENDER | HINT | SAME_SENDER {
        return Err(RecordError::Flag(flags));
    }
    let message_id = id::read_tagged(flags & FORM, value)?;
    let sender_id = match (flags & (SENDER | SAME_SENDER), before) {
        (0, _) => None,
        (SENDER, _) => Some(ParticipantId::from(value.bytes()?)).filter(|sender| Some(sender) != before),
        (SAME_SENDER, Some(before)) => Some(before.clone()),
        _ => return Err(RecordError::Flag(flags)),
    };
    if flags & SENDER != 0 && sender_id.is_none() {
        return Err(RecordError::Flag(flags));
    }
    let retrieval_hint = if flags & HINT == 0 { None } else { Some(Arc::from(value.bytes()?)) };
    Ok(HistoryEntry { message_id, retrieval_hint, sender_id })
}

/// All of a message but its id.
pub(super) fn write_message(value: &mut Writer, message: &Message) {
    value.bytes(message.channel_id.as_bytes()).bytes(message.sender_id.as_bytes()).maybe_u64(message.lamport);
    for list in [&message.causal_history, &message.repair_request] {
        value.short(list.len());
        let mut before = Some(&message.sender_id);
        for entry in list {
            write_entry(value, entry, before);
            before = entry.sender_id.as_ref().or(before);
        }
    }
    value.maybe_bytes(message.bloom_filter.as_deref()).maybe_bytes(message.content.as_deref());
}

pub(super) fn read_message(
    value: &mut Reader<'_>,
    message_id: &MessageId,
) -> Result<Arc<Message>, RecordError> {
    let channel_id = value.bytes()?.into();
    let sender_id: ParticipantId = value.bytes()?.into();
    let lamport = value.maybe_u64()?;
    let causal_history = read_entries(value, &sender_id)?;
    let repair_request = read_entries(value, &sender_id)?;
    Ok(Arc::new(Message {
        message_id: message_id.clone(),
        channel_id,
        sender_id,
        lamport,
        causal_history,
        repair_request,
        bloom_filter: value.maybe_bytes()?,
        content: value.maybe_bytes()?,
    }))
}

fn read_entries(value: &mut Reader<'_>, sender: &ParticipantId) -> Result<Vec<HistoryEntry>, RecordError> {
    let count = value.short()?;
    let mut before = sender.clone();
    value.list(count, |value| {
        let entry = read_entry(value, Some(&before))?;
        if let Some(sender) = &entry.sender_id {
            before = sender.clone();
        }
        Ok(entry)
    })
}

/// How many bytes a message takes in a row, at most: what the bounds on waiting bytes and on a batch count.
pub(crate) fn encoded_bytes(message: &Message) -> usize {
    let entry = |entry: &HistoryEntry| {
        entry.message_id.as_bytes().len()
            + entry.sender_id.as_ref().map_or(0, |sender| sender.as_bytes().len())
            + entry.retrieval_hint.as_ref().map_or(0, |hint| hint.len())
            + 16
    };
    message.message_id.as_bytes().len()
        + message.sender_id.as_bytes().len()
        + message.causal_history.iter().chain(&message.repair_request).map(entry).sum::<usize>()
        + message.bloom_filter.as_ref().map_or(0, |filter| filter.len())
        + message.content.as_ref().map_or(0, |content| content.len())
        + 64
}
