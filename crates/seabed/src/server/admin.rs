//! `/api`: the questions of the command line, for the command line and for scripts on this machine.
//!
//! There are no tokens yet. So it answers the owner, through the socket, and programs of this machine who also call it by a name
//! of this machine: a web page of somebody else can make a browser connect to 127.0.0.1, and cannot make it say so.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backup;
use crate::cli::inspect::{Rows, RowsQuery, TenantDetail};
use crate::cli::tenants::Tenants;
use crate::cli::verify::Report;
use crate::cli::{clients, inspect, tenants, verify};
use crate::node::{Failure, Node};
use crate::server::limits::Peer;

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
        .route("/clients/{id}", get(show_client).delete(delete_client))
        .route("/verify", get(check))
        .route("/backup", get(copying).post(copy))
        .fallback(async |uri: Uri| {
            Failure::not_found(format!("the admin API has no {}; see docs/api.md", uri.path()))
        })
        .with_state(node);
    // Around the routes, the unknown ones too: a stranger does not learn which there are.
    Router::new().nest("/api", routes).layer(from_fn(guard))
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
        store: node.root.display().to_string(),
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

async fn copy(
    State(node): Shared,
    peer: Option<Extension<Peer>>,
    query: Asked<BackupQuery>,
) -> Answer<backup::Report> {
    // Whoever else is on this machine must not have the server write where they say.
    if !matches!(peer, Some(Extension(Peer::Owner))) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "a backup is made for the owner of the store: run `seabed backup`, which asks through its socket",
        ));
    }
    Ok(Json(backup::run(&node, &asked(query)?.to).await?))
}

type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Failure> {
    query.map(|Query(query)| query).map_err(|error| Failure::bad_request(error.body_text()))
}

fn client_id(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|error| Failure::bad_request(format!("'{text}' is no client id: {error}")))
}

async fn guard(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    match peer {
        Some(Peer::Owner) => next.run(request).await,
        Some(peer) if peer.is_local() && is_direct(request.headers()) => next.run(request).await,
        _ => Failure::new(
            StatusCode::FORBIDDEN,
            "the admin API answers only on the machine of the server: run `seabed tenants` and its like there, \
             or call it as http://127.0.0.1 without a proxy in between",
        )
        .into_response(),
    }
}

/// Whether a request from this machine was made on it, by somebody who meant it: not by a proxy for somebody else, and not by a
/// browser for a page of another origin.
fn is_direct(headers: &HeaderMap) -> bool {
    const PROXIED: [HeaderName; 3] =
        [header::FORWARDED, header::VIA, HeaderName::from_static("x-forwarded-for")];
    let is_local =
        |name| headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(names_this_machine));
    headers.contains_key(header::HOST)
        && is_local(header::HOST)
        && is_local(header::ORIGIN)
        && !PROXIED.iter().any(|name| headers.contains_key(name))
}

/// Whether the authority of an origin or a host header is this machine by its own name.
fn names_this_machine(value: &str) -> bool {
    let authority = value.split_once("://").map_or(value, |(_, authority)| authority);
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for name in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "http://localhost:3000",
        ] {
            assert!(names_this_machine(name), "{name}");
        }
        for name in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "192.0.2.1",
            "null",
            "[::1",
            "0.0.0.0",
        ] {
            assert!(!names_this_machine(name), "{name}");
        }
    }

    #[test]
    fn a_request_through_a_proxy_or_from_a_foreign_page_is_not_direct() {
        let direct = |pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            is_direct(&pairs.collect())
        };
        assert!(direct(&[("host", "127.0.0.1:8080")]));
        assert!(!direct(&[]));
        assert!(!direct(&[("host", "rebound.example")]));
        assert!(!direct(&[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]));
        assert!(!direct(&[("host", "localhost"), ("origin", "http://evil.example")]));
        assert!(direct(&[("host", "localhost"), ("origin", "http://127.0.0.1:8080")]));
    }
}
