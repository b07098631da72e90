//! Runs of `@waku/sds`, replayed: 22 short ones step by step, and one on a bad network. What participants send is compared to the byte, and so is
//! the state after each step, except where the other implementation has a choice of its own (sds.md section 26): those are listed, and each has to
//! show.

use std::collections::{BTreeMap, BTreeSet};

use seabed_sds_core::wire::{self, Dialect};
use seabed_sds_core::{
    BloomAckThreshold, Channel, Config, Error, Event, Input, Message, MessageId, Outcome, Output, Reason,
    Reception, Released, Sweep,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{count, fields, list, number, read, text};

/// Scenario, what differs in it, and why.
const DIFFERENCES: &[(&str, &[&str], &str)] = &[
    ("buffered_counts_as_available", &["log"], "sections 9 and 10: a cause that waits itself is not met"),
    (
        "bloom_possible_then_ack",
        &["log", "incoming", "lamport", "outgoing", "possible"],
        "section 11: two filters of one sender count once; section 9: a cause that waits is not met",
    ),
    (
        "sync_acks_but_is_not_logged",
        &["lamport"],
        "section 14: a sync message that is not sent moves no clock",
    ),
    ("resend_same_bytes", &["lamport"], "section 26, 48: an id is used once; the resend is ours to make"),
    (
        "failed_transport_then_retry",
        &["log", "lamport"],
        "section 8: what was committed is in the log before it is sent, and is sent again in time",
    ),
    (
        "lost_after_timeout",
        &["log", "lamport", "wire"],
        "section 13: what waited is delivered with a gap, and named",
    ),
    ("repair_round_trip", &["outgoing", "possible"], "section 11: two filters of one sender count once"),
    (
        "repair_request_suppressed_by_peer",
        &["repair_out"],
        "section 17.1: what another one asks for is asked for later, not never",
    ),
    (
        "repair_sync_carries_request",
        &["lamport"],
        "section 14: a sync message that is not sent moves no clock",
    ),
];

/// A message of the file, and its bytes as they were.
fn message(fields: &Value) -> (Message, Vec<u8>) {
    let mut plain = fields.clone();
    plain["bloom"] = Value::Null;
    let mut message = fields::spec(&plain);
    let bloom = &fields["bloom"];
    message.bloom_filter = match (bloom["hex"].as_str(), bloom["bits"].as_array()) {
        (Some(bytes), _) => Some(hex::decode(bytes).unwrap().into()),
        (None, Some(bits)) => {
            let mut bytes = vec![0_u8; count(bloom, "bytes")];
            for bit in bits {
                let bit = usize::try_from(bit.as_u64().unwrap()).unwrap();
                bytes[8 * (bit / 64) + 7 - (bit % 64) / 8] |= 1 << (bit % 8);
            }
            Some(bytes.into())
        }
        _ => None,
    };
    let wire = wire::encode(&message, Dialect::Spec);
    assert_eq!(sha256(&wire), text(fields, "wire_sha256"), "a message that was rebuilt: {fields}");
    (message, wire)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn config(options: &Value) -> Config {
    let timeout_ms = options["timeoutForLostMessagesMs"].as_u64();
    let repair = &options["repairConfig"];
    Config {
        causal_history: options["causalHistorySize"]
            .as_u64()
            .map_or(200, |size| usize::try_from(size).unwrap()),
        bloom_ack_threshold: BloomAckThreshold::Filters(2),
        // Ours would not give up before it has asked.
        repair: options["enableRepair"] != false && timeout_ms.is_none(),
        repair_t_min_ms: repair["tMin"].as_u64().unwrap_or(30_000),
        repair_t_max_ms: repair["tMax"].as_u64().unwrap_or(120_000),
        dependency_timeout_ms: timeout_ms,
        sync_interval_ms: None,
        ..Config::seabed(Dialect::Spec)
    }
}

struct Run<'a> {
    name: &'a str,
    messages: BTreeMap<&'a str, (Message, Vec<u8>)>,
    peers: BTreeMap<&'a str, Channel>,
    sent: BTreeSet<&'a str>,
    t0_ms: u64,
    now_ms: u64,
    /// What differed, and where first.
    differed: BTreeMap<&'static str, String>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Value, t0_ms: u64) -> Self {
        let messages = scenario["messages"].as_object().unwrap().iter();
        let peers = scenario["peers"].as_object().unwrap().iter();
        Self {
            name: text(scenario, "name"),
            messages: messages.map(|(label, fields)| (label.as_str(), message(fields))).collect(),
            peers: peers
                .map(|(name, peer)| {
                    let (id, config) = (text(peer, "channel").into(), config(&peer["options"]));
                    (name.as_str(), Channel::new(id, name.as_str().into(), config, t0_ms).unwrap())
                })
                .collect(),
            sent: BTreeSet::new(),
            t0_ms,
            now_ms: t0_ms,
            differed: BTreeMap::new(),
        }
    }

    /// Notes a difference.
    fn compare<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &'static str,
        ours: &T,
        theirs: &T,
        at: &Value,
    ) {
        if ours != theirs {
            let (op, who, ms) = (&at["op"], &at["who"], &at["t_ms"]);
            let difference = || format!("{what} is {ours:?}, theirs {theirs:?}, at {op} of {who} at {ms}");
            self.differed.entry(what).or_insert_with(difference);
        }
    }

    fn handle(&mut self, who: &str, input: Input<'_>) -> Result<Released, Error> {
        let handled = self.peers.get_mut(who).unwrap().handle(input, self.now_ms)?;
        Ok(handled.effects.committed().release())
    }

    fn step(&mut self, step: &'a Value) {
        self.now_ms = self.t0_ms + number(step, "t_ms");
        if text(step, "op") == "advance" {
            return;
        }
        let who = text(step, "who");
        match text(step, "op") {
            "send" => self.send(who, step),
            "send_ephemeral" => {
                let (message, wire) = self.messages[text(step, "msg")].clone();
                let content = message.content.as_deref().unwrap();
                let input = Input::SendEphemeral { message_id: &message.message_id, content };
                assert_eq!(broadcasts(self.handle(who, input).unwrap()), [(Reason::Send, wire)]);
            }
            "recv" => self.receive(who, step),
            "sync" => self.sync(who, step),
            "sweep_in" => drop(self.handle(who, Input::Tick(Sweep::Buffers)).unwrap()),
            "sweep_repair" => self.answer(who, step),
            "sweep_out" => {}
            other => panic!("a step that this test does not know: {other}"),
        }
    }

    fn send(&mut self, who: &str, step: &'a Value) {
        let label = text(step, "msg");
        let (message, wire) = self.messages[label].clone();
        let content = message.content.as_deref().unwrap();
        let input = Input::Send { message_id: &message.message_id, content, hints: &[] };
        let sent = self.handle(who, input);
        if !self.sent.insert(label) {
            assert_eq!(sent.err(), Some(Error::ReusedMessageId(message.message_id)));
            return;
        }
        let ours = broadcasts(sent.unwrap());
        assert_eq!(ours.len(), 1);
        self.compare("wire", &sha256(&ours[0].1), &sha256(&wire), step);
        if let Some(hint) = step["hint"].as_str() {
            let hint = hex::decode(hint).unwrap();
            let input = Input::SetRetrievalHint { message_id: &message.message_id, hint: &hint };
            self.handle(who, input).unwrap();
        }
    }

    fn receive(&mut self, who: &str, step: &Value) {
        let label = text(step, "msg");
        let wire = match self.messages.get(label) {
            Some((_, wire)) => wire.clone(),
            // An answer, which theirs makes the same as the message.
            None => self.messages["m1"].1.clone(),
        };
        let hint = step["hint"].as_str().map(|hint| hex::decode(hint).unwrap());
        let received = self.handle(who, Input::Receive { wire: &wire, retrieval_hint: hint.as_deref() });
        if self.name == "foreign_channel_dropped" {
            assert_eq!(received.err(), Some(Error::OtherChannel));
            return;
        }
        let released = received.unwrap();
        let Outcome::Received(received) = &released.outcome else { panic!("{released:?}") };
        match self.name {
            "ephemeral" => assert_eq!(received.reception, Reception::Ephemeral),
            "own_echo_ignored" => assert_eq!(received.reception, Reception::Duplicate),
            _ => {}
        }
    }

    fn sync(&mut self, who: &str, step: &Value) {
        let released = self.handle(who, Input::SendSync).unwrap();
        if step["sent"] == false {
            assert_eq!(released.outcome, Outcome::NothingToSay);
            return;
        }
        let ours = broadcasts(released);
        let read = wire::decode(&ours[0].1, self.peers[who].config().read, &wire::WireLimits::default());
        let (theirs, _) = &self.messages[text(step, "msg")];
        // Its name is random there.
        assert_eq!(Message { message_id: theirs.message_id.clone(), ..read.unwrap().message }, *theirs);
    }

    fn answer(&mut self, who: &str, step: &Value) {
        let answers = broadcasts(self.handle(who, Input::Tick(Sweep::Repairs)).unwrap());
        let theirs = list(step, "rebroadcast");
        assert_eq!(answers.len(), theirs.len(), "{step}");
        for ((_, wire), theirs) in answers.iter().zip(theirs) {
            let (message, _) =
                self.messages.values().find(|(_, wire)| sha256(wire) == text(theirs, "wire_sha256")).unwrap();
            // Section 17.4: without filter and requests.
            let plain = Message { bloom_filter: None, repair_request: Vec::new(), ..message.clone() };
            assert_eq!(*wire, wire::encode(&plain, Dialect::Spec));
        }
    }

    /// The state of a participant after a step, against theirs. They deliver what waited at the next sweep only.
    fn check(&mut self, step: &Value, is_last: bool) {
        let theirs = &step["after"];
        if theirs.is_null() {
            return;
        }
        let who = text(step, "who");
        let channel = &self.peers[who];
        let ids = |what: &str| list(theirs, what).iter().map(|id| id.as_str().unwrap().to_owned());
        let log: Vec<String> = channel.log().map(|entry| entry.message.message_id.to_string()).collect();
        let incoming: Vec<String> =
            channel.incoming().map(|(entry, _)| entry.message.message_id.to_string()).collect();
        let outgoing: BTreeSet<String> =
            channel.outgoing().map(|(message, _)| message.message_id.to_string()).collect();
        let possible: BTreeMap<String, u64> = channel
            .outgoing()
            .filter(|(_, state)| state.possible_acks() > 0)
            .map(|(message, state)| (message.message_id.to_string(), state.possible_acks().into()))
            .collect();
        let asked: BTreeSet<String> =
            channel.missing().map(|missing| missing.entry.message_id.to_string()).collect();
        let due: BTreeMap<String, Option<u64>> = channel
            .missing()
            .map(|missing| (missing.entry.message_id.to_string(), missing.request_due_ms))
            .collect();
        let answers: BTreeMap<String, u64> =
            channel.answers().map(|answer| (answer.entry.message_id.to_string(), answer.due_ms)).collect();
        let lamport = channel.lamport();
        let repairs = channel.config().repair;

        if is_last || list(theirs, "incoming").is_empty() {
            self.compare("lamport", &lamport, &number(theirs, "lamport"), step);
            self.compare("log", &log, &ids("log").collect(), step);
            let waits: BTreeSet<String> = incoming.into_iter().collect();
            self.compare("incoming", &waits, &ids("incoming").collect(), step);
        } else {
            let theirs: Vec<String> = ids("log").filter(|id| !log.contains(id)).collect();
            self.compare("log", &Vec::new(), &theirs, step);
        }
        self.compare("outgoing", &outgoing, &ids("outgoing").collect(), step);
        let theirs_possible = theirs["possible_acks"].as_object().unwrap().iter();
        let theirs_possible =
            theirs_possible.map(|(id, count)| (id.clone(), count.as_u64().unwrap())).collect();
        self.compare("possible", &possible, &theirs_possible, step);
        if repairs {
            let entries = list(theirs, "repair_out");
            let theirs_asked = entries.iter().map(|entry| text(entry, "message_id").to_owned()).collect();
            self.compare("repair_out", &asked, &theirs_asked, step);
            // Asked for once, they never ask again.
            for entry in entries.iter().filter(|entry| entry["requested"] == false) {
                let ours = due.get(text(entry, "message_id")).copied().flatten();
                self.compare("repair_out", &ours, &Some(number(entry, "t_req")), step);
            }
            let theirs_answers = list(theirs, "repair_in").iter();
            let theirs_answers = theirs_answers
                .map(|entry| (text(entry, "message_id").to_owned(), number(entry, "t_resp")))
                .collect();
            self.compare("repair_in", &answers, &theirs_answers, step);
        }
    }
}

