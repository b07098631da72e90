//! From a store to something that answers: the server that owns it, or this process, which opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use seabed_kv::{ErrorKind, Store};
use serde_json::Value;
use tower::ServiceExt;

use crate::node::{Node, sentence};
use crate::open;
use crate::output::Exit;
use crate::own;
use crate::server::admin;
use crate::server::limits::Peer;
use crate::server::socket;
use crate::store_url::StoreUrl;

/// How long a command waits for whoever holds the lock and does not answer: a server that starts or ends, another command.
const OWNED_MS_MAX: u64 = 5_000;

/// Answers the requests of the admin API: the same routes, whoever runs them.
#[derive(Debug)]
pub(crate) enum Access {
    /// A server owns the store; it is asked through its socket.
    Server(PathBuf),
    /// Nobody does; this process opened it.
    Here(Arc<Node>),
}

impl Access {
    /// Finds out who answers for the store.
    ///
    /// # Errors
    /// Exit code 2 when there is no store; it is never created.
    pub(crate) async fn open(url: &StoreUrl) -> anyhow::Result<Self> {
        Self::find(url.absolute(), false).await
    }

    /// The same, for what comes in: a store that is not there is made.
    ///
    /// # Errors
    /// Exit code 2 when something else lives there; those of the store.
    pub(crate) async fn open_or_create(url: &StoreUrl) -> anyhow::Result<Self> {
        Self::find(url.absolute(), true).await
    }

    async fn find(url: StoreUrl, create: bool) -> anyhow::Result<Self> {
        if let Some(path) = url.root()
            && socket::connect(path).is_ok()
        {
            return Ok(Self::Server(path.to_owned()));
        }
        if !create {
            open::refuse_absent(&url).await?;
        }
        let store = open::store(&url)?;
        open::refuse_foreign(&url)?;
        match (store.own(), url.root()) {
            (Ok(()), _) => Self::here(store, url).await,
            (Err(error), Some(path)) if error.kind() == ErrorKind::Busy => {
                Self::wait(store, path.to_owned()).await
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    async fn here(store: Store, url: StoreUrl) -> anyhow::Result<Self> {
        own::refuse_copying(&store, &url).await?;
        Ok(Self::Here(Arc::new(Node::new(store, url))))
    }

    /// Somebody holds the lock: a server that is about to listen or to end, or another command.
    async fn wait(store: Store, path: PathBuf) -> anyhow::Result<Self> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(OWNED_MS_MAX);
        while tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if socket::connect(&path).is_ok() {
                return Ok(Self::Server(path));
            }
            match store.own() {
                Ok(()) => return Self::here(store, StoreUrl::Sqlite(path)).await,
                Err(error) if error.kind() == ErrorKind::Busy => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Exit::usage(format!(
            "another process owns the store in {} and does not answer on {}; wait until it ends, or stop it",
            path.display(),
            socket::NAME
        )))
    }

    /// Sends one request to the admin API, and gives back the JSON that it answers.
    ///
    /// # Errors
    /// The sentence that the API answered; exit code 2 when what was named is not there or not right.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.send(method, path, Bytes::new()).await
    }

    /// The same, with a body.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.fetch(method, path, body).await?)?)
    }

    /// The same, for an answer that need not be JSON.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn fetch(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        let request = request.body(Body::from(body))?;
        let (status, body) = match self {
            Self::Server(root) => ask_server(root, request).await.context("the server did not answer")?,
            Self::Here(node) => ask_router(admin::router(node.clone()), request).await?,
        };
        if status.is_success() {
            return Ok(body);
        }
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        let error = answer.as_ref().and_then(|answer| answer.get("error")?.as_str());
        let error = error.map_or_else(|| format!("the server answered {status}"), str::to_owned);
        Err(if status.is_client_error() { Exit::usage(error) } else { anyhow::Error::msg(error) })
    }

    /// Closes what was opened here.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if let Self::Here(node) = self {
            node.store.close().await.map_err(|error| anyhow::Error::msg(sentence(error)))?;
        }
        Ok(())
    }

    /// One request, and done.
    pub(crate) fn ask_once(url: &StoreUrl, path: &str) -> anyhow::Result<Value> {
        crate::cli::block_on(async {
            let access = Self::open(url).await?;
            let answer = access.ask(Method::GET, path).await;
            access.close().await?;
            answer
        })
    }
}

async fn ask_server(root: &Path, request: Request<Body>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = socket::connect(root)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

async fn ask_router(router: Router, mut request: Request<Body>) -> anyhow::Result<(StatusCode, Bytes)> {
    request.extensions_mut().insert(Peer::Owner);
    let answer = router.oneshot(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

/// A piece of text as one segment of a path, or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                use std::fmt::Write as _;
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_segment_has_no_character_with_a_meaning() {
        assert_eq!(super::segment("a/b?c=d&e%"), "a%2Fb%3Fc%3Dd%26e%25");
    }
}
