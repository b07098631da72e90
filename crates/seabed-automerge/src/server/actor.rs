//! One document's actor: takes all messages that wait, has them received together, stores what is new in one batch, then answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use automerge::sync::Message;
use tokio::sync::mpsc;

use super::frame::{Ephemeral, Outgoing};
use super::limits::{ANSWER_BYTES_MAX, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, IDLE_MS_MAX, QUIET_MS};
use super::mail::Mail;
use super::outbox::{Frame, Held};
use super::replica::Replica;
use super::resident::{Resident, Stored};
use super::room::{Answer, Answers, Line, Room, SessionId, What};
use super::session::Session;
use super::trouble::{Trouble, Work};
use super::{Access, Inner};
use crate::DocumentId;
use crate::chunks::guarded;
use crate::clock::now_unix_ms;
use crate::error::{Error, ErrorKind};
use crate::limits::{ATTEMPTS_MAX, COMMIT_PEERS_MAX};

/// A sync message that is to be received.
struct Received {
    from: SessionId,
    message: Message,
    request: bool,
}

/// Who sent the messages of a batch.
#[derive(Default)]
struct Senders {
    all: BTreeSet<SessionId>,
    /// Those of them who sent changes, and so take them to be here.
    of_changes: BTreeSet<SessionId>,
}

impl Senders {
    fn of(received: &[Received]) -> Self {
        let with_changes = received.iter().filter(|received| !received.message.changes.is_empty());
        Self {
            all: received.iter().map(|received| received.from).collect(),
            of_changes: with_changes.map(|received| received.from).collect(),
        }
    }
}

/// What a message did that was not taken.
enum Fault {
    /// automerge refused it.
    Refused(String),
    /// automerge panicked over it.
    Panicked(String),
}

/// The one who works on a document.
pub(super) struct Actor {
    server: Arc<Inner>,
    document: DocumentId,
    room: Room,
    resident: Resident,
    sessions: BTreeMap<SessionId, Attached>,
    /// The document has a new room, or none: what is known of it in [`Rooms`](super::rooms::Rooms) is not of this one.
    replaced: bool,
    /// Whether there are answers that did not leave with the last ones.
    goes_on: bool,
    /// What was told last, as long as it waits for somebody: others are often told the same.
    told: Weak<Held>,
}

struct Attached {
    session: Arc<Session>,
    access: Access,
    /// It has asked, and was not to know that the document exists.
    denied: bool,
}

/// The connections as the room sees them.
struct Lines(BTreeMap<SessionId, Arc<Session>>, DocumentId);

impl Line for Lines {
    fn takes_more(&self, to: SessionId, bytes_most: usize) -> bool {
        self.0.get(&to).is_some_and(|session| session.has_space(self.1, bytes_most))
    }

    fn hears(&self, to: SessionId) -> bool {
        self.0.get(&to).is_some_and(|session| session.hears())
    }

    fn hears_of(&self, to: SessionId, storage: &str) -> bool {
        self.0.get(&to).is_some_and(|session| session.hears_of(storage))
    }
}

impl Actor {
    pub(super) fn new(server: Arc<Inner>, document: DocumentId) -> Self {
        Self {
            resident: Resident::new(server.clone(), document),
            server,
            document,
            room: Room::default(),
            sessions: BTreeMap::new(),
            replaced: false,
            goes_on: false,
            told: Weak::new(),
        }
    }

    /// Works until nobody needs the document any more.
    pub(super) async fn run(mut self, mut mailbox: mpsc::Receiver<Mail>) {
        let mut quiet = Duration::from_millis(QUIET_MS);
        loop {
            let next = if self.goes_on {
                Ok(Some(mailbox.try_recv().unwrap_or(Mail::More)))
            } else {
                tokio::time::timeout(quiet, mailbox.recv()).await
            };
            match next {
                Ok(Some(first)) => {
                    self.batch(first, &mut mailbox).await;
                    quiet = Duration::from_millis(QUIET_MS);
                    // Of what is not in memory and nobody has open nothing is kept.
                    let is_needed = self.resident.replica().is_some() || !self.sessions.is_empty();
                    if !is_needed && self.server.rooms.end(self.document) {
                        break;
                    }
                }
                // The server ends.
                Ok(None) => break,
                Err(_) if quiet.as_millis() < u128::from(IDLE_MS_MAX) => {
                    self.resident.compact().await;
                    self.note();
                    quiet = Duration::from_millis(IDLE_MS_MAX);
                }
                Err(_) => {
                    if self.server.rooms.end(self.document) {
                        break;
                    }
                    // Somebody has it open, and has said nothing for long.
                    self.unload().await;
                }
            }
        }
        self.replaced = true;
        // Whoever has left may have said something before.
        while let Ok(first) = mailbox.try_recv() {
            self.batch(first, &mut mailbox).await;
        }
        self.store_states().await;
    }

