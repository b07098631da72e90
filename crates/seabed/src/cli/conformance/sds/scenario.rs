//! Runs of `@waku/sds`: short ones step by step, and one on a bad network. Every message is built again from its fields and must have the recorded
//! bytes; what our participants send must be those messages, and what they hold after a step what was recorded.
//!
//! Where the other implementation has a choice of its own (sds.md section 26), the step passes with the difference.

use std::collections::{BTreeMap, BTreeSet};

use seabed_sds_core::wire::{self, Dialect, WireLimits};
use seabed_sds_core::{
    BloomAckThreshold, Channel, Config, Error, Event, Input, Message, MessageId, Outcome, Output, Released,
    Sweep,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::fields::{member, number, spec_message};
use crate::cli::conformance::{Tally, hex_bytes, list, same, text};

/// The largest filter that a message names by its bits.
const FILTER_BYTES_MAX: usize = 1024 * 1024;
/// How many entries a causal history of `@waku/sds` has.
const CAUSAL_HISTORY: usize = 200;

/// Scenarios in which something may differ from what was recorded, and what.
const DIFFERENCES: &[(&str, &[&str])] = &[
    // A cause that waits itself is not met (sections 9 and 10).
    ("buffered_counts_as_available", &["log", "incoming", "lamport"]),
    // Two filters of one sender count once (section 11).
    ("bloom_possible_then_ack", &["log", "incoming", "lamport", "outgoing"]),
    // A sync message that is not sent moves no clock (section 14).
    ("sync_acks_but_is_not_logged", &["lamport"]),
    // A sync message is not kept (section 14).
    ("sync_with_missing_dependency", &["incoming"]),
    // An id is used once; sending again is the channel's own doing (section 26).
    ("resend_same_bytes", &["lamport"]),
    // What was committed is in the log before it is sent (section 8).
    ("failed_transport_then_retry", &["log", "lamport"]),
    // What waited is delivered with a gap, and what is lost is not asked for any more (section 13).
    ("lost_after_timeout", &["log", "lamport", "wire", "repair_out"]),
    // Two filters of one sender count once (section 11).
    ("repair_round_trip", &["outgoing"]),
    // What another one asks for is asked for later, not never (section 17.1).
    ("repair_request_suppressed_by_peer", &["repair_out"]),
    // A sync message that is not sent moves no clock (section 14).
    ("repair_sync_carries_request", &["lamport"]),
];

/// Whether a file is a list of scenarios, or a run on a bad network.
pub(super) fn is_one(vectors: &Value) -> bool {
    list(vectors, "scenarios")
        .iter()
        .any(|scenario| ["peers", "messages", "steps"].iter().all(|name| scenario.get(name).is_some()))
        || is_storm(vectors)
}

fn is_storm(vectors: &Value) -> bool {
    vectors.get("messages").is_some_and(Value::is_object)
        && vectors.get("final").is_some()
        && vectors.get("log").is_some()
}

/// Every message, and every step.
pub(super) fn check(vectors: &Value, tally: &mut Tally) {
    let began_ms =
        vectors.get("meta").ok_or_else(|| "has no 'meta'".to_owned()).and_then(|meta| number(meta, "t0_ms"));
    let began_ms = match began_ms {
        Ok(began_ms) => began_ms,
        Err(why) => return tally.check(|| "the beginning".to_owned(), Err(why)),
    };
    if is_storm(vectors) {
        check_storm(vectors, began_ms, tally);
    }
    for scenario in list(vectors, "scenarios") {
        check_scenario(scenario, began_ms, tally);
    }
}

type Messages = BTreeMap<String, (Message, Vec<u8>)>;

/// The messages of a run; each is an expectation of its own.
fn messages(run: &Value, name: &str, tally: &mut Tally) -> Messages {
    let mut messages = Messages::new();
    for (label, fields) in run.get("messages").and_then(Value::as_object).into_iter().flatten() {
        let built = build(fields);
        let outcome = built.as_ref().map(|_| ()).map_err(Clone::clone);
        tally.check(|| format!("{name}: message {label}"), outcome);
        if let Ok(built) = built {
            messages.insert(label.clone(), built);
        }
    }
    messages
}

/// A message from its fields, and its bytes, which must be those that were recorded.
fn build(fields: &Value) -> Result<(Message, Vec<u8>), String> {
    let mut plain = fields.clone();
    let bloom = plain.as_object_mut().and_then(|fields| fields.remove("bloom")).unwrap_or_default();
    let mut message = spec_message(&plain)?;
    if bloom.get("hex").is_some() {
        message.bloom_filter = Some(hex_bytes(&bloom, "hex")?.into());
    } else if bloom.get("bits").is_some() {
        let length: usize = number(&bloom, "bytes")?;
        if length > FILTER_BYTES_MAX {
            return Err(format!("a filter of more than {FILTER_BYTES_MAX} bytes"));
        }
        let mut bytes = vec![0_u8; length];
        for bit in list(&bloom, "bits") {
            let bit =
                bit.as_u64().and_then(|bit| usize::try_from(bit).ok()).ok_or("a bit that is no number")?;
            // Words of 64 bits, each with its largest byte first.
            let byte = bytes.get_mut(8 * (bit / 64) + 7 - (bit % 64) / 8).ok_or("a bit beyond the filter")?;
            *byte |= 1 << (bit % 8);
        }
        message.bloom_filter = Some(bytes.into());
    }
    let wire = wire::encode(&message, Dialect::Spec);
    same(sha256(&wire).as_str(), text(fields, "wire_sha256")?)?;
    Ok((message, wire))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn check_scenario(scenario: &Value, began_ms: u64, tally: &mut Tally) {
    let name = text(scenario, "name").unwrap_or("a scenario without a name");
    let messages = messages(scenario, name, tally);
    let mut run = match Run::new(scenario, name, messages, began_ms) {
        Ok(run) => run,
        Err(why) => return tally.check(|| format!("{name}: its participants"), Err(why)),
    };
    let steps = list(scenario, "steps");
    for (number, step) in steps.iter().enumerate() {
        let mut later = steps.iter().skip(number + 1);
        let is_last = later.all(|later| later.get("who") != step.get("who"));
        let outcome = run.step(step).and_then(|()| run.compare(step, is_last));
        let failed = outcome.is_err();
        let op = text(step, "op").unwrap_or("without an operation");
        tally.check(|| format!("{name}: step {number} ({op})"), outcome);
        if failed {
            return;
        }
    }
}

struct Run<'a> {
    name: &'a str,
    messages: Messages,
    peers: BTreeMap<&'a str, Channel>,
    sent: BTreeSet<&'a str>,
    began_ms: u64,
    now_ms: u64,
    may_differ: &'static [&'static str],
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Value, name: &'a str, messages: Messages, began_ms: u64) -> Result<Self, String> {
        let peers = scenario.get("peers").and_then(Value::as_object).into_iter().flatten();
        let peers = peers.map(|(name, peer)| {
            let config = config(peer.get("options").unwrap_or(&Value::Null))?;
            let channel = Channel::new(text(peer, "channel")?.into(), name.as_str().into(), config, began_ms);
            Ok((name.as_str(), channel.map_err(|error| error.to_string())?))
        });
        let may_differ =
            DIFFERENCES.iter().find(|(other, _)| *other == name).map_or(&[][..], |(_, what)| what);
        Ok(Self {
            name,
            messages,
            peers: peers.collect::<Result<_, String>>()?,
            sent: BTreeSet::new(),
            began_ms,
            now_ms: began_ms,
            may_differ,
        })
    }

    fn message(&self, label: &str) -> Result<(Message, Vec<u8>), String> {
        self.messages.get(label).cloned().ok_or_else(|| format!("no message {label}"))
    }

    fn peer(&mut self, who: &str) -> Result<&mut Channel, String> {
        self.peers.get_mut(who).ok_or_else(|| format!("no participant {who}"))
    }

    fn handle(&mut self, who: &str, input: Input<'_>) -> Result<Result<Released, Error>, String> {
        let now_ms = self.now_ms;
        let handled = self.peer(who)?.handle(input, now_ms);
        Ok(handled.map(|handled| handled.effects.committed().release()))
    }

    /// One that must be taken.
    fn done(&mut self, who: &str, input: Input<'_>) -> Result<Released, String> {
        self.handle(who, input)?.map_err(|error| error.to_string())
    }

    /// Compares what was recorded, unless it may differ.
    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        found: &T,
        recorded: &T,
    ) -> Result<(), String> {
        if self.may_differ.contains(&what) {
            return Ok(());
        }
        same(found, recorded).map_err(|why| format!("{what}: {why}"))
    }

    fn step(&mut self, step: &'a Value) -> Result<(), String> {
        let op = text(step, "op")?;
        if op == "advance" {
            // A clock may have been set in between, which is no step: where it stands is what counts.
            self.now_ms = self.began_ms.checked_add(number(step, "t_ms")?).ok_or("time ends")?;
            return Ok(());
        }
        let who = text(step, "who")?;
        match op {
            "send" => self.send(who, step),
            "send_ephemeral" => {
                let (message, wire) = self.message(text(step, "msg")?)?;
                let content = message.content.as_deref().unwrap_or_default();
                let input = Input::SendEphemeral { message_id: &message.message_id, content };
                let sent = self.done(who, input)?;
                self.same("wire", &hashes(&sent), &vec![sha256(&wire)])
            }
            "recv" => self.receive(who, step),
            "sync" => self.sync(who, step),
            "sweep_in" => self.done(who, Input::Tick(Sweep::Buffers)).map(drop),
            "sweep_repair" => self.answer(who, step),
            "sweep_out" => Ok(()),
            other => Err(format!("the operation '{other}' is not known here")),
        }
    }

    fn send(&mut self, who: &str, step: &'a Value) -> Result<(), String> {
        let label = text(step, "msg")?;
        let (message, wire) = self.message(label)?;
        let content = message.content.as_deref().unwrap_or_default();
        let sent = self.handle(who, Input::Send { message_id: &message.message_id, content, hints: &[] })?;
        if !self.sent.insert(label) {
            return same(&sent.err(), &Some(Error::ReusedMessageId(message.message_id)));
        }
        let sent = sent.map_err(|error| error.to_string())?;
        self.same("wire", &hashes(&sent), &vec![sha256(&wire)])?;
        if member(step, "hint").is_ok() {
            let hint = hex_bytes(step, "hint")?;
            self.done(who, Input::SetRetrievalHint { message_id: &message.message_id, hint: &hint })?;
        }
        Ok(())
    }

    fn receive(&mut self, who: &str, step: &Value) -> Result<(), String> {
        let label = text(step, "msg")?;
        // An answer, which theirs makes the same as the message that was asked for.
        let (message, wire) = self.message(label).or_else(|_| self.message("m1"))?;
        let hint = member(step, "hint").is_ok().then(|| hex_bytes(step, "hint")).transpose()?;
        let received = self.handle(who, Input::Receive { wire: &wire, retrieval_hint: hint.as_deref() })?;
        if message.channel_id != *self.peer(who)?.channel_id() {
            return same(&received.err(), &Some(Error::OtherChannel));
        }
        received.map(drop).map_err(|error| error.to_string())
    }

    fn sync(&mut self, who: &str, step: &Value) -> Result<(), String> {
        let released = self.done(who, Input::SendSync)?;
        if step.get("sent") == Some(&Value::Bool(false)) {
            return same(&released.outcome, &Outcome::NothingToSay);
        }
        let ours = wires(&released).into_iter().next().ok_or("sends nothing")?;
        let read = wire::decode(&ours, self.peer(who)?.config().read, &WireLimits::default());
        let read = read.map_err(|error| error.to_string())?.message;
        let (theirs, _) = self.message(text(step, "msg")?)?;
        // Its name is random there.
        self.same("wire", &Message { message_id: theirs.message_id.clone(), ..read }, &theirs)
    }

    fn answer(&mut self, who: &str, step: &Value) -> Result<(), String> {
        let answers = self.done(who, Input::Tick(Sweep::Repairs))?;
        let mut expected = Vec::new();
        for theirs in list(step, "rebroadcast") {
            let recorded = text(theirs, "wire_sha256")?;
            let found = self.messages.values().find(|(_, wire)| sha256(wire) == recorded);
            let (message, _) = found.ok_or("an answer that is no message of the run")?;
            // Without filter and requests (section 17.4).
            let plain = Message { bloom_filter: None, repair_request: Vec::new(), ..message.clone() };
            expected.push(sha256(&wire::encode(&plain, Dialect::Spec)));
        }
        self.same("wire", &hashes(&answers), &expected)
    }

    /// What a participant holds after a step. Theirs delivers what waited at its next sweep, ours at once.
    fn compare(&self, step: &Value, is_last: bool) -> Result<(), String> {
        let Ok(theirs) = member(step, "after") else { return Ok(()) };
        let who = text(step, "who")?;
        let channel = self.peers.get(who).ok_or_else(|| format!("no participant {who}"))?;
        let recorded = |what: &str| list(theirs, what).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let recorded_set =
            |what: &str| recorded(what).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let log: Vec<String> = channel.log().map(|entry| entry.message.message_id.to_string()).collect();
        if is_last || recorded("incoming").is_empty() {
            let waits = channel.incoming().map(|(entry, _)| entry.message.message_id.to_string());
            self.same("lamport", &channel.lamport(), &number(theirs, "lamport")?)?;
            self.same("log", &log.iter().map(String::as_str).collect(), &recorded("log"))?;
            self.same("incoming", &waits.collect(), &recorded_set("incoming"))?;
        } else {
            let mut early = recorded("log");
            early.retain(|id| !log.iter().any(|held| held == id));
            self.same("log", &Vec::new(), &early)?;
        }
        let outgoing = channel.outgoing().map(|(message, _)| message.message_id.to_string());
        self.same("outgoing", &outgoing.collect(), &recorded_set("outgoing"))?;
        if channel.config().repair {
            let asked = channel.missing().map(|missing| missing.entry.message_id.to_string());
            let theirs_asked =
                list(theirs, "repair_out").iter().map(|entry| text(entry, "message_id").map(str::to_owned));
            self.same(
                "repair_out",
                &asked.collect::<BTreeSet<_>>(),
                &theirs_asked.collect::<Result<_, _>>()?,
            )?;
        }
        let answers = channel.answers().map(|answer| (answer.entry.message_id.to_string(), answer.due_ms));
        let theirs_answers = list(theirs, "repair_in")
            .iter()
            .map(|entry| Ok((text(entry, "message_id")?.to_owned(), number(entry, "t_resp")?)));
        self.same(
            "repair_in",
            &answers.collect::<BTreeMap<_, u64>>(),
            &theirs_answers.collect::<Result<_, String>>()?,
        )
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("name", &self.name).finish_non_exhaustive()
    }
}

