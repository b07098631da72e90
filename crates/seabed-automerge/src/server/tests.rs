//! The server by its parts: what no client of the real protocol could bring about.

use std::time::Duration;

use automerge::ChangeHash;
use automerge::sync::{Message, MessageFlags, State as SyncState, SyncDoc as _};
use automerge::{Automerge, AutomergeError, ROOT, transaction::Transactable as _};
use ciborium::cbor;
use ciborium::value::Value;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;

use super::mail::Waiting;
use super::replica::tests::{POISON, POISONED_ANSWER};
use super::*;

mod crowd;
mod idle;
mod line;
mod unloaded;

/// A message of a client.
fn encoded(value: Result<Value, ciborium::value::Error>) -> tokio_tungstenite::tungstenite::Message {
    let mut bytes = Vec::new();
    ciborium::into_writer(&value.unwrap(), &mut bytes).unwrap();
    tokio_tungstenite::tungstenite::Message::Binary(bytes.into())
}

async fn say(session: &Arc<Session>, mailbox: &mpsc::Sender<Mail>, message: Message) {
    let waiting = Waiting {
        _messages: session.messages.clone().acquire_owned().await.unwrap(),
        bytes: session.bytes.clone().acquire_many_owned(1).await.unwrap(),
    };
    mailbox.send(Mail::Sync { from: session.number, message, request: false, waiting }).await.unwrap();
}

async fn heard(session: &Session) -> Vec<u8> {
    loop {
        if let Some(frame) = session.next() {
            session.written();
            return frame.to_vec();
        }
        session.changed.notified().await;
    }
}

#[tokio::test]
async fn a_panic_inside_automerge_costs_a_session_and_the_others_go_on() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap();
    let document = DocumentId::from_bytes([7; 16]);
    let enter = |name: &str| live.0.enter(name.to_owned(), None, Identity::anonymous()).unwrap();
    let (good, evil) = (enter("good"), enter("evil"));
    let mut mailboxes = Vec::new();
    for session in [&good, &evil] {
        let mailbox = Inner::attach(&live.0, document).unwrap();
        let open = Mail::Open { session: session.clone() };
        mailbox.send(open).await.unwrap();
        mailboxes.push(mailbox);
    }
    let (mut automerge, mut state) = (Automerge::new(), SyncState::new());
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).unwrap();
    say(&good, &mailboxes[0], automerge.generate_sync_message(&mut state).unwrap()).await;
    heard(&good).await;

    let mut message = automerge.generate_sync_message(&mut SyncState::new()).unwrap();
    message.need = vec![POISON];
    say(&evil, &mailboxes[1], message).await;
    let last = String::from_utf8_lossy(&heard(&evil).await).into_owned();
    assert!(last.contains("a sync message was not taken") && evil.is_ended(), "{last}");
    // The other one is told to begin again, and goes on.
    heard(&good).await;
    assert!(!good.is_ended());
    let metrics = live.metrics();
    assert_eq!((metrics.panics_total, metrics.reloads_total), (1, 1));
    let message = automerge.generate_sync_message(&mut SyncState::new()).unwrap();
    assert_ne!(message.heads, Vec::<ChangeHash>::new());
    say(&good, &mailboxes[0], message).await;
    heard(&good).await;
}

#[tokio::test]
async fn a_panic_over_an_answer_costs_the_one_whom_it_was_for() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap();
    let document = DocumentId::from_bytes([7; 16]);
    let evil = live.0.enter("evil".to_owned(), None, Identity::anonymous()).unwrap();
    let mailbox = Inner::attach(&live.0, document).unwrap();
    mailbox.send(Mail::Open { session: evil.clone() }).await.unwrap();
    let mut message = Automerge::new().generate_sync_message(&mut SyncState::new()).unwrap();
    message.need = vec![POISONED_ANSWER];
    say(&evil, &mailbox, message).await;
    let last = String::from_utf8_lossy(&heard(&evil).await).into_owned();
    assert!(last.contains("could not be answered") && evil.is_ended(), "{last}");
    assert_eq!(live.metrics().panics_total, 1);
}

