//! What a server keeps of documents that came and went.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../../seabed-automerge/tests/common/client.rs"]
mod client;
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use common::Server;
use seabed_automerge::DocumentId;

/// Many documents, and four times as many.
const DOCUMENTS: u128 = 250;

/// What of each document may stay. Its rows have some hundred bytes, and the store caches them.
const KEPT_BYTES_MAX: u64 = 4 * 1024;

/// What does not happen fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Opens documents from one connection, edits each, and leaves.
async fn come_and_go(url: &str, first: u128, count: u128) {
    let mut client = Client::join(url, &first.to_string()).await;
    for number in first..first + count {
        let document = DocumentId::from_bytes(number.to_be_bytes());
        for lap in 0..2 {
            client.edit(document, "key", &format!("{lap:0100}"));
            client.acknowledged(document).await;
        }
        client.documents.clear();
    }
}

/// Until the server has noticed that everybody has left; what it has not given back then, in bytes.
async fn left_alone(server: &Server, dir: &Path) -> u64 {
    until("documents stay open", async || {
        let answer = common::owner_request(dir, "GET", "/api/automerge").unwrap();
        let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        told["documents_open"].as_u64().unwrap() <= 1
    })
    .await;
    server.memory_bytes()
}

/// Until it holds.
async fn until(otherwise: &str, holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < TIMEOUT, "{otherwise}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_memory_of_an_idle_server_does_not_grow_with_the_documents_that_came_and_went() {
    let dir = tempfile::tempdir().unwrap();
    // Only the document that was used last stays in memory.
    let server = Server::start_with(dir.path(), &["--automerge-memory-bytes-max", "1"], &[]);
    let url = format!("ws://{}/automerge", server.address());
    come_and_go(&url, 0, DOCUMENTS).await;
    let few_bytes = left_alone(&server, dir.path()).await;
    come_and_go(&url, DOCUMENTS, 4 * DOCUMENTS).await;
    let many_bytes = left_alone(&server, dir.path()).await;
    let most_bytes = few_bytes + KEPT_BYTES_MAX * u64::try_from(4 * DOCUMENTS).unwrap();
    let otherwise = format!(
        "{few_bytes} bytes after {DOCUMENTS} documents, {many_bytes} after four times as many more, and never less than {most_bytes} again"
    );
    until(&otherwise, async || server.memory_bytes() <= most_bytes).await;
}
