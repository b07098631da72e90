//! `/api`: the questions of the command line, for the command line and for scripts on this machine.
//!
//! It answers the owner alone, through the socket that the file system guards. Not loopback: a proxy on the same machine connects
//! from there for the whole world, and a browser for any web page (decision 0003). Not tokens: they are for documents (decision 0009).

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use seabed_automerge::{DocumentDetail, DocumentId, ExportReport, ImportReport, LiveMetrics};
use seabed_taskchampion::PruneReport;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::backup;
use crate::cli::inspect::{Rows, RowsQuery, TenantDetail};
use crate::cli::tenants::Tenants;
use crate::cli::verify::Report;
use crate::cli::{clients, docs, inspect, sds, tenants, token, verify};
use crate::node::{Failure, Node};
use crate::open::absolute;
use crate::server::limits::Peer;
use crate::tokens::Scope;

/// The longest reason of a refusal that is passed on.
const REASON_BYTES_MAX: usize = 4096;

type Answer<T> = Result<Json<T>, Failure>;
type Shared = State<Arc<Node>>;

/// The routes, guarded.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let routes = Router::new()
        .route("/", get(about))
        .route("/tenants", get(list_tenants))
        .route("/tenants/{id}", get(show_tenant))
        .route("/tenants/{id}/rows", get(list_rows))
        .route("/clients", get(list_clients))
        .route("/clients/prune", get(prunable).post(prune))
        .route("/clients/{id}", get(show_client).delete(delete_client))
        .route("/docs", get(list_documents))
        .route("/docs/import", post(import_documents))
        .route("/docs/export", post(export_documents))
        .route("/docs/compact", post(compact_documents))
        .route("/docs/{id}", get(show_document).delete(delete_document))
        .route("/docs/{id}/save", get(save_document))
        .route("/docs/{id}/json", get(document_json))
        .route("/docs/{id}/merge", post(merge_document).layer(DefaultBodyLimit::max(docs::FILE_BYTES_MAX)))
        .route("/automerge", get(show_automerge))
        .route("/tokens", get(list_tokens).post(create_token))
        .route("/tokens/{id}", delete(revoke_token))
        .route("/sds/channels", get(list_channels))
        .route("/sds/channels/{id}", get(show_channel))
        .route("/verify", get(check))
        .route("/backup", get(copying).post(copy))
        .fallback(async |uri: Uri| {
            Failure::not_found(format!("the admin API has no {}; see docs/api.md", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let message = format!("the admin API has no {method} {}; see docs/api.md", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(map_response(in_json))
        .with_state(node)
        // Around the unknown routes too: a stranger does not learn which there are.
        .layer(from_fn(guard));
    Router::new().nest("/api", routes)
}

/// What `GET /api` answers.
#[derive(Debug, Serialize)]
struct About {
    version: &'static str,
    sqlite: &'static str,
    store: String,
}

async fn about(State(node): Shared) -> Json<About> {
    Json(About {
        version: env!("CARGO_PKG_VERSION"),
        sqlite: seabed_kv::sqlite::version(),
        store: node.url.to_string(),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantsQuery {
    rows: bool,
}

async fn list_tenants(State(node): Shared, query: Asked<TenantsQuery>) -> Answer<Tenants> {
    Ok(Json(tenants::run(&node, asked(query)?.rows).await?))
}

async fn show_tenant(State(node): Shared, Path(id): Path<String>) -> Answer<TenantDetail> {
    Ok(Json(inspect::run(&node, &id).await?))
}

async fn list_rows(State(node): Shared, Path(id): Path<String>, query: Asked<RowsQuery>) -> Answer<Rows> {
    Ok(Json(inspect::rows(&node, &id, &asked(query)?).await?))
}

async fn list_clients(State(node): Shared) -> Answer<clients::Clients> {
    Ok(Json(clients::run(&node).await?))
}

async fn show_client(State(node): Shared, Path(id): Path<String>) -> Answer<clients::ClientDetail> {
    Ok(Json(clients::show(&node, client_id(&id)?).await?))
}

async fn delete_client(State(node): Shared, Path(id): Path<String>) -> Answer<clients::Deleted> {
    Ok(Json(clients::delete(&node, client_id(&id)?).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PruneQuery {
    older_than_days: u32,
}

async fn prunable(State(node): Shared, query: Asked<PruneQuery>) -> Answer<PruneReport> {
    Ok(Json(clients::prune(&node, asked(query)?.older_than_days, true).await?))
}

async fn prune(State(node): Shared, query: Asked<PruneQuery>) -> Answer<PruneReport> {
    Ok(Json(clients::prune(&node, asked(query)?.older_than_days, false).await?))
}

async fn list_documents(State(node): Shared) -> Answer<docs::Documents> {
    Ok(Json(docs::list(&node).await?))
}

async fn show_document(State(node): Shared, Path(id): Path<String>) -> Answer<DocumentDetail> {
    Ok(Json(docs::show(&node, document_id(&id)?).await?))
}

/// Has those who are connected told what a command has changed, at once.
async fn tell_clients(node: &Node) {
    if let Some(live) = node.live() {
        super::automerge::look_at_documents(live).await;
    }
}

async fn delete_document(State(node): Shared, Path(id): Path<String>) -> Answer<docs::Deleted> {
    let deleted = docs::delete(&node, document_id(&id)?).await?;
    tell_clients(&node).await;
    Ok(Json(deleted))
}

async fn save_document(State(node): Shared, Path(id): Path<String>) -> Result<impl IntoResponse, Failure> {
    let saved = docs::save(&node, document_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], saved))
}

async fn document_json(State(node): Shared, Path(id): Path<String>) -> Answer<serde_json::Value> {
    Ok(Json(docs::json(&node, document_id(&id)?).await?))
}

async fn merge_document(State(node): Shared, Path(id): Path<String>, saved: Bytes) -> Answer<docs::Merged> {
    let merged = docs::merge(&node, document_id(&id)?, &saved).await?;
    tell_clients(&node).await;
    Ok(Json(merged))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    from: PathBuf,
}

async fn import_documents(State(node): Shared, query: Asked<ImportQuery>) -> Answer<ImportReport> {
    let imported = docs::import(&node, &asked(query)?.from).await?;
    tell_clients(&node).await;
    Ok(Json(imported))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    to: PathBuf,
    #[serde(default)]
    document: Option<String>,
}

async fn export_documents(State(node): Shared, query: Asked<ExportQuery>) -> Answer<ExportReport> {
    let ExportQuery { to, document } = asked(query)?;
    let only = document.as_deref().map(document_id).transpose()?;
    Ok(Json(docs::export(&node, &to, only).await?))
}

async fn compact_documents(State(node): Shared, query: Asked<docs::CompactQuery>) -> Answer<docs::Compacted> {
    let query = asked(query)?;
    let only = query.document.as_deref().map(document_id).transpose()?;
    Ok(Json(docs::compact(&node, only, query.options()).await?))
}

async fn show_automerge(State(node): Shared) -> Answer<LiveMetrics> {
    let missing = || Failure::not_found("no server of Automerge documents runs here");
    Ok(Json(node.live().ok_or_else(missing)?.metrics()))
}

async fn list_tokens(State(node): Shared) -> Answer<token::All> {
    Ok(Json(token::run(&node).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenQuery {
    name: String,
    access: Scope,
}

async fn create_token(State(node): Shared, query: Asked<TokenQuery>) -> Answer<token::Created> {
    let TokenQuery { name, access } = asked(query)?;
    Ok(Json(token::create(&node, &name, access).await?))
}

async fn revoke_token(State(node): Shared, Path(id): Path<String>) -> Answer<token::Revoked> {
    Ok(Json(token::revoke(&node, &id).await?))
}

async fn list_channels(State(node): Shared) -> Answer<sds::Channels> {
    Ok(Json(sds::channels(&node).await?))
}

async fn show_channel(State(node): Shared, Path(id): Path<String>) -> Answer<sds::Channel> {
    Ok(Json(sds::channel(&node, &id).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VerifyQuery {
    tenant: Option<String>,
}

async fn check(State(node): Shared, query: Asked<VerifyQuery>) -> Answer<Report> {
    Ok(Json(verify::run(&node, asked(query)?.tenant.as_deref()).await?))
}

async fn copying(State(node): Shared) -> Json<backup::Running> {
    Json(node.backups.now())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupQuery {
    to: PathBuf,
}

async fn copy(State(node): Shared, query: Asked<BackupQuery>) -> Answer<backup::Report> {
    let to = asked(query)?.to;
    if node.url.root().is_some_and(|root| absolute(root) == absolute(&to)) {
        return Err(Failure::bad_request(format!(
            "{} is the store itself; choose another directory",
            node.url
        )));
    }
    Ok(Json(backup::run(&node, &to).await?))
}

type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Failure> {
    query.map(|Query(query)| query).map_err(|error| {
        // Its innermost cause is about the argument; what is around that is about this program.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Failure::bad_request(format!("the query does not read: {cause}; see docs/api.md"))
    })
}

/// What was refused before it reached a route, in the form of all other errors: a body that is too long, a path that is not UTF-8.
async fn in_json(response: Response) -> Response {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(response.status().is_client_error() || response.status().is_server_error()) {
        return response;
    }
    let status = response.status();
    let said = axum::body::to_bytes(response.into_body(), REASON_BYTES_MAX).await.unwrap_or_default();
    Failure::new(status, String::from_utf8_lossy(&said)).into_response()
}

fn document_id(text: &str) -> Result<DocumentId, Failure> {
    text.parse().map_err(|error| Failure::bad_request(format!("'{text}': {error}")))
}

fn client_id(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|error| Failure::bad_request(format!("'{text}' is no client id: {error}")))
}

async fn guard(request: Request, next: Next) -> Response {
    if request.extensions().get::<Peer>() == Some(&Peer::Owner) {
        // Some answers read whole files, on the thread that asks for them: not on one that serves others.
        let runtime = Handle::current();
        let answer = tokio::task::spawn_blocking(move || runtime.block_on(next.run(request))).await;
        return answer.unwrap_or_else(|error| {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer was broken off: {error}"))
                .into_response()
        });
    }
    Failure::new(
        StatusCode::FORBIDDEN,
        "the admin API answers only through seabed.sock in the data directory: run `seabed tenants` and its like on \
         the machine of the server, or curl --unix-socket; a store in a database has no socket, and the commands read it themselves",
    )
    .into_response()
}
