//! Which documents are in use, and which of them are in memory: the least recently used go first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::mail::Mail;
use crate::DocumentId;
use crate::meta::Meta;

/// The documents in use.
#[derive(Debug)]
pub(super) struct Rooms {
    inner: Mutex<Inner>,
    resident_bytes_max: u64,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<DocumentId, Entry>,
    /// Those in memory, by when they were last used.
    order: BTreeMap<u64, DocumentId>,
    uses: u64,
    resident_bytes: u64,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    mailbox: mpsc::Sender<Mail>,
    /// How many connections have it open.
    sessions: usize,
    resident_bytes: u64,
    used: u64,
    /// The state of the document that its room has seen.
    seen: Option<Meta>,
}

/// A document in use, for who looks whether others have changed it.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) document: DocumentId,
    pub(super) seen: Option<Meta>,
    pub(super) mailbox: mpsc::Sender<Mail>,
}

impl Rooms {
    pub(super) fn new(resident_bytes_max: u64) -> Self {
        Self { inner: Mutex::default(), resident_bytes_max }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mailbox of a document's room for one more connection; `open` makes a room. `None` once the server ends.
    pub(super) fn attach(
        &self,
        document: DocumentId,
        open: impl FnOnce() -> mpsc::Sender<Mail>,
    ) -> Option<mpsc::Sender<Mail>> {
        let mut inner = self.inner();
        if inner.closed {
            return None;
        }
        // A room ends after its entry, unless it broke.
        if inner.entries.get(&document).is_some_and(|entry| entry.mailbox.is_closed()) {
            tracing::error!(?document, "the room of a document has broken down; it gets a new one");
            inner.forget(document);
            inner.entries.remove(&document);
        }
        let entry = inner.entries.entry(document).or_insert_with(|| Entry {
            mailbox: open(),
            sessions: 0,
            resident_bytes: 0,
            used: 0,
            seen: None,
        });
        entry.sessions += 1;
        Some(entry.mailbox.clone())
    }

    /// The mailbox of a document that is in use.
    pub(super) fn mailbox(&self, document: DocumentId) -> Option<mpsc::Sender<Mail>> {
        self.inner().entries.get(&document).map(|entry| entry.mailbox.clone())
    }

    /// A connection has left the room with that mailbox.
    pub(super) fn detach(&self, document: DocumentId, mailbox: &mpsc::Sender<Mail>) {
        if let Some(entry) = self.inner().entries.get_mut(&document)
            && entry.mailbox.same_channel(mailbox)
        {
            entry.sessions = entry.sessions.saturating_sub(1);
        }
    }

    /// Ends a room that no connection has open; `false` when one has. Whoever comes next gets a new room.
    pub(super) fn end(&self, document: DocumentId) -> bool {
        let mut inner = self.inner();
        match inner.entries.get(&document) {
            Some(entry) if entry.sessions > 0 => return false,
            Some(_) => {}
            None => return true,
        }
        inner.forget(document);
        inner.entries.remove(&document);
        true
    }

    /// Notes how much memory a document takes now, `None` for one that is not in memory, and in which state it was seen last. Answers the
    /// rooms that are to give theirs back.
    pub(super) fn note(
        &self,
        document: DocumentId,
        resident_bytes: Option<u64>,
        seen: Option<Meta>,
    ) -> Vec<mpsc::Sender<Mail>> {
        let mut inner = self.inner();
        inner.forget(document);
        inner.uses += 1;
        let used = inner.uses;
        if let Some(entry) = inner.entries.get_mut(&document) {
            entry.seen = seen;
        }
        if let Some(resident_bytes) = resident_bytes
            && let Some(entry) = inner.entries.get_mut(&document)
        {
            entry.resident_bytes = resident_bytes;
            entry.used = used;
            inner.order.insert(used, document);
            inner.resident_bytes = inner.resident_bytes.saturating_add(resident_bytes);
        }
        let mut evicted = Vec::new();
        while inner.resident_bytes > self.resident_bytes_max
            && let Some((_, oldest)) = inner.order.first_key_value()
            // The last one is the one that is being used.
            && *oldest != document
        {
            let oldest = *oldest;
            inner.forget(oldest);
            evicted.extend(inner.entries.get(&oldest).map(|entry| entry.mailbox.clone()));
        }
        evicted
    }

    /// How many documents are in use, how many of them in memory, and about how much of it they take.
    pub(super) fn sizes(&self) -> (usize, usize, u64) {
        let inner = self.inner();
        (inner.entries.len(), inner.order.len(), inner.resident_bytes)
    }

    /// Every document that somebody has open or that is in memory.
    pub(super) fn in_use(&self) -> Vec<InUse> {
        let tell = |(document, entry): (&DocumentId, &Entry)| InUse {
            document: *document,
            seen: entry.seen.clone(),
            mailbox: entry.mailbox.clone(),
        };
        self.inner().entries.iter().map(tell).collect()
    }

    /// Ends every room once its connections have left, and opens none any more.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.entries.clear();
        inner.order.clear();
    }
}

