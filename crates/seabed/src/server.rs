//! The server: listeners, the router put together, and an end in bounded time.

pub(crate) mod admin;
pub(crate) mod automerge;
mod health;
pub(crate) mod limits;
pub(crate) mod socket;
pub(crate) mod trace;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use seabed_automerge::{DocStore, LiveServer};
use seabed_taskchampion::TaskChampion;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use crate::node::{Node, sentence};
use crate::own;
use limits::{
    BUFFER_BYTES_MAX, CLOSE_MS_MAX, DRAIN_MS_MAX, HEAD_BYTES_MAX, Peer, SOCKET_CONNECTIONS_MAX, Unstalled,
};
use socket::Socket;

/// How often the layers are asked to tidy up.
const MAINTAIN_MS: u64 = 60_000;
/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE_MS: u64 = 100;

/// A server that has everything it needs, and serves when it is told to.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) node: Arc<Node>,
    taskchampion: TaskChampion,
    live: LiveServer,
    listeners: Vec<TcpListener>,
    /// Where the owner's commands are answered; a store that several processes share is opened by each command.
    socket: Option<Socket>,
    ends: Ends,
    app: Router,
    connections_max: u32,
    silence_max: Duration,
}

/// The signals that end the server.
#[derive(Debug)]
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Server {
    /// Opens the layers of a store that this process owns, and the socket beside it when it is a directory.
    pub(crate) async fn new(
        node: Node,
        listeners: Vec<TcpListener>,
        taskchampion: TaskChampion,
        live: LiveServer,
        connections_max: u32,
        silence_max: Duration,
    ) -> anyhow::Result<Self> {
        // Before anything is announced: a signal from now on is an orderly end.
        let ends =
            Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let own = own::open(&node.store).await?;
        let bind = |root: &Path| {
            Socket::bind(root)
                .with_context(|| format!("cannot listen on {}", root.join(socket::NAME).display()))
        };
        let socket = node.url.root().map(bind).transpose()?;
        let node = Arc::new(node.with_taskchampion(taskchampion.clone()).with_live(live.clone()));
        let app = Router::new()
            .merge(seabed_taskchampion::router(taskchampion.clone()))
            .merge(health::router(node.clone(), own))
            .merge(admin::router(node.clone()))
            .layer(from_fn_with_state(live.router(), automerge::divert))
            .layer(from_fn_with_state(node.clone(), health::refuse_withdrawn))
            .layer(from_fn(trace::request));
        Ok(Self { node, taskchampion, live, listeners, socket, ends, app, connections_max, silence_max })
    }

    /// The addresses it listens on.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until a signal comes, then drains, closes the store and returns.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let (stop, stopping) = watch::channel(false);
        let network = Arc::new(Semaphore::new(self.connections_max as usize));
        let owner = Arc::new(Semaphore::new(SOCKET_CONNECTIONS_MAX as usize));
        let connection = |gate: &Arc<Semaphore>| Connections {
            app: self.app.clone(),
            gate: gate.clone(),
            stopping: stopping.clone(),
            silence_max: self.silence_max,
        };
        for listener in self.listeners {
            tokio::spawn(connection(&network).accept_network(listener));
        }
        let accepting_owner = self.socket.map(|socket| tokio::spawn(connection(&owner).accept_owner(socket)));
        let mut maintaining = vec![
            tokio::spawn(maintain(self.taskchampion, self.live.documents().clone(), self.node.clone())),
            tokio::spawn(automerge::poll(self.live.clone(), self.node.clone())),
        ];
        if let Some(hints) = self.node.store.hints() {
            let live = self.live.clone();
            maintaining.push(tokio::spawn(async move { live.share(hints).await }));
        }

        self.ends.next().await;
        tracing::info!("ending: requests under way get {DRAIN_MS_MAX} ms");
        stop.send_replace(true);
        for task in maintaining {
            task.abort();
        }
        // Every connection holds a permit: who has them all waits for nobody.
        let drained = async {
            self.live.close().await;
            let _ = network.acquire_many(self.connections_max).await;
            let _ = owner.acquire_many(SOCKET_CONNECTIONS_MAX).await;
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(Duration::from_millis(DRAIN_MS_MAX)) => tracing::warn!("some requests were cut off"),
            () = self.ends.next() => tracing::warn!("told to end again: some requests were cut off"),
        }
        // The socket is gone before the lock is: whoever finds the lock free finds no socket of ours.
        if let Some(accepting) = accepting_owner {
            let _ = accepting.await;
        }
        let closing = tokio::time::timeout(Duration::from_millis(CLOSE_MS_MAX), self.node.store.close());
        match closing.await {
            Ok(closed) => closed.map_err(|error| anyhow::Error::msg(sentence(error))),
            Err(_) => anyhow::bail!(
                "the store did not close within {CLOSE_MS_MAX} ms; what was acknowledged is safe"
            ),
        }
    }
}

