//! One connection: the handshake, then a reader that hands messages to rooms and a writer that sends what they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::frame::{self, Incoming, Outgoing, PROTOCOL, Said};
use super::limits::{
    HASTY_END_MS_MAX, JOIN_MS_MAX, MESSAGE_BYTES_WAITING_MAX, PING_MS, SILENCE_MS_MAX, SYNC_STATE_BYTES_MAX,
    WRITE_MS_MAX,
};
use super::mail::{Mail, Waiting};
use super::outbox::Frame;
use super::policy::Identity;
use super::session::Session;
use super::socket::{Sink, Source};
use super::{Access, Inner, message};
use crate::DocumentId;
use crate::chunks::guarded;

/// Why a connection is ended, as its client is told; `None` when there is nothing to tell.
type End = Option<String>;

/// Serves a connection to its end.
pub(super) async fn run(server: Arc<Inner>, (mut sink, mut source): (Sink, Source), identity: Identity) {
    let joined = timeout(Duration::from_millis(JOIN_MS_MAX), join(&server, &mut source, identity)).await;
    let session = match joined.unwrap_or_else(|_| Err((String::new(), Some("nobody has joined".to_owned()))))
    {
        Ok(session) => session,
        Err((peer, why)) => {
            server.metrics.malformed.add(1);
            let error =
                frame::encode(&server.peer, &peer, &Outgoing::Error { message: &why.unwrap_or_default() });
            let error = Frame { head: server.outboxes.hold(error), data: None };
            hasten(source.holds_up_others(), async move {
                // Who is not there any more need not be told.
                let _ = sink.write(&error, |_| {}).await;
                sink.close(source).await;
            })
            .await;
            return;
        }
    };
    server.metrics.connections.add(1);
    session.send(server.frame(&session, &Outgoing::Peer { storage: &server.storage }));
    let mut reader = Reader {
        server: &server,
        session: &session,
        pace: Pace::new(server.options.messages_per_second_max),
        kept: Kept::default(),
    };
    let writer = Writer { server: &server, session: &session };
    tokio::select! {
        biased;
        // Whoever is cut off is not listened to any more, however slowly it reads its last words.
        () = session.ended() => {}
        end = reader.read(&mut source) => {
            let told = end.map(|why| {
                tracing::info!(why, "a connection of an Automerge client is ended");
                server.frame(&session, &Outgoing::Error { message: &why })
            });
            session.end(told);
        }
        stalled = writer.write(&mut sink) => {
            if stalled {
                server.metrics.stalled.add(1);
            }
            session.end(None);
        }
    }
    if source.holds_up_others() {
        hasten(true, async move {
            writer.write(&mut sink).await;
            sink.close(source).await;
        })
        .await;
        leave(&server, &session).await;
    } else {
        // What it was sent last, and no more than that.
        let _ = timeout(Duration::from_millis(WRITE_MS_MAX), writer.write(&mut sink)).await;
        leave(&server, &session).await;
        sink.close(source).await;
    }
}

/// Ends a connection: in haste when others wait for what it keeps, which goes with it.
async fn hasten(hastens: bool, end: impl Future<Output = ()>) {
    if hastens {
        let _ = timeout(Duration::from_millis(HASTY_END_MS_MAX), end).await;
    } else {
        end.await;
    }
}

/// Nobody has to do with the connection any more.
async fn leave(server: &Inner, session: &Session) {
    server.leave(session);
    let rooms = std::mem::take(&mut *session.rooms());
    for (document, mailbox) in rooms {
        // Not left to the room, which may never have heard of this connection; and first, because it may end when it hears that it has left.
        server.rooms.detach(document, &mailbox);
        // A room that is gone has nobody to forget.
        let _ = mailbox.send(Mail::Leave { session: session.number }).await;
    }
}

