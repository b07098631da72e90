//! Automerge's clients beside the others: WebSockets to `/` and `/automerge`.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::UPGRADE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use seabed_automerge::{LiveServer, live_limits};
use tower::ServiceExt;

/// Hands Automerge what is its own: `/automerge`, and `/` when a WebSocket is asked for. Otherwise that is TaskChampion's.
pub(crate) async fn divert(State(live): State<Router>, request: Request, next: Next) -> Response {
    let websocket = request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    match (request.uri().path(), websocket) {
        ("/automerge", _) | ("/", true) => live.oneshot(request).await.into_response(),
        _ => next.run(request).await,
    }
}

/// Looks what others have stored, each second.
pub(crate) async fn poll(live: LiveServer) {
    loop {
        tokio::time::sleep(Duration::from_millis(live_limits::POLL_MS)).await;
        if let Err(error) = live.poll().await {
            tracing::warn!(%error, "looking for what others have stored failed, and is tried again in a second");
        }
    }
}