/// Asks the layers to tidy up, now and then.
async fn maintain(taskchampion: TaskChampion, documents: DocStore, node: Arc<Node>) {
    loop {
        tokio::time::sleep(Duration::from_millis(MAINTAIN_MS)).await;
        if node.withdrawn().is_some() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        for tidied in [taskchampion.maintain(now).await, documents.maintain(now).await] {
            match tidied {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "removed values that nobody refers to"),
                Err(error) => tracing::warn!(%error, "tidying up failed, and is tried again in a minute"),
            }
        }
    }
}

/// Serves the connections of one listener.
#[derive(Clone)]
struct Connections {
    app: Router,
    gate: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    silence_max: Duration,
}

impl Connections {
    async fn accept_network(mut self, listener: TcpListener) {
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = async {
                // The permit first: who finds the house full waits in the kernel's queue, at no cost to us.
                let permit = self.gate.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = stopped(&mut stopping) => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Answers are written whole: waiting for more to send only delays them.
                    let _ = stream.set_nodelay(true);
                    self.serve(stream, Peer::Network(address), permit);
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    async fn accept_owner(mut self, socket: Socket) {
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = async {
                let permit = self.gate.clone().acquire_owned().await;
                (permit, socket.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = stopped(&mut stopping) => return,
            };
            match accepted {
                Ok(stream) => self.serve(stream, Peer::Owner, permit),
                Err(error) => self.pause(&error).await,
            }
        }
    }

    async fn pause(&mut self, error: &io::Error) {
        // A peer that gave up before it was accepted is its own business; running out of files passes as connections end.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            tracing::warn!(%error, "accepting a connection failed");
            tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
        }
    }

    fn serve<S, P>(&self, stream: S, peer: Peer, permit: P)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        P: Send + Unpin + 'static,
    {
        let app = self.app.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            answer(app.clone(), request.map(Body::new))
        });
        let silence_max = self.silence_max;
        let mut stopping = self.stopping.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(silence_max)
                .max_header_size(HEAD_BYTES_MAX)
                .max_buf_size(BUFFER_BYTES_MAX)
                .serve_connection(TokioIo::new(Unstalled::new(stream, permit, silence_max)), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stopping) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, ?peer, "a connection ended");
            }
        });
    }
}

/// Until the server is to end.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn answer(app: Router, request: Request<Body>) -> Result<axum::response::Response, Infallible> {
    app.oneshot(request).await
}

/// Listens on an address, on every one that its name stands for and that is not among `listeners` yet.
///
/// # Errors
/// A sentence that says what to do.
pub(crate) async fn listen(address: &str, listeners: &mut Vec<TcpListener>) -> anyhow::Result<()> {
    let resolved = tokio::net::lookup_host(address).await;
    let resolved =
        resolved.with_context(|| format!("cannot listen on {address}: the name is not known here"))?;
    let (mut found, mut missing) = (false, None);
    for resolved in resolved {
        // Named twice, or by two names. Port 0 stands for another one each time.
        if listeners.iter().any(|listener| listener.local_addr().is_ok_and(|bound| bound == resolved)) {
            found = true;
            continue;
        }
        match TcpListener::bind(resolved).await {
            Ok(listener) => {
                found = true;
                listeners.push(listener);
            }
            // `localhost` often stands for an IPv6 address that the machine does not have.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => missing = Some(error),
            Err(error) => return Err(refused(address, error)),
        }
    }
    match missing {
        Some(error) if !found => Err(refused(address, error)),
        _ => Ok(()),
    }
}

fn refused(address: &str, error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps another `seabed serve`; stop it, or choose another port with \
             --listen 127.0.0.1:8081"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root; choose a higher one with --listen 127.0.0.1:8080"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 stands for all it has"
        }
        _ => "choose another address with --listen",
    };
    anyhow::Error::new(error).context(format!("cannot listen on {address}: {advice}"))
}