#[tokio::test]
async fn whose_changes_a_limit_keeps_out_is_told_why_and_goes_on_as_a_reader() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    let document = DocumentId::from_bytes([7; 16]);
    let writer = live.0.enter("writer".to_owned(), None, Identity::anonymous()).unwrap();
    let mailbox = Inner::attach(&live.0, document).unwrap();
    mailbox.send(Mail::Open { session: writer.clone() }).await.unwrap();
    let (mut automerge, mut state) = (Automerge::new(), SyncState::new());
    let hear = |automerge: &mut Automerge, state: &mut SyncState, frame: &[u8]| {
        let (_, incoming) = frame::decode(frame).unwrap();
        let frame::Incoming::Document { said: frame::Said::Sync { data, .. }, .. } = incoming else {
            panic!("{incoming:?}")
        };
        let (message, _) = message::read(&data).unwrap();
        let flags = message.flags;
        automerge.receive_sync_message(state, message).unwrap();
        flags
    };
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "first")).unwrap();
    while state.their_heads.as_ref() != Some(&automerge.get_heads()) {
        if let Some(message) = automerge.generate_sync_message(&mut state) {
            say(&writer, &mailbox, message).await;
        }
        hear(&mut automerge, &mut state, &heard(&writer).await);
    }

    // As if it had all that it may have.
    let shard = documents.shard(document);
    let mut full = documents.meta(document).await.unwrap().unwrap();
    full.change_bytes = crate::limits::DOCUMENT_BYTES_MAX;
    let mut batch = seabed_kv::Batch::new();
    batch.put(crate::keys::DOCUMENT, crate::keys::document_key(document), full.to_bytes());
    shard.tenant.apply(batch, seabed_kv::Durability::Durable).await.unwrap();

    let before = automerge.get_heads();
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "second")).unwrap();
    say(&writer, &mailbox, automerge.generate_sync_message(&mut state).unwrap()).await;
    let why = String::from_utf8_lossy(&heard(&writer).await).into_owned();
    assert!(why.contains("DOCUMENT_BYTES_MAX"), "{why}");
    let flags = hear(&mut automerge, &mut state, &heard(&writer).await).unwrap();
    assert!(flags.contains(MessageFlags::READ_ONLY), "the client would send it again for ever");
    assert!(!writer.is_ended());
    let stored = documents.meta(document).await.unwrap().unwrap();
    assert_eq!(stored, full);
    assert_eq!(state.their_heads, Some(before));
    let metrics = live.metrics();
    assert_eq!((metrics.refused_total, metrics.failures_total), (1, 0));
}

#[tokio::test]
async fn of_a_deleted_document_nothing_is_seen_any_more_and_its_room_can_end() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    let document = DocumentId::from_bytes([7; 16]);
    let session = live.0.enter("me".to_owned(), None, Identity::anonymous()).unwrap();
    let mailbox = Inner::attach(&live.0, document).unwrap();
    mailbox.send(Mail::Open { session: session.clone() }).await.unwrap();
    let mut automerge = Automerge::new();
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).unwrap();
    say(&session, &mailbox, automerge.generate_sync_message(&mut SyncState::new()).unwrap()).await;
    heard(&session).await;
    let append = crate::Append { changes: automerge.get_changes(&[]), ..crate::Append::default() };
    documents.append(document, None, append, ()).await.unwrap();
    live.poll().await.unwrap();
    heard(&session).await;
    assert!(live.0.rooms.in_use()[0].seen.is_some());

    documents.delete(document, 1).await.unwrap();
    live.poll().await.unwrap();
    let last = String::from_utf8_lossy(&heard(&session).await).into_owned();
    assert!(last.contains("doc-unavailable"), "{last}");
    // Or each poll would wake it.
    assert_eq!(live.0.rooms.in_use()[0].seen, None);
    live.0.rooms.detach(document, &mailbox);
    assert!(live.0.rooms.end(document));
}

/// A document of that key with so many bytes that do not compress, stored.
async fn stored(documents: &DocStore, number: u8, bytes: usize) -> DocumentId {
    let mut state = u64::from(number);
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    let noise: Vec<_> = noise.take(bytes).collect();
    let (document, mut automerge) = (DocumentId::from_bytes([number; 16]), Automerge::new());
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", noise)).unwrap();
    let append = crate::Append { changes: automerge.get_changes(&[]), ..crate::Append::default() };
    documents.append(document, None, append, ()).await.unwrap();
    document
}

/// As a client does that has nothing.
async fn ask(live: &LiveServer, session: &Arc<Session>, document: DocumentId) {
    let mailbox = Inner::attach(&live.0, document).unwrap();
    mailbox.send(Mail::Open { session: session.clone() }).await.unwrap();
    say(session, &mailbox, Automerge::new().generate_sync_message(&mut SyncState::new()).unwrap()).await;
}

#[tokio::test]
async fn what_goes_to_many_is_kept_once() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let document = stored(&documents, 1, 100_000).await;
    let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap();
    let sessions: Vec<_> = (0..20)
        .map(|number| live.0.enter(number.to_string(), None, Identity::anonymous()).unwrap())
        .collect();
    for session in &sessions {
        ask(&live, session, document).await;
    }
    let mut frames = Vec::new();
    for session in &sessions {
        while session.waiting_bytes() == 0 {
            session.changed.notified().await;
        }
        frames.push(session.next().unwrap());
    }
    assert!(frames.iter().all(|frame| frame.len() > 100_000));
    let bytes = live.metrics().outgoing_bytes;
    assert!((100_000..120_000).contains(&bytes), "{bytes}");
    drop(frames);
    assert_eq!(live.metrics().outgoing_bytes, 0);
}