fn config(options: &Value) -> Result<Config, String> {
    let optional = |value: &Value, name: &str| {
        member(value, name).is_ok().then(|| number::<u64>(value, name)).transpose()
    };
    let timeout_ms = optional(options, "timeoutForLostMessagesMs")?;
    let repair = options.get("repairConfig").unwrap_or(&Value::Null);
    let default = Config::seabed(Dialect::Spec);
    let causal_history = match optional(options, "causalHistorySize")? {
        Some(size) => usize::try_from(size).map_err(|error| error.to_string())?,
        None => CAUSAL_HISTORY,
    };
    let config = Config {
        causal_history,
        bloom_ack_threshold: BloomAckThreshold::Filters(2),
        // Ours would not give up before it has asked.
        repair: options.get("enableRepair") != Some(&Value::Bool(false)) && timeout_ms.is_none(),
        repair_t_min_ms: optional(repair, "tMin")?.unwrap_or(default.repair_t_min_ms),
        repair_t_max_ms: optional(repair, "tMax")?.unwrap_or(default.repair_t_max_ms),
        dependency_timeout_ms: timeout_ms,
        sync_interval_ms: None,
        ..default
    };
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}

fn wires(released: &Released) -> Vec<Vec<u8>> {
    let outputs = released.outputs.iter();
    outputs
        .filter_map(|output| match output {
            Output::Broadcast(broadcast) => Some(broadcast.wire.clone()),
            Output::Event(_) => None,
        })
        .collect()
}

