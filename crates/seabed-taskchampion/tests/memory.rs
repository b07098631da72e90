//! Memory: the largest body allowed passes through a process without being held in it. Alone in its program, because the
//! high-water mark is the process's.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::Request;
use http_body_util::BodyExt as _;
use seabed_kv::Store;
use seabed_taskchampion::{Config, TaskChampion, router};
use tower::ServiceExt as _;
use uuid::Uuid;

const MEBIBYTE: u64 = 1024 * 1024;

/// Bytes of this process's own memory: without the pages of files that the store maps, which the system takes back at will.
fn own_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A body of zeros that is made as it is read, and that looks at the memory meanwhile.
struct Zeros {
    left: u64,
    most: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl futures_core::Stream for Zeros {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        static PART: [u8; 65_536] = [0; 65_536];
        if self.left.is_multiple_of(4 * MEBIBYTE) {
            self.most.fetch_max(own_memory_bytes(), std::sync::atomic::Ordering::Relaxed);
        }
        let part = self.left.min(65_536);
        self.left -= part;
        let bytes = PART.get(..usize::try_from(part).unwrap()).unwrap();
        Poll::Ready((part > 0).then(|| Ok(Bytes::from_static(bytes))))
    }
}

#[tokio::test]
async fn a_hundred_mebibytes_go_in_and_out_in_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let taskchampion = TaskChampion::open(&store, Config::default()).await.unwrap();
    let client = Uuid::new_v4();
    let app = router(taskchampion);
    let limit = Config::default().body_bytes_max;
    let before = own_memory_bytes();
    let most = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let push = |bytes| {
        let request = Request::post(format!("/v1/client/add-version/{}", Uuid::nil()))
            .header("content-type", "application/vnd.taskchampion.history-segment")
            .header("x-client-id", client.to_string())
            .body(Body::from_stream(Zeros { left: bytes, most: most.clone() }))
            .unwrap();
        app.clone().oneshot(request)
    };
    assert_eq!(push(limit + 1).await.unwrap().status(), 413);
    assert_eq!(push(limit).await.unwrap().status(), 200);

    let request = Request::get(format!("/v1/client/get-child-version/{}", Uuid::nil()))
        .header("x-client-id", client.to_string())
        .body(Body::empty())
        .unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], limit.to_string().as_str());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len() as u64;
        most.fetch_max(own_memory_bytes(), std::sync::atomic::Ordering::Relaxed);
    }
    assert_eq!(length, limit);
    // The store's caches and queue included; the original took four times the body.
    let taken = most.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(taken < 16 * MEBIBYTE, "{} KiB", taken / 1024);
}
