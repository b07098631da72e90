//! A session: one client's connection as rooms see it, with what waits to be written to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use super::limits::{
    MESSAGE_BYTES_WAITING_MAX, MESSAGES_WAITING_MAX, OUTBOX_BYTES, OUTBOX_FRAMES, OUTBOXES_MS_MAX,
    SMALL_BYTES, SUBSCRIPTIONS_MAX,
};
use super::mail::Mail;
use super::outbox::{Frame, Outboxes};
use super::policy::Identity;
use super::room::SessionId;
use crate::DocumentId;

/// One client's connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: SessionId,
    pub(super) peer: String,
    /// The storage behind the peer, when it keeps what it is told.
    pub(super) storage: Option<String>,
    pub(super) identity: Identity,
    /// How many more of its messages may wait for rooms, by number and by bytes.
    pub(super) messages: Arc<Semaphore>,
    pub(super) bytes: Arc<Semaphore>,
    queue: Mutex<Queue>,
    pub(super) outboxes: Outboxes,
    pub(super) changed: Notify,
    over: Notify,
    rooms: Mutex<BTreeMap<DocumentId, mpsc::Sender<Mail>>>,
    subscriptions: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    writing: Weak<Frame>,
    /// What is left of the frame that is being written.
    writing_bytes: usize,
    /// Since when something waits.
    waits: Option<Instant>,
    /// When the client last took a piece of what waits for it.
    took: Option<Instant>,
    /// Rooms that have more to tell once there is room for it.
    owed: BTreeSet<DocumentId>,
    ended: bool,
}

