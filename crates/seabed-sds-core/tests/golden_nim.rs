//! The transcripts recorded from a running nim-sds, replayed under profile `nim`: each message that it sent must come out to the byte, and
//! each state that it logged must be ours. Normalised is only what sds.md section 26a says: a message given up is reported by nim as sent
//! (here as `DeliveryUnconfirmed`), and messages that become ready together are compared as sets.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use seabed_sds_core::wire::{self, Dialect, ReadDialect};
use seabed_sds_core::{
    Change, Channel, Config, Error, Event, Handled, HistoryEntry, Input, Key, MessageId, Outcome, Output,
    Record, Sweep,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a participant's disk holds of a channel. nim-sds writes the state and the log apart, and either can fail.
#[derive(Default, Clone)]
struct Disk {
    meta: Vec<Record>,
    log: Vec<Record>,
}

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
#[derive(Default)]
struct Done {
    result: Option<Value>,
    events: Vec<Value>,
    wires: Vec<Vec<u8>>,
}

impl Participant {
    fn fails(&self, operation: &str) -> bool {
        self.failing.contains(operation)
    }

    /// Loads a channel at its first use.
    fn ensure(&mut self, id: &str, now_ms: u64) -> Result<(), &'static str> {
        if self.channels.contains_key(id) {
            return Ok(());
        }
        if self.fails("loadChannel") {
            return Err("rePersistenceError");
        }
        let disk = self.disks.get(id).cloned().unwrap_or_default();
        let mut log = disk.log;
        if self.sorts_log {
            let order = |record: &Record| match record {
                Record::Log(entry) => (entry.message.lamport, entry.message.message_id.clone()),
                other => unreachable!("not of the log: {other:?}"),
            };
            log.sort_by_key(order);
            for (position, record) in (0..).zip(&mut log) {
                if let Record::Log(entry) = record {
                    entry.position = position;
                }
            }
        }
        let records = disk.meta.into_iter().chain(log);
        let participant = self.name.as_str().into();
        let channel =
            Channel::load(id.into(), participant, self.config.clone(), records, now_ms).expect("a state");
        self.channels.insert(id.to_owned(), channel);
        Ok(())
    }

    fn handle(&mut self, id: &str, input: Input<'_>, now_ms: u64) -> Result<(Outcome, Vec<Output>), Error> {
        let channel = self.channels.get_mut(id).expect("a channel in memory");
        let sweep = matches!(input, Input::Tick(_));
        let Handled { changes, effects } = channel.handle(input, now_ms)?;
        let written = effects.committed().release();
        if !sweep || !changes.is_empty() {
            self.save(id);
        }
        check_changes(&changes.into_iter().collect::<Vec<_>>());
        Ok((written.outcome, written.outputs))
    }

    fn save(&mut self, id: &str) {
        let records: Vec<Record> = self.channels[id].records().collect();
        let (log, meta): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| matches!(record, Record::Log(_)));
        let (fails_meta, fails_log) = (self.fails("saveChannelMeta"), self.fails("updateHistory"));
        let disk = self.disks.entry(id.to_owned()).or_default();
        if !fails_meta {
            disk.meta = meta;
        }
        if !fails_log {
            disk.log = log;
        }
    }

    fn state(&self) -> Value {
        let channels = self.channels.iter().map(|(id, channel)| (id.clone(), state_of(channel)));
        Value::Object(channels.collect())
    }
}

/// No row twice, and no row that does not fit its key.
fn check_changes(changes: &[Change]) {
    let keys: Vec<Key> = changes
        .iter()
        .map(|change| match change {
            Change::Put(record) => record.key(),
            Change::Delete(key) => key.clone(),
        })
        .collect();
    assert!(keys.is_sorted_by(|one, other| one < other), "{keys:?}");
}

