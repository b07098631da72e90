//! Transcripts recorded from nim-sds: every step is done again under profile `nim`, and what it answers, sends, tells and holds is compared.
//!
//! Other than recorded is what the specification says of that profile (section 26a): a message given up is told by nim as sent, and
//! messages that become ready together are compared as a set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use seabed_sds_core::bloom::Sizing;
use seabed_sds_core::limits::FILTER_BITS_MAX;
use seabed_sds_core::wire::{self, Dialect, ReadDialect};
use seabed_sds_core::{
    Channel, Config, Event, HistoryEntry, Input, MessageId, Outcome, Output, Record, Sweep,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::fields::{member, number, rate};
use crate::cli::conformance::{Tally, hex_bytes, list, same, text};

/// Whether a file is a transcript.
pub(super) fn is_one(vectors: &Value) -> bool {
    ["participants", "config", "wire", "steps", "start_ms"].iter().all(|name| vectors.get(name).is_some())
}

/// Every step, up to the first that differs: what follows rests on it.
pub(super) fn check(transcript: &Value, tally: &mut Tally) {
    let mut replay = match Replay::new(transcript) {
        Ok(replay) => replay,
        Err(why) => return tally.check(|| "the transcript's beginning".to_owned(), Err(why)),
    };
    for (number, step) in list(transcript, "steps").iter().enumerate() {
        let outcome = replay.step(step);
        let failed = outcome.is_err();
        let name = || format!("step {number} ({})", text(step, "op").unwrap_or("without an operation"));
        tally.check(name, outcome);
        if failed {
            return;
        }
    }
}

/// What a participant's disk holds of a channel. nim-sds writes the state and the log apart, and either can fail.
#[derive(Debug, Default, Clone)]
struct Disk {
    meta: Vec<Record>,
    log: Vec<Record>,
}

#[derive(Debug)]
struct Participant {
    name: String,
    config: Config,
    channels: BTreeMap<String, Channel>,
    disks: BTreeMap<String, Disk>,
    /// The operations of the disk that fail.
    failing: BTreeSet<String>,
    /// logos-delivery's layout loses the order of the log: it loads by (Lamport, id).
    sorts_log: bool,
    hints: bool,
}

/// What one step did, in the transcript's words.
#[derive(Debug, Default)]
struct Done {
    result: Option<Value>,
    events: Vec<Value>,
    wires: Vec<Vec<u8>>,
}

/// Why an operation of nim-sds is refused, in its words.
type Refused = &'static str;

const INVALID: Refused = "reInvalidArgument";
const NOT_READ: Refused = "reDeserializationError";
const NOT_STORED: Refused = "rePersistenceError";

impl Participant {
    fn fails(&self, operation: &str) -> bool {
        self.failing.contains(operation)
    }

    /// A channel, loaded at its first use.
    fn channel(&mut self, id: &str, now_ms: u64) -> Result<Result<&mut Channel, Refused>, String> {
        if !self.channels.contains_key(id) {
            if self.fails("loadChannel") {
                return Ok(Err(NOT_STORED));
            }
            let disk = self.disks.get(id).cloned().unwrap_or_default();
            let log = if self.sorts_log { by_lamport(disk.log) } else { disk.log };
            let (name, config) = (self.name.as_str().into(), self.config.clone());
            let channel = Channel::load(id.into(), name, config, disk.meta.into_iter().chain(log), now_ms)
                .map_err(|error| format!("the channel cannot be loaded: {error}"))?;
            self.channels.insert(id.to_owned(), channel);
        }
        self.channels.get_mut(id).map(Ok).ok_or_else(|| "the channel is gone".to_owned())
    }

    /// Does one thing on a channel in memory, and stores it as nim-sds does.
    fn handle(&mut self, id: &str, input: Input<'_>, now_ms: u64) -> Result<(Outcome, Vec<Output>), String> {
        let channel = self.channels.get_mut(id).ok_or("the channel is not in memory")?;
        let sweep = matches!(input, Input::Tick(_));
        let handled = channel.handle(input, now_ms).map_err(|error| error.to_string())?;
        let released = handled.effects.committed().release();
        if !sweep || !handled.changes.is_empty() {
            let (log, meta): (Vec<_>, Vec<_>) =
                channel.records().partition(|record| matches!(record, Record::Log(_)));
            let meta = with_own_messages(meta, channel);
            let fails = (self.fails("saveChannelMeta"), self.fails("updateHistory"));
            let disk = self.disks.entry(id.to_owned()).or_default();
            if !fails.0 {
                disk.meta = meta;
            }
            if !fails.1 {
                disk.log = log;
            }
        }
        Ok((released.outcome, released.outputs))
    }

    fn remove(&mut self, id: &str) -> Result<(), Refused> {
        if self.fails("dropChannel") {
            return Err(NOT_STORED);
        }
        self.channels.remove(id);
        self.disks.remove(id);
        Ok(())
    }
}

/// The state of nim-sds has the own messages whole, whatever becomes of the log.
fn with_own_messages(meta: Vec<Record>, channel: &Channel) -> Vec<Record> {
    let (own, mut meta): (Vec<_>, Vec<_>) =
        meta.into_iter().partition(|record| matches!(record, Record::Outgoing { .. }));
    meta.retain(|record| !matches!(record, Record::Kept { .. }));
    for (record, (message, _)) in own.into_iter().zip(channel.outgoing()) {
        if let Record::Outgoing { number, .. } = &record {
            meta.push(Record::Kept { number: *number, message: Arc::new(message.clone()) });
        }
        meta.push(record);
    }
    meta
}

fn by_lamport(log: Vec<Record>) -> Vec<Record> {
    let entries = log.into_iter().filter_map(|record| match record {
        Record::Log(entry) => Some(entry),
        _ => None,
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|entry| (entry.message.lamport, entry.message.message_id.clone()));
    for (position, entry) in (0..).zip(&mut entries) {
        entry.position = position;
    }
    entries.into_iter().map(Record::Log).collect()
}

struct Replay {
    participants: BTreeMap<String, Participant>,
    wire: Vec<Vec<u8>>,
    now_ms: u64,
}

impl Replay {
    fn new(transcript: &Value) -> Result<Self, String> {
        let config = config(member(transcript, "config")?)?;
        let names = list(transcript, "participants").iter().filter_map(Value::as_str);
        let participant = |name: &str| Participant {
            name: name.to_owned(),
            config: config.clone(),
            channels: BTreeMap::new(),
            disks: BTreeMap::new(),
            failing: BTreeSet::new(),
            sorts_log: transcript.get("persistence").is_some_and(|kind| kind == "kv"),
            hints: transcript.get("retrieval_hints") == Some(&Value::Bool(true)),
        };
        Ok(Self {
            participants: names.map(|name| (name.to_owned(), participant(name))).collect(),
            wire: list(transcript, "wire")
                .iter()
                .map(|wire| hex_bytes(wire, "bytes"))
                .collect::<Result<_, _>>()?,
            now_ms: number(transcript, "start_ms")?,
        })
    }

    /// Does a step, and compares all that was recorded of it.
    fn step(&mut self, step: &Value) -> Result<(), String> {
        let done = self.perform(step)?;
        same(&self.now_ms, &number(step, "now_ms")?).map_err(|why| format!("now_ms: {why}"))?;
        let mut wires = done.wires.iter().map(hex::encode);
        let mut sends = |wire: &Value| {
            let expected = self.wire(wire)?;
            same(&wires.next(), &Some(hex::encode(expected))).map_err(|why| format!("what it sends: {why}"))
        };
        match step.get("result").and_then(|result| result.get("ok")).and_then(|ok| ok.get("wire")) {
            Some(wire) => sends(wire)?,
            None => same(&done.result.as_ref(), &step.get("result"))?,
        }
        let (repairs, events): (Vec<&Value>, Vec<&Value>) = list(step, "events")
            .iter()
            .partition(|event| event.get("event").is_some_and(|name| name == "repair_ready"));
        for repair in repairs {
            sends(member(repair, "wire")?)?;
        }
        same(&wires.next(), &None).map_err(|why| format!("it sends more: {why}"))?;
        same(&sorted(done.events.iter()), &sorted(events)).map_err(|why| format!("events: {why}"))?;
        for (name, state) in step.get("state").and_then(Value::as_object).into_iter().flatten() {
            let participant = self.participants.get(name).ok_or_else(|| format!("no participant {name}"))?;
            compare_states(participant, member(state, "channels")?)
                .map_err(|why| format!("state of {name}: {why}"))?;
        }
        Ok(())
    }

    fn wire(&self, index: &Value) -> Result<&[u8], String> {
        let place = index.as_u64().and_then(|index| usize::try_from(index).ok());
        place
            .and_then(|place| self.wire.get(place))
            .map(Vec::as_slice)
            .ok_or_else(|| format!("no wire[{index}]"))
    }

    fn perform(&mut self, step: &Value) -> Result<Done, String> {
        let op = text(step, "op")?;
        if op == "advance" {
            self.now_ms = self.now_ms.checked_add(number(step, "ms")?).ok_or("time ends")?;
            return Ok(Done::default());
        }
        let now_ms = self.now_ms;
        let wire = if op == "deliver" { self.wire(member(step, "wire")?)?.to_vec() } else { Vec::new() };
        let name = text(step, "p")?;
        let participant = self.participants.get_mut(name).ok_or_else(|| format!("no participant {name}"))?;
        match op {
            "wrap" => wrap(participant, step, now_ms),
            "deliver" => receive(participant, &wire, now_ms),
            "deliver_raw" => receive(participant, &hex_bytes(step, "bytes")?, now_ms),
            "buffer_sweep" => sweep(participant, Sweep::Buffers, now_ms),
            "repair_sweep" => sweep(participant, Sweep::Repairs, now_ms),
            "mark_dependencies_met" => mark(participant, step, now_ms),
            "restart" => {
                participant.channels.clear();
                let mut done = Done::default();
                for id in list(step, "ensure_channels").iter().filter_map(Value::as_str) {
                    if let Err(refused) = participant.channel(id, now_ms)? {
                        done = Done::refused(refused);
                        break;
                    }
                }
                Ok(done)
            }
            "persistence_fail" => {
                let operations = list(step, "ops").iter().filter_map(Value::as_str);
                participant.failing = operations.map(str::to_owned).collect();
                Ok(Done::default())
            }
            "reset" => {
                let ids: Vec<String> = participant.channels.keys().cloned().collect();
                Ok(Done::answer(ids.iter().try_for_each(|id| participant.remove(id))))
            }
            "remove_channel" => Ok(Done::answer(participant.remove(text(step, "channel")?))),
            other => Err(format!("the operation '{other}' is not known here")),
        }
    }
}

impl Done {
    fn result(result: Value) -> Self {
        Self { result: Some(result), ..Self::default() }
    }

    fn refused(error: Refused) -> Self {
        Self::result(json!({ "error": error }))
    }

    fn answer(answer: Result<(), Refused>) -> Self {
        answer.map_or_else(Self::refused, |()| Self::result(json!({ "ok": true })))
    }

    fn take(&mut self, channel: &str, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            match output {
                Output::Broadcast(broadcast) => self.wires.push(broadcast.wire),
                Output::Event(event) => self.events.push(event_of(channel, &event)?),
            }
        }
        Ok(())
    }
}

fn wrap(participant: &mut Participant, step: &Value, now_ms: u64) -> Result<Done, String> {
    let (id, message_id, content) = (text(step, "channel")?, text(step, "id")?, hex_bytes(step, "content")?);
    // Refused before the channel is looked for.
    if content.is_empty() {
        return Ok(Done::refused(INVALID));
    }
    let hinted = participant.hints;
    let channel = match participant.channel(id, now_ms)? {
        Ok(channel) => channel,
        Err(refused) => return Ok(Done::refused(refused)),
    };
    let causes = if hinted { channel.causal_history() } else { Vec::new() };
    let hint = |id: &MessageId| -> Arc<[u8]> { [b"h:", id.as_bytes()].concat().into() };
    let hints: Vec<_> =
        causes.iter().map(|cause| (cause.message_id.clone(), hint(&cause.message_id))).collect();
    let message_id = message_id.into();
    let input = Input::Send { message_id: &message_id, content: &content, hints: &hints };
    let mut done = Done::default();
    done.take(id, participant.handle(id, input, now_ms)?.1)?;
    Ok(done)
}

fn receive(participant: &mut Participant, wire: &[u8], now_ms: u64) -> Result<Done, String> {
    let Ok(id) = wire::peek_channel_id(wire, ReadDialect::Strict(Dialect::Nim)) else {
        return Ok(Done::refused(NOT_READ));
    };
    let id = String::from_utf8_lossy(id).into_owned();
    let input = Input::Receive { wire, retrieval_hint: None };
    // The message is read before the channel is looked for.
    let probe = Channel::new(id.as_str().into(), "".into(), participant.config.clone(), now_ms);
    if probe.map_err(|error| error.to_string())?.handle(input, now_ms).is_err() {
        return Ok(Done::refused(NOT_READ));
    }
    if let Err(refused) = participant.channel(&id, now_ms)? {
        return Ok(Done::refused(refused));
    }
    let input = Input::Receive { wire, retrieval_hint: None };
    let (outcome, outputs) = participant.handle(&id, input, now_ms)?;
    let Outcome::Received(received) = outcome else { return Err(format!("answered {outcome:?}")) };
    let missing: Vec<Value> = received.missing.iter().map(entry_of).collect();
    let content = hex::encode(received.message.content.as_deref().unwrap_or_default());
    let mut done = Done::result(json!({ "ok": { "content": content, "channel": id, "missing": missing } }));
    done.take(&id, outputs)?;
    Ok(done)
}

fn sweep(participant: &mut Participant, sweep: Sweep, now_ms: u64) -> Result<Done, String> {
    let mut done = Done::default();
    for id in participant.channels.keys().cloned().collect::<Vec<_>>() {
        done.take(&id, participant.handle(&id, Input::Tick(sweep), now_ms)?.1)?;
    }
    if sweep == Sweep::Repairs {
        done.result = Some(json!({ "ok": true }));
    }
    Ok(done)
}

fn mark(participant: &mut Participant, step: &Value, now_ms: u64) -> Result<Done, String> {
    let id = text(step, "channel")?;
    if !participant.channels.contains_key(id) {
        return Ok(Done::refused(INVALID));
    }
    let message_ids: Vec<MessageId> =
        list(step, "ids").iter().filter_map(Value::as_str).map(Into::into).collect();
    let mut done = Done::answer(Ok(()));
    let input = Input::MarkDependenciesMet { message_ids: &message_ids };
    done.take(id, participant.handle(id, input, now_ms)?.1)?;
    Ok(done)
}

fn event_of(channel: &str, event: &Event) -> Result<Value, String> {
    Ok(match event {
        Event::Delivered { message, .. } => {
            json!({ "event": "message_ready", "id": message.message_id.to_string(), "channel": channel })
        }
        Event::Acknowledged { message_id } | Event::DeliveryUnconfirmed { message_id, .. } => {
            json!({ "event": "message_sent", "id": message_id.to_string(), "channel": channel })
        }
        Event::MissingDependencies { message_id, entries } => json!({
            "event": "missing_dependencies", "id": message_id.to_string(), "channel": channel,
            "missing": entries.iter().map(entry_of).collect::<Vec<_>>(),
        }),
        other => return Err(format!("raised {other:?}, which profile nim does not")),
    })
}

fn entry_of(entry: &HistoryEntry) -> Value {
    json!({ "id": entry.message_id.to_string(), "hint": hint_of(entry), "sender": sender_of(entry) })
}

fn hint_of(entry: &HistoryEntry) -> String {
    hex::encode(entry.retrieval_hint.as_deref().unwrap_or_default())
}

fn sender_of(entry: &HistoryEntry) -> String {
    entry.sender().map(ToString::to_string).unwrap_or_default()
}

/// Of what a transcript records of a channel, what a channel of ours shows too.
fn state_of(channel: &Channel) -> [(&'static str, Value); 6] {
    let id = |id: &MessageId| Value::String(id.to_string());
    let outgoing = channel.outgoing().map(|(message, state)| {
        json!({ "id": id(&message.message_id), "attempts": state.attempts, "send_ms": state.sent_ms })
    });
    let incoming = channel.incoming().map(|(entry, waits)| {
        let missing: Vec<Value> = waits.into_iter().map(id).collect();
        json!({ "id": id(&entry.message.message_id), "missing": missing })
    });
    let asked = channel.missing().map(|missing| {
        json!({
            "id": id(&missing.entry.message_id), "sender": sender_of(&missing.entry), "hint": hint_of(&missing.entry),
            "t_req_ms": missing.request_due_ms,
        })
    });
    let answers = channel.answers().map(|answer| {
        let wire = answer.message.as_ref().map(|message| wire::encode(message, Dialect::Nim));
        json!({
            "id": id(&answer.entry.message_id), "sender": sender_of(&answer.entry), "t_resp_ms": answer.due_ms,
            "cached_sha256": wire.map(|wire| hex::encode(Sha256::digest(wire))),
        })
    });
    [
        ("lamport", channel.lamport().into()),
        ("history", channel.log().map(|entry| id(&entry.message.message_id)).collect()),
        ("outgoing", outgoing.collect()),
        ("incoming", incoming.collect()),
        ("outgoing_repair", asked.collect()),
        ("incoming_repair", answers.collect()),
    ]
}

fn compare_states(participant: &Participant, recorded: &Value) -> Result<(), String> {
    let recorded = recorded.as_object().ok_or("has no channels")?;
    same(&participant.channels.keys().collect::<Vec<_>>(), &recorded.keys().collect())?;
    for (id, recorded) in recorded {
        for (field, ours) in participant.channels.get(id).map(state_of).into_iter().flatten() {
            same(&Some(&ours), &recorded.get(field)).map_err(|why| format!("{id} {field}: {why}"))?;
        }
    }
    Ok(())
}

fn sorted<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut lines: Vec<String> = values.into_iter().map(Value::to_string).collect();
    lines.sort();
    lines
}

fn config(recorded: &Value) -> Result<Config, String> {
    let mut config = Config {
        bloom_capacity: number(recorded, "bloom_filter_capacity")?,
        bloom_error_rate: rate(recorded, "bloom_filter_error_rate")?,
        causal_history: number(recorded, "max_causal_history")?,
        resend_interval_ms: number(recorded, "resend_interval_ms")?,
        resend_attempts_max: number(recorded, "max_resend_attempts")?,
        repair_t_min_ms: number(recorded, "repair_t_min_ms")?,
        repair_t_max_ms: number(recorded, "repair_t_max_ms")?,
        response_groups: number(recorded, "num_response_groups")?,
        repair_requests_max: number(recorded, "max_repair_requests")?,
        ..Config::nim()
    };
    config.limits.log_messages_max = number(recorded, "max_message_history")?;
    if Sizing::new(config.bloom_capacity, config.bloom_error_rate).bits.get() > FILTER_BITS_MAX / 2 {
        return Err("a filter that is larger than any that is read".to_owned());
    }
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}