fn broadcasts(released: Released) -> Vec<(Reason, Vec<u8>)> {
    let outputs = released.outputs.into_iter();
    outputs
        .filter_map(|output| match output {
            Output::Broadcast(broadcast) => Some((broadcast.reason, broadcast.wire)),
            Output::Event(_) => None,
        })
        .collect()
}

#[test]
fn scenarios_of_the_javascript_implementation_come_out_as_there_or_as_listed() {
    let vectors = read("sds-js/scenarios.json");
    let scenarios = list(&vectors, "scenarios");
    assert_eq!(scenarios.len(), 22);
    for scenario in scenarios {
        let mut run = Run::new(scenario, number(&vectors["meta"], "t0_ms"));
        let steps = list(scenario, "steps");
        for (index, step) in steps.iter().enumerate() {
            run.step(step);
            let is_last = steps[index + 1..].iter().all(|later| later["who"] != step["who"]);
            run.check(step, is_last);
        }
        let listed = DIFFERENCES.iter().find(|(name, ..)| *name == run.name);
        let listed: BTreeSet<&str> =
            listed.into_iter().flat_map(|(_, whats, _)| whats.iter().copied()).collect();
        let differed: BTreeSet<&str> = run.differed.keys().copied().collect();
        assert_eq!(differed, listed, "{}: {:#?}", run.name, run.differed);
    }
}

