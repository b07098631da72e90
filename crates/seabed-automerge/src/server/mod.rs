//! The live server: automerge-repo's WebSocket protocol over [`DocStore`].
//!
//! `frame` and `message` are the wire, `room`, `dialogue`, `news` and `replica` are the rules of one document, `resident` is the document in memory
//! and in the store, `actor` works on one document, `connection` serves one client, `rooms` knows which documents are in use.

mod actor;
mod connection;
mod dialogue;
mod frame;
mod fuzz;
mod inbox;
pub mod limits;
mod mail;
mod message;
mod metrics;
mod news;
mod outbox;
mod policy;
mod replica;
mod resident;
mod room;
mod rooms;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use seabed_kv::backend::Hints;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::error::Result as StoreResult;
use crate::{DocStore, DocumentId};
use actor::Actor;
use inbox::Inboxes;
use mail::Mail;
use metrics::Counters;
use outbox::Outboxes;
use room::SessionId;
use rooms::Rooms;
use session::Session;
use socket::Upgrade;

#[doc(hidden)]
pub use fuzz::fuzz_frames;
pub use metrics::LiveMetrics;
pub use policy::{Access, Admission, Denied, Everybody, Identity, Policy};

/// What the server's owner decides. The defaults are the [limits](self::limits).
///
/// ```
/// use seabed_automerge::LiveOptions;
///
/// let small = LiveOptions { resident_bytes_max: 64 * 1024 * 1024, ..LiveOptions::default() };
/// assert_eq!(small.message_bytes_max, 64 * 1024 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveOptions {
    /// The longest message that is taken, in bytes.
    pub message_bytes_max: usize,
    /// How many documents one connection has open.
    pub documents_per_connection_max: usize,
    /// How many messages a connection sends in a second.
    pub messages_per_second_max: u32,
    /// About how many bytes of documents are kept in memory.
    pub resident_bytes_max: u64,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            documents_per_connection_max: limits::DOCUMENTS_PER_CONNECTION_MAX,
            messages_per_second_max: limits::MESSAGES_PER_SECOND_MAX,
            resident_bytes_max: limits::RESIDENT_BYTES_MAX,
        }
    }
}

/// A server of documents for automerge-repo's clients. Cheap to clone; every clone is the same.
///
/// Nothing that it says names a change that is not durable. It needs a tokio runtime with timers.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use seabed_automerge::{DocStore, Everybody, LiveOptions, LiveServer};
///
/// let documents = DocStore::open(&seabed_kv::Store::memory()).await?;
/// let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await?;
/// let app: axum::Router = live.router();
/// // let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// // axum::serve(listener, app).await?;
/// # drop(app);
/// live.close().await;
/// # Ok::<(), seabed_kv::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct LiveServer(Arc<Inner>);

/// What every connection and every document share.
#[derive(Debug)]
struct Inner {
    documents: DocStore,
    options: LiveOptions,
    policy: Box<dyn Policy>,
    /// Our peer id: of this process alone.
    peer: String,
    /// Our storage id: of the store, for ever.
    storage: String,
    rooms: Rooms,
    sessions: Mutex<Sessions>,
    numbers: AtomicU64,
    metrics: Counters,
    outboxes: Outboxes,
    inboxes: Inboxes,
    /// The way to other servers of the store.
    hints: OnceLock<Arc<dyn Hints>>,
    /// As many documents are worked on at once as there are processors.
    work: Semaphore,
    /// Everything that runs holds the sender; the receiver hears when the last of them has ended.
    running: Mutex<(Option<Running>, Option<mpsc::Receiver<()>>)>,
}

/// Held by what the end of the server waits for.
type Running = mpsc::Sender<()>;

#[derive(Debug, Default)]
struct Sessions {
    by_number: HashMap<SessionId, Arc<Session>>,
    by_peer: HashMap<String, SessionId>,
    closed: bool,
}

