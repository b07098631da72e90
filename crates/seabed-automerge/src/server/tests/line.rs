//! The server over a line that the test holds: how long it is, how quickly it carries, and what the client does at its other end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as Fragment;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::super::inbox::{Counted, READ_BYTES};
use super::super::outbox::Frame;
use super::*;

/// How much the line holds.
const LINE_BYTES: usize = 16 * 1024;

/// The server's end of a line.
struct End {
    line: DuplexStream,
    /// Whether it was closed, and not only dropped.
    closed: Arc<AtomicBool>,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_read(context, into)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.line).poll_shutdown(context)
    }
}

/// Takes the ends of lines as if they came from a port.
struct Lines(mpsc::Receiver<End>);

impl axum::serve::Listener for Lines {
    type Io = End;
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
    let (client, line) = tokio::io::duplex(LINE_BYTES);
    joined_over(live, client, End { line, closed: Arc::default() }).await
}

async fn joined_over(live: &LiveServer, client: DuplexStream, server: End) -> (Client, Arc<Session>) {
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

/// How much a slow line carries in a second.
const SLOW_BYTES: usize = 16 * 1024;

/// A frame that takes more than twice as long as a connection may be silent.
const LONG_BYTES: usize = 80 * SLOW_BYTES;

#[tokio::test(start_paused = true)]
async fn a_download_takes_as_long_as_it_takes() {
    let live = server().await;
    let ((client, near), (far, end)) = (tokio::io::duplex(LINE_BYTES), tokio::io::duplex(LINE_BYTES));
    let (mut from_server, mut to_server) = tokio::io::split(far);
    let (mut from_client, mut to_client) = tokio::io::split(near);
    let mut carrying = JoinSet::new();
    carrying.spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) });
    carrying.spawn(async move {
        let mut block = vec![0; SLOW_BYTES / 4];
        loop {
            let bytes = from_server.read(&mut block).await?;
            tokio::time::sleep(Duration::from_millis(250)).await;
            to_client.write_all(&block[..bytes]).await?;
        }
    });
    let (mut client, session) = joined_over(&live, client, End { line: end, closed: Arc::default() }).await;
    let began = Instant::now();
    send(&session, LONG_BYTES);
    let mut pings = 0;
    let bytes = loop {
        let message = client.next().await.unwrap().unwrap();
        if message.is_binary() {
            break message.len();
        }
        pings += u64::from(message.is_ping());
    };
    assert_eq!(bytes, LONG_BYTES);
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    assert!(took_ms > 2 * limits::SILENCE_MS_MAX, "{took_ms}");
    assert!(pings >= took_ms / limits::PING_MS / 2, "{pings} pings in {took_ms} ms");
    assert!(!session.is_ended());
    assert_eq!(live.metrics().stalled_total, 0);
}

#[tokio::test(start_paused = true)]
async fn who_answers_nothing_gets_all_of_what_it_takes_and_then_its_end() {
    let live = server().await;
    let (client, session) = joined(&live).await;
    send(&session, LONG_BYTES);
    let mut line = client.into_inner();
    let (mut block, mut bytes) = (vec![0; SLOW_BYTES / 4], 0);
    let began = Instant::now();
    while bytes < LONG_BYTES {
        tokio::time::sleep(Duration::from_millis(250)).await;
        bytes += line.read(&mut block).await.unwrap();
    }
    assert!(began.elapsed() > Duration::from_millis(2 * limits::SILENCE_MS_MAX));
    assert!(!session.is_ended());
    let mut last = Vec::new();
    line.read_to_end(&mut last).await.unwrap();
    assert!(String::from_utf8_lossy(&last).contains("SILENCE_MS_MAX"));
    assert_eq!(live.metrics().stalled_total, 1);
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_not_waited_for() {
    let live = server().await;
    let (_client, session) = joined(&live).await;
    let began = Instant::now();
    send(&session, LONG_BYTES);
    session.ended().await;
    assert!(began.elapsed() <= Duration::from_millis(2 * limits::SILENCE_MS_MAX));
}

#[tokio::test]
async fn who_says_goodbye_is_answered_and_the_line_is_closed_with_care() {
    let live = server().await;
    let (client, line) = tokio::io::duplex(LINE_BYTES);
    let closed = Arc::new(AtomicBool::new(false));
    let (mut client, _session) = joined_over(&live, client, End { line, closed: closed.clone() }).await;
    client.close(None).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_close());
    assert!(client.next().await.is_none());
    assert!(closed.load(Ordering::Relaxed));
}

#[tokio::test]
async fn who_is_sent_away_is_told_goodbye_and_the_line_is_closed_with_care() {
    let live = server().await;
    let (client, line) = tokio::io::duplex(LINE_BYTES);
    let closed = Arc::new(AtomicBool::new(false));
    let (mut client, session) = joined_over(&live, client, End { line, closed: closed.clone() }).await;
    session.end(None);
    assert!(client.next().await.unwrap().unwrap().is_close());
    while !closed.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
}

/// Part of a message.
fn piece(bytes: Vec<u8>, code: Data, is_last: bool) -> tungstenite::Message {
    tungstenite::Message::Frame(Fragment::message(bytes, OpCode::Data(code), is_last))
}

