//! The WebSocket: the request that becomes one, and frames written in pieces, so that neither side of it keeps a buffer of the size of a document.

use std::future::poll_fn;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as Fragment};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::inbox::{Counted, Inbox, READ_BYTES};
use super::limits::{FRAGMENT_BYTES_MAX, PING_MS, WRITE_BYTES_PER_MS, WRITE_MS_MAX};
use super::outbox::Frame;

const PING: Duration = Duration::from_millis(PING_MS);

/// How many bytes of a control message are not its own: a client's, with its mask.
const CONTROL_HEAD_BYTES: usize = 6;

type Socket = WebSocketStream<Counted<TokioIo<Upgraded>>>;

/// A request for a WebSocket, as its protocol has it.
pub(super) struct Upgrade {
    response: Response,
    upgrading: OnUpgrade,
}

impl Upgrade {
    /// With the head of the request, for who decides whether it is granted; `Err` says why this is none.
    pub(super) fn of(request: Request) -> Result<(Self, Parts), String> {
        let response = create_response_with_body(&request, Body::empty).map_err(|error| error.to_string())?;
        let (mut parts, _) = request.into_parts();
        let upgrading = parts.extensions.remove::<OnUpgrade>();
        let upgrading = upgrading.ok_or("this connection cannot be upgraded")?;
        Ok((Self { response, upgrading }, parts))
    }

    /// Grants it: the response, and both sides of the socket once that is sent.
    pub(super) fn grant(
        self,
        message_bytes_max: usize,
        inbox: Inbox,
    ) -> (Response, impl Future<Output = hyper::Result<(Sink, Source)>>) {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let socket = async move {
            let stream = Counted::new(TokioIo::new(self.upgrading.await?), inbox.clone());
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
            let (sink, source) = socket.split();
            Ok((Sink::new(sink), Source { socket: source, inbox }))
        };
        (self.response, socket)
    }
}

/// The reading side.
pub(super) struct Source {
    socket: SplitStream<Socket>,
    inbox: Inbox,
}

impl Source {
    /// The next message. The one before goes only now: the buffer that it came in would be kept for the next one if it were free when that is
    /// looked for.
    pub(super) async fn next(&mut self, before: Bytes) -> Option<Result<Message, Error>> {
        let mut before = Some(before);
        let next = poll_fn(|context| {
            let next = self.socket.poll_next_unpin(context);
            before = None;
            next
        })
        .await;
        match &next {
            // It may have come between the pieces of another.
            Some(Ok(Message::Ping(data) | Message::Pong(data))) => {
                self.inbox.take_out(data.len().saturating_add(CONTROL_HEAD_BYTES));
            }
            Some(Ok(Message::Binary(_) | Message::Text(_))) => self.inbox.finish(),
            _ => {}
        }
        next
    }

    /// Whether it keeps so much of a message that others may wait for its end.
    pub(super) fn holds_up_others(&self) -> bool {
        self.inbox.is_counted()
    }
}

/// The writing side.
pub(super) struct Sink {
    socket: SplitSink<Socket, Message>,
    /// Somewhere inside a message: nothing but its rest and the end may follow.
    inside: bool,
    /// When the next ping is due.
    ping_at: Instant,
}

/// The other side is not there any more, or does not take what it asked for.
#[derive(Debug)]
pub(super) struct Stalled;

impl Sink {
    fn new(socket: SplitSink<Socket, Message>) -> Self {
        Self { socket, inside: false, ping_at: Instant::now() + PING }
    }

    /// Writes a frame, in bounded time, and says of each piece that it has left. Whoever drops this in the middle of a frame of several pieces can only close.
    pub(super) async fn write(&mut self, frame: &Frame, left: impl FnMut(usize)) -> Result<(), Stalled> {
        if self.inside {
            return Err(Stalled);
        }
        let bytes = frame.len() as u64;
        let most = Duration::from_millis(WRITE_MS_MAX.saturating_add(bytes / WRITE_BYTES_PER_MS));
        // A frame of one piece is the socket's as soon as this waits: others may follow it.
        self.inside = frame.len() > FRAGMENT_BYTES_MAX;
        let written = timeout(most, self.write_pieces(frame, left)).await;
        self.inside = !matches!(written, Ok(Ok(())));
        if self.inside { Err(Stalled) } else { Ok(()) }
    }

    async fn write_pieces(&mut self, frame: &Frame, mut left: impl FnMut(usize)) -> Result<(), Error> {
        if frame.len() <= FRAGMENT_BYTES_MAX {
            self.socket.send(Message::Binary(frame.to_vec().into())).await?;
            left(frame.len());
            return Ok(());
        }
        let mut code = OpCode::Data(Data::Binary);
        let mut rest_bytes = frame.len();
        for part in [Some(&*frame.head), frame.data.as_deref().map(|data| &**data)].into_iter().flatten() {
            let mut rest: Bytes = part.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(FRAGMENT_BYTES_MAX));
                let bytes = piece.len();
                rest_bytes = rest_bytes.saturating_sub(bytes);
                // Whoever takes the frame slowly answers in between, and so is heard.
                if self.ping_at <= Instant::now() {
                    self.send_ping().await?;
                }
                self.socket.send(Message::Frame(Fragment::message(piece, code, rest_bytes == 0))).await?;
                left(bytes);
                code = OpCode::Data(Data::Continue);
            }
        }
        Ok(())
    }

    async fn send_ping(&mut self) -> Result<(), Error> {
        self.ping_at = Instant::now() + PING;
        self.socket.send(Message::Ping(Bytes::new())).await
    }

    pub(super) async fn ping(&mut self) -> Result<(), Stalled> {
        within(self.send_ping()).await
    }

    /// Says goodbye, or answers the client's, and ends the connection with care, or what was said last may not arrive. All of it in bounded
    /// time.
    pub(super) async fn close(mut self, source: Source) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        // Who is not there any more need not be told.
        let _ = within(async {
            // After the client's goodbye nothing is sent but its answer, and that only with this.
            if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                self.socket.close().await?;
            }
            if let Ok(socket) = self.socket.reunite(source.socket) {
                socket.into_inner().shutdown().await?;
            }
            Ok(())
        })
        .await;
    }
}

async fn within(sent: impl Future<Output = Result<(), Error>>) -> Result<(), Stalled> {
    match timeout(Duration::from_millis(WRITE_MS_MAX), sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Stalled),
    }
}
