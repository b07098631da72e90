//! The specification, sentence by sentence: each test names the section of sds.md that it is about.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use common::{Peer, START_MS, decode, encode, entry, message, of_reason};
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::{self, Dialect};
use seabed_sds_core::{
    BloomAckThreshold, Config, ConfigError, Error, Input, Key, LamportUnit, Message, MessageId, Outcome,
    Reason, Reception, SYNC_IDS_MAX,
};

const NOW_S: u64 = START_MS / 1_000;

fn seabed() -> Config {
    Config::seabed(Dialect::Nim)
}

fn pair() -> (Peer, Peer) {
    (Peer::nim_dialect("alice"), Peer::nim_dialect("bob"))
}

/// Section 7: `max(now, local + 1)` on send, `max(local, msg)` at delivery, no raise for what waits, for sync messages or duplicates.
#[test]
fn section_7_the_clock() {
    let mut alice = Peer::nim_dialect("alice");
    assert_eq!(alice.channel.lamport(), NOW_S);
    assert_eq!(decode(&alice.send("a1")).lamport, Some(NOW_S + 1));
    alice.now_ms += 60_000;
    assert_eq!(decode(&alice.send("a2")).lamport, Some(NOW_S + 60));
    let late = encode(&message("bob", "b1", NOW_S + 100, &[]));
    assert_eq!(alice.hear(&late), Reception::Delivered);
    assert_eq!(alice.channel.lamport(), NOW_S + 100);
    assert_eq!(alice.hear(&encode(&message("bob", "b3", NOW_S + 900, &["b2"]))), Reception::Buffered);
    let sync = Message { content: None, ..message("bob", "s1", NOW_S + 950, &[]) };
    assert_eq!(alice.hear(&encode(&sync)), Reception::SyncProcessed);
    assert_eq!(alice.hear(&late), Reception::Duplicate);
    assert_eq!(alice.channel.lamport(), NOW_S + 100);
}

/// Section 7: beyond `max(now, local) + max_lamport_ahead` a message is delivered, does not own the clock, is never named, and goes first.
#[test]
fn section_7_a_clock_attack_does_not_own_the_log() {
    let mut config = seabed();
    config.limits.log_messages_max = 10;
    let mut alice = Peer::new("alice", config);
    let far = NOW_S + 86_400 + 1;
    assert_eq!(alice.hear(&encode(&message("mallory", "evil", far, &[]))), Reception::Delivered);
    assert_eq!(alice.told(), ["anomaly evil", "delivered evil"]);
    assert_eq!(alice.channel.lamport(), NOW_S + 86_400);
    assert_eq!(decode(&alice.send("a0")).causal_history, []);
    for number in 1..9 {
        alice.send(&format!("a{number}"));
    }
    assert!(alice.log().contains(&"evil".to_owned()), "{:?}", alice.log());
    assert_eq!(alice.log().len(), 10, "the log is full");
    alice.send("a9");
    assert!(!alice.log().contains(&"evil".to_owned()), "{:?}", alice.log());
    assert_eq!(alice.log().len(), 10);
}

/// Section 8.1: what cannot be sent is refused, and nothing has changed.
#[test]
fn section_8_refusals() {
    let mut alice = Peer::nim_dialect("alice");
    let id = MessageId::from("a1");
    let send = |content| Input::Send { message_id: &id, content, hints: &[] };
    assert_eq!(alice.handle(send(b"")), Err(Error::EmptyContent));
    let bytes = vec![7; 1_048_577];
    let too_large = Error::MessageTooLarge { bytes: 1_048_577, bytes_max: 1_048_576 };
    assert_eq!(alice.handle(send(&bytes)), Err(too_large));
    assert_eq!(alice.handle(send(&bytes[1..])), Ok(Outcome::Sent { message_id: id.clone() }));
    assert_eq!(alice.try_send("a1"), Err(Error::ReusedMessageId("a1".into())));
    assert_eq!(alice.try_send(""), Err(Error::EmptyMessageId));
    assert!(matches!(alice.try_send(&"x".repeat(1_025)), Err(Error::TooMuch { count_max: 1_024, .. })));
    assert_eq!(alice.log(), ["a1"]);
}

/// Section 8.3: the last messages of the log, oldest first, with their senders and hints.
#[test]
fn section_8_causal_history() {
    let mut bob = Peer::new("bob", Config { causal_history: 2, ..seabed() });
    for (id, lamport, causes) in [("m1", 1, &[][..]), ("m3", 3, &["m2"]), ("m2", 2, &["m1"])] {
        bob.hear(&encode(&message("alice", id, NOW_S + lamport, causes)));
    }
    bob.handle(Input::SetRetrievalHint { message_id: &"m2".into(), hint: b"stored" }).expect("set");
    let hints = [("m2".into(), b"asked".as_slice().into()), ("m3".into(), b"asked".as_slice().into())];
    bob.handle(Input::Send { message_id: &"b1".into(), content: b"x", hints: &hints }).expect("sent");
    let causes = decode(&bob.broadcasts()[0].wire).causal_history;
    let causes: Vec<_> = causes
        .iter()
        .map(|cause| {
            let hint = cause.retrieval_hint.as_deref().unwrap_or_default();
            (cause.message_id.to_string(), cause.sender().map(ToString::to_string), hint)
        })
        .collect();
    let alice = Some("alice".to_owned());
    let expected = [("m2".to_owned(), alice.clone(), &b"stored"[..]), ("m3".to_owned(), alice, b"asked")];
    assert_eq!(causes, expected);
}