impl Session {
    pub(super) fn new(
        number: SessionId,
        peer: String,
        storage: Option<String>,
        identity: Identity,
        outboxes: Outboxes,
    ) -> Self {
        Self {
            number,
            peer,
            storage,
            identity,
            messages: Arc::new(Semaphore::new(MESSAGES_WAITING_MAX)),
            bytes: Arc::new(Semaphore::new(MESSAGE_BYTES_WAITING_MAX)),
            queue: Mutex::default(),
            outboxes,
            changed: Notify::new(),
            over: Notify::new(),
            rooms: Mutex::default(),
            subscriptions: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame to what is written. Who asks [`has_space`](Self::has_space) before keeps the bound: each room may be one frame over it.
    pub(super) fn send(&self, frame: Frame) {
        let mut queue = self.queue();
        if !queue.ended {
            if queue.keeps_up() {
                queue.waits = Some(Instant::now());
            }
            queue.bytes = queue.bytes.saturating_add(frame.len());
            queue.frames.push_back(frame);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Whether more may be sent now, of at most about so many bytes. Otherwise the room of that document is told when.
    pub(super) fn has_space(&self, for_room: DocumentId, bytes_most: usize) -> bool {
        let mut queue = self.queue();
        let keeps_up = queue.keeps_up();
        let space = queue.has_space() && (self.outboxes.has_space() || keeps_up && bytes_most <= SMALL_BYTES);
        if !space {
            queue.owed.insert(for_room);
        }
        space
    }

    /// Whether so many bytes more, which can also be dropped, do not take it beyond its bound.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        let queue = self.queue();
        queue.has_space() && queue.bytes.saturating_add(bytes) <= OUTBOX_BYTES && self.outboxes.has_space()
    }

    /// The next frame to write.
    pub(super) fn next(&self) -> Option<Arc<Frame>> {
        let mut queue = self.queue();
        let frame = Arc::new(queue.frames.pop_front()?);
        queue.writing = Arc::downgrade(&frame);
        queue.writing_bytes = frame.len();
        queue.bytes = queue.bytes.saturating_sub(frame.len());
        Some(frame)
    }

    /// So many bytes of the frame that is being written have left.
    pub(super) fn took(&self, bytes: usize) {
        let mut queue = self.queue();
        queue.writing_bytes = queue.writing_bytes.saturating_sub(bytes);
        queue.took = Some(Instant::now());
    }

    /// Whether a frame is being written, of which the client has taken something since then.
    pub(super) fn has_taken_since(&self, then: Instant) -> bool {
        let queue = self.queue();
        queue.writing_bytes > 0 && queue.took.is_some_and(|took| took >= then)
    }

    /// The frame is written.
    pub(super) fn written(&self) {
        self.queue().writing_bytes = 0;
    }

    /// Whether a frame is being written.
    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        self.queue().writing_bytes > 0
    }

    /// How many bytes wait for this client to take them.
    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> usize {
        let queue = self.queue();
        queue.bytes.saturating_add(queue.writing_bytes)
    }

    /// How many bytes its end would free, when the client has taken nothing of what waits for it for [`OUTBOXES_MS_MAX`]; otherwise none.
    pub(super) fn held_up_bytes(&self, now: Instant) -> usize {
        let queue = self.queue();
        let longest = Duration::from_millis(OUTBOXES_MS_MAX);
        let is_long_ago = |then| now.saturating_duration_since(then) >= longest;
        if queue.ended || queue.keeps_up() || !queue.waits.max(queue.took).is_some_and(is_long_ago) {
            return 0;
        }
        // A frame that is being written is kept whole until its end.
        let writing = queue.writing.upgrade().map_or(0, |frame| frame.kept_bytes());
        queue.frames.iter().map(Frame::kept_bytes).fold(writing, usize::saturating_add)
    }

    /// The rooms that have more to tell, when there is space for it again.
    pub(super) fn owed(&self) -> BTreeSet<DocumentId> {
        let mut queue = self.queue();
        if queue.has_space() { std::mem::take(&mut queue.owed) } else { BTreeSet::new() }
    }

    /// Whether rooms have more to tell.
    #[cfg(test)]
    pub(super) fn is_owing(&self) -> bool {
        !self.queue().owed.is_empty()
    }

    /// Ends the connection: nothing further is sent but this.
    pub(super) fn end(&self, last: Option<Frame>) {
        let mut queue = self.queue();
        if !queue.ended {
            queue.ended = true;
            queue.bytes = 0;
            queue.frames.clear();
            queue.frames.extend(last);
        }
        drop(queue);
        self.changed.notify_one();
        self.over.notify_waiters();
    }

    /// Until the connection is to end.
    pub(super) async fn ended(&self) {
        // First, or an end in between would not be heard.
        let over = self.over.notified();
        if !self.is_ended() {
            over.await;
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.queue().ended
    }

    /// The rooms that it is in.
    pub(super) fn rooms(&self) -> MutexGuard<'_, BTreeMap<DocumentId, mpsc::Sender<Mail>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of which storages it hears. Beyond the bound there is nothing more to hear.
    pub(super) fn subscribe(&self, add: Vec<String>, remove: &[String]) {
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        for storage in remove {
            subscriptions.remove(storage);
        }
        for storage in add {
            if subscriptions.len() < SUBSCRIPTIONS_MAX {
                subscriptions.insert(storage);
            }
        }
    }

    pub(super) fn hears(&self) -> bool {
        !self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn hears_of(&self, storage: &str) -> bool {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).contains(storage)
    }
}

impl Queue {
    fn keeps_up(&self) -> bool {
        self.bytes == 0 && self.writing_bytes == 0
    }

    fn has_space(&self) -> bool {
        !self.ended && self.bytes < OUTBOX_BYTES && self.frames.len() < OUTBOX_FRAMES
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::OUTBOXES_BYTES;
    use super::*;

    fn session() -> Session {
        Session::new(1, "peer".to_owned(), None, Identity::anonymous(), Outboxes::new(OUTBOXES_BYTES))
    }

    fn send(session: &Session, bytes: usize) {
        session.send(Frame { head: session.outboxes.hold(vec![0; bytes]), data: None });
    }

    #[test]
    fn a_full_queue_owes_and_pays_when_it_is_drained() {
        let (session, document) = (session(), DocumentId::from_bytes([7; 16]));
        assert!(session.has_space(document, usize::MAX));
        send(&session, OUTBOX_BYTES);
        assert!(!session.has_space(document, 0) && session.owed().is_empty());
        assert_eq!(session.next().unwrap().len(), OUTBOX_BYTES);
        assert_eq!(session.waiting_bytes(), OUTBOX_BYTES, "until it is written");
        assert_eq!(session.owed(), BTreeSet::from([document]));
        session.written();
        assert!(session.owed().is_empty() && session.waiting_bytes() == 0);
        for _ in 0..OUTBOX_FRAMES {
            send(&session, 1);
        }
        assert!(!session.takes(0));
    }

    #[test]
    fn what_can_be_dropped_counts_before_it_is_taken() {
        let session = session();
        send(&session, OUTBOX_BYTES - 9);
        assert!(session.takes(9) && !session.takes(10));
    }

    #[test]
    fn when_the_server_is_full_who_keeps_up_hears_of_small_documents_and_nobody_else_anything() {
        let (session, document) = (session(), DocumentId::from_bytes([7; 16]));
        let held = session.outboxes.hold(vec![0; OUTBOXES_BYTES]);
        assert!(session.has_space(document, SMALL_BYTES) && !session.takes(0));
        assert!(!session.has_space(document, SMALL_BYTES + 1));
        send(&session, 1);
        assert!(!session.has_space(document, 0));
        assert_eq!(session.owed(), BTreeSet::from([document]));
        drop(held);
        assert!(session.has_space(document, usize::MAX));
    }

    #[test]
    fn nothing_follows_the_last_word() {
        let session = session();
        send(&session, 1);
        session.end(Some(Frame { head: session.outboxes.hold(vec![2]), data: None }));
        send(&session, 3);
        session.end(None);
        assert!(session.is_ended());
        assert_eq!(session.next().map(|frame| frame.to_vec()), Some(vec![2]));
        assert!(session.next().is_none());
        assert_eq!(session.outboxes.bytes(), 0);
    }

    #[test]
    fn subscriptions_have_a_bound() {
        let session = session();
        session.subscribe((0..=SUBSCRIPTIONS_MAX).map(|number| number.to_string()).collect(), &[]);
        assert!(session.hears_of("0") && !session.hears_of(&SUBSCRIPTIONS_MAX.to_string()));
        session.subscribe(Vec::new(), &["0".to_owned()]);
        assert!(!session.hears_of("0"));
    }
}