/// The first message: who it is, and which versions it speaks. The error is whom to tell what.
async fn join(
    server: &Arc<Inner>,
    source: &mut Source,
    identity: Identity,
) -> Result<Arc<Session>, (String, End)> {
    loop {
        let message = match source.next(Bytes::new()).await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Text(_))) => {
                return Err((String::new(), Some("messages are binary".to_owned())));
            }
            Some(Err(error)) => return Err((String::new(), Some(error.to_string()))),
            Some(Ok(Message::Close(_) | Message::Frame(_))) | None => return Err((String::new(), None)),
        };
        let (peer, incoming) = frame::decode(&message).map_err(|why| (String::new(), Some(why)))?;
        let Incoming::Join { peer, storage, versions } = incoming else {
            return Err((peer, Some("the first message is not a join".to_owned())));
        };
        // Clients of before there were versions speak this one.
        if versions.is_some_and(|versions| !versions.iter().any(|version| version == PROTOCOL)) {
            return Err((peer, Some("unsupported protocol version".to_owned())));
        }
        return server.enter(peer.clone(), storage, identity).map_err(|why| (peer, Some(why)));
    }
}

/// How quickly messages may come.
struct Pace {
    per_second: u32,
    /// When the next message may be taken, as if they came evenly; at most a second behind.
    next: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { per_second: per_second.max(1), next: Instant::now() }
    }

    /// How long to wait before the message that has come is taken.
    fn wait(&mut self, now: Instant) -> Duration {
        let second = Duration::from_secs(1);
        let earliest = now.checked_sub(second).unwrap_or(now);
        self.next = self.next.max(earliest) + second / self.per_second;
        self.next.saturating_duration_since(now)
    }
}

/// How much of its last sync messages the rooms keep for a connection.
#[derive(Default)]
struct Kept {
    by_document: BTreeMap<DocumentId, usize>,
    bytes: usize,
}

impl Kept {
    /// The last message of a document takes the place of the one before.
    fn set(&mut self, document: DocumentId, bytes: usize) -> Result<(), String> {
        let before = self.by_document.insert(document, bytes).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(bytes);
        if self.bytes > SYNC_STATE_BYTES_MAX {
            return Err(format!(
                "heads and summaries of {} bytes, more than the {SYNC_STATE_BYTES_MAX} that are kept for one connection \
                 (SYNC_STATE_BYTES_MAX)",
                self.bytes
            ));
        }
        Ok(())
    }
}

struct Reader<'a> {
    server: &'a Arc<Inner>,
    session: &'a Arc<Session>,
    pace: Pace,
    kept: Kept,
}

