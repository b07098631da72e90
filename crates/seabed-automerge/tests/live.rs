//! The live server and clients that speak the protocol themselves, so that they can also misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

#[path = "common/client.rs"]
mod client;
mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use automerge::sync::{Message as SyncMessage, State, SyncDoc as _};
use automerge::transaction::Transactable as _;
use automerge::{ActorId, Automerge, AutomergeError, ROOT, ReadDoc as _};
use axum::http::request::Parts;
use ciborium::cbor;
use ciborium::value::Value;
use client::{Client, text};
use common::{Odd, id, rows, tenant};
use seabed_automerge::{
    Access, Admission, Append, DocStore, DocumentId, Everybody, Identity, LiveOptions, LiveServer, Policy,
};
use seabed_kv::{ErrorKind, Store};
use seabed_testkit::postgres::Cluster;
use tokio_tungstenite::connect_async;

struct Server {
    live: LiveServer,
    documents: DocStore,
    url: String,
}

impl Server {
    async fn new(store: &Store) -> Self {
        Self::with(DocStore::open(store).await.unwrap(), LiveOptions::default(), Everybody).await
    }

    async fn with(documents: DocStore, options: LiveOptions, policy: impl Policy) -> Self {
        let live = LiveServer::open(documents.clone(), options, policy).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/automerge", listener.local_addr().unwrap());
        let router = live.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { live, documents, url }
    }

    async fn client(&self, name: &str) -> Client {
        Client::join(&self.url, name).await
    }

    async fn stored(&self, document: DocumentId) -> Automerge {
        let loaded = self.documents.load(document).await.unwrap();
        loaded.map_or_else(Automerge::new, |loaded| Automerge::load(&loaded.bytes).unwrap())
    }
}

/// Text that does not compress.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_add(1);
    let character = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + u8::try_from(state >> 58).unwrap())
    };
    (0..length).map(character).collect()
}

