//! Logs on stderr: one line a request at `info`, failures at `error`.

use std::io::IsTerminal;
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing_subscriber::EnvFilter;

/// What is logged when `RUST_LOG` does not say.
const FILTER_DEFAULT: &str = "warn";
/// How much of a path is logged; ours are shorter.
const PATH_BYTES_MAX: usize = 120;
/// How much of a client id is logged: enough to tell clients apart, too little to be one. It is a credential.
const CLIENT_CHARACTERS: usize = 8;

/// Sends logs to stderr, as `RUST_LOG` asks for.
pub(crate) fn init() {
    let asked = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = asked.as_deref().unwrap_or(FILTER_DEFAULT);
    let parsed = filter.parse::<EnvFilter>();
    let wrong = parsed.as_ref().err().map(ToString::to_string);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT)))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only when there is a subscriber already, and then logs go there.
    let _ = subscriber.try_init();
    if let Some(wrong) = wrong {
        tracing::warn!("RUST_LOG is not understood, using '{FILTER_DEFAULT}': {wrong}");
    }
}

/// Logs a request when its answer begins.
pub(crate) async fn request(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let method = request.method().clone();
    let path = without_client(request.uri().path());
    let client = client(request.headers());
    let response = next.run(request).await;

    let status = response.status();
    let bytes = response.body().size_hint().exact();
    let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    // The protocol answers 404 to whoever is up to date: an ordinary line, as every answer but a failure of ours.
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::error!(target: "seabed::request", %method, path, client, status = status.as_u16(), bytes, ms);
    } else {
        tracing::info!(target: "seabed::request", %method, path, client, status = status.as_u16(), bytes, ms);
    }
    response
}

/// The beginning of a path, which has ASCII only; of a client's id, where it names one, no more than of the header.
fn without_client(path: &str) -> String {
    match path.strip_prefix("/api/clients/") {
        Some(id) => format!("/api/clients/{}", id.chars().take(CLIENT_CHARACTERS).collect::<String>()),
        None => path.get(..PATH_BYTES_MAX).unwrap_or(path).to_owned(),
    }
}

fn client(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-client-id")?.to_str().ok()?;
    Some(id.trim_start_matches("urn:uuid:").chars().take(CLIENT_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_never_logged_whole() {
        let mut headers = HeaderMap::new();
        assert_eq!(client(&headers), None);
        headers.insert("x-client-id", "urn:uuid:67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap());
        assert_eq!(client(&headers).unwrap(), "67e55044");
        let path = without_client("/api/clients/67e55044-10b1-426f-9247-bb680e5fe0c8");
        assert_eq!(path, "/api/clients/67e55044");
        assert_eq!(without_client("/v1/client/snapshot"), "/v1/client/snapshot");
    }
}