impl LiveServer {
    /// Opens a server on documents; makes the store's storage id when it has none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(documents: DocStore, options: LiveOptions, policy: impl Policy) -> StoreResult<Self> {
        Self::with(documents, options, policy, limits::OUTBOXES_BYTES).await
    }

    async fn with(
        documents: DocStore,
        options: LiveOptions,
        policy: impl Policy,
        outboxes_bytes: usize,
    ) -> StoreResult<Self> {
        let storage = documents.storage_id(|| *Uuid::new_v4().as_bytes()).await?;
        let (running, ended) = mpsc::channel(1);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // A message that is taken has to fit, whatever the others have sent.
        let inboxes_bytes = limits::INBOXES_BYTES.max(options.message_bytes_max.saturating_mul(4));
        let inner = Inner {
            rooms: Rooms::new(options.resident_bytes_max),
            documents,
            options,
            policy: Box::new(policy),
            peer: format!("seabed-{}", Uuid::new_v4()),
            storage: Uuid::from_bytes(storage).to_string(),
            sessions: Mutex::default(),
            numbers: AtomicU64::new(0),
            metrics: Counters::default(),
            outboxes: Outboxes::new(outboxes_bytes),
            inboxes: Inboxes::new(inboxes_bytes),
            hints: OnceLock::new(),
            work: Semaphore::new(processors),
            running: Mutex::new((Some(running), Some(ended))),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The routes `/` and `/automerge`, for upgrades to a WebSocket alone. Merge them with routers of your own, or serve them as they are.
    pub fn router(&self) -> Router {
        Router::new().route("/", any(upgrade)).route("/automerge", any(upgrade)).with_state(self.0.clone())
    }

    /// The documents that it serves.
    pub fn documents(&self) -> &DocStore {
        &self.0.documents
    }

    /// The id under which this store is known to clients, for ever.
    pub fn storage_id(&self) -> &str {
        &self.0.storage
    }

    /// Asks the policy again about everybody who is connected. To be called when its mind has changed.
    pub async fn recheck(&self) {
        let sessions: Vec<_> = self.0.sessions().by_number.values().cloned().collect();
        for session in sessions {
            self.0.recheck(&session).await;
        }
    }

    /// Looks whether others have stored something of the documents in use: another server of the same store, a command. To be called
    /// each second ([`limits::POLL_MS`]), and when somebody is known to; costs a small read a document.
    ///
    /// # Errors
    /// The first of those of the store's reads, after all documents were looked at.
    pub async fn poll(&self) -> StoreResult<()> {
        let mut looked = Ok(());
        for used in self.0.rooms.in_use() {
            match self.0.documents.meta(used.document).await {
                Ok(meta) if meta == used.seen => {}
                // One that is full is in use, and is looked at again.
                Ok(_) => drop(used.mailbox.try_send(Mail::Changed)),
                Err(error) => looked = looked.and(Err(error)),
            }
        }
        looked
    }

    /// Tells other servers of the same store what it stores, and looks at what they tell, until the store is closed: edits of clients of one
    /// reach those of another without waiting for a [`poll`](Self::poll), which is needed all the same, because any hint may be lost.
    ///
    /// ```no_run
    /// # async fn example(live: seabed_automerge::LiveServer, store: seabed_kv::Store) {
    /// if let Some(hints) = store.hints() {
    ///     tokio::spawn(async move { live.share(hints).await });
    /// }
    /// # }
    /// ```
    pub async fn share(&self, hints: Arc<dyn Hints>) {
        // A second way would tell everything twice.
        if self.0.hints.set(hints.clone()).is_err() {
            return;
        }
        while let Ok(heard) = hints.hear().await {
            for document in
                heard.into_iter().filter_map(|hint| hint.try_into().ok().map(DocumentId::from_bytes))
            {
                if let Some(mailbox) = self.0.rooms.mailbox(document) {
                    // One that is full is in use, and is looked at with the next poll.
                    let _ = mailbox.try_send(Mail::Changed);
                }
            }
        }
    }

    /// How it is, and what has happened.
    pub fn metrics(&self) -> LiveMetrics {
        let (open, resident, resident_bytes) = self.0.rooms.sizes();
        LiveMetrics {
            sessions: self.0.sessions().by_number.len() as u64,
            documents_open: open as u64,
            documents_resident: resident as u64,
            resident_bytes,
            outgoing_bytes: self.0.outboxes.bytes() as u64,
            incoming_bytes: self.0.inboxes.bytes() as u64,
            crowded_out_total: self.0.inboxes.crowded_out(),
            ..self.0.metrics.read()
        }
    }

    /// Ends every connection, and returns when everything that was received is stored. No connection is taken any more.
    pub async fn close(&self) {
        let sessions: Vec<_> = {
            let mut sessions = self.0.sessions();
            sessions.closed = true;
            sessions.by_number.values().cloned().collect()
        };
        for session in sessions {
            session.end(None);
        }
        self.0.rooms.close();
        let ended = {
            let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.0 = None;
            running.1.take()
        };
        // Whoever asks a second time is not waiting for it.
        if let Some(mut ended) = ended {
            let _ = ended.recv().await;
        }
    }
}

impl fmt::Debug for LiveServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveServer")
            .field("options", &self.0.options)
            .field("policy", &self.0.policy)
            .finish()
    }
}