impl Inner {
    /// The document is not in memory any more, as far as the count goes.
    fn forget(&mut self, document: DocumentId) {
        if let Some(entry) = self.entries.get_mut(&document) {
            self.resident_bytes = self.resident_bytes.saturating_sub(entry.resident_bytes);
            self.order.remove(&entry.used);
            entry.resident_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> DocumentId {
        DocumentId::from_bytes([number; 16])
    }

    /// With a room that never ends.
    fn opened(rooms: &Rooms, number: u8) -> mpsc::Sender<Mail> {
        let open = || {
            let (mailbox, mail) = mpsc::channel(1);
            std::mem::forget(mail);
            mailbox
        };
        rooms.attach(id(number), open).unwrap()
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_one_in_use_never() {
        let rooms = Rooms::new(100);
        let (first, second) = (opened(&rooms, 1), opened(&rooms, 2));
        opened(&rooms, 3);
        assert!(rooms.note(id(1), Some(40), None).is_empty());
        assert!(rooms.note(id(2), Some(40), None).is_empty());
        assert!(rooms.note(id(1), Some(40), None).is_empty(), "used again");
        let evicted = rooms.note(id(3), Some(50), None);
        assert_eq!(evicted.len(), 1);
        assert!(evicted[0].same_channel(&second));
        let evicted = rooms.note(id(3), Some(1_000), None);
        assert!(evicted.len() == 1 && evicted[0].same_channel(&first), "itself it keeps");
        assert_eq!(rooms.sizes(), (3, 1, 1_000));
        rooms.note(id(3), None, None);
        assert_eq!(rooms.sizes(), (3, 0, 0));
    }

    #[test]
    fn a_room_ends_when_nobody_has_it_open() {
        let rooms = Rooms::new(100);
        let mailbox = opened(&rooms, 1);
        assert!(opened(&rooms, 1).same_channel(&mailbox));
        rooms.note(id(1), Some(40), None);
        rooms.detach(id(1), &mailbox);
        rooms.detach(id(1), &opened(&rooms, 2));
        assert!(!rooms.end(id(1)), "that was another room's");
        rooms.detach(id(1), &mailbox);
        assert!(rooms.end(id(1)) && !rooms.end(id(2)));
        rooms.detach(id(2), &rooms.in_use()[0].mailbox);
        assert!(rooms.end(id(2)));
        assert_eq!(rooms.sizes(), (0, 0, 0));
        assert!(!opened(&rooms, 1).same_channel(&mailbox));
        rooms.close();
        assert!(rooms.attach(id(1), || mpsc::channel(1).0).is_none());
    }
    #[test]
    fn a_room_that_has_broken_down_is_replaced() {
        let rooms = Rooms::new(100);
        let (broken, mail) = mpsc::channel(1);
        assert!(rooms.attach(id(1), || broken.clone()).is_some());
        rooms.note(id(1), Some(40), None);
        drop(mail);
        let mailbox = opened(&rooms, 1);
        assert!(!mailbox.same_channel(&broken));
        assert_eq!(rooms.sizes(), (1, 0, 0));
        // Who is still in the broken one does not count in the new one.
        rooms.detach(id(1), &broken);
        assert!(!rooms.end(id(1)));
    }
}
