//! What waits to be written: frames, and the bytes of them that the whole server keeps.
//!
//! Where the same bytes go to many, all of their frames share them, and they count once.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::limits::OUTBOXES_MS_MAX;

/// The bytes that wait to be written to any connection. Cheap to clone; every clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Outboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    count: Mutex<Count>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Count {
    bytes: usize,
    /// Since when somebody could have been told more, and was not.
    full_since: Option<Instant>,
}

impl Outboxes {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner { bytes_max, count: Mutex::default(), freed: Notify::new() }))
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes for as long as somebody has them.
    pub(super) fn hold(&self, bytes: Vec<u8>) -> Held {
        let mut count = self.count();
        count.bytes = count.bytes.saturating_add(bytes.len());
        Held { bytes: bytes.into(), outboxes: self.clone() }
    }

    /// Whether more may be made that is to be written. Once there is none, not before a quarter of it is free again: then whoever
    /// [waits](Self::freed) is woken.
    pub(super) fn has_space(&self) -> bool {
        let mut count = self.count();
        if count.full_since.is_none() && count.bytes >= self.0.bytes_max {
            count.full_since = Some(Instant::now());
        }
        count.full_since.is_none()
    }

    /// Whether somebody was told that there is no space, and there is none yet.
    pub(super) fn is_full(&self) -> bool {
        self.count().full_since.is_some()
    }

    /// Until there is space again. It is heard from when this was called on.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    /// Whether there was no space for so long that somebody has to go; then as long again before the next one.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let mut count = self.count();
        let longest = Duration::from_millis(OUTBOXES_MS_MAX);
        let stuck = count.full_since.is_some_and(|since| now.saturating_duration_since(since) >= longest);
        if stuck {
            count.full_since = Some(now);
        }
        stuck
    }

    pub(super) fn bytes(&self) -> usize {
        self.count().bytes
    }
}

/// Bytes that count until they are dropped.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Bytes,
    outboxes: Outboxes,
}

impl Deref for Held {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut count = self.outboxes.count();
        count.bytes = count.bytes.saturating_sub(self.bytes.len());
        let enough = count.bytes <= self.outboxes.0.bytes_max / 4 * 3;
        let freed = enough && count.full_since.take().is_some();
        drop(count);
        if freed {
            self.outboxes.0.freed.notify_waiters();
        }
    }
}

/// One frame to one client: what is its own, and then what it may share with others.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: Held,
    pub(super) data: Option<Arc<Held>>,
}

impl Frame {
    pub(super) fn len(&self) -> usize {
        self.head.len().saturating_add(self.data.as_ref().map_or(0, |data| data.len()))
    }

    /// How many bytes it keeps, and of those that others share its part.
    pub(super) fn kept_bytes(&self) -> usize {
        let part = |data: &Arc<Held>| data.len() / Arc::strong_count(data).max(1);
        self.head.len().saturating_add(self.data.as_ref().map_or(0, part))
    }

    /// All of it, in one piece.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let data = self.data.as_ref().map(|data| &data[..]).unwrap_or_default();
        [&self.head[..], data].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_shared_counts_once_and_until_the_last_has_let_go() {
        let outboxes = Outboxes::new(100);
        let data = Arc::new(outboxes.hold(vec![0; 90]));
        let frames: Vec<_> =
            (0..5).map(|_| Frame { head: outboxes.hold(vec![0; 2]), data: Some(data.clone()) }).collect();
        drop(data);
        assert_eq!((outboxes.bytes(), frames[0].len()), (100, 92));
        assert!(!outboxes.has_space());
        let mut frames = frames.into_iter();
        let last = frames.next();
        let freed = outboxes.freed();
        drop(frames);
        assert!(!outboxes.has_space(), "a quarter has to be free");
        drop(last);
        freed.await;
        assert!(outboxes.has_space());
        assert_eq!(outboxes.bytes(), 0);
    }

    #[test]
    fn it_is_stuck_once_in_a_while_and_only_when_somebody_has_waited_for_long() {
        let outboxes = Outboxes::new(100);
        let held = outboxes.hold(vec![0; 100]);
        let now = Instant::now();
        let after = |times: u32| now + Duration::from_millis(OUTBOXES_MS_MAX + 1) * times;
        assert!(!outboxes.is_stuck(after(9)), "nobody has asked");
        assert!(!outboxes.has_space() && !outboxes.is_stuck(now));
        assert!(outboxes.is_stuck(after(2)) && !outboxes.is_stuck(after(2)) && outboxes.is_stuck(after(3)));
        drop(held);
        assert!(!outboxes.is_stuck(after(9)));
    }
}