#[tokio::test]
async fn a_server_that_has_much_to_write_lags_and_delays_no_small_document() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let (first, second) = (stored(&documents, 1, 100_000).await, stored(&documents, 2, 100_000).await);
    let small = stored(&documents, 3, 10).await;
    let live = LiveServer::with(documents, LiveOptions::default(), Everybody, 50_000).await.unwrap();
    let slow = live.0.enter("slow".to_owned(), None, Identity::anonymous()).unwrap();
    ask(&live, &slow, first).await;
    while slow.waiting_bytes() == 0 {
        slow.changed.notified().await;
    }

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/automerge", listener.local_addr().unwrap());
    let router = live.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(encoded(cbor!({ "type" => "join", "senderId" => "late" }))).await.unwrap();
    for document in [second, small] {
        let data = Automerge::new().generate_sync_message(&mut SyncState::new()).unwrap().encode();
        let request = cbor!({
            "type" => "request", "senderId" => "late", "documentId" => document.to_string(), "data" => Value::Bytes(data),
        });
        socket.send(encoded(request)).await.unwrap();
    }
    let mut hear = async || {
        loop {
            let message = socket.next().await.unwrap().unwrap();
            if message.is_binary() {
                let message: Value = ciborium::from_reader(&message.into_data()[..]).unwrap();
                let fields = message.into_map().unwrap();
                let document = fields.into_iter().find(|(name, _)| name.as_text() == Some("documentId"));
                return document.map(|(_, document)| document.into_text().unwrap());
            }
        }
    };
    assert_eq!(hear().await, None, "who the server is");
    assert_eq!(hear().await, Some(small.to_string()), "nothing waits for it, and this is small");
    let late = live.0.sessions().by_number.values().find(|session| session.peer == "late").unwrap().clone();
    while !late.is_owing() {
        tokio::task::yield_now().await;
    }
    heard(&slow).await;
    assert_eq!(hear().await, Some(second.to_string()), "once there is space again");
}

#[tokio::test]
async fn who_holds_up_the_others_for_too_long_is_ended() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let (first, second) = (stored(&documents, 1, 100_000).await, stored(&documents, 2, 100_000).await);
    let live = LiveServer::with(documents, LiveOptions::default(), Everybody, 50_000).await.unwrap();
    let enter = |name: &str| live.0.enter(name.to_owned(), None, Identity::anonymous()).unwrap();
    let (slow, late) = (enter("slow"), enter("late"));
    ask(&live, &slow, first).await;
    while slow.waiting_bytes() == 0 {
        slow.changed.notified().await;
    }
    ask(&live, &late, second).await;
    while !late.is_owing() {
        tokio::task::yield_now().await;
    }
    let now = Instant::now();
    live.0.relieve(now);
    assert!(!slow.is_ended(), "it is given time");
    let freed = live.0.outboxes.freed();
    live.0.relieve(now + Duration::from_millis(limits::OUTBOXES_MS_MAX));
    freed.await;
    assert!(slow.is_ended() && !late.is_ended());
    let last = String::from_utf8_lossy(&heard(&slow).await).into_owned();
    assert!(last.contains("OUTBOXES_BYTES"), "{last}");
    assert_eq!(live.metrics().stalled_total, 1);
    assert!(late.has_space(second, usize::MAX));
}

/// Frames that keep so many bytes of their own, and those that they share.
fn send(session: &Session, bytes: usize, data: Option<&Arc<outbox::Held>>) {
    session.send(outbox::Frame { head: session.outboxes.hold(vec![0; bytes]), data: data.cloned() });
}

#[tokio::test(start_paused = true)]
async fn who_takes_what_waits_for_it_is_not_ended_for_it() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::with(documents, LiveOptions::default(), Everybody, 50_000).await.unwrap();
    let enter = |name: &str| live.0.enter(name.to_owned(), None, Identity::anonymous()).unwrap();
    let (steady, slow) = (enter("steady"), enter("slow"));
    send(&steady, 90_000, None);
    send(&slow, 20_000, None);
    let writing = steady.next().unwrap();
    for round in 0..3 {
        assert!(!live.0.outboxes.has_space());
        tokio::time::advance(Duration::from_millis(limits::OUTBOXES_MS_MAX)).await;
        steady.took(10_000);
        live.0.relieve(Instant::now());
        assert!(slow.is_ended() && !steady.is_ended(), "round {round}");
        assert_eq!(live.metrics().stalled_total, 1, "nobody else is to be ended");
    }
    tokio::time::advance(Duration::from_millis(limits::OUTBOXES_MS_MAX)).await;
    live.0.relieve(Instant::now());
    assert!(steady.is_ended(), "it takes nothing any more");
    drop(writing);
}

#[tokio::test(start_paused = true)]
async fn of_what_many_share_each_holds_up_its_part() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::with(documents, LiveOptions::default(), Everybody, 50_000).await.unwrap();
    let enter = |name: &str| live.0.enter(name.to_owned(), None, Identity::anonymous()).unwrap();
    let data = Arc::new(live.0.outboxes.hold(vec![0; 90_000]));
    let many: Vec<_> = ["a", "b", "c"].map(enter).into();
    let alone = enter("alone");
    for session in &many {
        send(session, 10, Some(&data));
    }
    drop(data);
    send(&alone, 40_000, None);
    let idle = enter("idle");
    assert!(!live.0.outboxes.has_space());
    tokio::time::advance(Duration::from_millis(limits::OUTBOXES_MS_MAX)).await;
    live.0.relieve(Instant::now());
    assert!(alone.is_ended() && !idle.is_ended());
    assert!(many.iter().all(|session| !session.is_ended()));
}