/// Section 8.3 and 27.8: what came late, and is not among the last messages, is named all the same until somebody has named it: else whoever
/// misses it would never hear of it.
#[test]
fn section_8_late_messages_are_named() {
    let mut bob = Peer::new("bob", Config { causal_history: 2, ..seabed() });
    for (id, lamport) in [("m5", 5), ("m6", 6), ("late", 1)] {
        bob.hear(&encode(&message("alice", id, NOW_S + lamport, &[])));
    }
    bob.restart();
    let named = |wire: &[u8]| {
        let causes = decode(wire).causal_history.into_iter();
        causes.map(|cause| cause.message_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(&bob.send("b1")), ["late", "m6"]);
    assert_eq!(named(&bob.send("b2")), ["m5", "b1"]);
    assert_eq!(named(&bob.send("b3")), ["b1", "b2"]);
}

/// Section 9: what is delivered once is a duplicate for ever, also when the log has forgotten it; its content travels with the outcome.
#[test]
fn section_9_duplicates() {
    let mut config = seabed();
    config.limits.log_messages_max = 10;
    let (mut alice, mut bob) = (Peer::nim_dialect("alice"), Peer::new("bob", config));
    let first = alice.send("m0");
    assert_eq!(bob.hear(&first), Reception::Delivered);
    for number in 1..=10 {
        assert_eq!(bob.hear(&alice.send(&format!("m{number}"))), Reception::Delivered);
    }
    assert!(!bob.log().contains(&"m0".to_owned()));
    let again = bob.receive(&first);
    assert_eq!(
        (again.reception, again.message.content.as_deref()),
        (Reception::Duplicate, Some(&b"content of m0"[..]))
    );
    assert_eq!(bob.changes, 0, "nothing changed, so nothing is stored");
}

/// Section 9: an own message that is not known here any more is put back, and acknowledges nothing.
#[test]
fn section_9_own_messages() {
    let mut alice = Peer::nim_dialect("alice");
    let first = alice.send("a1");
    let second = alice.send("a2");
    assert_eq!(alice.hear(&second), Reception::Duplicate);
    let mut anew = Peer::nim_dialect("alice");
    anew.send("a3");
    assert_eq!(anew.hear(&second), Reception::OwnRestored);
    assert_eq!(anew.told(), ["restored a2"]);
    assert_eq!(anew.hear(&first), Reception::OwnRestored);
    assert_eq!(anew.log(), ["a1", "a3", "a2"]);
    assert_eq!(anew.unacknowledged(), ["a3"]);
}

/// Section 9: a message of another channel changes nothing.
#[test]
fn section_9_other_channels() {
    let mut alice = Peer::nim_dialect("alice");
    let other = Message { channel_id: "attic".into(), ..message("bob", "b1", NOW_S, &[]) };
    let input = Input::Receive { wire: &encode(&other), retrieval_hint: None };
    assert_eq!(alice.handle(input), Err(Error::OtherChannel));
    assert_eq!(alice.log(), Vec::<String>::new());
}

/// Section 9: a dependency that waits itself is waited for in silence, and out-of-order messages come out in causal order, the trigger first.
#[test]
fn section_10_causal_order_and_the_trigger_first() {
    let (mut alice, mut bob) = pair();
    let wires: Vec<_> = (1..=4).map(|number| alice.send(&format!("m{number}"))).collect();
    assert_eq!(bob.hear(&wires[1]), Reception::Buffered);
    assert_eq!(bob.told(), ["buffered m2", "m2 misses m1"]);
    assert_eq!(bob.hear(&wires[3]), Reception::Buffered);
    assert_eq!(bob.told(), ["buffered m4", "m4 misses m1 m3"]);
    assert_eq!(bob.missing(), ["m1", "m3"]);
    assert_eq!(bob.hear(&wires[3]), Reception::AlreadyBuffered);
    assert_eq!(bob.hear(&wires[2]), Reception::Buffered);
    assert_eq!(bob.told(), ["buffered m3", "m3 misses m1"]);
    assert_eq!(bob.hear(&wires[0]), Reception::Delivered);
    assert_eq!(bob.told(), ["delivered m1", "delivered m2", "delivered m3", "delivered m4"]);
    assert_eq!((bob.log(), bob.waiting(), bob.missing()), (alice.log(), vec![], vec![]));
}

/// Section 10: the log is in the order of (Lamport, id), ties in byte order; among ready messages the lowest goes first.
#[test]
fn section_10_ties_and_ready_messages() {
    let mut bob = Peer::nim_dialect("bob");
    for (id, lamport) in [("z", 5), ("b", 6), ("a", 6), ("B", 6)] {
        let waits = message("alice", id, NOW_S + lamport, &["root"]);
        assert_eq!(bob.hear(&encode(&waits)), Reception::Buffered);
    }
    bob.hear(&encode(&message("alice", "root", NOW_S, &[])));
    assert_eq!(bob.told(), ["delivered root", "delivered z", "delivered B", "delivered a", "delivered b"]);
    assert_eq!(bob.log(), ["root", "z", "B", "a", "b"]);
}

/// Section 10: the lowest (Lamport, id) is evicted, but never the message just delivered.
#[test]
fn section_10_eviction() {
    let mut config = seabed();
    (config.limits.log_messages_max, config.causal_history) = (2, 2);
    let mut bob = Peer::new("bob", config);
    for (id, lamport) in [("m5", 5), ("m6", 6), ("m7", 7), ("m1", 1)] {
        bob.hear(&encode(&message("alice", id, NOW_S + lamport, &[])));
    }
    assert_eq!(bob.log(), ["m1", "m7"]);
    assert_eq!(bob.rows_of(|key| matches!(key, Key::Log(..))), 2);
}

/// Section 11: named in a causal history is acknowledged; in the filter of the only other participant, too.
#[test]
fn section_11_acknowledgement() {
    let (mut alice, mut bob) = pair();
    bob.hear(&alice.send("a1"));
    alice.hear(&bob.send("b1"));
    assert_eq!(alice.told(), ["acknowledged a1", "delivered b1"]);

    let (mut alice, mut bob) =
        (Peer::nim_dialect("alice"), Peer::new("bob", Config { causal_history: 1, ..seabed() }));
    for id in ["a1", "a2", "a3"] {
        bob.hear(&alice.send(id));
    }
    alice.hear(&bob.send("b1"));
    assert_eq!(alice.told(), ["acknowledged a1", "acknowledged a2", "acknowledged a3", "delivered b1"]);
    assert_eq!(alice.unacknowledged(), Vec::<String>::new());
}

/// Section 11: with two other senders in the log it takes two filters, of two senders; an unnamed one counts each time.
#[test]
fn section_11_possible_acknowledgement() {
    let mut alice = Peer::nim_dialect("alice");
    let mut filter = Filter::sized_for(1, 0.001);
    filter.insert(b"a1");
    let with_filter = |sender: &str, id: &str, lamport: u64| {
        let bloom_filter = Some(filter.to_bytes().into());
        encode(&Message { bloom_filter, ..message(sender, id, NOW_S + lamport, &[]) })
    };
    alice.hear(&encode(&message("bob", "b0", NOW_S, &[])));
    alice.hear(&encode(&message("carol", "c0", NOW_S, &[])));
    alice.send("a1");
    alice.hear(&with_filter("bob", "b1", 2));
    assert_eq!(alice.told(), ["possibly a1 1", "delivered b1"]);
    alice.hear(&with_filter("bob", "b2", 3));
    assert_eq!(alice.told(), ["delivered b2"], "the same sender says nothing new");
    alice.hear(&with_filter("carol", "c1", 4));
    assert_eq!(alice.told(), ["acknowledged a1", "delivered c1"]);

    let mut alice =
        Peer::new("alice", Config { bloom_ack_threshold: BloomAckThreshold::Filters(3), ..seabed() });
    alice.send("a1");
    for (id, told) in [("u1", "possibly a1 1"), ("u2", "possibly a1 2"), ("u3", "acknowledged a1")] {
        alice.hear(&with_filter("", id, 5));
        assert_eq!(alice.told()[0], told);
    }
}

/// Section 11: sync messages acknowledge, ephemeral ones and own ones do not.
#[test]
fn section_11_who_acknowledges() {
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    let own = message("alice", "a0", NOW_S, &["a1"]);
    assert_eq!(alice.hear(&encode(&own)), Reception::OwnRestored);
    let ephemeral = Message { lamport: None, ..message("bob", "e1", NOW_S, &["a1"]) };
    assert_eq!(alice.hear(&encode(&ephemeral)), Reception::Ephemeral);
    assert_eq!(alice.unacknowledged(), ["a1"]);
    let sync = Message { content: None, ..message("bob", "s1", NOW_S, &["a1"]) };
    assert_eq!(alice.hear(&encode(&sync)), Reception::SyncProcessed);
    assert_eq!(alice.unacknowledged(), Vec::<String>::new());
}

/// Section 12: the same id, Lamport value, history, sender and content go again, with the current filter and without requests; when the
/// attempts are used up that is said, and never that it was sent.
#[test]
fn section_12_resends() {
    let mut alice = Peer::nim_dialect("alice");
    alice.hear(&encode(&message("bob", "b0", NOW_S, &[])));
    let first = decode(&alice.send("a1"));
    alice.hear(&encode(&message("bob", "b2", NOW_S, &["b1"])));
    for attempt in 1..=5 {
        let before_ms = alice.now_ms;
        let again = of_reason(alice.tick_when_due(), Reason::Resend);
        let pause_ms = alice.now_ms - before_ms;
        assert!((60_000..=66_000).contains(&pause_ms), "attempt {attempt} after {pause_ms} ms");
        let again = decode(&again[0].wire);
        let filter =
            Filter::read(Dialect::Nim, again.bloom_filter.as_deref().expect("a filter")).expect("a filter");
        assert!(filter.contains(b"b0") && filter.contains(b"b2"));
        assert_eq!(again.repair_request, []);
        assert_eq!(Message { bloom_filter: None, ..again }, Message { bloom_filter: None, ..first.clone() });
    }
    assert_eq!(alice.tick_when_due(), []);
    assert_eq!(alice.told(), ["unconfirmed a1"]);
    assert_eq!((alice.unacknowledged(), alice.log()), (vec![], vec!["b0".to_owned(), "a1".to_owned()]));
}

/// Section 12: what may have been received is less urgent, and pauses may grow.
#[test]
fn section_12_intervals() {
    let config = Config { resend_jitter_percent: 0, resend_factor: 2, ..seabed() };
    let mut alice =
        Peer::new("alice", Config { bloom_ack_threshold: BloomAckThreshold::Filters(9), ..config });
    alice.send("a1");
    assert_eq!(alice.channel.next_due(), Some(START_MS + 60_000));
    alice.tick_when_due();
    assert_eq!(alice.channel.next_due(), Some(START_MS + 60_000 + 120_000));
    let mut filter = Filter::sized_for(1, 0.001);
    filter.insert(b"a1");
    let bloom_filter = Some(filter.to_bytes().into());
    alice.hear(&encode(&Message { bloom_filter, ..message("bob", "b1", NOW_S, &[]) }));
    assert_eq!(alice.channel.next_due(), Some(START_MS + 60_000 + 240_000));
    assert_eq!(of_reason(alice.tick(), Reason::Resend), [], "nothing is due before its time");
}

/// Section 13: what does not come is given up after the timeout, and what waited for it is delivered with a gap; when it comes after all it
/// is delivered as any other.
#[test]
fn section_13_lost_dependencies() {
    let config = Config { dependency_timeout_ms: Some(600_000), ..seabed() };
    let (mut alice, mut bob) = (Peer::nim_dialect("alice"), Peer::new("bob", config));
    let wires: Vec<_> = (1..=3).map(|number| alice.send(&format!("m{number}"))).collect();
    bob.hear(&wires[2]);
    assert_eq!(bob.told(), ["buffered m3", "m3 misses m1 m2"]);
    bob.now_ms += 1_000;
    bob.hear(&wires[1]);
    assert_eq!(bob.channel.next_due(), Some(START_MS + 600_000));
    bob.restart();
    bob.tick_when_due();
    assert_eq!(bob.told(), ["lost m1", "delivered m2 after a gap", "delivered m3 after a gap"]);
    assert_eq!(bob.hear(&wires[0]), Reception::Delivered);
    assert_eq!(bob.told(), ["delivered m1"]);
    assert_eq!(bob.log(), ["m1", "m2", "m3"]);
}

/// Section 13: marking releases what waits, is remembered for what comes later, and counts as received for the filter.
#[test]
fn section_13_marked_dependencies() {
    let mut bob = Peer::nim_dialect("bob");
    bob.hear(&encode(&message("alice", "m2", NOW_S, &["m1", "m0"])));
    bob.mark_met(&["m1"]);
    assert_eq!((bob.told(), bob.missing()), (vec![], vec!["m0".to_owned()]));
    bob.mark_met(&["m0"]);
    assert_eq!((bob.told(), bob.missing()), (vec!["delivered m2".to_owned()], vec![]));
    bob.restart();
    assert_eq!(bob.hear(&encode(&message("alice", "m3", NOW_S, &["m1"]))), Reception::Delivered);
    let filter = decode(&bob.send("b1")).bloom_filter.expect("a filter");
    assert!(Filter::read(Dialect::Nim, &filter).expect("a filter").contains(b"m1"));
    assert_eq!(
        bob.hear(&encode(&message("alice", "m1", NOW_S, &[]))),
        Reception::Delivered,
        "it may still come"
    );
}

/// Section 14: a sync message moves the clock, carries history and filter, is in nobody's log, history, filter or outgoing buffer; and is
/// remembered, because peers name it.
#[test]
fn section_14_sync_messages() {
    let (mut alice, mut bob) = pair();
    assert_eq!(alice.handle(Input::SendSync), Ok(Outcome::NothingToSay));
    bob.hear(&alice.send("a1"));
    let sync = bob.sync();
    let read = decode(&sync);
    assert_eq!((read.is_sync(), read.lamport), (true, Some(NOW_S + 2)));
    assert!(sync.windows(2).any(|bytes| bytes == [0x2a, 0]), "dialect N has the field, with no bytes");
    assert_eq!((bob.log(), bob.unacknowledged()), (vec!["a1".to_owned()], vec![]));
    assert_eq!(alice.hear(&sync), Reception::SyncProcessed);
    assert_eq!(alice.told(), ["acknowledged a1"]);
    assert_eq!(alice.hear(&sync), Reception::Duplicate);
    let sync_id = read.message_id.to_string();
    alice.restart();
    assert_eq!(alice.hear(&encode(&message("nim", "n1", NOW_S, &[&sync_id]))), Reception::Delivered);
    assert_eq!(
        bob.hear(&encode(&message("nim", "n1", NOW_S, &[&sync_id]))),
        Reception::Delivered,
        "its own, too"
    );
}

/// Section 14: a sync message that misses something has it repaired, and is not kept itself.
#[test]
fn section_14_a_sync_message_shows_a_gap() {
    let mut bob = Peer::nim_dialect("bob");
    let sync = Message { content: None, ..message("alice", "s1", NOW_S, &["m1"]) };
    assert_eq!(bob.hear(&encode(&sync)), Reception::SyncProcessed);
    assert_eq!(
        (bob.told(), bob.missing(), bob.waiting()),
        (vec!["s1 misses m1".to_owned()], vec!["m1".to_owned()], vec![])
    );
}

/// Section 14: in dialect S they are sent by themselves, about every interval, and a due request does not wait for it.
#[test]
fn section_14_sync_messages_are_due() {
    let mut bob = Peer::new("bob", Config::seabed(Dialect::Spec));
    assert_eq!(bob.channel.next_due(), None, "nothing to say");
    let spec = |message: &Message| wire::encode(message, Dialect::Spec);
    bob.hear(&spec(&message("alice", "a1", START_MS, &[])));
    let due_ms = bob.channel.next_due().expect("a sync is due") - START_MS;
    assert!((22_500..=37_500).contains(&due_ms), "{due_ms}");
    assert_eq!(of_reason(bob.tick_when_due(), Reason::Sync).len(), 1);
    bob.hear(&spec(&message("alice", "a3", START_MS, &["a2"])));
    let asked_ms =
        bob.channel.missing().next().and_then(|missing| missing.request_due_ms).expect("a request is due");
    while bob.now_ms < asked_ms {
        bob.tick_when_due();
    }
    let asked = decode(&of_reason(bob.broadcasts(), Reason::Sync)[0].wire);
    assert_eq!(
        asked.repair_request.iter().map(|request| request.message_id.to_string()).collect::<Vec<_>>(),
        ["a2"]
    );
}

/// Section 15: ephemeral messages are delivered once, and change nothing; dialect N cannot send them.
#[test]
fn section_15_ephemeral_messages() {
    let (mut alice, mut bob) = pair();
    let input = Input::SendEphemeral { message_id: &"e1".into(), content: b"typing" };
    assert!(matches!(alice.handle(input), Err(Error::Unsupported(_))));
    let mut alice = Peer::new("alice", Config::seabed(Dialect::Spec));
    assert_eq!(alice.handle(input), Ok(Outcome::EphemeralSent { message_id: "e1".into() }));
    assert_eq!(alice.changes, 0);
    let wire = alice.broadcasts()[0].wire.clone();
    let read = decode(&wire);
    assert_eq!((read.lamport, read.bloom_filter.as_ref(), read.causal_history.len()), (None, None, 0));
    assert_eq!(bob.hear(&wire), Reception::Ephemeral);
    assert_eq!((bob.told(), bob.changes), (vec!["ephemeral e1".to_owned()], 0));
}

/// Section 16: hints are stored with the message, come from who sends it, and are echoed in requests.
#[test]
fn section_16_hints() {
    let (mut alice, mut bob) = pair();
    let wire = alice.send("a1");
    bob.handle(Input::Receive { wire: &wire, retrieval_hint: Some(b"where") }).expect("received");
    bob.restart();
    let named = decode(&bob.send("b1"));
    assert_eq!(named.causal_history[0].retrieval_hint.as_deref(), Some(&b"where"[..]));
    let unknown = Input::SetRetrievalHint { message_id: &"x".into(), hint: b"where" };
    assert_eq!(bob.handle(unknown), Err(Error::UnknownMessage("x".into())));
    let mut carol = Peer::nim_dialect("carol");
    let received = carol.receive(&encode(&named));
    assert_eq!(received.missing[0].retrieval_hint.as_deref(), Some(&b"where"[..]));
    carol.now_ms += 300_000;
    let request = &decode(&carol.send("c1")).repair_request[0];
    assert_eq!(request.retrieval_hint.as_deref(), Some(&b"where"[..]));
}

/// Section 17.1: `T_req` of the vectors; asked for again with growing pauses; named by another, later.
#[test]
fn section_17_requests() {
    let mut alice = Peer::nim_dialect("alice");
    alice.hear(&encode(&message("bob", "b1", NOW_S, &["msg-1"])));
    let due_ms = |alice: &Peer| alice.channel.missing().next().and_then(|missing| missing.request_due_ms);
    assert_eq!(due_ms(&alice), Some(START_MS + 172_988));
    alice.hear(&encode(&message("bob", "b2", NOW_S, &["msg-1"])));
    assert_eq!(due_ms(&alice), Some(START_MS + 172_988), "it keeps its time");
    alice.restart();
    alice.now_ms = START_MS + 172_987;
    assert_eq!(decode(&alice.send("a1")).repair_request, []);
    alice.now_ms += 1;
    assert_eq!(decode(&alice.send("a2")).repair_request, [entry("msg-1")]);
    assert_eq!(due_ms(&alice), Some(alice.now_ms + 2 * 172_988));
    let asks = Message { repair_request: vec![entry("msg-1")], ..message("carol", "c1", NOW_S, &[]) };
    alice.hear(&encode(&asks));
    assert_eq!(due_ms(&alice), Some(alice.now_ms + 4 * 172_988));
    alice.hear(&encode(&message("bob", "msg-1", NOW_S, &[])));
    assert_eq!((alice.missing(), alice.waiting()), (vec![], vec![]));
}

/// Section 17.1: what nothing waits for is asked for as often as configured; what something waits for, until it comes.
#[test]
fn section_17_giving_up() {
    for (sync, kept) in [(true, false), (false, true)] {
        let mut alice = Peer::new("alice", Config { repair_attempts_max: 2, ..seabed() });
        let mut names_it = message("bob", "b1", NOW_S, &["msg-1"]);
        if sync {
            names_it.content = None;
        }
        alice.hear(&encode(&names_it));
        for id in ["a1", "a2", "a3"] {
            alice.now_ms += 8 * 300_000;
            let asked = decode(&alice.send(id)).repair_request.len();
            assert_eq!(asked, usize::from(kept || id != "a3"), "{id}");
        }
        assert_eq!(alice.missing().len(), usize::from(kept));
    }
}

/// Section 17.2: at most three, the longest due first.
#[test]
fn section_17_three_requests_a_message() {
    let mut alice = Peer::nim_dialect("alice");
    alice.hear(&encode(&message("bob", "b1", NOW_S, &["x1", "x2", "x3", "x4", "x5"])));
    let mut due: Vec<_> = alice
        .channel
        .missing()
        .map(|missing| (missing.request_due_ms, missing.entry.message_id.clone()))
        .collect();
    due.sort();
    alice.now_ms += 300_000;
    let asked: Vec<_> =
        decode(&alice.send("a1")).repair_request.into_iter().map(|entry| entry.message_id).collect();
    assert_eq!(asked, due.into_iter().take(3).map(|(_, id)| id).collect::<Vec<_>>());
}

/// Sections 17.3 and 17.4: the sender answers at once, others later, with the same message but without filter and requests; whoever hears
/// an answer does not give it.
#[test]
fn section_17_answers() {
    let (mut alice, mut bob) = pair();
    let mut carol = Peer::nim_dialect("carol");
    let wire = alice.send("msg-1");
    bob.hear(&wire);
    carol.hear(&wire);
    let asks = Message { repair_request: vec![entry("msg-1")], ..message("dave", "d1", NOW_S, &[]) };
    for (peer, t_resp_ms) in [(&mut alice, 0), (&mut bob, 27_600), (&mut carol, 68_400)] {
        peer.hear(&encode(&asks));
        let due_ms: Vec<_> = peer.channel.answers().map(|answer| answer.due_ms - START_MS).collect();
        assert_eq!(due_ms, [t_resp_ms]);
    }
    let answers = of_reason(alice.tick(), Reason::Repair);
    let (first, answer) = (decode(&wire), decode(&answers[0].wire));
    assert_eq!((answer.bloom_filter.as_ref(), answer.repair_request.len()), (None, 0));
    assert_eq!(Message { bloom_filter: None, ..first }, answer);
    carol.restart();
    assert_eq!(carol.hear(&answers[0].wire), Reception::Duplicate);
    assert_eq!(carol.channel.answers().count(), 0, "somebody has answered");
}

/// Section 17.3: asked again, the earlier time stays; the log says who the sender is, not the request; who is in another group is silent.
#[test]
fn section_17_eligibility() {
    let mut bob = Peer::nim_dialect("bob");
    bob.hear(&encode(&message("alice", "msg-1", NOW_S, &[])));
    let asks = |id: &str, sender: Option<&str>| {
        let request = seabed_sds_core::HistoryEntry { sender_id: sender.map(Into::into), ..entry("msg-1") };
        encode(&Message { repair_request: vec![request], ..message("dave", id, NOW_S, &[]) })
    };
    bob.hear(&asks("d1", Some("bob")));
    assert_eq!(bob.channel.answers().next().map(|answer| answer.due_ms), Some(START_MS + 27_600));
    bob.now_ms += 10_000;
    bob.hear(&asks("d2", None));
    assert_eq!(bob.channel.answers().next().map(|answer| answer.due_ms), Some(START_MS + 27_600));
    let mut grouped = Peer::new("bob", Config { response_groups: 8, ..seabed() });
    grouped.hear(&encode(&message("alice", "msg-1", NOW_S, &[])));
    grouped.hear(&asks("d1", None));
    assert_eq!(grouped.channel.answers().count(), 0);
}

/// Section 17: without a participant id nobody asks and nobody answers.
#[test]
fn section_17_without_an_id() {
    let mut nobody = Peer::nim_dialect("");
    nobody.hear(&encode(&message("alice", "msg-1", NOW_S, &[])));
    nobody.hear(&encode(&Message {
        repair_request: vec![entry("msg-1")],
        ..message("dave", "d1", NOW_S, &["x"])
    }));
    assert_eq!((nobody.channel.answers().count(), nobody.missing()), (0, vec!["x".to_owned()]));
    nobody.now_ms += 900_000;
    assert_eq!(decode(&nobody.send("n1")).repair_request, []);
}

/// Section 17.4: at most ten answers a sweep.
#[test]
fn section_17_the_rate_of_answers() {
    let mut alice = Peer::nim_dialect("alice");
    let ids: Vec<String> = (0..12).map(|number| format!("a{number}")).collect();
    for id in &ids {
        alice.send(id);
    }
    let asks = Message {
        repair_request: ids.iter().map(|id| entry(id)).collect(),
        ..message("dave", "d1", NOW_S, &[])
    };
    alice.hear(&encode(&asks));
    assert_eq!(of_reason(alice.tick(), Reason::Repair).len(), 10);
    assert_eq!(of_reason(alice.tick(), Reason::Repair).len(), 0);
    assert_eq!(alice.channel.next_due(), Some(START_MS + 5_000));
    assert_eq!(of_reason(alice.tick_when_due(), Reason::Repair).len(), 2);
}

/// Section 18: configurations that cannot work are refused.
#[test]
fn section_18_impossible_configurations() {
    let with = |change: fn(&mut Config)| {
        let mut config = seabed();
        change(&mut config);
        config.check().err().map(|error: ConfigError| error.to_string())
    };
    assert_eq!(seabed().check(), Ok(()));
    assert_eq!(Config::nim().check(), Ok(()));
    for (change, why) in [
        (((|config| config.bloom_capacity = 0) as fn(&mut Config)), "filter"),
        (|config| config.bloom_error_rate = 1.0, "filter"),
        (|config| config.bloom_error_rate = f64::NAN, "filter"),
        (|config| config.limits.log_messages_max = 0, "zero"),
        (|config| config.repair_t_max_ms = config.repair_t_min_ms - 1, "T_max"),
        (|config| config.response_groups = 0, "groups"),
        (|config| config.causal_history = 1_001, "causal history"),
        (|config| config.dependency_timeout_ms = Some(300_000), "timeout"),
        (|config| config.bloom_ack_threshold = BloomAckThreshold::Filters(0), "no filter"),
        (|config| config.sync_interval_ms = Some(0), "sync"),
    ] {
        let refused = with(change).unwrap_or_else(|| panic!("{why} was accepted"));
        assert!(refused.contains(why), "{refused}");
    }
}

/// Section 5 and DESIGN section 4: the filter covers what was received within the horizon, and always what is named; it is small, and grows
/// and shrinks with what it covers.
#[test]
fn section_5_the_filter_of_the_horizon() {
    let mut bob = Peer::new("bob", Config { causal_history: 2, ..seabed() });
    let filter = |peer: &mut Peer, id: &str| {
        let bytes = decode(&peer.send(id)).bloom_filter.expect("a filter");
        Filter::read(Dialect::Nim, &bytes).expect("a filter")
    };
    for number in 0..200 {
        bob.hear(&encode(&message("alice", &format!("m{number}"), NOW_S + number, &[])));
    }
    let full = filter(&mut bob, "b1");
    assert_eq!(full.capacity(), 256);
    assert!((0..200).all(|number| full.contains(format!("m{number}").as_bytes())));
    bob.restart();
    assert_eq!(filter(&mut bob, "b2"), full, "it comes back as it was, and own messages are not in it");
    bob.now_ms += 31 * 60_000;
    bob.hear(&encode(&message("alice", "new", NOW_S + 3_000, &[])));
    let small = filter(&mut bob, "b3");
    assert_eq!(small.capacity(), 16);
    assert!(small.contains(b"new") && !small.contains(b"m3"));
}

/// Section 5: a message that is sent again although it was received long ago is covered again: its sender wants to know.
#[test]
fn section_5_seen_again() {
    let (mut alice, mut bob) =
        (Peer::nim_dialect("alice"), Peer::new("bob", Config { causal_history: 1, ..seabed() }));
    let wire = alice.send("a1");
    bob.hear(&wire);
    bob.now_ms += 40 * 60_000;
    assert_eq!(bob.hear(&wire), Reception::Duplicate);
    for number in 0..20 {
        bob.hear(&encode(&message("carol", &format!("c{number}"), NOW_S + 5_000 + number, &[])));
    }
    alice.hear(&bob.send("b1"));
    assert!(alice.unacknowledged().is_empty(), "{:?}", alice.told());
}

/// Section 14: so many sync messages are remembered, over a restart too, and the oldest is forgotten first.
#[test]
fn section_14_the_ring_of_sync_messages() {
    let mut bob = Peer::nim_dialect("bob");
    for number in 0..=SYNC_IDS_MAX {
        let sync = Message { content: None, ..message("alice", &format!("s{number}"), NOW_S, &[]) };
        bob.hear(&encode(&sync));
    }
    bob.restart();
    assert_eq!(bob.rows_of(|key| matches!(key, Key::Sync(_))), SYNC_IDS_MAX);
    assert_eq!(bob.hear(&encode(&message("nim", "n1", NOW_S, &["s1"]))), Reception::Delivered);
    assert_eq!(bob.hear(&encode(&message("nim", "n2", NOW_S, &["s0"]))), Reception::Buffered);
    assert_eq!(bob.missing(), ["s0"], "it is asked for like any other");
}

/// Section 17.3: neither a duplicate's requests are read, nor is a message that waits itself an answer.
#[test]
fn section_17_what_is_not_answered() {
    let mut alice = Peer::nim_dialect("alice");
    alice.hear(&encode(&message("bob", "b1", NOW_S, &[])));
    let asks = Message { repair_request: vec![entry("b1")], ..message("dave", "d1", NOW_S, &[]) };
    alice.hear(&encode(&asks));
    assert_eq!(alice.channel.answers().count(), 1);
    alice.hear(&encode(&message("bob", "b1", NOW_S, &[])));
    assert_eq!(alice.hear(&encode(&asks)), Reception::Duplicate);
    assert_eq!(alice.channel.answers().count(), 0);
    alice.hear(&encode(&message("bob", "b3", NOW_S, &["b2"])));
    let asks = Message { repair_request: vec![entry("b3")], ..message("dave", "d2", NOW_S, &[]) };
    assert_eq!(alice.hear(&encode(&asks)), Reception::Delivered);
    assert_eq!(alice.channel.answers().count(), 0);
}

/// Sections 2, 18 and 24: the defaults of both dialects.
#[test]
fn section_18_defaults() {
    for dialect in [Dialect::Nim, Dialect::Spec] {
        let config = Config::seabed(dialect);
        assert_eq!((config.bloom_capacity, config.bloom_error_rate), (10_000, 0.001));
        assert_eq!((config.causal_history, config.filter_horizon_ms), (10, 30 * 60_000));
        assert_eq!((config.resend_interval_ms, config.resend_interval_possible_ms), (60_000, 120_000));
        assert_eq!((config.resend_attempts_max, config.resend_factor), (5, 1));
        assert_eq!((config.repair, config.repair_t_min_ms, config.response_groups), (true, 30_000, 1));
        assert_eq!(
            (config.repair_attempts_max, config.repair_requests_max, config.repair_answers_max),
            (8, 3, 10)
        );
        assert_eq!(config.bloom_ack_threshold, BloomAckThreshold::Others);
        assert_eq!((config.dependency_timeout_ms, config.lamport_ahead_ms_max), (None, Some(86_400_000)));
        let limits = &config.limits;
        assert_eq!((limits.log_messages_max, limits.seen_ids_max), (1_000, 12_000));
        assert_eq!((limits.incoming_messages_max, limits.incoming_bytes_max), (1_000, 16 << 20));
        assert_eq!((limits.outgoing_messages_max, limits.wire_bytes_max), (10_000, (1 << 20) + (64 << 10)));
        assert_eq!((limits.missing_ids_max, limits.history_entries_max), (256, 1_024));
        assert_eq!(
            (limits.requests_read_max, limits.repairs_out_max, limits.repairs_in_max),
            (16, 1_000, 1_000)
        );
    }
    let (nim, spec) = (Config::seabed(Dialect::Nim), Config::seabed(Dialect::Spec));
    assert_eq!((nim.lamport_unit, spec.lamport_unit), (LamportUnit::Seconds, LamportUnit::Milliseconds));
    assert_eq!((nim.sync_interval_ms, spec.sync_interval_ms), (None, Some(30_000)));
    assert_eq!((nim.repair_t_max_ms, spec.repair_t_max_ms), (300_000, 120_000));
}