impl Reader<'_> {
    /// Until the connection ends.
    async fn read(&mut self, source: &mut Source) -> End {
        let mut before = Bytes::new();
        loop {
            let listening = Instant::now();
            let next = source.next(std::mem::take(&mut before));
            let Ok(message) = timeout(Duration::from_millis(SILENCE_MS_MAX), next).await else {
                // An answer to a ping waits behind what the client is still taking, and taking that has a bound of its own.
                if self.session.has_taken_since(listening) {
                    continue;
                }
                self.server.metrics.stalled.add(1);
                return Some(format!("nothing was heard for {SILENCE_MS_MAX} ms (SILENCE_MS_MAX)"));
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    tokio::time::sleep(self.pace.wait(Instant::now())).await;
                    match self.take(&bytes).await {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(why) => {
                            self.server.metrics.malformed.add(1);
                            return Some(why);
                        }
                    }
                    before = bytes;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Some("messages are binary".to_owned()),
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection of an Automerge client broke");
                    return Some(error.to_string());
                }
            }
        }
    }

    /// Takes one message; `false` when the client leaves.
    async fn take(&mut self, bytes: &Bytes) -> Result<bool, String> {
        let (sender, incoming) = frame::decode(bytes)?;
        // As the JavaScript server has it: nobody speaks for somebody else.
        if sender != self.session.peer {
            return Ok(true);
        }
        match incoming {
            Incoming::Leave => return Ok(false),
            Incoming::Join { .. } | Incoming::Other => {}
            Incoming::Subscribe { add, remove } => {
                self.session.subscribe(add, &remove);
                let session = self.session.number;
                let rooms: Vec<_> = self.session.rooms().values().cloned().collect();
                for mailbox in rooms {
                    self.post(&mailbox, Mail::Due { session }).await?;
                }
            }
            Incoming::Document { document, said } => self.say(document, said, bytes.len()).await?,
        }
        Ok(true)
    }

    async fn say(&mut self, document: DocumentId, said: Said, bytes: usize) -> Result<(), String> {
        let from = self.session.number;
        let open = self.session.rooms().get(&document).cloned();
        match said {
            Said::Sync { data, request } => {
                let read = guarded(|| message::read(&data)).unwrap_or_else(|panic| {
                    self.server.metrics.panics.add(1);
                    Err(panic)
                });
                let (message, kept) = read.map_err(|why| format!("the sync message does not read: {why}"))?;
                let mailbox = match open {
                    Some(mailbox) => mailbox,
                    None => self.open(document).await?,
                };
                self.kept.set(document, kept)?;
                let waiting = self.wait_for_space(bytes).await?;
                self.post(&mailbox, Mail::Sync { from, message, request, waiting }).await
            }
            // Of a document that it has not asked for it has nothing to say.
            said => {
                let Some(mailbox) = open else { return Ok(()) };
                let waiting = self.wait_for_space(bytes).await?;
                let mail = match said {
                    Said::Ephemeral(message) => Mail::Ephemeral { from, message, waiting },
                    Said::Heads(said) => Mail::Heads { from, said, waiting },
                    _ => Mail::Unavailable { from },
                };
                self.post(&mailbox, mail).await
            }
        }
    }

    /// Opens a document for this connection.
    async fn open(&mut self, document: DocumentId) -> Result<mpsc::Sender<Mail>, String> {
        let most = self.server.options.documents_per_connection_max;
        if self.session.rooms().len() >= most {
            return Err(format!(
                "more than the {most} documents that a connection may have open (DOCUMENTS_PER_CONNECTION_MAX)"
            ));
        }
        let mailbox = Inner::attach(self.server, document).ok_or("the server is ending")?;
        self.session.rooms().insert(document, mailbox.clone());
        self.post(&mailbox, Mail::Open { session: self.session.clone() }).await?;
        Ok(mailbox)
    }

    /// Until no more than its share of this client's messages waits for rooms.
    async fn wait_for_space(&self, bytes: usize) -> Result<Waiting, String> {
        // A longer one waits until it is alone.
        let share = u32::try_from(bytes.min(MESSAGE_BYTES_WAITING_MAX)).unwrap_or(u32::MAX);
        let acquired = |permit: Result<_, _>| permit.map_err(|_| "the server is ending".to_owned());
        let bytes = acquired(Semaphore::acquire_many_owned(self.session.bytes.clone(), share).await)?;
        Ok(Waiting { _messages: acquired(self.session.messages.clone().acquire_owned().await)?, bytes })
    }

    async fn post(&self, mailbox: &mpsc::Sender<Mail>, mail: Mail) -> Result<(), String> {
        mailbox.send(mail).await.map_err(|_| "the document is not served any more; connect again".to_owned())
    }
}

struct Writer<'a> {
    server: &'a Arc<Inner>,
    session: &'a Arc<Session>,
}