/// What each participant heard, in its order, heard by one of ours; then all of it once more, as repair would bring it.
#[test]
fn a_storm_of_the_javascript_implementation_is_put_in_order() {
    let vectors = read("sds-js/storm.json");
    let t0_ms = number(&vectors["meta"], "t0_ms");
    let messages = vectors["messages"].as_object().unwrap().iter();
    let messages: BTreeMap<&str, (Message, Vec<u8>)> =
        messages.map(|(id, fields)| (id.as_str(), message(fields))).collect();
    let contents: BTreeSet<&str> =
        messages.iter().filter(|(_, (message, _))| !message.is_sync()).map(|(id, _)| *id).collect();
    assert_eq!((list(&vectors, "log").len(), contents.len()), (572, 60));
    let mut logs = Vec::new();
    for who in ["p0", "p1", "p2", "p3"] {
        let config = Config { sync_interval_ms: None, ..Config::seabed(Dialect::Spec) };
        let mut channel = Channel::new("storm".into(), "listener".into(), config, t0_ms).unwrap();
        let mut delivered = Vec::new();
        let mut hear = |id: &str, now_ms: u64| {
            let input = Input::Receive { wire: &messages[id].1, retrieval_hint: None };
            let released = channel.handle(input, now_ms).unwrap().effects.committed().release();
            for output in released.outputs {
                if let Output::Event(Event::Delivered { message, gap }) = output {
                    assert!(!gap);
                    let mut causes = message.causal_history.iter();
                    let unmet = causes.find(|cause| !delivered.contains(&cause.message_id));
                    assert_eq!(unmet, None, "{who}: {} before its cause", message.message_id);
                    assert!(!delivered.contains(&message.message_id), "{who}: delivered twice");
                    delivered.push(message.message_id.clone());
                }
            }
        };
        let own = list(&vectors, "log").iter().filter(|line| line["who"] == who);
        for line in own.filter(|line| ["send", "recv"].contains(&text(line, "op"))) {
            hear(text(line, "id"), t0_ms + number(line, "t"));
        }
        let theirs: BTreeSet<MessageId> =
            list(&vectors["final"][who], "log").iter().map(|id| id.as_str().unwrap().into()).collect();
        let ours: BTreeSet<MessageId> = channel.log().map(|entry| entry.message.message_id.clone()).collect();
        assert!(ours.is_subset(&theirs), "{who}: theirs takes what waits for delivered");
        assert!(!ours.is_empty());
        for id in &contents {
            let input = Input::Receive { wire: &messages[id].1, retrieval_hint: None };
            channel.handle(input, t0_ms + 600_000).unwrap().effects.committed().release();
        }
        assert_eq!(channel.incoming().count(), 0);
        logs.push(channel.log().map(|entry| entry.message.message_id.to_string()).collect::<Vec<_>>());
    }
    let mut expected: Vec<(Option<u64>, &str)> =
        contents.iter().map(|id| (messages[id].0.lamport, *id)).collect();
    expected.sort_unstable();
    let expected: Vec<&str> = expected.into_iter().map(|(_, id)| id).collect();
    for log in logs {
        assert_eq!(log, expected);
    }
}
