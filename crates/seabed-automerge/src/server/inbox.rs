//! What has arrived of messages that are not whole yet, and the bytes of it that the whole server keeps.
//!
//! All of a message is kept until its last byte is there, and clients may take their time. Once there is too much, whoever has the most
//! goes, and the others wait until that is free.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once: a connection that is idle keeps as much, and so much of a message is not counted.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// The unfinished messages of all connections. Cheap to clone; every clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Inboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    parts: Mutex<Parts>,
}

/// What has arrived, by connections.
#[derive(Debug, Default)]
struct Parts {
    by_number: BTreeMap<u64, Part>,
    bytes: usize,
    /// How many connections there have been.
    numbers: u64,
    /// How many of them had to go.
    crowded_out: u64,
}

#[derive(Debug, Default)]
struct Part {
    bytes: usize,
    /// Its connection goes; the bytes are still there.
    is_ending: bool,
    /// Who waits for more of it, or for room.
    reader: Option<Waker>,
}

impl Inboxes {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner { bytes_max, parts: Mutex::default() }))
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inbox of one more connection.
    pub(super) fn open(&self) -> Inbox {
        let mut parts = self.parts();
        parts.numbers += 1;
        Inbox(Arc::new(Own { number: parts.numbers, bytes: AtomicUsize::new(0), all: self.clone() }))
    }

    /// How many bytes have arrived of messages that are not whole.
    pub(super) fn bytes(&self) -> usize {
        self.parts().bytes
    }

    /// How many connections had to go.
    pub(super) fn crowded_out(&self) -> u64 {
        self.parts().crowded_out
    }
}

impl Parts {
    /// Ends the connection that has the most. One at a time: what it has may be enough.
    fn end_largest(&mut self) {
        if self.by_number.values().any(|part| part.is_ending) {
            return;
        }
        if let Some(part) = self.by_number.values_mut().max_by_key(|part| part.bytes) {
            tracing::warn!(
                bytes = part.bytes,
                "too much has arrived of messages that are not whole; the connection that has sent the most of it is ended"
            );
            part.is_ending = true;
            part.reader.take().into_iter().for_each(Waker::wake);
            self.crowded_out += 1;
        }
    }
}

/// What has arrived of one connection's message. Cheap to clone; every clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Inbox(Arc<Own>);

#[derive(Debug)]
struct Own {
    number: u64,
    bytes: AtomicUsize,
    all: Inboxes,
}