    /// One round: everything that waits.
    async fn batch(&mut self, first: Mail, mailbox: &mut mpsc::Receiver<Mail>) {
        let (mut received, mut waiting, mut accesses) = (Vec::new(), Vec::new(), Vec::new());
        let (mut leaving, mut changed, mut evict, mut bytes) = (Vec::new(), false, false, 0);
        self.goes_on = false;
        let mut messages = 0;
        let mut next = Some(first);
        while let Some(mail) = next {
            match mail {
                Mail::Open { session } => self.open(session),
                Mail::Sync { from, message, request, waiting: share } => {
                    bytes += share.bytes.num_permits();
                    received.push(Received { from, message, request });
                    waiting.push(share);
                }
                Mail::Ephemeral { from, message, waiting: share } => {
                    self.relay(from, message);
                    waiting.push(share);
                }
                Mail::Heads { from, said, waiting: share } => {
                    self.room.hear_from(from, said, now_unix_ms());
                    waiting.push(share);
                }
                Mail::Unavailable { from } => self.room.unavailable(from),
                Mail::More => {}
                Mail::Due { session } => self.room.set_due(session),
                Mail::Access { session, access } => accesses.push((session, access)),
                Mail::Leave { session } => leaving.push(session),
                Mail::Changed => changed = true,
                Mail::Evict => evict = true,
            }
            messages += 1;
            let full = messages >= BATCH_MESSAGES_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { mailbox.try_recv().ok() };
        }
        let senders = Senders::of(&received);
        if let Err(trouble) = self.work(accesses, received, changed).await {
            self.fail(trouble, &senders).await;
            // Whoever was not cut off is told to begin again.
            if let Err(trouble) = self.answer().await {
                self.fail(trouble, &Senders::default()).await;
            }
        }
        // After what they have said last.
        let left = !leaving.is_empty();
        for session in leaving {
            self.leave(session).await;
        }
        // Who waits for what they had promised waits no longer.
        if left && let Err(trouble) = self.answer().await {
            self.fail(trouble, &Senders::default()).await;
        }
        // Only now: who is read from again is not ahead of the disk.
        drop(waiting);
        let doubtful = self.resident.replica().is_some_and(Replica::is_doubtful);
        if evict {
            self.room.forget_remotes();
        }
        if evict || doubtful {
            self.unload().await;
        } else {
            self.note();
        }
    }

    async fn work(
        &mut self,
        accesses: Vec<(SessionId, Access)>,
        received: Vec<Received>,
        changed: bool,
    ) -> Work<()> {
        for (session, access) in accesses {
            self.set_access(session, access).await?;
        }
        if !received.is_empty() {
            self.load().await?;
            for from in received.iter().map(|received| received.from).collect::<BTreeSet<_>>() {
                self.enter(from).await?;
            }
            self.receive(received).await?;
        }
        if changed && self.resident.is_behind().await? {
            self.load().await?;
            self.resident.catch_up().await?;
            self.room.set_all_due();
        }
        self.answer().await
    }

    /// Has the document in memory. What others stored while it was not there nobody here was told.
    async fn load(&mut self) -> Work<()> {
        let seen = self.resident.seen().cloned();
        let was_there = self.resident.replica().is_some();
        self.resident.load().await?;
        let loaded = self.resident.replica().filter(|_| !was_there);
        if loaded.is_some_and(|replica| replica.meta != seen) {
            self.room.set_all_due();
        }
        Ok(())
    }