/// A connection, and the end of it for the server.
async fn connected(live: &LiveServer) -> Client {
    let (client, line) = tokio::io::duplex(LINE_BYTES);
    let (lines, accepted) = mpsc::channel(1);
    lines.send(End { line, closed: Arc::default() }).await.unwrap();
    let router = live.router();
    tokio::spawn(async move { axum::serve(Lines(accepted), router).await });
    tokio_tungstenite::client_async("ws://line/", client).await.unwrap().0
}

#[tokio::test]
async fn who_has_sent_most_of_what_is_not_whole_is_told_why_it_goes_and_the_others_go_on() {
    const PIECE_BYTES: usize = 100_000;
    let live = server().await;
    let (mut client, session) = joined(&live).await;
    // What others have sent: so much that one of several pieces does not fit any more.
    let other = |_| {
        let inbox = live.0.inboxes.open();
        inbox.add(READ_BYTES + PIECE_BYTES);
        inbox
    };
    let others: Vec<_> = (3..limits::INBOXES_BYTES / PIECE_BYTES).map(other).collect();
    let long = cbor!({ "type" => "strange", "senderId" => "client", "data" => Value::Bytes(vec![7; 2 * PIECE_BYTES]) });
    let long = encoded(long).into_data();
    let (first, rest) = long.split_at(PIECE_BYTES);
    client.send(piece(first.to_vec(), Data::Binary, false)).await.unwrap();

    for joins in [true, false] {
        let mut greedy = connected(&live).await;
        if joins {
            greedy.send(encoded(cbor!({ "type" => "join", "senderId" => "greedy" }))).await.unwrap();
            assert!(greedy.next().await.unwrap().unwrap().is_binary(), "who the server is");
        }
        let (mut to, from) = greedy.split();
        let sent = async {
            for code in [Data::Binary, Data::Continue, Data::Continue, Data::Continue] {
                // Once it has gone there is nobody who takes it.
                let _ = to.send(piece(vec![0; PIECE_BYTES], code, false)).await;
            }
        };
        let (heard, ()) = tokio::join!(from.collect::<Vec<_>>(), sent);
        let last = heard.into_iter().find_map(Result::ok).unwrap().into_data();
        assert!(String::from_utf8_lossy(&last).contains("INBOXES_BYTES"), "joined: {joins}");
    }
    assert_eq!((live.metrics().crowded_out_total, session.is_ended()), (2, false));

    // What had arrived of the other message is there, and its rest is taken; it counts no more then.
    client.send(tungstenite::Message::Ping(vec![7; 99].into())).await.unwrap();
    client.send(piece(rest.to_vec(), Data::Continue, true)).await.unwrap();
    let request = cbor!({
        "type" => "request", "senderId" => "client", "documentId" => DocumentId::from_bytes([7; 16]).to_string(),
        "data" => Value::Bytes(Automerge::new().generate_sync_message(&mut SyncState::new()).unwrap().encode()),
    });
    client.send(encoded(request)).await.unwrap();
    let answer = loop {
        let message = client.next().await.unwrap().unwrap();
        if message.is_binary() {
            break message.into_data();
        }
    };
    assert!(String::from_utf8_lossy(&answer).contains("doc-unavailable"));
    drop(others);
    assert_eq!(live.metrics().incoming_bytes, 0);
}

#[tokio::test]
async fn a_message_as_long_as_is_allowed_fits_into_what_all_may_have_sent() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let options = LiveOptions { message_bytes_max: limits::INBOXES_BYTES, ..LiveOptions::default() };
    let live = LiveServer::open(documents, options, Everybody).await.unwrap();
    let inbox = live.0.inboxes.open();
    inbox.add(limits::INBOXES_BYTES + READ_BYTES);
    let mut stream = Counted::new(&[7_u8][..], inbox);
    assert_eq!(stream.read_u8().await.unwrap(), 7);
    assert_eq!(live.metrics().crowded_out_total, 0);
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_and_ends_inside_a_message_is_not_waited_for() {
    const PIECE_BYTES: usize = 100_000;
    for crowded_out in [true, false] {
        let live = server().await;
        let (mut client, session) = joined(&live).await;
        let other = |_| {
            let inbox = live.0.inboxes.open();
            inbox.add(READ_BYTES + PIECE_BYTES);
            inbox
        };
        let others: Vec<_> = (1..limits::INBOXES_BYTES / PIECE_BYTES).map(other).collect();
        // The most of one, and with it not too much.
        client.send(piece(vec![0; READ_BYTES + 6 * PIECE_BYTES / 5], Data::Binary, false)).await.unwrap();
        while live.metrics().incoming_bytes < (others.len() * PIECE_BYTES + 6 * PIECE_BYTES / 5) as u64 {
            tokio::task::yield_now().await;
        }
        // The line is full, and nobody reads what is in it.
        send(&session, 3 * LINE_BYTES);
        taken_up(&session).await;
        let began = Instant::now();
        if !crowded_out {
            live.0.end(&session, "access was withdrawn");
        }
        let waiting = live.0.inboxes.open();
        waiting.add(READ_BYTES + PIECE_BYTES);
        let mut stream = Counted::new(&[7_u8][..], waiting);
        assert_eq!(stream.read_u8().await.unwrap(), 7);
        assert_eq!(live.metrics().crowded_out_total, 1);
        let took = began.elapsed();
        assert!(took <= Duration::from_millis(limits::HASTY_END_MS_MAX + 1), "{took:?}");
    }
}