impl Inbox {
    /// So many bytes have arrived.
    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.bytes().saturating_add(bytes));
    }

    /// Of what has arrived so much was no part of the message, and is gone.
    pub(super) fn take_out(&self, bytes: usize) {
        self.0.set(self.0.bytes().saturating_sub(bytes));
    }

    /// The message is whole.
    pub(super) fn finish(&self) {
        self.0.set(0);
    }

    /// Whether it keeps something that others may wait for.
    pub(super) fn is_counted(&self) -> bool {
        self.0.bytes() > READ_BYTES
    }

    /// Until more may be read. The error is that this connection has to go.
    fn poll_room(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_counted() {
            return Poll::Ready(Ok(()));
        }
        let bytes_max = self.0.all.0.bytes_max;
        let mut parts = self.0.all.parts();
        let is_full = parts.bytes >= bytes_max;
        if is_full {
            parts.end_largest();
        }
        let Some(part) = parts.by_number.get_mut(&self.0.number) else { return Poll::Ready(Ok(())) };
        if part.is_ending {
            return Poll::Ready(Err(io::Error::other(format!(
                "{bytes_max} bytes have arrived of messages that are not whole, and most of one connection from this one; connect again \
                 (INBOXES_BYTES)"
            ))));
        }
        // Also of who may read: it may have to go while nothing comes.
        part.reader = Some(context.waker().clone());
        if is_full { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Own {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // Most messages are short, and nobody else's business.
        if before.max(bytes) <= READ_BYTES {
            return;
        }
        let mut parts = self.all.parts();
        let (before, counted) = (before.saturating_sub(READ_BYTES), bytes.saturating_sub(READ_BYTES));
        parts.bytes = parts.bytes.saturating_sub(before).saturating_add(counted);
        if counted > 0 {
            parts.by_number.entry(self.number).or_default().bytes = counted;
        } else {
            parts.by_number.remove(&self.number);
        }
        if counted >= before {
            return;
        }
        if parts.bytes >= self.all.0.bytes_max {
            // Less than there was too much: the others still wait.
            parts.end_largest();
        } else {
            parts.by_number.values_mut().filter_map(|part| part.reader.take()).for_each(Waker::wake);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A stream that says what it reads.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    inbox: Inbox,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, inbox: Inbox) -> Self {
        Self { stream, inbox }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.inbox.poll_room(context))?;
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        self.inbox.add(into.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn has_room(inbox: &Inbox) -> io::Result<()> {
        poll_fn(|context| inbox.poll_room(context)).await
    }

    async fn waits(inbox: &Inbox) -> bool {
        poll_fn(|context| Poll::Ready(inbox.poll_room(context).is_pending())).await
    }

    #[tokio::test]
    async fn who_has_most_of_what_is_not_whole_goes_and_the_others_wait_until_it_has() {
        let all = Inboxes::new(100);
        let (large, medium, small) = (all.open(), all.open(), all.open());
        large.add(READ_BYTES + 60);
        medium.add(READ_BYTES + 30);
        has_room(&medium).await.unwrap();
        small.add(READ_BYTES);
        assert_eq!(all.bytes(), 90);
        medium.add(10);
        assert!(waits(&medium).await);
        has_room(&small).await.unwrap();
        let why = has_room(&large).await.unwrap_err().to_string();
        assert!(why.contains("INBOXES_BYTES"), "{why}");
        assert!(waits(&medium).await, "its bytes are there until it has gone");
        let (woken, ()) = tokio::join!(has_room(&medium), async { drop(large) });
        woken.unwrap();
        assert_eq!((all.bytes(), all.crowded_out()), (40, 1));
        // Nobody else has more than itself.
        medium.add(60);
        assert!(has_room(&medium).await.is_err());
    }

    #[tokio::test]
    async fn when_the_end_of_one_is_not_enough_the_next_one_goes() {
        let all = Inboxes::new(READ_BYTES + 100);
        // What is not counted yet is read without asking.
        let (large, next, small) = (all.open(), all.open(), all.open());
        large.add(2 * READ_BYTES);
        next.add(2 * READ_BYTES - 1);
        small.add(READ_BYTES + 200);
        assert!(waits(&small).await && waits(&next).await);
        drop(large);
        assert_eq!(all.crowded_out(), 2, "nobody else would ask for it");
        assert!(has_room(&next).await.is_err());
        let (woken, ()) = tokio::join!(has_room(&small), async { drop(next) });
        woken.unwrap();
        // It was not the last word of who goes that made room.
        assert_eq!((all.bytes(), all.crowded_out()), (200, 2));
    }

    #[tokio::test]
    async fn who_has_to_go_hears_of_it_while_it_waits_for_its_client() {
        let all = Inboxes::new(100);
        let (ours, _theirs) = tokio::io::duplex(1);
        let inbox = all.open();
        let mut stream = Counted::new(ours, inbox.clone());
        inbox.add(READ_BYTES + 99);
        let other = all.open();
        let mut block = [0; 8];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut block);
        let (read, waits) = tokio::join!(read, async {
            other.add(READ_BYTES + 1);
            waits(&other).await
        });
        assert!(read.is_err() && waits);
    }

    #[test]
    fn what_is_whole_or_was_no_part_of_it_does_not_count() {
        let all = Inboxes::new(100);
        let inbox = all.open();
        inbox.add(READ_BYTES + 50);
        inbox.take_out(20);
        assert_eq!(all.bytes(), 30);
        inbox.finish();
        assert_eq!(all.bytes(), 0);
        assert!(all.parts().by_number.is_empty());
    }
}
