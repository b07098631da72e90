//! Bodies, both ways, in bounded memory.

use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT_ENCODING, CONNECTION};
use axum::http::{HeaderMap, StatusCode};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use uuid::Uuid;

use super::headers::{self, Encoding};
use super::{NO_SUCH_CLIENT, Posting, Refusal, Server, Shortened, failed, told};
use crate::error::Result as StoreResult;
use crate::{Upload, UploadWriter, Value};

/// How much compressed data is decoded at once. It grows at most 1,032-fold, so to half a mebibyte.
const DECODE_STEP_BYTES: usize = 512;

/// Takes a whole body for `client`. That of a client which does not exist and is not to be created is read and checked like any
/// other, and nothing of it is stored: strangers must not be able to fill the disk.
pub(super) async fn receive(
    server: &Server,
    posting: &Posting,
    client: Uuid,
    headers: &HeaderMap,
    body: Body,
) -> Result<Upload, Refusal> {
    let Some(encoding) = headers::encoding(headers) else {
        let text = "the content encoding is not supported; send gzip or none";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).with(ACCEPT_ENCODING, "gzip"));
    };
    let config = server.taskchampion.config();
    let limit = config.body_bytes_max;
    let mut source = Arriving {
        body,
        client,
        silence: Duration::from_millis(config.silence_ms_max),
        bytes: 0,
        // Stored blocks add five bytes to each sixteen kibibytes at the worst; what is longer hides empty members.
        bytes_max: match encoding {
            Encoding::Identity => limit,
            Encoding::Gzip => limit.saturating_add(limit / 1_024).saturating_add(1_024),
        },
    };
    if headers::content_length(headers).is_some_and(|declared| declared > source.bytes_max) {
        if !headers::expects_continue(headers) {
            source.drain().await;
        }
        return Err(too_large(limit));
    }
    let kept = (posting.creates && config.create_clients)
        || server.taskchampion.has_client(client).await.map_err(failed(client))?;
    let writer = kept.then(|| server.taskchampion.upload(client, server.fresh_id(), server.now_unix_ms()));
    let mut sink = Sink { client, writer, bytes: 0, limit, decoder: None };
    if encoding == Encoding::Gzip {
        sink.decoder = Some(Box::new(MultiGzDecoder::new(Vec::new())));
    }
    while let Some(bytes) = source.next().await? {
        let taken =
            if source.bytes > source.bytes_max { Err(too_large(limit)) } else { sink.take(&bytes).await };
        if let Err(refusal) = taken {
            if refusal.status == StatusCode::PAYLOAD_TOO_LARGE {
                drop(sink);
                source.drain().await;
            }
            return Err(refusal);
        }
    }
    if source.bytes == 0 {
        return Err(Refusal::bad_request(posting.empty));
    }
    sink.end().await?;
    if sink.bytes == 0 {
        return Err(Refusal::bad_request(posting.empty));
    }
    match sink.writer {
        Some(writer) => writer.finish().await.map_err(failed(client)),
        None => Err(server.no_such_client(client, NO_SUCH_CLIENT)),
    }
}

fn too_large(limit: u64) -> Refusal {
    let text = format!("the body is larger than the {limit} bytes allowed");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text).with(CONNECTION, "close")
}

/// A body that is being sent.
struct Arriving {
    body: Body,
    client: Uuid,
    silence: Duration,
    bytes: u64,
    bytes_max: u64,
}

impl Arriving {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        // One deadline for all that comes before the next byte: what is no byte does not break the silence.
        let deadline = tokio::time::Instant::now() + self.silence;
        loop {
            let Ok(frame) = tokio::time::timeout_at(deadline, self.body.frame()).await else {
                tracing::info!(client = %Shortened(self.client), "a client fell silent in the middle of a body");
                let text = "nothing arrived for too long";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text).with(CONNECTION, "close"));
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers say nothing to this protocol.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.bytes = self.bytes.saturating_add(data.len() as u64);
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(client = %Shortened(self.client), %error, "a body was cut off");
                    return Err(Refusal::bad_request("the body was cut off"));
                }
            }
        }
    }

    /// Throws the rest away, until twice as much as is allowed has come, so that a client which sends all before it listens gets to
    /// hear why it was refused: closing over unread bytes would take the answer with it.
    async fn drain(&mut self) {
        let most = self.bytes_max.saturating_mul(2);
        while self.bytes < most && matches!(self.next().await, Ok(Some(_))) {}
    }
}

/// Where a body goes: decoded, counted, stored.
struct Sink {
    client: Uuid,
    /// `None` when nothing is stored.
    writer: Option<UploadWriter>,
    /// Decoded ones.
    bytes: u64,
    limit: u64,
    decoder: Option<Box<MultiGzDecoder<Vec<u8>>>>,
}

impl Sink {
    async fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.decoder.is_none() {
            return self.store(bytes).await;
        }
        for step in bytes.chunks(DECODE_STEP_BYTES) {
            let Some(decoder) = &mut self.decoder else { break };
            decoder.write_all(step).map_err(|_| bad_gzip())?;
            let decoded = std::mem::take(decoder.get_mut());
            self.store(&decoded).await?;
        }
        Ok(())
    }

    async fn store(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.limit {
            return Err(too_large(self.limit));
        }
        match &mut self.writer {
            Some(writer) => writer.write(bytes).await.map_err(failed(self.client)),
            None => Ok(()),
        }
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        if let Some(decoder) = self.decoder.take() {
            let decoded = decoder.finish().map_err(|_| bad_gzip())?;
            self.store(&decoded).await?;
        }
        Ok(())
    }
}

fn bad_gzip() -> Refusal {
    Refusal::bad_request("the body is not whole gzip")
}

/// A value as the stream of an answer's body.
pub(super) struct Parts {
    client: Uuid,
    state: State,
}

enum State {
    Idle(Option<Value>),
    Reading(Pin<Box<dyn Future<Output = (Value, Part)> + Send>>),
}

type Part = StoreResult<Option<Vec<u8>>>;

impl Parts {
    pub(super) fn new(client: Uuid, value: Value) -> Self {
        Self { client, state: State::Idle(Some(value)) }
    }
}

impl futures_core::Stream for Parts {
    type Item = StoreResult<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Idle(value) => {
                    let Some(mut value) = value.take() else { return Poll::Ready(None) };
                    self.state = State::Reading(Box::pin(async move {
                        let part = value.next().await;
                        (value, part)
                    }));
                }
                State::Reading(reading) => {
                    let (value, part) = ready!(reading.as_mut().poll(context));
                    // After the end and after an error there is nothing more to read.
                    let more = matches!(part, Ok(Some(_)));
                    self.state = State::Idle(more.then_some(value));
                    if let Err(error) = &part {
                        let (kind, tenant, cause) = told(error);
                        let client = Shortened(self.client);
                        tracing::error!(%client, %kind, tenant, cause, "an answer was cut off in the middle");
                    }
                    return Poll::Ready(part.map(|part| part.map(Bytes::from)).transpose());
                }
            }
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}
