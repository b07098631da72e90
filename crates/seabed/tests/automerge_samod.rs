//! samod, which is automerge-repo in Rust, against the server: what its users do, beside a client in Node, and what is left when the server is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ROOT, ReadDoc as _};
use common::Server;
use common::lines::Lines;
use futures_util::future::{BoxFuture, ready};
use futures_util::{SinkExt as _, StreamExt as _};
use samod::{BackoffConfig, DialError, Dialer, DialerHandle, DocHandle, Repo, Transport, Url};
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What does not happen fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_MS: u64 = 50;

/// The server, wherever it listens now.
#[derive(Clone)]
struct Place(Arc<Mutex<String>>);

impl Place {
    fn of(server: &Server) -> Self {
        Self(Arc::new(Mutex::new(server.address().to_owned())))
    }

    fn moves_to(&self, server: &Server) {
        server.address().clone_into(&mut self.0.lock().unwrap());
    }
}

impl Dialer for Place {
    type Error = Infallible;

    fn url(&self) -> Url {
        Url::parse(&format!("ws://{}/automerge", self.0.lock().unwrap())).unwrap()
    }

    fn connect(&self) -> BoxFuture<'static, Result<Transport, DialError<Infallible>>> {
        let url = self.url();
        Box::pin(async move {
            let (socket, _) = connect_async(url.as_str()).await.map_err(DialError::transient)?;
            let (sink, stream) = socket.split();
            let frames = stream.filter_map(|message| {
                ready(match message {
                    Ok(Message::Binary(bytes)) => Some(Ok(bytes.to_vec())),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                })
            });
            let sink = sink.with(|bytes: Vec<u8>| ready(Ok::<_, Error>(Message::binary(bytes))));
            Ok(Transport::new(frames, sink))
        })
    }
}

/// A repo, connected.
struct Client {
    repo: Repo,
    dialer: DialerHandle<Infallible>,
}

impl Client {
    async fn connect(place: &Place) -> Self {
        let repo = Repo::build_tokio().load().await;
        let dialer = dial(&repo, place).await;
        Self { repo, dialer }
    }

    async fn create(&self) -> DocHandle {
        self.repo.create(Automerge::new()).await.unwrap()
    }

    async fn find(&self, document: &DocHandle) -> DocHandle {
        let found = bounded(self.repo.find(document.document_id().clone())).await.unwrap();
        found.expect("the server has it")
    }

    /// Until the server has said that it has all of the document.
    async fn acknowledged(&self, document: &DocHandle) {
        bounded(document.they_have_our_changes(self.dialer.connection_id().unwrap())).await;
    }
}

async fn dial(repo: &Repo, place: &Place) -> DialerHandle<Infallible> {
    let retry = Duration::from_millis(RETRY_MS);
    let backoff = BackoffConfig { initial_delay: retry, max_delay: retry, max_retries: None };
    let dialer = repo.dial(backoff, Arc::new(place.clone())).unwrap();
    bounded(dialer.established()).await.unwrap();
    dialer
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.expect("it did not happen")
}

fn edit(document: &DocHandle, key: &str) {
    document.with_document(|document| {
        document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, true)).unwrap();
    });
}

fn has(document: &DocHandle, key: &str) -> bool {
    document.with_document(|document| document.get(ROOT, key).unwrap().is_some())
}