#[tokio::test]
async fn the_handshake_is_the_protocols_and_other_versions_are_refused() {
    let server = Server::new(&Store::memory()).await;
    let mut client = Client::connect(&server.url, "me").await;
    client.send(cbor!({ "type" => "join", "senderId" => "me", "peerMetadata" => {} })).await;
    let peer = client.next().await.unwrap();
    assert_eq!((text(&peer, "type"), text(&peer, "targetId")), ("peer", "me"));
    let metadata = peer["peerMetadata"].as_map().unwrap();
    let storage = metadata.iter().find(|(key, _)| key.as_text() == Some("storageId")).unwrap();
    assert_eq!(storage.1.as_text(), Some(server.live.storage_id()));

    let again = LiveServer::open(server.documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    assert_eq!(again.storage_id(), server.live.storage_id(), "the store's, for ever");

    for (message, why) in [
        (cbor!({ "type" => "join", "senderId" => "b", "supportedProtocolVersions" => ["999"] }), "version"),
        (cbor!({ "type" => "leave", "senderId" => "b" }), "not a join"),
        (cbor!(["join"]), "no message"),
    ] {
        let mut client = Client::connect(&server.url, "b").await;
        client.send(message).await;
        let (said, error) = client.ended().await;
        assert!(said.is_empty() && error.contains(why), "{said:?} {error}");
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_stored() {
    let server = Server::new(&Store::memory()).await;
    let mut client = server.client("a").await;
    for number in 0..20 {
        client.edit(id(1), "key", &number.to_string());
        client.acknowledged(id(1)).await;
        let heads = client.document(id(1)).0.get_heads();
        assert_eq!(server.stored(id(1)).await.get_heads(), heads);
    }
    assert_eq!(server.live.metrics().changes_total, 20);
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_acknowledged_and_is_taken_again_later() {
    let (store, oddities) = Odd::store();
    let server = Server::new(&store).await;
    let (mut client, mut other) = (server.client("a").await, server.client("b").await);
    client.edit(id(1), "first", "stored");
    client.acknowledged(id(1)).await;
    other.say(id(1), "request").await;
    other.until(id(1), "first", "stored").await;

    oddities.lock().unwrap().writes_left = Some(0);
    client.edit(id(1), "second", "not stored");
    let heads = client.document(id(1)).0.get_heads();
    client.say(id(1), "sync").await;
    let (said, why) = client.ended().await;
    assert!(why.contains("connect again"), "{why}");
    for message in said.iter().filter(|message| text(message, "type") == "sync") {
        let sync = SyncMessage::decode(message["data"].as_bytes().unwrap()).unwrap();
        assert_ne!(sync.heads, heads, "it names what is not stored");
    }
    // Flushing what is told to the other one may fail, too.
    assert!(server.live.metrics().failures_total >= 1);

    oddities.lock().unwrap().writes_left = None;
    let documents = std::mem::take(&mut client.documents);
    let mut again = server.client("a").await;
    for (document, (automerge, _)) in documents {
        again.documents.insert(document, (automerge, State::new()));
    }
    again.acknowledged(id(1)).await;
    // Who had nothing to do with it never noticed.
    other.until(id(1), "second", "not stored").await;
}

#[tokio::test]
async fn documents_that_nobody_asked_for_are_never_announced() {
    let server = Server::new(&Store::memory()).await;
    let (mut author, mut other) = (server.client("a").await, server.client("b").await);
    author.edit(id(1), "key", "value");
    author.acknowledged(id(1)).await;
    // Whatever was said to it before would come first.
    other.say(id(2), "request").await;
    let answer = other.next().await.unwrap();
    assert_eq!(
        (text(&answer, "type"), text(&answer, "documentId")),
        ("doc-unavailable", id(2).to_string().as_str())
    );
}

#[tokio::test]
async fn who_does_not_read_delays_nobody_and_gets_all_of_it_later() {
    let server = Server::new(&Store::memory()).await;
    let (mut author, mut slow) = (server.client("a").await, server.client("b").await);
    author.edit(id(1), "key", "first");
    author.acknowledged(id(1)).await;
    slow.say(id(1), "request").await;
    slow.until(id(1), "key", "first").await;
    // Far more than the system and the server keep for it.
    for number in 0..60 {
        author.edit(id(1), &format!("key {}", number % 8), &noise(number, 300_000));
        author.acknowledged(id(1)).await;
        // However long that takes, it is not silent.
        slow.ping().await;
    }
    author.edit(id(1), "key", "last");
    author.acknowledged(id(1)).await;
    slow.until(id(1), "key", "last").await;
    assert_eq!(server.live.metrics().stalled_total, 0);
}

#[tokio::test]
async fn limits_end_the_connection_that_exceeds_them_and_no_other() {
    let options =
        LiveOptions { message_bytes_max: 10_000, documents_per_connection_max: 3, ..LiveOptions::default() };
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let server = Server::with(documents, options, Everybody).await;
    let mut bystander = server.client("bystander").await;

    let mut greedy = server.client("a").await;
    for number in 1..=4 {
        greedy.say(id(number), "request").await;
    }
    let (said, why) = greedy.ended().await;
    assert!(said.len() <= 3 && why.contains("DOCUMENTS_PER_CONNECTION_MAX"), "{why}");

    let mut long = server.client("b").await;
    long.send(cbor!({ "type" => "sync", "senderId" => "b", "documentId" => id(9).to_string(), "data" => Value::Bytes(vec![0; 20_000]) }))
        .await;
    long.ended().await;

    let mut hostile = server.client("c").await;
    hostile
        .send(cbor!({ "type" => "sync", "senderId" => "c", "documentId" => id(9).to_string(), "data" => Value::Bytes(vec![0x42; 99]) }))
        .await;
    assert!(hostile.ended().await.1.contains("does not read"));

    bystander.edit(id(5), "key", "value");
    bystander.acknowledged(id(5)).await;
    assert!(server.live.metrics().malformed_total >= 2);
}

#[tokio::test]
async fn what_would_have_automerge_ask_for_all_memory_ends_its_own_connection() {
    let server = Server::new(&Store::memory()).await;
    let mut bystander = server.client("bystander").await;
    bystander.edit(id(1), "key", "value");
    bystander.acknowledged(id(1)).await;
    // A Bloom filter of one hash: with 2^32 - 1 probes, without a bit; and of two-byte summaries more than there is memory for.
    let probes = [0x42, 0, 0, 1, 0, 8, 1, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0].to_vec();
    let no_bits = vec![0x42, 0, 0, 1, 0, 3, 1, 0, 7, 0];
    let haves = [vec![0x42, 0, 0, 0x80, 0x80, 0x40], vec![0; 2 << 20]].concat();
    for (name, data) in [("a", probes), ("b", no_bits), ("c", haves)] {
        let mut hostile = server.client(name).await;
        hostile
            .send(cbor!({ "type" => "request", "senderId" => name, "documentId" => id(1).to_string(), "data" => Value::Bytes(data) }))
            .await;
        let (said, why) = hostile.ended().await;
        assert!(said.is_empty() && why.contains("does not read"), "{name}: {why}");
    }
    bystander.edit(id(1), "key", "again");
    bystander.acknowledged(id(1)).await;
    let metrics = server.live.metrics();
    assert_eq!((metrics.panics_total, metrics.reloads_total, metrics.malformed_total), (0, 0, 3));
}

#[tokio::test]
async fn documents_that_are_not_used_give_their_memory_back() {
    let options = LiveOptions { resident_bytes_max: 100_000, ..LiveOptions::default() };
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let server = Server::with(documents, options, Everybody).await;
    let mut client = server.client("a").await;
    for number in 1..=50 {
        client.edit(id(number), "key", "value");
        client.acknowledged(id(number)).await;
    }
    let metrics = server.live.metrics();
    assert_eq!(metrics.documents_open, 50);
    assert!(metrics.resident_bytes <= 100_000 && metrics.documents_resident < 10, "{metrics:?}");
    assert!(metrics.unloads_total >= 30, "{metrics:?}");
    // And they are there again when they are asked for.
    client.edit(id(1), "key", "again");
    client.acknowledged(id(1)).await;
    assert_eq!(server.stored(id(1)).await.get_heads(), client.document(id(1)).0.get_heads());
}

#[tokio::test]
async fn two_servers_of_one_store_converge() {
    let first = Server::new(&Store::memory()).await;
    let second = Server::with(first.documents.clone(), LiveOptions::default(), Everybody).await;
    let (mut a, mut b) = (first.client("a").await, second.client("b").await);
    a.edit(id(1), "from", "a");
    a.acknowledged(id(1)).await;
    b.say(id(1), "request").await;
    b.until(id(1), "from", "a").await;
    for round in 0..10 {
        // Each is behind what the other has stored, and none of it is lost.
        a.edit(id(1), "a", &round.to_string());
        a.acknowledged(id(1)).await;
        b.edit(id(1), "b", &round.to_string());
        b.acknowledged(id(1)).await;
    }
    first.live.poll().await.unwrap();
    a.until(id(1), "b", "9").await;
    b.until(id(1), "a", "9").await;
    let stored = first.stored(id(1)).await;
    assert_eq!(stored.get_heads(), a.document(id(1)).0.get_heads());
    assert_eq!(stored.get_changes(&[]).len(), 21);
    assert_eq!(first.documents.meta(id(1)).await.unwrap().unwrap().changes(), 21, "each is stored once");
}

#[tokio::test]
async fn what_one_server_of_a_database_stores_reaches_clients_of_another_before_anybody_looks() {
    let cluster = Cluster::start();
    let database = cluster.create_database();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let store = Store::postgres(&database).unwrap();
        let server = Server::new(&store).await;
        let (live, hints) = (server.live.clone(), store.hints().unwrap());
        tokio::spawn(async move { live.share(hints).await });
        servers.push(server);
    }
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE 'LISTEN%'";
    // The database has no event for it.
    while cluster.sql_at(&database, listening).unwrap().trim() != "2" {
        tokio::task::yield_now().await;
    }
    let [first, second] = &servers[..] else { unreachable!() };
    let (mut a, mut b) = (first.client("a").await, second.client("b").await);
    a.edit(id(1), "round", "first");
    a.acknowledged(id(1)).await;
    b.say(id(1), "request").await;
    b.until(id(1), "round", "first").await;
    let mut took = Vec::new();
    for round in 0..20 {
        a.edit(id(1), "a", &round.to_string());
        let began = Instant::now();
        a.acknowledged(id(1)).await;
        let acknowledged = Instant::now();
        // Nobody polls.
        b.until(id(1), "a", &round.to_string()).await;
        took.push((acknowledged - began, began.elapsed()));
        b.edit(id(1), "b", &round.to_string());
        b.acknowledged(id(1)).await;
        a.until(id(1), "b", &round.to_string()).await;
    }
    took.sort_by_key(|(_, there)| *there);
    println!(
        "from an edit to its acknowledgement, and to a client of the other server: {:?} (the median)",
        took[10]
    );
}

#[tokio::test]
async fn a_deleted_document_stays_deleted_when_a_client_that_has_it_comes_back() {
    let server = Server::new(&Store::memory()).await;
    let mut client = server.client("a").await;
    client.edit(id(1), "key", "value");
    client.acknowledged(id(1)).await;
    server.documents.delete(id(1), 1_700_000_000).await.unwrap();
    server.live.poll().await.unwrap();
    let told = client.next().await.unwrap();
    assert_eq!(text(&told, "type"), "doc-unavailable");

    let documents = std::mem::take(&mut client.documents);
    let mut stale = server.client("stale").await;
    for (document, (automerge, _)) in documents {
        stale.documents.insert(document, (automerge, State::new()));
    }
    stale.edit(id(1), "key", "back");
    stale.say(id(1), "sync").await;
    assert_eq!(text(&stale.next().await.unwrap(), "type"), "doc-unavailable");
    assert_eq!(server.documents.load(id(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_document_that_is_deleted_while_it_is_not_in_memory_is_gone_for_who_has_it_open() {
    let options = LiveOptions { resident_bytes_max: 1, ..LiveOptions::default() };
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let server = Server::with(documents, options, Everybody).await;
    let mut client = server.client("a").await;
    for number in [1, 2] {
        client.edit(id(number), "key", "value");
        client.acknowledged(id(number)).await;
    }
    server.documents.delete(id(1), 1_700_000_000).await.unwrap();
    server.live.poll().await.unwrap();
    let told = client.next().await.unwrap();
    assert_eq!(
        (text(&told, "type"), text(&told, "documentId")),
        ("doc-unavailable", id(1).to_string().as_str())
    );
    client.edit(id(2), "key", "again");
    assert!(client.acknowledged(id(2)).await.is_empty(), "it is said once");
}

#[tokio::test]
async fn a_document_that_cannot_be_read_delays_no_other_and_who_writes_it_is_told() {
    let store = Store::memory();
    let server = Server::new(&store).await;
    let (mut client, mut other) = (server.client("a").await, server.client("b").await);
    for number in 1..=5 {
        client.edit(id(number), "key", "value");
        client.acknowledged(id(number)).await;
    }
    other.say(id(5), "request").await;
    other.until(id(5), "key", "value").await;
    for number in 1..=4 {
        tenant(&store).put("automerge.document", id(number).as_bytes(), *b"damaged").await.unwrap();
    }
    let elsewhere = Server::with(server.documents.clone(), LiveOptions::default(), Everybody).await;
    let mut far = elsewhere.client("far").await;
    far.edit(id(5), "far", "value");
    far.acknowledged(id(5)).await;
    assert_eq!(server.live.poll().await.unwrap_err().kind(), ErrorKind::Corrupt);
    other.until(id(5), "far", "value").await;

    // What it says is in memory alone, and it would not say it twice.
    client.edit(id(1), "key", "lost");
    client.say(id(1), "sync").await;
    let (_, why) = client.ended().await;
    assert!(why.contains("cannot be read"), "{why}");
    assert_eq!(server.live.metrics().unreadable_total, 1);
}

#[tokio::test]
async fn of_a_damaged_document_the_rest_is_served() {
    let store = Store::memory();
    let first = Server::new(&store).await;
    let (mut a, mut b) = (first.client("a").await, first.client("b").await);
    a.edit(id(1), "a", "value");
    b.edit(id(1), "b", "value");
    a.acknowledged(id(1)).await;
    b.acknowledged(id(1)).await;
    let ((category, key), mut row) =
        rows(&store).into_iter().find(|((category, _), _)| category == "automerge.change").unwrap();
    *row.last_mut().unwrap() ^= 1;
    tenant(&store).put(&category, &key, row).await.unwrap();

    let second = Server::with(first.documents.clone(), LiveOptions::default(), Everybody).await;
    let mut client = second.client("c").await;
    client.say(id(1), "request").await;
    client.until(id(1), "b", "value").await;
    assert_eq!(client.value(id(1), "a"), None);
    assert_eq!(second.documents.meta(id(1)).await.unwrap().unwrap().quarantined(), 1);
}

#[tokio::test]
async fn what_is_stored_and_waits_for_others_outlives_a_message_that_is_refused() {
    let server = Server::new(&Store::memory()).await;
    let actor = ActorId::from([1; 16]);
    let mut author = Automerge::new().with_actor(actor.clone());
    for key in ["1", "2", "3"] {
        author.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, "value")).unwrap();
    }
    let theirs = author.get_changes(&[]);
    let append = Append { changes: vec![theirs[0].clone(), theirs[2].clone()], ..Append::default() };
    server.documents.append(id(1), None, append, ()).await.unwrap();
    let mut reader = server.client("reader").await;
    reader.say(id(1), "request").await;
    reader.until(id(1), "1", "value").await;

    // Another change 1 of the same actor: automerge drops what waits of that actor.
    let (mut twin, mut state) = (Automerge::new().with_actor(actor), State::new());
    twin.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "twin", "value")).unwrap();
    let asked = Automerge::new().generate_sync_message(&mut State::new()).unwrap();
    twin.receive_sync_message(&mut state, asked).unwrap();
    let message = twin.generate_sync_message(&mut state).unwrap().encode();
    let mut hostile = server.client("hostile").await;
    hostile
        .send(cbor!({ "type" => "sync", "senderId" => "hostile", "documentId" => id(1).to_string(), "data" => Value::Bytes(message) }))
        .await;
    assert!(hostile.ended().await.1.contains("was not taken"));

    let mut writer = server.client("writer").await;
    writer.document(id(1)).0.apply_changes(theirs[..2].to_vec()).unwrap();
    writer.say(id(1), "sync").await;
    writer.until(id(1), "3", "value").await;
    reader.until(id(1), "3", "value").await;
}

#[tokio::test]
async fn what_was_read_is_flushed_before_it_is_told() {
    let (store, oddities) = Odd::store();
    let server = Server::new(&store).await;
    let mut author = Automerge::new();
    author.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).unwrap();
    // Somebody else's, who may not have waited for the disk.
    let append = Append { changes: author.get_changes(&[]), ..Append::default() };
    server.documents.append(id(1), None, append, ()).await.unwrap();
    let before = oddities.lock().unwrap().flushes;
    let mut client = server.client("a").await;
    client.say(id(1), "request").await;
    client.until(id(1), "key", "value").await;
    assert_eq!(oddities.lock().unwrap().flushes, before + 1);
    client.edit(id(1), "key", "again");
    client.acknowledged(id(1)).await;
    let mut other = server.client("b").await;
    other.say(id(1), "request").await;
    other.until(id(1), "key", "again").await;
    assert_eq!(oddities.lock().unwrap().flushes, before + 1, "a durable commit flushes what came before it");
}

/// What each may do is in a table that the test changes.
#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<String, Access>>>);

impl Policy for Table {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> Admission<'a> {
        let name = request.uri.query().unwrap_or_default().to_owned();
        Box::pin(async move { Ok(Identity::new(name)) })
    }

    fn admits(&self, identity: &Identity) -> bool {
        self.0.lock().unwrap().contains_key(identity.name())
    }

    fn access(&self, identity: &Identity, _: DocumentId) -> Access {
        self.0.lock().unwrap().get(identity.name()).copied().unwrap_or(Access::None)
    }
}

#[tokio::test]
async fn access_is_none_or_read_or_write_and_changes_while_connected() {
    let table = Table::default();
    let set = |name: &str, access| table.0.lock().unwrap().insert(name.to_owned(), access);
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let mut server = Server::with(documents, LiveOptions::default(), table.clone()).await;
    let bare = server.url.clone();
    set("writer", Access::Write);
    set("guest", Access::None);
    server.url = format!("{bare}?writer");
    let mut writer = server.client("w").await;
    server.url = format!("{bare}?guest");
    let mut guest = server.client("g").await;
    writer.edit(id(1), "key", "first");
    writer.acknowledged(id(1)).await;
    guest.say(id(1), "request").await;
    assert_eq!(text(&guest.next().await.unwrap(), "type"), "doc-unavailable");

    set("guest", Access::Read);
    server.live.recheck().await;
    guest.until(id(1), "key", "first").await;
    guest.edit(id(1), "guest", "read");
    guest.say(id(1), "sync").await;
    writer.edit(id(1), "key", "second");
    writer.acknowledged(id(1)).await;
    guest.until(id(1), "key", "second").await;
    assert_eq!(server.stored(id(1)).await.get(ROOT, "guest").unwrap(), None);

    set("guest", Access::Write);
    server.live.recheck().await;
    // It is told to say again what was not heard.
    guest.acknowledged(id(1)).await;
    writer.until(id(1), "guest", "read").await;

    table.0.lock().unwrap().remove("guest");
    server.live.recheck().await;
    assert!(guest.ended().await.1.contains("withdrawn"));
}

#[tokio::test]
async fn who_is_not_welcome_any_more_writes_nothing_however_slowly_it_reads() {
    let table = Table::default();
    let set = |name: &str| table.0.lock().unwrap().insert(name.to_owned(), Access::Write);
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let mut server = Server::with(documents, LiveOptions::default(), table.clone()).await;
    let bare = server.url.clone();
    set("author");
    set("revoked");
    server.url = format!("{bare}?author");
    let mut author = server.client("a").await;
    server.url = format!("{bare}?revoked");
    let mut revoked = server.client("r").await;
    author.edit(id(1), "key", "first");
    author.acknowledged(id(1)).await;
    revoked.say(id(1), "request").await;
    revoked.until(id(1), "key", "first").await;
    // The server is writing to it from now on, and does not come to an end.
    for number in 0..16 {
        author.edit(id(1), &format!("key {}", number % 8), &noise(number, 300_000));
        author.acknowledged(id(1)).await;
    }
    table.0.lock().unwrap().remove("revoked");
    server.live.recheck().await;
    revoked.edit(id(1), "revoked", "written");
    revoked.say(id(1), "sync").await;
    // The author's next word comes after it.
    author.edit(id(1), "key", "last");
    author.acknowledged(id(1)).await;
    revoked.ended().await;
    assert_eq!(server.stored(id(1)).await.get(ROOT, "revoked").unwrap(), None);
}

#[tokio::test]
async fn of_two_connections_of_one_peer_the_newer_stays_and_a_stranger_cannot_take_its_place() {
    let table = Table::default();
    table.0.lock().unwrap().extend([("x".to_owned(), Access::Write), ("y".to_owned(), Access::Write)]);
    let documents = DocStore::open(&Store::memory()).await.unwrap();
    let mut server = Server::with(documents, LiveOptions::default(), table).await;
    let bare = server.url.clone();
    server.url = format!("{bare}?x");
    let mut older = server.client("me").await;
    let mut newer = server.client("me").await;
    assert!(older.ended().await.0.is_empty());
    let mut stranger = Client::connect(&format!("{bare}?y"), "me").await;
    stranger.send(cbor!({ "type" => "join", "senderId" => "me" })).await;
    assert!(stranger.ended().await.1.contains("another client"));
    newer.edit(id(1), "key", "value");
    newer.acknowledged(id(1)).await;
}

#[tokio::test]
async fn the_end_waits_for_what_was_received() {
    let server = Server::new(&Store::memory()).await;
    let mut client = server.client("a").await;
    client.edit(id(1), "key", "value");
    client.acknowledged(id(1)).await;
    server.live.close().await;
    assert_eq!(client.ended().await.1, "");
    let peers = server.documents.peers(id(1)).await.unwrap();
    assert_eq!(peers[0].0, b"disk of a", "its sync state is stored when it leaves");
    assert!(connect_async(&server.url).await.is_err());
}
