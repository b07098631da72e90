//! `/healthz`: the process answers. `/readyz`: the store takes writes, and each layer reads; asked of them, not assumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use seabed_automerge::DocumentId;
use seabed_kv::Tenant;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::node::{Failure, Node, sentence};
use crate::own;

/// How long an answer is given again: anybody may ask, and must not make the disk flush for each question.
const AGE_MS_MAX: u64 = 1_000;
/// A part that takes longer does not work.
const PART_MS_MAX: u64 = 5_000;

/// What `GET /readyz` answers.
#[derive(Debug, Clone, Serialize)]
struct Readiness {
    ready: bool,
    parts: BTreeMap<&'static str, Part>,
}

/// One part of it.
#[derive(Debug, Clone, Serialize)]
struct Part {
    ready: bool,
    ms: u64,
    /// What is wrong; null when nothing is.
    error: Option<String>,
}

struct Health {
    node: Arc<Node>,
    own: Tenant,
    last: Mutex<Option<(Instant, Readiness)>>,
}

/// Both routes. They need no secrets: they tell nothing but whether it works.
pub(crate) fn router(node: Arc<Node>, own: Tenant) -> Router {
    let health = Arc::new(Health { node, own, last: Mutex::default() });
    Router::new()
        .route("/healthz", get(async || ([(header::CACHE_CONTROL, "no-store")], "ok\n")))
        .route("/readyz", get(readyz))
        .with_state(health)
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let readiness = health.readiness().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(readiness)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers 503 once nothing of the store is served any more; whether it works is told all the same.
pub(crate) async fn refuse_withdrawn(
    State(node): State<Arc<Node>>,
    request: Request,
    next: Next,
) -> Response {
    match node.withdrawn().filter(|_| !["/healthz", "/readyz"].contains(&request.uri().path())) {
        Some(why) => Failure::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        None => next.run(request).await,
    }
}

impl Health {
    async fn readiness(&self) -> Readiness {
        // Whoever asks meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, readiness)) = &*last
            && at.elapsed() < Duration::from_millis(AGE_MS_MAX)
        {
            return readiness.clone();
        }
        let (store, taskchampion, automerge) =
            tokio::join!(part(self.write()), part(self.read_taskchampion()), part(self.read_automerge()));
        let parts =
            BTreeMap::from([("store", store), ("taskchampion", taskchampion), ("automerge", automerge)]);
        let readiness = Readiness { ready: parts.values().all(|part| part.ready), parts };
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }

    async fn write(&self) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        own::write(&self.own, u64::try_from(now).unwrap_or(u64::MAX)).await.map_err(sentence)?;
        match self.node.look_at_copying(&self.own).await.map_err(sentence)? {
            Some(why) => Err(why.to_owned()),
            None => Ok(()),
        }
    }

    async fn read_taskchampion(&self) -> Result<(), String> {
        let layer = self.node.taskchampion().await.map_err(|failure| failure.message)?;
        let layer = layer.ok_or("it is not open")?;
        layer.client(Uuid::nil()).await.map(|_| ()).map_err(sentence)
    }

    async fn read_automerge(&self) -> Result<(), String> {
        let live = self.node.live().ok_or("it is not open")?;
        live.documents().meta(DocumentId::from_bytes([0; 16])).await.map(|_| ()).map_err(sentence)
    }
}

async fn part(work: impl Future<Output = Result<(), String>>) -> Part {
    let begin = Instant::now();
    let outcome = tokio::time::timeout(Duration::from_millis(PART_MS_MAX), work).await;
    let error = outcome.unwrap_or_else(|_| Err(format!("no answer within {PART_MS_MAX} ms"))).err();
    let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    Part { ready: error.is_none(), ms, error }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use seabed_automerge::{DocStore, Everybody, LiveOptions, LiveServer};
    use seabed_kv::Store;
    use tower::ServiceExt;

    use super::*;
    use crate::store_url::StoreUrl;

    async fn ask(router: &Router) -> (StatusCode, serde_json::Value) {
        let request = Request::get("/readyz").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_no_writes_is_not_ready() {
        let store = Store::memory();
        let own = own::open(&store).await.unwrap();
        let config = seabed_taskchampion::Config::default();
        let layer = seabed_taskchampion::TaskChampion::open(&store, config).await.unwrap();
        let documents = DocStore::open(&store).await.unwrap();
        let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap();
        let node = Node::new(store.clone(), StoreUrl::Memory).with_taskchampion(layer).with_live(live);
        let router = router(Arc::new(node), own.clone());
        assert_eq!(ask(&router).await.0, StatusCode::OK);

        store.close_tenant(own::TENANT).await.unwrap();
        tokio::time::advance(Duration::from_millis(AGE_MS_MAX)).await;
        let (status, answer) = ask(&router).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer["parts"]["store"]["ready"], false, "{answer}");
        assert_eq!(answer["parts"]["taskchampion"]["ready"], true, "{answer}");
        assert_eq!(answer["parts"]["automerge"]["ready"], true, "{answer}");
    }

    #[tokio::test]
    async fn asking_writes_every_time() {
        let store = Store::memory();
        let tenant = own::open(&store).await.unwrap();
        let before = tenant.stats().await.unwrap().commits;
        own::write(&tenant, 1).await.unwrap();
        let first = tenant.get("seabed.ready", b"").await.unwrap();
        own::write(&tenant, 2).await.unwrap();
        assert_ne!(tenant.get("seabed.ready", b"").await.unwrap(), first);
        assert_eq!(tenant.stats().await.unwrap().commits, before + 2);
    }
}
