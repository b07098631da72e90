//! `/healthz`: the process answers. `/readyz`: the store takes writes, and each layer reads; asked of them, not assumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use seabed_kv::Tenant;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::node::{Node, sentence};
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

impl Health {
    async fn readiness(&self) -> Readiness {
        // Whoever asks meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, readiness)) = &*last
            && at.elapsed() < Duration::from_millis(AGE_MS_MAX)
        {
            return readiness.clone();
        }
        let (store, taskchampion) = tokio::join!(part(self.write()), part(self.read_taskchampion()));
        let parts = BTreeMap::from([("store", store), ("taskchampion", taskchampion)]);
        let readiness = Readiness { ready: parts.values().all(|part| part.ready), parts };
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }

    async fn write(&self) -> Result<(), String> {
        own::write(&self.own).await.map_err(sentence)
    }

    async fn read_taskchampion(&self) -> Result<(), String> {
        let layer = self.node.taskchampion().await.map_err(|failure| failure.message)?;
        let layer = layer.ok_or("it is not open")?;
        layer.client(Uuid::nil()).await.map(|_| ()).map_err(sentence)
    }
}

async fn part(work: impl Future<Output = Result<(), String>>) -> Part {
    let begin = Instant::now();
    let outcome = tokio::time::timeout(Duration::from_millis(PART_MS_MAX), work).await;
    let error = outcome.unwrap_or_else(|_| Err(format!("no answer within {PART_MS_MAX} ms"))).err();
    let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    Part { ready: error.is_none(), ms, error }
}