/// Grants a connection, or says why not.
async fn upgrade(State(server): State<Arc<Inner>>, request: Request) -> Response {
    let (upgrade, parts) = match Upgrade::of(request) {
        Ok(upgrade) => upgrade,
        Err(why) => return (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    };
    let identity = match server.policy.authenticate(&parts).await {
        Ok(identity) => identity,
        Err(Denied { status, message }) => {
            server.metrics.denied.add(1);
            return (status, message + "\n").into_response();
        }
    };
    let Some(running) = server.running() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is ending\n").into_response();
    };
    let (response, socket) = upgrade.grant(server.options.message_bytes_max, server.inboxes.open());
    tokio::spawn(async move {
        match socket.await {
            Ok(socket) => connection::run(server, socket, identity).await,
            Err(error) => tracing::debug!(%error, "a connection of an Automerge client was not made"),
        }
        drop(running);
    });
    response
}

impl Inner {
    /// What a task holds that the end of the server waits for; `None` when it is ending.
    fn running(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a client in. It takes the place of a connection of the same identity and peer: that one is often dead, and does not know.
    fn enter(
        &self,
        peer: String,
        storage: Option<String>,
        identity: Identity,
    ) -> Result<Arc<Session>, String> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut sessions = self.sessions();
        if sessions.closed {
            return Err("the server is ending".to_owned());
        }
        if let Some(older) = sessions.by_peer.get(&peer).and_then(|older| sessions.by_number.get(older)) {
            if older.identity != identity {
                return Err("another client is connected under this peer id; choose another".to_owned());
            }
            older.end(None);
        }
        let session = Arc::new(Session::new(number, peer.clone(), storage, identity, self.outboxes.clone()));
        sessions.by_peer.insert(peer, number);
        sessions.by_number.insert(number, session.clone());
        Ok(session)
    }

    /// A client is gone.
    fn leave(&self, session: &Session) {
        let mut sessions = self.sessions();
        sessions.by_number.remove(&session.number);
        if sessions.by_peer.get(&session.peer) == Some(&session.number) {
            sessions.by_peer.remove(&session.peer);
        }
    }

    /// The mailbox of a document for one more connection; `None` when the server is ending.
    fn attach(self: &Arc<Self>, document: DocumentId) -> Option<mpsc::Sender<Mail>> {
        let running = self.running()?;
        self.rooms.attach(document, || {
            let (mailbox, mail) = mpsc::channel(limits::MAILBOX_MESSAGES_MAX);
            let actor = Actor::new(self.clone(), document);
            tokio::spawn(async move {
                Box::pin(actor.run(mail)).await;
                drop(running);
            });
            mailbox
        })
    }

    /// Runs what may take long, no more of it at once than there are processors; `None` when it was broken off.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _turn = self.work.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}