fn state_of(channel: &Channel) -> Value {
    let id = |id: &MessageId| Value::String(id.to_string());
    let hint = |entry: &HistoryEntry| hex::encode(entry.retrieval_hint.as_deref().unwrap_or_default());
    let sender = |entry: &HistoryEntry| entry.sender().map(ToString::to_string).unwrap_or_default();
    json!({
        "lamport": channel.lamport(),
        "history": channel.log().map(|entry| id(&entry.message.message_id)).collect::<Vec<_>>(),
        "outgoing": channel.outgoing().map(|(message, state)| json!({
            "id": id(&message.message_id), "attempts": state.attempts, "send_ms": state.sent_ms,
        })).collect::<Vec<_>>(),
        "incoming": channel.incoming().map(|(entry, waits)| json!({
            "id": id(&entry.message.message_id), "missing": waits.into_iter().map(id).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "outgoing_repair": channel.missing().map(|missing| json!({
            "id": id(&missing.entry.message_id), "sender": sender(&missing.entry), "hint": hint(&missing.entry),
            "t_req_ms": missing.request_due_ms,
        })).collect::<Vec<_>>(),
        "incoming_repair": channel.answers().map(|answer| json!({
            "id": id(&answer.entry.message_id), "sender": sender(&answer.entry), "t_resp_ms": answer.due_ms,
            "cached_sha256": answer.message.as_ref().map(|message| sha256(&wire::encode(message, Dialect::Nim))),
        })).collect::<Vec<_>>(),
    })
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

struct Replay {
    participants: BTreeMap<String, Participant>,
    wire: Vec<Vec<u8>>,
    now_ms: u64,
}

impl Replay {
    fn new(transcript: &Value) -> Self {
        let config = config(&transcript["config"]);
        let participant = |name: &Value| {
            let name = text(name);
            let participant = Participant {
                name: name.clone(),
                config: config.clone(),
                channels: BTreeMap::new(),
                disks: BTreeMap::new(),
                failing: BTreeSet::new(),
                sorts_log: transcript["persistence"] == "kv",
                hints: transcript["retrieval_hints"] == true,
            };
            (name, participant)
        };
        Self {
            participants: each(&transcript["participants"]).map(participant).collect(),
            wire: each(&transcript["wire"]).map(|wire| bytes(&wire["bytes"])).collect(),
            now_ms: transcript["start_ms"].as_u64().expect("start_ms"),
        }
    }

    fn step(&mut self, step: &Value) -> Done {
        let now_ms = self.now_ms;
        if step["op"] == "advance" {
            self.now_ms += step["ms"].as_u64().expect("ms");
            return Done::default();
        }
        let participant = self.participants.get_mut(&text(&step["p"])).expect("a participant");
        match text(&step["op"]).as_str() {
            "wrap" => wrap(participant, step, now_ms),
            "deliver" => receive(participant, &self.wire[index(&step["wire"])], now_ms),
            "deliver_raw" => receive(participant, &bytes(&step["bytes"]), now_ms),
            "buffer_sweep" => sweep(participant, Sweep::Buffers, now_ms),
            "repair_sweep" => sweep(participant, Sweep::Repairs, now_ms),
            "mark_dependencies_met" => mark(participant, step, now_ms),
            "restart" => {
                participant.channels.clear();
                let mut channels = each(&step["ensure_channels"]);
                let failed = channels.find_map(|id| participant.ensure(&text(id), now_ms).err());
                Done { result: failed.map(|error| json!({ "error": error })), ..Done::default() }
            }
            "persistence_fail" => {
                participant.failing = each(&step["ops"]).map(text).collect();
                Done::default()
            }
            "reset" => {
                let ids: Vec<String> = participant.channels.keys().cloned().collect();
                ids.iter().map(|id| remove(participant, id)).find(Result::is_err).map_or_else(
                    || Done::result(json!({"ok": true})),
                    |error| Done::result(json!({ "error": error.expect_err("found") })),
                )
            }
            "remove_channel" => match remove(participant, &text(&step["channel"])) {
                Ok(()) => Done::result(json!({"ok": true})),
                Err(error) => Done::result(json!({ "error": error })),
            },
            other => unreachable!("an operation that this test does not know: {other}"),
        }
    }
}

impl Done {
    fn result(result: Value) -> Self {
        Self { result: Some(result), ..Self::default() }
    }

    fn take(&mut self, channel: &str, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Broadcast(broadcast) => self.wires.push(broadcast.wire),
                Output::Event(event) => self.events.push(event_of(channel, &event)),
            }
        }
    }
}

fn wrap(participant: &mut Participant, step: &Value, now_ms: u64) -> Done {
    let id = text(&step["channel"]);
    let (message_id, content) = (MessageId::from(text(&step["id"]).as_str()), bytes(&step["content"]));
    // An empty or oversized content is refused before the channel is looked for.
    if content.is_empty() {
        return Done::result(json!({"error": "reInvalidArgument"}));
    }
    if let Err(error) = participant.ensure(&id, now_ms) {
        return Done::result(json!({ "error": error }));
    }
    let hints: Vec<(MessageId, Arc<[u8]>)> = if participant.hints {
        let causes = participant.channels[&id].causal_history();
        causes.into_iter().map(|cause| (cause.message_id.clone(), hint_of(&cause.message_id))).collect()
    } else {
        Vec::new()
    };
    let send = Input::Send { message_id: &message_id, content: &content, hints: &hints };
    let mut done = Done::default();
    let (_, outputs) = participant.handle(&id, send, now_ms).expect("sent");
    done.take(&id, outputs);
    done
}

fn receive(participant: &mut Participant, wire: &[u8], now_ms: u64) -> Done {
    let Ok(id) = wire::peek_channel_id(wire, ReadDialect::Strict(Dialect::Nim)) else {
        return Done::result(json!({"error": "reDeserializationError"}));
    };
    let id = String::from_utf8_lossy(id).into_owned();
    // nim-sds reads the message before it looks for the channel.
    let probe = Channel::new(id.as_str().into(), "".into(), participant.config.clone(), now_ms);
    let input = Input::Receive { wire, retrieval_hint: None };
    if probe.expect("a configuration").handle(input, now_ms).is_err() {
        return Done::result(json!({"error": "reDeserializationError"}));
    }
    if let Err(error) = participant.ensure(&id, now_ms) {
        return Done::result(json!({ "error": error }));
    }
    let (outcome, outputs) = participant.handle(&id, input, now_ms).expect("received");
    let Outcome::Received(received) = outcome else { unreachable!("{outcome:?}") };
    let missing: Vec<Value> = received.missing.iter().map(entry_of).collect();
    let content = hex::encode(received.message.content.as_deref().unwrap_or_default());
    let mut done = Done::result(json!({"ok": {"content": content, "channel": id, "missing": missing}}));
    done.take(&id, outputs);
    done
}

fn sweep(participant: &mut Participant, sweep: Sweep, now_ms: u64) -> Done {
    let mut done = Done::default();
    for id in participant.channels.keys().cloned().collect::<Vec<_>>() {
        let (_, outputs) = participant.handle(&id, Input::Tick(sweep), now_ms).expect("swept");
        done.take(&id, outputs);
    }
    if sweep == Sweep::Repairs {
        done.result = Some(json!({"ok": true}));
    }
    done
}

fn mark(participant: &mut Participant, step: &Value, now_ms: u64) -> Done {
    let id = text(&step["channel"]);
    if !participant.channels.contains_key(&id) {
        return Done::result(json!({"error": "reInvalidArgument"}));
    }
    let message_ids: Vec<MessageId> = each(&step["ids"]).map(|id| text(id).as_str().into()).collect();
    let mut done = Done::result(json!({"ok": true}));
    let input = Input::MarkDependenciesMet { message_ids: &message_ids };
    done.take(&id, participant.handle(&id, input, now_ms).expect("marked").1);
    done
}

fn remove(participant: &mut Participant, id: &str) -> Result<(), &'static str> {
    if participant.fails("dropChannel") {
        return Err("rePersistenceError");
    }
    participant.channels.remove(id);
    participant.disks.remove(id);
    Ok(())
}

fn event_of(channel: &str, event: &Event) -> Value {
    match event {
        Event::Delivered { message, .. } => {
            json!({"event": "message_ready", "id": message.message_id.to_string(), "channel": channel})
        }
        Event::Acknowledged { message_id } | Event::DeliveryUnconfirmed { message_id, .. } => {
            json!({"event": "message_sent", "id": message_id.to_string(), "channel": channel})
        }
        Event::MissingDependencies { message_id, entries } => json!({
            "event": "missing_dependencies", "id": message_id.to_string(), "channel": channel,
            "missing": entries.iter().map(entry_of).collect::<Vec<_>>(),
        }),
        other => unreachable!("profile nim raised {other:?}"),
    }
}

fn entry_of(entry: &HistoryEntry) -> Value {
    json!({
        "id": entry.message_id.to_string(),
        "hint": hex::encode(entry.retrieval_hint.as_deref().unwrap_or_default()),
        "sender": entry.sender().map(ToString::to_string).unwrap_or_default(),
    })
}

fn hint_of(id: &MessageId) -> Arc<[u8]> {
    [b"h:", id.as_bytes()].concat().into()
}

fn config(recorded: &Value) -> Config {
    let number = |name: &str| recorded[name].as_u64().expect("a number");
    let count = |name: &str| usize::try_from(number(name)).expect("a count");
    let mut config = Config {
        bloom_capacity: count("bloom_filter_capacity"),
        bloom_error_rate: recorded["bloom_filter_error_rate"].as_f64().expect("a rate"),
        causal_history: count("max_causal_history"),
        resend_interval_ms: number("resend_interval_ms"),
        resend_attempts_max: u32::try_from(number("max_resend_attempts")).expect("attempts"),
        repair_t_min_ms: number("repair_t_min_ms"),
        repair_t_max_ms: number("repair_t_max_ms"),
        response_groups: number("num_response_groups"),
        repair_requests_max: count("max_repair_requests"),
        ..Config::nim()
    };
    config.limits.log_messages_max = count("max_message_history");
    config
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("hex")).expect("hex")
}

