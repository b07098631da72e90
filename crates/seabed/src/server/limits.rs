//! The bounds of a connection, and who is at its other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The longest head of a request.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most that is read ahead, and that is kept ready to be written, for one connection.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Connections of the socket, on top of those of the network: a full house must not lock the operator out.
pub(crate) const SOCKET_CONNECTIONS_MAX: u32 = 64;
/// How long requests under way may take once the server has been told to end.
pub(crate) const DRAIN_MS_MAX: u64 = 5_000;
/// How long the store may take to close after that.
pub(crate) const CLOSE_MS_MAX: u64 = 30_000;

/// Who sent a request; every request carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The owner of the store: through its socket, or in this process.
    Owner,
    /// Somebody on the network.
    Network(SocketAddr),
}

/// How long a closed connection is still read from, and what comes is thrown away.
const LINGER_MS_MAX: u64 = 2_000;
/// How many reads that may take before others get their turn.
const LINGER_READS: usize = 16;

/// A stream that ends well for both sides.
///
/// It fails when its peer stops taking what it asked for. (Reading has bounds of its own: the head is hyper's, the body is
/// the layer's.) And it is closed with care: a connection that is dropped while bytes are still arriving is reset, and the
/// reset takes the answer with it that the peer was just about to read.
#[derive(Debug)]
pub(crate) struct Unstalled<S, P> {
    stream: S,
    /// The permit of its connection: held for as long as the stream is, also when it has become a WebSocket.
    _permit: P,
    silence_max: Duration,
    /// When a write has waited for too long; once the writing side is closed, when lingering ends.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
    closed: bool,
}

impl<S, P> Unstalled<S, P> {
    pub(crate) fn new(stream: S, permit: P, silence_max: Duration) -> Self {
        Self {
            stream,
            _permit: permit,
            silence_max,
            deadline: Box::pin(sleep(silence_max)),
            waiting: false,
            closed: false,
        }
    }

    /// Starts the clock with the first write that has to wait, and stops it with the next that went through.
    fn bound<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.silence_max);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stopped reading its answer")))
    }
}

impl<S: AsyncRead + Unpin, P> Unstalled<S, P> {
    /// Reads until the peer has closed its side too, or has been given its time.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..LINGER_READS {
            let mut block = [0; 4096];
            let mut into = ReadBuf::new(&mut block);
            match Pin::new(&mut self.stream).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.deadline.as_mut().poll(context),
            }
        }
        // There is more to read at once: this task runs again after the others.
        context.waker().wake_by_ref();
        self.deadline.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Unstalled<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncWrite for Unstalled<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            let closed = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.bound(context, closed))?;
            self.closed = true;
            self.deadline.as_mut().reset(Instant::now() + Duration::from_millis(LINGER_MS_MAX));
        }
        ready!(self.linger(context));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Unstalled::new(ours, (), Duration::from_millis(20));
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_closed_connection_is_read_to_its_end() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = Unstalled::new(ours, (), Duration::from_mins(1));
        let (closed, sent) = tokio::join!(stream.shutdown(), async {
            // Far more than fits in between, and then the end.
            theirs.write_all(&vec![0; 100_000]).await?;
            theirs.shutdown().await
        });
        assert!(closed.is_ok() && sent.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_connection_is_not_waited_for_for_ever() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let begin = Instant::now();
        Unstalled::new(ours, (), Duration::from_mins(1)).shutdown().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_millis(LINGER_MS_MAX));
    }
}
