//! The server over a line that the test holds: how long it is, how quickly it carries, and what the client does at its other end.

use std::io;

use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;

use super::super::outbox::Frame;
use super::*;

/// How much the line holds.
const LINE_BYTES: usize = 16 * 1024;

/// Takes the ends of lines as if they came from a port.
struct Lines(mpsc::Receiver<DuplexStream>);

impl axum::serve::Listener for Lines {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        match self.0.recv().await {
            Some(line) => (line, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

type Client = WebSocketStream<DuplexStream>;

/// A client that has joined, with its session.
async fn joined(live: &LiveServer) -> (Client, Arc<Session>) {
    let (client, server) = tokio::io::duplex(LINE_BYTES);
    joined_over(live, client, server).await
}

async fn joined_over(
    live: &LiveServer,
    client: DuplexStream,
    server: DuplexStream,
) -> (Client, Arc<Session>) {
    let (lines, accepted) = mpsc::channel(1);
    lines.send(server).await.unwrap();
    let router = live.router();
    tokio::spawn(async move { axum::serve(Lines(accepted), router).await });
    let (mut client, _) = tokio_tungstenite::client_async("ws://line/", client).await.unwrap();
    client.send(encoded(cbor!({ "type" => "join", "senderId" => "client" }))).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_binary(), "who the server is");
    let session = live.0.sessions().by_number.values().next().unwrap().clone();
    (client, session)
}

async fn server() -> LiveServer {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap()
}

fn send(session: &Session, bytes: usize) {
    session.send(Frame { head: session.outboxes.hold(vec![7; bytes]), data: None });
}

/// Until what was sent is being written.
async fn taken_up(session: &Session) {
    while !session.is_writing() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_is_cut_off_while_a_short_frame_waits_is_told_why() {
    let live = server().await;
    let (mut client, session) = joined(&live).await;
    send(&session, 3 * LINE_BYTES);
    taken_up(&session).await;
    live.0.end(&session, "access was withdrawn");
    assert_eq!(client.next().await.unwrap().unwrap().len(), 3 * LINE_BYTES);
    let last = client.next().await.unwrap().unwrap().into_data();
    assert!(String::from_utf8_lossy(&last).contains("access was withdrawn"));
}
