//! One opened store with its layers: what every command and every admin route works on.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use seabed_automerge::{DocStore, LiveServer};
use seabed_kv::{ErrorKind, Store, Tenant, TenantId};
use seabed_taskchampion::TaskChampion;
use tokio::sync::OnceCell;

use crate::backup::Progress;
use crate::own;
use crate::store_url::StoreUrl;
use crate::tokens::Tokens;

/// A store that this process owns.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) store: Store,
    /// Where it is.
    pub(crate) url: StoreUrl,
    taskchampion: OnceCell<TaskChampion>,
    documents: OnceCell<DocStore>,
    tokens: OnceCell<Arc<Tokens>>,
    /// The live server of Automerge's documents, where one runs.
    live: OnceCell<LiveServer>,
    visits: Mutex<BTreeMap<TenantId, u64>>,
    /// Why nothing of the store is served any more; it stays so until the process is started again.
    withdrawn: OnceLock<String>,
    /// What `seabed backup` shows while it waits.
    pub(crate) backups: Progress,
}

impl Node {
    pub(crate) fn new(store: Store, url: StoreUrl) -> Self {
        Self {
            store,
            url,
            taskchampion: OnceCell::new(),
            documents: OnceCell::new(),
            tokens: OnceCell::new(),
            live: OnceCell::new(),
            visits: Mutex::default(),
            withdrawn: OnceLock::new(),
            backups: Progress::default(),
        }
    }

    /// The TaskChampion layer as the server opened it.
    pub(crate) fn with_taskchampion(mut self, taskchampion: TaskChampion) -> Self {
        self.taskchampion = OnceCell::new_with(Some(taskchampion));
        self
    }

    /// The live server of Automerge's documents, as the server opened it.
    pub(crate) fn with_live(mut self, live: LiveServer) -> Self {
        self.live = OnceCell::new_with(Some(live));
        self
    }

    /// The live server of Automerge's documents; `None` where no server runs.
    pub(crate) fn live(&self) -> Option<&LiveServer> {
        self.live.get()
    }

    /// The TaskChampion layer; `None` when the store holds nothing of it, so that looking never creates its tenants.
    pub(crate) async fn taskchampion(&self) -> Result<Option<&TaskChampion>, Failure> {
        if !self.taskchampion.initialized() {
            own::refuse_missing_of(&self.store, &seabed_taskchampion::SPREAD).await?;
            let tenants = self.store.list().await?;
            if !tenants.iter().any(|id| seabed_taskchampion::is_ours(id.as_str())) {
                return Ok(None);
            }
        }
        let open = || TaskChampion::open(&self.store, seabed_taskchampion::Config::default());
        Ok(Some(self.taskchampion.get_or_try_init(open).await?))
    }

    /// The Automerge layer; `None` when the store holds nothing of it, so that looking never creates its tenants.
    pub(crate) async fn documents(&self) -> Result<Option<&DocStore>, Failure> {
        if !self.documents.initialized() {
            own::refuse_missing_of(&self.store, &seabed_automerge::SPREAD).await?;
            let tenants = self.store.list().await?;
            if !tenants.iter().any(|id| seabed_automerge::is_ours(id.as_str())) {
                return Ok(None);
            }
        }
        Ok(Some(self.documents_or_new().await?))
    }

    /// The same, made when it is not there: for what comes in.
    pub(crate) async fn documents_or_new(&self) -> Result<&DocStore, Failure> {
        if let Some(live) = self.live() {
            return Ok(live.documents());
        }
        let open = async || {
            own::refuse_missing_of(&self.store, &seabed_automerge::SPREAD).await?;
            let documents = DocStore::open(&self.store).await?;
            own::remember_layer(&self.store, &seabed_automerge::SPREAD).await?;
            Ok::<_, seabed_kv::Error>(documents)
        };
        Ok(self.documents.get_or_try_init(open).await?)
    }

