//! The bounds of a connection, and who is at its other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The longest head of a request, and the most that is read ahead.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
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

impl Peer {
    /// Whether this machine sent it.
    pub(crate) fn is_local(self) -> bool {
        match self {
            Self::Owner => true,
            Self::Network(address) => address.ip().to_canonical().is_loopback(),
        }
    }
}

/// A stream that fails when its peer stops taking what it asked for. Reading has bounds of its own: the head is hyper's, the
/// body is the layer's.
#[derive(Debug)]
pub(crate) struct Unstalled<S> {
    stream: S,
    silence_max: Duration,
    stalled: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Unstalled<S> {
    pub(crate) fn new(stream: S, silence_max: Duration) -> Self {
        Self { stream, silence_max, stalled: Box::pin(sleep(silence_max)), waiting: false }
    }

    /// Starts the clock with the first write that has to wait, and stops it with the next that went through.
    fn bound<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            self.stalled.as_mut().reset(Instant::now() + self.silence_max);
        }
        ready!(self.stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stopped reading its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
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
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bound(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Unstalled::new(ours, Duration::from_millis(20));
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_address_of_this_machine_is_local_in_every_spelling() {
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.1:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            assert_eq!(Peer::Network(address.parse().unwrap()).is_local(), local, "{address}");
        }
    }
}