fn hashes(released: &Released) -> Vec<String> {
    wires(released).iter().map(|wire| sha256(wire)).collect()
}

/// What each participant heard, in its order, is heard by one of ours; then all of it once more, as repair would bring it. Causes come first,
/// nothing comes twice, and in the end there is one order.
fn check_storm(run: &Value, began_ms: u64, tally: &mut Tally) {
    let messages = messages(run, "messages", tally);
    let contents = messages.iter().filter(|(_, (message, _))| !message.is_sync());
    let mut order: Vec<_> =
        contents.map(|(_, (message, _))| (message.lamport, message.message_id.clone())).collect();
    order.sort_unstable();
    let order: Vec<MessageId> = order.into_iter().map(|(_, id)| id).collect();
    for (who, theirs) in run.get("final").and_then(Value::as_object).into_iter().flatten() {
        let mut listener = match Listener::new(&messages, began_ms) {
            Ok(listener) => listener,
            Err(why) => return tally.check(|| who.clone(), Err(why)),
        };
        let own = list(run, "log").iter().filter(|line| line.get("who").is_some_and(|name| name == who));
        for (number, line) in
            own.enumerate().filter(|(_, line)| matches!(text(line, "op"), Ok("send" | "recv")))
        {
            tally.check(|| format!("{who}: line {number}"), listener.hear_line(line, began_ms));
        }
        tally.check(|| format!("{who}: what it has heard"), listener.is_part_of(theirs));
        let all = messages.values().filter(|(message, _)| !message.is_sync());
        let again = all.clone().try_for_each(|(_, wire)| listener.hear(wire, listener.now_ms));
        let log = listener.channel.log().map(|entry| entry.message.message_id.clone()).collect::<Vec<_>>();
        tally.check(|| format!("{who}: the order of all"), again.and_then(|()| same(&log, &order)));
    }
}