/// Until the document has that key.
async fn wait(document: &DocHandle, key: &str) {
    let mut changes = document.changes();
    while !has(document, key) {
        bounded(changes.next()).await.expect("the repo runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_found_and_edited_from_both_sides_and_from_node() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let place = Place::of(&server);
    let (first, second) = (Client::connect(&place).await, Client::connect(&place).await);
    let of_first = first.create().await;
    edit(&of_first, "first");
    first.acknowledged(&of_first).await;
    let of_second = second.find(&of_first).await;
    assert!(has(&of_second, "first"));
    edit(&of_second, "second");
    wait(&of_first, "second").await;

    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/automerge_peer.mjs"));
    let mut node = Lines::spawn(node);
    let url = of_first.url().to_string();
    node.ok(json!({ "op": "connect", "client": "node", "server": format!("ws://{}/", server.address()) }));
    let found = node.ok(json!({ "op": "find", "client": "node", "url": url }));
    assert_eq!(found["value"], json!({ "first": true, "second": true }));
    node.ok(json!({ "op": "change", "client": "node", "url": url, "key": "node", "value": true }));
    for document in [&of_first, &of_second] {
        wait(document, "node").await;
    }
    edit(&of_second, "last");
    node.ok(json!({ "op": "wait", "client": "node", "url": url, "key": "last", "value": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_nobody_has_is_not_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, elsewhere) = (Server::start(dir.path()), Server::start(other.path()));
    let theirs = Client::connect(&Place::of(&elsewhere)).await.create().await;
    let client = Client::connect(&Place::of(&server)).await;
    assert!(bounded(client.repo.find(theirs.document_id().clone())).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_made_while_the_server_is_killed_meet_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let place = Place::of(&server);
    let (first, second) = (Client::connect(&place).await, Client::connect(&place).await);
    let of_first = first.create().await;
    edit(&of_first, "before");
    first.acknowledged(&of_first).await;
    let of_second = second.find(&of_first).await;
    let [mut first_events, mut second_events] = [first.dialer.events(), second.dialer.events()];
    server.kill();
    for events in [&mut first_events, &mut second_events] {
        bounded(events.next()).await.expect("the repo runs");
    }
    assert!(!first.dialer.is_connected() && !second.dialer.is_connected());
    edit(&of_first, "first");
    edit(&of_second, "second");

    // Both come back by themselves.
    let server = Server::start(dir.path());
    place.moves_to(&server);
    wait(&of_first, "second").await;
    wait(&of_second, "first").await;
    let heads = |document: &DocHandle| document.with_document(|document| document.get_heads());
    assert_eq!(heads(&of_first), heads(&of_second));
}

/// Acknowledged is what the server's own sync message names.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_edit_is_lost_when_the_server_is_killed() {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 3;
    const BURST: usize = 5;
    const ENOUGH: usize = 50;

    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::<(DocHandle, usize)>::new();
    for round in 1..=ROUNDS {
        let server = Server::start(dir.path());
        let place = Place::of(&server);
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let client = Client::connect(&place).await;
            let document = client.create().await;
            let (tell, acknowledged) = watch::channel(0);
            let writing = tokio::spawn({
                let (document, connection) = (document.clone(), client.dialer.connection_id().unwrap());
                async move {
                    for burst in 1.. {
                        for number in (burst - 1) * BURST..burst * BURST {
                            edit(&document, &format!("edit {number}"));
                        }
                        document.they_have_our_changes(connection).await;
                        tell.send_replace(burst * BURST);
                    }
                }
            });
            writers.push((client, document, acknowledged, writing));
        }
        for (_, _, acknowledged, _) in &mut writers {
            bounded(acknowledged.wait_for(|count| *count >= ENOUGH)).await.unwrap();
        }
        server.kill();
        for (client, document, acknowledged, writing) in writers {
            writing.abort();
            assert!(writing.await.unwrap_err().is_cancelled(), "a writer failed");
            bounded(client.repo.stop()).await;
            told.push((document, *acknowledged.borrow()));
        }

        let server = Server::start(dir.path());
        let reader = Client::connect(&Place::of(&server)).await;
        for (document, acknowledged) in &told {
            let found = reader.find(document).await;
            assert!(*acknowledged >= ENOUGH, "{acknowledged}");
            let edits = (0..*acknowledged).map(|number| format!("edit {number}"));
            let lost: Vec<_> = edits.filter(|edit| !has(&found, edit)).collect();
            assert!(lost.is_empty(), "round {round}: of {acknowledged} acknowledged edits {lost:?} are gone");
        }
    }
}
