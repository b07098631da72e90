//! A client of automerge-repo's protocol that does as it is told, so that it can also misbehave. The benches have it, too.
#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use std::collections::BTreeMap;
use std::time::Duration;

use automerge::sync::{Message as SyncMessage, State, SyncDoc as _};
use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ROOT, ReadDoc as _};
use ciborium::cbor;
use ciborium::value::Value;
use futures_util::{SinkExt as _, StreamExt as _};
use seabed_automerge::DocumentId;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A server that hangs fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A client with its documents.
pub struct Client {
    pub name: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub documents: BTreeMap<DocumentId, (Automerge, State)>,
}

impl Client {
    pub async fn connect(url: &str, name: &str) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        Self { name: name.to_owned(), socket, documents: BTreeMap::new() }
    }

    /// Connects, and says who it is.
    pub async fn join(url: &str, name: &str) -> Self {
        let mut client = Self::connect(url, name).await;
        client
            .send(cbor!({
                "type" => "join", "senderId" => name, "supportedProtocolVersions" => ["1"],
                "peerMetadata" => { "storageId" => format!("disk of {name}"), "isEphemeral" => false },
            }))
            .await;
        let peer = client.next().await.expect("the connection was ended");
        assert_eq!((text(&peer, "type"), text(&peer, "selectedProtocolVersion")), ("peer", "1"));
        client
    }

    pub async fn send(&mut self, message: Result<Value, ciborium::value::Error>) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&message.unwrap(), &mut bytes).unwrap();
        // A server that has closed already says so when it is read from.
        let _ = self.socket.send(Message::Binary(bytes.into())).await;
    }

    /// Shows that it is there, also while it reads nothing.
    pub async fn ping(&mut self) {
        self.socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    }

    /// The next message of the server; `None` when it has closed.
    pub async fn next(&mut self) -> Option<BTreeMap<String, Value>> {
        loop {
            let message =
                tokio::time::timeout(TIMEOUT, self.socket.next()).await.expect("the server is silent");
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Value::Map(map) = ciborium::from_reader(&bytes[..]).unwrap() else {
                        panic!("no map")
                    };
                    return Some(
                        map.into_iter().map(|(key, value)| (key.into_text().unwrap(), value)).collect(),
                    );
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    pub fn document(&mut self, document: DocumentId) -> &mut (Automerge, State) {
        self.documents.entry(document).or_default()
    }

    pub fn edit(&mut self, document: DocumentId, key: &str, value: &str) {
        let (document, _) = self.document(document);
        document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, value)).unwrap();
    }

    /// Says what there is to say of a document.
    pub async fn say(&mut self, document: DocumentId, kind: &str) {
        let (automerge, state) = self.document(document);
        if let Some(message) = automerge.generate_sync_message(state) {
            let data = Value::Bytes(message.encode());
            self.send(cbor!({
                "type" => kind, "senderId" => self.name.clone(), "targetId" => "server",
                "documentId" => document.to_string(), "data" => data,
            }))
            .await;
        }
    }

    /// Takes what the server says of a document, and answers it.
    pub async fn hear(&mut self, message: &BTreeMap<String, Value>) {
        let document: DocumentId = text(message, "documentId").parse().unwrap();
        let sync = SyncMessage::decode(message["data"].as_bytes().unwrap()).unwrap();
        let (automerge, state) = self.document(document);
        automerge.receive_sync_message(state, sync).unwrap();
        self.say(document, "sync").await;
    }

    /// Until the server has said that it has everything that this client has; what else it said meanwhile.
    pub async fn acknowledged(&mut self, document: DocumentId) -> Vec<BTreeMap<String, Value>> {
        self.say(document, "sync").await;
        let mut others = Vec::new();
        loop {
            let (automerge, state) = self.document(document);
            if state.their_heads.as_ref().is_some_and(|heads| *heads == automerge.get_heads()) {
                return others;
            }
            let message = self.next().await.expect("the connection was ended");
            if text(&message, "type") == "sync" { self.hear(&message).await } else { others.push(message) }
        }
    }

    /// Until this client has that value.
    pub async fn until(&mut self, document: DocumentId, key: &str, value: &str) {
        while self.value(document, key).as_deref() != Some(value) {
            let message = self.next().await.expect("the connection was ended");
            if text(&message, "type") == "sync" {
                self.hear(&message).await;
            }
        }
    }

    pub fn value(&mut self, document: DocumentId, key: &str) -> Option<String> {
        let (automerge, _) = self.document(document);
        automerge.get(ROOT, key).unwrap().map(|(value, _)| value.into_string().unwrap())
    }

    /// The server's last words: what it said until it closed, and the reason.
    pub async fn ended(&mut self) -> (Vec<BTreeMap<String, Value>>, String) {
        let mut said = Vec::new();
        while let Some(message) = self.next().await {
            said.push(message);
        }
        let why = said.pop_if(|last| text(last, "type") == "error");
        (said, why.map_or(String::new(), |why| text(&why, "message").to_owned()))
    }
}

/// A text of a message; empty when it has none of that name.
pub fn text<'a>(message: &'a BTreeMap<String, Value>, name: &str) -> &'a str {
    message.get(name).and_then(Value::as_text).unwrap_or_default()
}