impl Writer<'_> {
    /// Writes what there is, and pings, until the connection is to end. `true` when it did not take what was sent.
    async fn write(&self, sink: &mut Sink) -> bool {
        let every = Duration::from_millis(PING_MS);
        let mut pings = interval_at(Instant::now() + every, every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // First, or space that is made in between would not be heard of.
            let freed = self.server.outboxes.freed();
            while let Some(frame) = self.session.next() {
                if sink.write(&frame, |bytes| self.session.took(bytes)).await.is_err() {
                    return true;
                }
                drop(frame);
                self.session.written();
                self.remind(self.session.owed()).await;
            }
            if self.session.is_ended() {
                return false;
            }
            if !self.server.outboxes.is_full() {
                self.remind(self.session.owed()).await;
            }
            tokio::select! {
                () = self.session.changed.notified() => {}
                () = freed => {}
                _ = pings.tick() => {
                    if sink.ping().await.is_err() {
                        return true;
                    }
                    self.server.relieve(Instant::now());
                }
            }
        }
    }

    /// Tells rooms that have more to say that they may.
    async fn remind(&self, owed: BTreeSet<DocumentId>) {
        for document in owed {
            let mailbox = self.session.rooms().get(&document).cloned();
            if let Some(mailbox) = mailbox {
                // A room that is gone has nothing to say.
                let _ = mailbox.send(Mail::Due { session: self.session.number }).await;
            }
        }
    }
}

impl Inner {
    /// A frame to a client that has it alone.
    pub(super) fn frame(&self, session: &Session, message: &Outgoing<'_>) -> Frame {
        Frame { head: self.outboxes.hold(frame::encode(&self.peer, &session.peer, message)), data: None }
    }

    /// Ends a connection, with the reason.
    pub(super) fn end(&self, session: &Session, why: &str) {
        session.end(Some(self.frame(session, &Outgoing::Error { message: why })));
    }

    /// Once too much waits to be written for too long, ends the connection that most of it waits for of those that take nothing. Who takes
    /// what it asked for is never ended for it: how long that may take has a bound of its own.
    pub(super) fn relieve(&self, now: Instant) {
        if !self.outboxes.is_stuck(now) {
            return;
        }
        let sessions: Vec<_> = self.sessions().by_number.values().cloned().collect();
        let held_up = sessions.iter().map(|session| (session.held_up_bytes(now), session));
        if let Some((bytes, most)) = held_up.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes) {
            tracing::warn!(
                bytes,
                "too much waits to be written; of the connections that take nothing, the one that most of it waits for is ended"
            );
            self.metrics.stalled.add(1);
            self.end(most, "too much waits for this connection, and others wait for its end; connect again (OUTBOXES_BYTES)");
        }
    }

    /// What a connection may do with a document now.
    pub(super) fn access(&self, session: &Session, document: DocumentId) -> Access {
        let identity = &session.identity;
        if self.policy.admits(identity) { self.policy.access(identity, document) } else { Access::None }
    }

    /// What a connection may do with a document is asked again.
    pub(super) async fn recheck(&self, session: &Arc<Session>) {
        if !self.policy.admits(&session.identity) {
            self.end(session, "access was withdrawn");
        }
        // Also of one that is ended: what it has sent may still wait.
        let rooms: Vec<_> =
            session.rooms().iter().map(|(document, mailbox)| (*document, mailbox.clone())).collect();
        for (document, mailbox) in rooms {
            let access = self.access(session, document);
            // A room that is gone has nobody left.
            let _ = mailbox.send(Mail::Access { session: session.number, access }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_connection_has_a_bound_over_all_documents() {
        let mut kept = Kept::default();
        let document = |number| DocumentId::from_bytes([number; 16]);
        for _ in 0..3 {
            // Of one document only the last counts.
            assert_eq!(kept.set(document(1), SYNC_STATE_BYTES_MAX - 1), Ok(()));
        }
        assert_eq!(kept.set(document(2), 1), Ok(()));
        assert!(kept.set(document(3), 1).unwrap_err().contains("SYNC_STATE_BYTES_MAX"));
    }

    #[test]
    fn a_burst_of_a_second_is_taken_at_once_and_what_follows_in_its_time() {
        let mut pace = Pace::new(10);
        let now = Instant::now() + Duration::from_mins(1);
        let waits: Vec<_> = (0..12).map(|_| pace.wait(now).as_millis()).collect();
        assert_eq!(waits[..10], [0; 10]);
        assert_eq!(waits[10..], [100, 200]);
    }
}