    /// Tells everybody what there is to tell.
    async fn answer(&mut self) -> Work<()> {
        if self.room.may_be_due() && self.room.is_due(&self.lines()) {
            self.load().await?;
            self.commit_and_answer().await?;
        }
        Ok(())
    }

    fn open(&mut self, session: Arc<Session>) {
        // Asked here: a recheck whose mail came before this one is not undone by what was asked before it.
        let access = self.server.access(&session, self.document);
        self.sessions.insert(session.number, Attached { session, access, denied: false });
    }

    /// Lets a peer in that asks for the document.
    async fn enter(&mut self, from: SessionId) -> Work<()> {
        let Some(attached) = self.sessions.get_mut(&from) else { return Ok(()) };
        attached.denied = attached.access == Access::None;
        if self.room.has(from) || attached.denied {
            return Ok(());
        }
        let (access, storage) = (attached.access, attached.session.storage.clone());
        let stored = match &storage {
            Some(storage) => {
                // One that does not read costs a round trip.
                let state = self.server.documents.sync_state(self.document, storage.as_bytes()).await;
                state
                    .or_else(|error| if error.kind() == ErrorKind::Corrupt { Ok(None) } else { Err(error) })?
            }
            None => None,
        };
        if let Some(replica) = self.resident.replica() {
            self.room.enter(from, access, storage, stored, replica);
        }
        Ok(())
    }

    /// What a connection may do has changed. Who was denied what it asked for is let in.
    async fn set_access(&mut self, session: SessionId, access: Access) -> Work<()> {
        let Some(attached) = self.sessions.get_mut(&session) else { return Ok(()) };
        attached.access = access;
        let denied = attached.denied;
        if access == Access::None {
            if self.room.has(session) {
                attached.denied = true;
                self.room.leave(session);
                self.tell(Answer { to: session, what: What::Unavailable });
            }
        } else if denied {
            self.load().await?;
            self.enter(session).await?;
            self.room.set_due(session);
        } else {
            self.room.set_access(session, access);
        }
        Ok(())
    }

    async fn leave(&mut self, session: SessionId) {
        if self.sessions.remove(&session).is_some() && self.room.has(session) {
            // Of those who stay there will be more to store.
            let state = self.room.unstored_state_of(session);
            self.resident.store_states(&mut self.room, state).await;
            self.room.leave(session);
        }
    }

    /// Has automerge receive messages, and cuts off whose message was not taken.
    async fn receive(&mut self, received: Vec<Received>) -> Work<()> {
        let now = now_unix_ms();
        let denied: Vec<_> =
            received.iter().map(|received| received.from).filter(|from| !self.room.has(*from)).collect();
        for from in denied {
            self.tell(Answer { to: from, what: What::Unavailable });
        }
        let count = received.len() as u64;
        let (faults, overgrown) = self
            .compute(move |room, replica| {
                let mut faults = Vec::new();
                for Received { from, message, request } in received {
                    match guarded(|| room.receive(replica, from, message, request, now)) {
                        Ok(Ok(())) => {}
                        Ok(Err(refused)) => faults.push((from, Fault::Refused(refused))),
                        Err(panic) => {
                            faults.push((from, Fault::Panicked(panic)));
                            break;
                        }
                    }
                }
                let overgrown = replica.is_overgrown();
                (faults, overgrown)
            })
            .await?;
        self.server.metrics.messages.add(count);
        let (mut lost, refused) = (None, !faults.is_empty());
        for (from, fault) in faults {
            let why = match fault {
                Fault::Refused(why) => {
                    self.server.metrics.refused.add(1);
                    why
                }
                Fault::Panicked(why) => {
                    self.server.metrics.panics.add(1);
                    lost = Some(format!("automerge panicked: {why}"));
                    why
                }
            };
            tracing::warn!(document = ?self.document, error = why, "a sync message was not taken");
            self.cut_off(from, &format!("a sync message was not taken: {why}"));
        }
        if overgrown {
            lost = lost.or(Some("too many changes wait for others that do not come".to_owned()));
        }
        if let Some(why) = lost {
            return Err(Trouble::Lost(why));
        }
        if refused && let Some(replica) = self.resident.replica() {
            // With what it refused automerge may have dropped what waits for other changes.
            self.room.begin_anew(replica);
        }
        Ok(())
    }