    /// The tokens, as the server reads them or as they are read now.
    pub(crate) async fn tokens(&self) -> Result<&Arc<Tokens>, seabed_kv::Error> {
        self.tokens.get_or_try_init(async || Tokens::open(&self.store).await.map(Arc::new)).await
    }

    /// Every tenant, or the one of that name.
    pub(crate) async fn tenants(&self, only: Option<&str>) -> Result<Vec<TenantId>, Failure> {
        let mut tenants = self.store.list().await?;
        if let Some(only) = only {
            tenants.retain(|id| id.as_str() == only);
            if tenants.is_empty() {
                return Err(Failure::not_found(format!(
                    "no tenant '{only}' in {}; `seabed tenants` lists them",
                    self.url
                )));
            }
        }
        Ok(tenants)
    }

    /// A tenant to look into for a while. One that was not open is closed again by its last visitor, so that looking at ten
    /// thousand tenants does not keep their files open.
    pub(crate) fn visit(&self, id: &TenantId) -> Result<Visit<'_>, seabed_kv::Error> {
        // Locked while it opens, or a visitor who leaves could close what this one is about to use.
        let mut visits = self.visits();
        let counted = visits.contains_key(id) || self.store.tenant(id.as_str()).is_err();
        let tenant = self.store.open(id.as_str()).wait()?;
        if counted {
            *visits.entry(id.clone()).or_default() += 1;
        }
        Ok(Visit { node: self, tenant, counted })
    }

    /// Why nothing of the store is served any more; `None` while it is.
    pub(crate) fn withdrawn(&self) -> Option<&str> {
        self.withdrawn.get().map(String::as_str)
    }

    /// Serves nothing of the store any more when somebody copies another one into it: what is held in memory is of the one before, and
    /// what is acknowledged beside the copy may be written over. A store that one process owns has nobody beside that one.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn look_at_copying(&self, own: &Tenant) -> Result<Option<&str>, seabed_kv::Error> {
        if self.store.is_shared()
            && self.withdrawn().is_none()
            && let Some(note) = own::copying_into(own).await?
        {
            let why = format!(
                "a copy of {} into this store is under way; stop this server, and start it when the copy has ended",
                note.place.source
            );
            tracing::error!("{why}");
            let _ = self.withdrawn.set(why);
        }
        Ok(self.withdrawn())
    }

    fn visits(&self) -> MutexGuard<'_, BTreeMap<TenantId, u64>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Node::visit`].
#[derive(Debug)]
pub(crate) struct Visit<'a> {
    node: &'a Node,
    tenant: Tenant,
    counted: bool,
}

impl Deref for Visit<'_> {
    type Target = Tenant;

    fn deref(&self) -> &Tenant {
        &self.tenant
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let id = self.tenant.id();
        let mut visits = self.node.visits();
        let left = visits.get(id).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            visits.insert(id.clone(), left);
            return;
        }
        visits.remove(id);
        if let Err(error) = self.node.store.close_tenant(id.as_str()).wait() {
            tracing::warn!(%error, "closing a tenant after looking into it failed");
        }
    }
}

/// Which layer keeps its state in a tenant, by the tenant's name.
pub(crate) fn layer(id: &TenantId) -> Option<&'static str> {
    match id.as_str() {
        own::TENANT => Some("seabed"),
        "sds" => Some("sds"),
        other if seabed_automerge::is_ours(other) => Some("automerge"),
        other => seabed_taskchampion::is_ours(other).then_some("taskchampion"),
    }
}

/// Why a question was not answered: a status for HTTP, a sentence for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<seabed_kv::Error> for Failure {
    fn from(error: seabed_kv::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorKind::TenantNotFound => StatusCode::NOT_FOUND,
            ErrorKind::Busy | ErrorKind::Timeout | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, sentence(error))
    }
}

/// The time, for people and for records of when something was done.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A kernel error with its causes, in one line.
pub(crate) fn sentence(error: seabed_kv::Error) -> String {
    crate::output::sentence(&error.into())
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(serde_json::json!({ "error": self.message }))).into_response()
    }
}