struct Listener<'a> {
    messages: &'a Messages,
    channel: Channel,
    delivered: BTreeSet<MessageId>,
    now_ms: u64,
}

impl<'a> Listener<'a> {
    fn new(messages: &'a Messages, now_ms: u64) -> Result<Self, String> {
        let (first, _) = messages.values().next().ok_or("no messages")?;
        let config = Config { sync_interval_ms: None, ..Config::seabed(Dialect::Spec) };
        let channel = Channel::new(first.channel_id.clone(), "listener".into(), config, now_ms);
        let channel = channel.map_err(|error| error.to_string())?;
        Ok(Self { messages, channel, delivered: BTreeSet::new(), now_ms })
    }

    fn hear_line(&mut self, line: &Value, began_ms: u64) -> Result<(), String> {
        let id = text(line, "id")?;
        let (_, wire) = self.messages.get(id).ok_or_else(|| format!("no message {id}"))?;
        self.now_ms = began_ms.checked_add(number(line, "t")?).ok_or("time ends")?;
        self.hear(wire, self.now_ms)
    }

    fn hear(&mut self, wire: &[u8], now_ms: u64) -> Result<(), String> {
        let handled = self.channel.handle(Input::Receive { wire, retrieval_hint: None }, now_ms);
        let released = handled.map_err(|error| error.to_string())?.effects.committed().release();
        for output in released.outputs {
            let Output::Event(Event::Delivered { message, gap }) = output else { continue };
            let id = &message.message_id;
            let mut causes = message.causal_history.iter();
            if let Some(cause) = causes.find(|cause| gap || !self.delivered.contains(&cause.message_id)) {
                return Err(format!("{id} is delivered before its cause {}", cause.message_id));
            }
            if !self.delivered.insert(id.clone()) {
                return Err(format!("{id} is delivered twice"));
            }
        }
        Ok(())
    }

    /// Theirs takes what waits for delivered, so ours has at most as much.
    fn is_part_of(&self, theirs: &Value) -> Result<(), String> {
        let log: BTreeSet<MessageId> =
            list(theirs, "log").iter().filter_map(Value::as_str).map(Into::into).collect();
        match self.channel.log().map(|entry| &entry.message.message_id).find(|id| !log.contains(*id)) {
            Some(id) => Err(format!("{id} is delivered, and was not there")),
            None => Ok(()),
        }
    }
}