    /// Stores what is new, and then tells it: nothing that is told names a change that is not durable.
    async fn commit_and_answer(&mut self) -> Work<()> {
        let mut answers = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let lines = self.lines();
            let written = self
                .compute(move |room, replica| {
                    guarded(|| {
                        let further = room.answers(replica, &lines, ANSWER_BYTES_MAX);
                        (replica.unstored(), further)
                    })
                })
                .await?;
            let (changes, further) = written.map_err(|panic| self.panicked(&panic))?;
            let Answers { told, goes_on } = further;
            answers.extend(told);
            self.goes_on = goes_on;
            match self.resident.store(changes, &mut self.room, answers).await? {
                Stored::Applied(answers) => {
                    for answer in answers.release() {
                        self.tell(answer);
                    }
                    return Ok(());
                }
                Stored::Behind(waiting) => {
                    answers = waiting;
                    self.room.set_all_due();
                }
            }
        }
        Err(busy_document().into())
    }

    /// automerge has panicked over an answer. Whoever it was for would have it panic again.
    fn panicked(&mut self, panic: &str) -> Trouble {
        self.server.metrics.panics.add(1);
        if let Some(culprit) = self.room.culprit() {
            self.cut_off(culprit, &format!("a sync message could not be answered: {panic}"));
        }
        Trouble::Lost(format!("automerge panicked: {panic}"))
    }

    fn tell(&mut self, answer: Answer) {
        let Some(Attached { session, .. }) = self.sessions.get(&answer.to) else { return };
        let (session, document) = (session.clone(), self.document);
        let frame = match answer.what {
            What::Sync(data) => {
                let outgoing = Outgoing::Sync { document, data_bytes: data.len() };
                Frame { data: Some(self.share(data)), ..self.server.frame(&session, &outgoing) }
            }
            What::Unavailable => self.server.frame(&session, &Outgoing::Unavailable { document }),
            What::Heads { storage, heads } => {
                let outgoing = Outgoing::Heads { document, storage: &storage, heads: &heads };
                self.server.frame(&session, &outgoing)
            }
        };
        session.send(frame);
    }

    /// The same bytes as somebody else is told, when they are the same.
    fn share(&mut self, data: Vec<u8>) -> Arc<Held> {
        if let Some(told) = self.told.upgrade().filter(|told| ***told == *data) {
            return told;
        }
        let told = Arc::new(self.server.outboxes.hold(data));
        self.told = Arc::downgrade(&told);
        told
    }

    /// Passes an ephemeral message on to those who have room for it.
    fn relay(&mut self, from: SessionId, message: Ephemeral) {
        let to = self.room.relay(from, &message);
        let Some(sender) = self.sessions.get(&from).map(|attached| attached.session.clone()) else { return };
        let Ephemeral { session, count, data } = message;
        let data = Arc::new(self.server.outboxes.hold(data));
        let outgoing = Outgoing::Ephemeral {
            document: self.document,
            from: &sender.peer,
            session: &session,
            count,
            data_bytes: data.len(),
        };
        for Attached { session, .. } in to.into_iter().filter_map(|to| self.sessions.get(&to)) {
            if session.takes(data.len()) {
                let frame = self.server.frame(session, &outgoing);
                session.send(Frame { data: Some(data.clone()), ..frame });
            } else {
                self.server.metrics.dropped.add(1);
            }
        }
    }

    fn lines(&self) -> Lines {
        let sessions = self.sessions.iter();
        Lines(sessions.map(|(number, attached)| (*number, attached.session.clone())).collect(), self.document)
    }

    /// Ends a connection, with the reason.
    fn cut_off(&self, session: SessionId, why: &str) {
        if let Some(Attached { session, .. }) = self.sessions.get(&session) {
            self.server.end(session, why);
        }
    }

    /// After trouble: what was not stored is forgotten, and those who sent it are told to begin again.
    async fn fail(&mut self, trouble: Trouble, senders: &Senders) {
        self.resident.drop_replica();
        self.goes_on = false;
        let why = match trouble {
            Trouble::Deleted => {
                self.resident.forget();
                return self.dissolve(senders);
            }
            Trouble::Unreadable(error) => {
                tracing::error!(document = ?self.document, %error, "the document cannot be read");
                self.server.metrics.unreadable.add(1);
                // They would not send again what was in memory alone.
                for sender in &senders.of_changes {
                    self.cut_off(*sender, "the document cannot be read; ask who runs the server");
                }
                return self.dissolve(senders);
            }
            Trouble::Store(error) => {
                tracing::error!(document = ?self.document, %error, "the document was not stored");
                self.server.metrics.failures.add(1);
                "the server could not store or read the document; connect again"
            }
            Trouble::Full(error) => {
                tracing::warn!(document = ?self.document, %error, "changes were not taken");
                self.server.metrics.refused.add(senders.of_changes.len() as u64);
                return self.refuse(&senders.of_changes, &error.to_string()).await;
            }
            Trouble::Lost(why) => {
                tracing::error!(document = ?self.document, why, "the document is loaded again");
                self.server.metrics.reloads.add(1);
                "the document is being loaded again; connect again"
            }
        };
        for sender in &senders.of_changes {
            self.cut_off(*sender, why);
        }
        self.reload(why).await;
    }

    /// Whose changes a limit keeps out goes on as a reader of the document, until its access is asked for again: cut off, it would come back
    /// with the same changes for ever.
    async fn refuse(&mut self, writers: &BTreeSet<SessionId>, why: &str) {
        for writer in writers {
            if let Some(Attached { session, access, .. }) = self.sessions.get_mut(writer) {
                *access = Access::Read;
                session.send(self.server.frame(session, &Outgoing::Error { message: why }));
            }
            self.room.set_access(*writer, Access::Read);
        }
        self.reload(why).await;
    }

    /// Has everybody begin again with what is stored; whoever cannot is cut off.
    async fn reload(&mut self, why: &str) {
        // Most never notice, but for what they send twice.
        if self.resident.load().await.is_ok()
            && let Some(replica) = self.resident.replica()
        {
            self.room.begin_anew(replica);
        } else {
            let rest: Vec<_> = self.sessions.keys().copied().collect();
            for session in rest {
                self.cut_off(session, why);
            }
        }
    }

    /// Tells everybody that there is no such document. Who speaks of it again begins anew.
    fn dissolve(&mut self, senders: &Senders) {
        let peers = self.room.dissolve();
        for to in peers.union(&senders.all) {
            self.tell(Answer { to: *to, what: What::Unavailable });
        }
    }

    /// Gives the memory back; the peers stay.
    async fn unload(&mut self) {
        self.store_states().await;
        self.resident.unload();
        self.note();
    }

    /// Stores what is known of all who are still there.
    async fn store_states(&mut self) {
        let states = self.room.unstored_states(COMMIT_PEERS_MAX);
        self.resident.store_states(&mut self.room, states).await;
    }

    fn note(&mut self) {
        self.resident.see();
        if self.replaced {
            return;
        }
        let remotes_bytes = self.room.remotes_bytes() as u64;
        let resident_bytes = match self.resident.replica() {
            Some(replica) => Some(replica.resident_bytes().saturating_add(remotes_bytes)),
            None => Some(remotes_bytes).filter(|bytes| *bytes > 0),
        };
        let seen = self.resident.seen().cloned();
        for mailbox in self.server.rooms.note(self.document, resident_bytes, seen) {
            // One that is full is in use, and notes itself again.
            let _ = mailbox.try_send(Mail::Evict);
        }
    }

    /// Works on the document with its room.
    async fn compute<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Room, &mut Replica) -> T + Send + 'static,
    ) -> Work<T> {
        if self.resident.replica().is_none() {
            return Err(Trouble::Lost("it is not in memory".to_owned()));
        }
        let mut room = std::mem::take(&mut self.room);
        let worked = self.resident.compute(move |replica| {
            let answer = work(&mut room, replica);
            (room, answer)
        });
        match worked.await {
            Ok((room, answer)) => {
                self.room = room;
                Ok(answer)
            }
            Err(trouble) => {
                // Nobody knows any more what anybody was told.
                for session in self.sessions.keys() {
                    self.cut_off(*session, "the server has lost what it knew of a document; connect again");
                }
                Err(trouble)
            }
        }
    }
}

fn busy_document() -> Error {
    Error::new(ErrorKind::Busy, "the document is being written by too many at once; ask again")
}