fn index(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("an index")).expect("an index")
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("an array").iter()
}

fn sorted(values: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut lines: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    lines.sort();
    lines
}

fn replay(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/sds/transcripts").join(name);
    let transcript = std::fs::read_to_string(path).expect("a transcript");
    let transcript: Value = serde_json::from_str(&transcript).expect("JSON");
    let mut replay = Replay::new(&transcript);
    let mut compared = 0;
    for step in each(&transcript["steps"]) {
        let at = format!("{name} step {} {}", step["i"], step["op"]);
        let done = replay.step(step);
        assert_eq!(replay.now_ms, step["now_ms"].as_u64().expect("now_ms"), "{at}");
        let mut wires = done.wires.into_iter();
        if let Some(wire) = step["result"]["ok"].get("wire") {
            compared += 1;
            assert_eq!(wires.next().map(hex::encode), Some(hex::encode(&replay.wire[index(wire)])), "{at}");
        } else {
            assert_eq!(done.result.as_ref(), step.get("result"), "{at}");
        }
        let (repairs, events): (Vec<&Value>, Vec<&Value>) = step
            .get("events")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .partition(|event| event["event"] == "repair_ready");
        for repair in repairs {
            let expected = &replay.wire[index(&repair["wire"])];
            assert_eq!(wires.next().map(hex::encode), Some(hex::encode(expected)), "{at}");
        }
        assert_eq!(wires.next(), None, "{at} sends more");
        assert_eq!(sorted(done.events), sorted(events.into_iter().cloned()), "{at}");
        for (participant, state) in step.get("state").and_then(Value::as_object).into_iter().flatten() {
            compare_states(&replay.participants[participant].state(), &state["channels"], &at);
        }
    }
    assert!(compared > 5, "{name}: only {compared} messages were compared");
}

fn compare_states(ours: &Value, recorded: &Value, at: &str) {
    let names = |value: &Value| value.as_object().expect("channels").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(recorded), "{at}");
    for (channel, recorded) in recorded.as_object().expect("channels") {
        for (field, ours) in ours[channel].as_object().expect("fields") {
            assert_eq!(ours, &recorded[field], "{at} {channel} {field}");
        }
    }
}

#[test]
fn the_transcripts_of_nim_come_out_to_the_byte() {
    for number in 0..22 {
        replay(&format!("t{number:02}.json"));
    }
}
