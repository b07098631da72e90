//! The wire: every answer that the original server gives, and what it lacks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;
#[path = "http/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use common::{Fault, Odd, Oddities, START_S, assert_sound, rows};
use flate2::Compression;
use flate2::write::GzEncoder;
use seabed_kv::{Batch, Durability, ErrorKind, Store};
use seabed_taskchampion::{Config, Environment, TaskChampion, router_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;
use uuid::Uuid;

const SEGMENT: &str = "application/vnd.taskchampion.history-segment";
const SNAPSHOT: &str = "application/vnd.taskchampion.snapshot";
const CLIENT: &str = "01234567-89ab-4cde-8f01-23456789abcd";
const NIL: &str = "00000000-0000-0000-0000-000000000000";
const UNKNOWN: &str = "99999999-9999-4999-8999-999999999999";

/// A router over a store, with counted ids and a clock that stands.
struct Server {
    app: Router,
    store: Store,
    taskchampion: TaskChampion,
}

impl Server {
    async fn new(config: Config) -> Self {
        Self::over(Store::memory(), config).await
    }

    async fn over(store: Store, config: Config) -> Self {
        let taskchampion = TaskChampion::open(&store, config).await.unwrap();
        let ids = AtomicU64::new(1);
        let environment = Environment {
            now_unix_ms: Arc::new(|| START_S * 1_000),
            fresh_id: Arc::new(move || Uuid::from_u128(u128::from(ids.fetch_add(1, Ordering::Relaxed)))),
        };
        Self { app: router_with(taskchampion.clone(), environment), store, taskchampion }
    }

    /// One request; the method and path as in a request line.
    async fn ask(&self, line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(parts.headers["cache-control"], "no-store, max-age=0", "{line}");
        let answer = Answer {
            line: line.to_owned(),
            status: parts.status,
            headers: parts.headers,
            body: body.to_vec(),
        };
        if !answer.status.is_success() {
            assert_eq!(answer.header("x-version-id"), None, "{line}");
            assert_eq!(answer.header("x-snapshot-request"), None, "{line}");
            let names_latest = answer.header("x-parent-version-id").is_some();
            assert_eq!(names_latest, answer.status == StatusCode::CONFLICT, "{line}");
        }
        answer
    }

    async fn push(&self, parent: &str, body: impl Into<Body>) -> Answer {
        let line = format!("POST /v1/client/add-version/{parent}");
        self.ask(&line, &[("content-type", SEGMENT), ("x-client-id", CLIENT)], body).await
    }

    /// A push that must be accepted: the new version's id.
    async fn pushed(&self, parent: &str, body: impl Into<Body>) -> String {
        let answer = self.push(parent, body).await;
        answer.is(200, b"").header("x-version-id").expect("an accepted push names its version").to_owned()
    }

    async fn put_snapshot(&self, version: &str, body: impl Into<Body>) -> Answer {
        let line = format!("POST /v1/client/add-snapshot/{version}");
        self.ask(&line, &[("content-type", SNAPSHOT), ("x-client-id", CLIENT)], body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET /v1/client/{path}"), &[("x-client-id", CLIENT)], "").await
    }

    /// Serves on a loopback port and answers its address.
    async fn listen(&self) -> std::net::SocketAddr {
        let (address, end, _) = self.listen_until().await;
        std::mem::forget(end);
        address
    }

    /// The same, until it is told to end; it has ended when the last connection has.
    async fn listen_until(&self) -> (std::net::SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, told) = oneshot::channel();
        let serve = axum::serve(listener, self.app.clone()).with_graceful_shutdown(async {
            let _ = told.await;
        });
        (address, end, tokio::spawn(async { serve.await.unwrap() }))
    }
}

#[derive(Debug)]
struct Answer {
    line: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn is(&self, status: u16, body: &[u8]) -> &Self {
        assert_eq!(
            (self.status.as_u16(), self.text()),
            (status, body.escape_ascii().to_string()),
            "{}",
            self.line
        );
        self
    }

    fn text(&self) -> String {
        self.body.escape_ascii().to_string()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn the_life_of_a_client() {
    let server = Server::new(Config::default()).await;
    let banner = server.ask("GET /", &[], "").await;
    banner.is(200, concat!("TaskChampion sync server v", env!("CARGO_PKG_VERSION")).as_bytes());

    server.get("snapshot").await.is(404, b"No such client");
    server.get(&format!("get-child-version/{NIL}")).await.is(404, b"no such client");
    server.put_snapshot(UNKNOWN, "snapshot").await.is(404, b"No such client");

    let first = server.push(NIL, "abcd").await;
    first.is(200, b"");
    assert_eq!(first.header("x-snapshot-request"), Some("urgency=high"));
    assert_eq!(first.header("x-parent-version-id"), None);
    let first = first.header("x-version-id").unwrap().to_owned();
    assert_eq!(first, Uuid::parse_str(&first).unwrap().to_string(), "dashed, lower case");

    let child = server.get(&format!("get-child-version/{NIL}")).await;
    child.is(200, b"abcd");
    assert_eq!(child.header("content-type"), Some(SEGMENT));
    assert_eq!(child.header("content-length"), Some("4"));
    assert_eq!(child.header("x-version-id"), Some(first.as_str()));
    assert_eq!(child.header("x-parent-version-id"), Some(NIL));
    server.get(&format!("get-child-version/{first}")).await.is(404, b"no such version");
    server.get(&format!("get-child-version/{UNKNOWN}")).await.is(410, b"version has been deleted");

    let conflict = server.push(NIL, "late").await;
    conflict.is(409, b"");
    assert_eq!(conflict.header("x-parent-version-id"), Some(first.as_str()));

    server.get("snapshot").await.is(404, b"no snapshot");
    server.put_snapshot(UNKNOWN, "of nothing").await.is(200, b"");
    server.get("snapshot").await.is(404, b"no snapshot");
    server.put_snapshot(&first, "snapshot").await.is(200, b"");
    let snapshot = server.get("snapshot").await;
    snapshot.is(200, b"snapshot");
    assert_eq!(snapshot.header("content-type"), Some(SNAPSHOT));
    assert_eq!(snapshot.header("content-length"), Some("8"));
    assert_eq!(snapshot.header("x-version-id"), Some(first.as_str()));
    assert_eq!(snapshot.header("x-parent-version-id"), None);

    let second = server.push(&first, "more").await;
    second.is(200, b"");
    assert_eq!(second.header("x-snapshot-request"), None);
    assert_sound(&server.store);
}

#[tokio::test]
async fn a_snapshot_is_asked_for_low_then_high() {
    let server = Server::new(Config { snapshot_versions: 4, ..Config::default() }).await;
    let mut latest = server.pushed(NIL, "first").await;
    server.put_snapshot(&latest, "snapshot").await.is(200, b"");
    let mut asked = Vec::new();
    for _ in 0..8 {
        let answer = server.push(&latest, "more").await;
        asked.push(answer.header("x-snapshot-request").map(str::to_owned));
        latest = answer.header("x-version-id").unwrap().to_owned();
    }
    let (low, high) = (Some("urgency=low".to_owned()), Some("urgency=high".to_owned()));
    assert_eq!(asked, [None, None, None, None, low.clone(), low, high.clone(), high]);
    // A conflict asks for nothing, which `ask` checks.
    server.push(NIL, "late").await.is(409, b"");
}

#[tokio::test]
async fn checks_are_made_in_the_originals_order() {
    let allowed = BTreeSet::from([Uuid::parse_str(CLIENT).unwrap()]);
    let config = Config { allowed_clients: Some(allowed), body_bytes_max: 10, ..Config::default() };
    let server = Server::new(config).await;
    for (what, media_type, empty) in
        [("add-version", SEGMENT, "Empty body"), ("add-snapshot", SNAPSHOT, "No snapshot supplied")]
    {
        let long = "eleven byte";
        let (wrong, right) = (format!("POST /v1/client/{what}/x"), format!("POST /v1/client/{what}/{NIL}"));
        let type_ = ("content-type", media_type);
        let bad_type = ("content-type", "text/plain");
        let encoding = ("content-encoding", "br");
        let steps: [(&str, &[_], &str, u16, &str); 11] = [
            (&wrong, &[bad_type, encoding], long, 404, ""),
            (&right, &[bad_type, encoding], long, 400, "Bad content-type"),
            (&right, &[encoding], long, 400, "Bad content-type"),
            (&right, &[type_, encoding], long, 400, "bad x-client-id"),
            (&right, &[type_, encoding, ("x-client-id", "me")], long, 400, "bad x-client-id"),
            (&right, &[type_, encoding, ("x-client-id", "\u{e9}")], long, 400, "bad x-client-id"),
            (&right, &[type_, encoding, ("x-client-id", UNKNOWN)], long, 403, "unknown x-client-id"),
            (
                &right,
                &[type_, encoding, ("x-client-id", CLIENT)],
                long,
                415,
                "the content encoding is not supported; send gzip or none",
            ),
            (
                &right,
                &[type_, ("x-client-id", CLIENT)],
                long,
                413,
                "the body is larger than the 10 bytes allowed",
            ),
            (&right, &[type_, ("x-client-id", CLIENT)], "", 400, empty),
            (&right, &[type_, ("x-client-id", CLIENT), ("content-encoding", "gzip")], "", 400, empty),
        ];
        let before = rows(&server.store);
        for (line, headers, body, status, text) in steps {
            server.ask(line, headers, body).await.is(status, text.as_bytes());
            assert_eq!(rows(&server.store), before);
        }
    }
    for path in [format!("get-child-version/{NIL}"), "snapshot".to_owned()] {
        let line = format!("GET /v1/client/{path}");
        server.ask(&line, &[], "").await.is(400, b"bad x-client-id");
        server.ask(&line, &[("x-client-id", UNKNOWN)], "").await.is(403, b"unknown x-client-id");
        server
            .ask(&line, &[("x-client-id", CLIENT)], "")
            .await
            .is(404, if path == "snapshot" { b"No such client" } else { b"no such client" });
    }
    server.ask("GET /v1/client/get-child-version/x", &[], "").await.is(404, b"");
}

#[tokio::test]
async fn ids_are_read_in_every_spelling_and_written_in_one() {
    let server = Server::new(Config::default()).await;
    let first = server.pushed(NIL, "abcd").await;
    let spellings = |id: &str| {
        let digits = id.replace('-', "");
        [
            id.to_owned(),
            id.to_uppercase(),
            digits.clone(),
            digits.to_uppercase(),
            format!("{{{id}}}"),
            format!("urn:uuid:{id}"),
        ]
    };
    for client in spellings(CLIENT) {
        let line = format!("GET /v1/client/get-child-version/{NIL}");
        let answer = server.ask(&line, &[("x-client-id", &client)], "").await;
        assert_eq!(answer.is(200, b"abcd").header("x-version-id"), Some(first.as_str()), "{client}");
    }
    for parent in spellings(NIL) {
        for encoded in [parent.clone(), parent.replace(':', "%3A").replace('{', "%7B").replace('}', "%7D")] {
            // Braces do not stand in a path as they are.
            if encoded.contains('{') {
                continue;
            }
            let answer = server.get(&format!("get-child-version/{encoded}")).await;
            assert_eq!(answer.is(200, b"abcd").header("x-parent-version-id"), Some(NIL), "{encoded}");
        }
    }
    for wrong in ["", "x", "0123", &CLIENT[1..], &format!("{CLIENT}0"), "%FF", "..", "%2e%2e"] {
        server.get(&format!("get-child-version/{wrong}")).await.is(404, b"");
        server.put_snapshot(wrong, "snapshot").await.is(404, b"");
        server.push(wrong, "version").await.is(404, b"");
    }
    for wrong in ["", "x", "0123", &CLIENT[1..], "null"] {
        let answer = server.ask("GET /v1/client/snapshot", &[("x-client-id", wrong)], "").await;
        answer.is(400, b"bad x-client-id");
    }
}

#[tokio::test]
async fn media_types_are_compared_without_case_and_parameters() {
    let server = Server::new(Config::default()).await;
    let mut latest = NIL.to_owned();
    for (media_type, accepted) in [
        (SEGMENT.to_owned(), true),
        (SEGMENT.to_uppercase(), true),
        (format!("{SEGMENT};charset=utf-8"), true),
        (format!("{SEGMENT} ; q=1"), true),
        (format!("{SEGMENT}x"), false),
        (SNAPSHOT.to_owned(), false),
        (format!("x;{SEGMENT}"), false),
        (String::new(), false),
        (";".to_owned(), false),
    ] {
        let line = format!("POST /v1/client/add-version/{latest}");
        let headers = [("content-type", media_type.as_str()), ("x-client-id", CLIENT)];
        let answer = server.ask(&line, &headers, "abcd").await;
        assert_eq!(answer.status.is_success(), accepted, "{media_type}");
        match answer.header("x-version-id") {
            Some(version) => latest = version.to_owned(),
            None => drop(answer.is(400, b"Bad content-type")),
        }
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_not_found() {
    let server = Server::new(Config::default()).await;
    server.pushed(NIL, "abcd").await;
    let before = rows(&server.store);
    let paths = [
        ("/".to_owned(), "GET"),
        (format!("/v1/client/get-child-version/{NIL}"), "GET"),
        (format!("/v1/client/add-version/{NIL}"), "POST"),
        (format!("/v1/client/add-snapshot/{NIL}"), "POST"),
        ("/v1/client/snapshot".to_owned(), "GET"),
    ];
    let headers = [("x-client-id", CLIENT), ("content-type", SEGMENT)];
    for (path, right) in &paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if method != *right {
                server.ask(&format!("{method} {path}"), &headers, "").await.is(404, b"");
            }
        }
        if path != "/" {
            for wrong in [format!("{path}/"), format!("{path}/x"), format!("/{path}"), path.to_uppercase()] {
                server.ask(&format!("{right} {wrong}"), &headers, "").await.is(404, b"");
            }
        }
    }
    for wrong in
        ["/v1/client/", "/v1/client", "/v1", "/v2/client/snapshot", "/favicon.ico", "/v1/client/snapshots"]
    {
        server.ask(&format!("GET {wrong}"), &headers, "").await.is(404, b"");
    }
    assert_eq!(rows(&server.store), before);
    // Query strings are ignored.
    server.get(&format!("get-child-version/{NIL}?parent=x")).await.is(200, b"abcd");
    assert_eq!(server.ask("GET /?x", &[], "").await.status, 200);
}

#[tokio::test]
async fn clients_are_created_only_by_a_push_and_only_where_allowed() {
    let server = Server::new(Config { create_clients: false, ..Config::default() }).await;
    let before = rows(&server.store);
    server.push(NIL, "abcd").await.is(404, b"No such client");
    assert_eq!(rows(&server.store), before);
}

#[tokio::test]
async fn strangers_cannot_fill_the_disk() {
    let text = b"the body is larger than the 1000000 bytes allowed";
    for create_clients in [false, true] {
        let (store, oddities) = Odd::store();
        let config = Config { create_clients, body_bytes_max: 1_000_000, ..Config::default() };
        let server = Server::over(store, config).await;
        let written = oddities.lock().unwrap().cost.applied;
        let mut requests = vec![("add-snapshot", SNAPSHOT, "No snapshot supplied")];
        if !create_clients {
            requests.push(("add-version", SEGMENT, "Empty body"));
        }
        for (what, media_type, empty) in requests {
            let line = format!("POST /v1/client/{what}/{NIL}");
            let plain = [("content-type", media_type), ("x-client-id", UNKNOWN)];
            let zipped = [plain[0], plain[1], ("content-encoding", "gzip")];
            server.ask(&line, &plain, vec![1; 700_000]).await.is(404, b"No such client");
            server.ask(&line, &zipped, gzip(&vec![1; 700_000])).await.is(404, b"No such client");
            // Checked like any other.
            server.ask(&line, &plain, "").await.is(400, empty.as_bytes());
            server.ask(&line, &zipped, gzip(b"")).await.is(400, empty.as_bytes());
            server.ask(&line, &zipped, "plain").await.is(400, b"the body is not whole gzip");
            server.ask(&line, &plain, vec![1; 1_000_001]).await.is(413, text);
            server.ask(&line, &zipped, gzip(&vec![1; 1_000_001])).await.is(413, text);
        }
        assert_eq!(
            oddities.lock().unwrap().cost.applied,
            written,
            "nothing was written, not even for a moment"
        );
    }
}

#[tokio::test]
async fn gzip_is_decoded_and_other_encodings_are_refused() {
    let server = Server::new(Config { body_bytes_max: 100_000, ..Config::default() }).await;
    let headers =
        |encoding| [("content-type", SEGMENT), ("x-client-id", CLIENT), ("content-encoding", encoding)];
    let two_members = [gzip(b"first, "), gzip(b"second")].concat();
    let noise: Vec<u8> =
        (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(100_000).collect();
    let cases: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("gzip", gzip(b"plain"), b"plain".to_vec()),
        ("GZip", gzip(b"plain"), b"plain".to_vec()),
        ("x-gzip", gzip(b"plain"), b"plain".to_vec()),
        ("gzip", two_members, b"first, second".to_vec()),
        ("gzip", gzip(&vec![0; 100_000]), vec![0; 100_000]),
        ("gzip", gzip(&noise), noise.clone()),
        ("identity", b"plain".to_vec(), b"plain".to_vec()),
    ];
    let mut latest = NIL.to_owned();
    for (encoding, body, expected) in cases {
        let answer =
            server.ask(&format!("POST /v1/client/add-version/{latest}"), &headers(encoding), body).await;
        let version = answer.is(200, b"").header("x-version-id").unwrap().to_owned();
        let child = server.get(&format!("get-child-version/{latest}")).await;
        child.is(200, &expected);
        assert_eq!(child.header("content-encoding"), None);
        latest = version;
    }
    let before = rows(&server.store);
    let line = format!("POST /v1/client/add-version/{latest}");
    let whole = gzip(b"plain");
    let mut wrong_sum = whole.clone();
    wrong_sum[whole.len() - 6] ^= 1;
    for body in
        [b"plain".to_vec(), whole[..whole.len() - 1].to_vec(), wrong_sum, [whole, b"more".to_vec()].concat()]
    {
        server.ask(&line, &headers("gzip"), body).await.is(400, b"the body is not whole gzip");
    }
    server.ask(&line, &headers("gzip"), gzip(b"")).await.is(400, b"Empty body");
    let too_large = b"the body is larger than the 100000 bytes allowed";
    server.ask(&line, &headers("gzip"), gzip(&vec![0; 100_001])).await.is(413, too_large);
    server.ask(&line, &headers("gzip"), gzip(&vec![0; 50_000_000])).await.is(413, too_large);
    // Empty members for ever are too large too.
    server.ask(&line, &headers("gzip"), gzip(b"").repeat(10_000)).await.is(413, too_large);
    for encoding in ["br", "deflate", "zstd", "gzip, gzip", "gzip, identity", "*"] {
        let answer = server.ask(&line, &headers(encoding), "plain").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("accept-encoding")),
            (415, Some("gzip")),
            "{encoding}"
        );
    }
    pollster::block_on(TaskChampion::open(&server.store, Config::default())).unwrap();
    assert_eq!(rows(&server.store), before);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    assert_eq!(Config::default().body_bytes_max, 104_857_600);
    for limit in [1, 5_000, 300_000] {
        let server = Server::new(Config { body_bytes_max: limit, ..Config::default() }).await;
        let body = vec![7; usize::try_from(limit).unwrap()];
        let latest = server.pushed(NIL, body.clone()).await;
        server.put_snapshot(&latest, body.clone()).await.is(200, b"");
        server.get("snapshot").await.is(200, &body);
        let longer = [&body[..], b"x"].concat();
        let text = format!("the body is larger than the {limit} bytes allowed");
        server.push(&latest, longer.clone()).await.is(413, text.as_bytes());
        server.put_snapshot(&latest, longer).await.is(413, text.as_bytes());
        // Said beforehand, and by a client that waits for a word: refused without a byte.
        let declared = [
            ("content-type", SEGMENT),
            ("x-client-id", CLIENT),
            ("content-length", "999999999999"),
            ("expect", "100-continue"),
        ];
        let (_sender, silent) = channel_body();
        let line = format!("POST /v1/client/add-version/{latest}");
        server.ask(&line, &declared, silent).await.is(413, text.as_bytes());
        assert_sound(&server.store);
    }
}

/// A body that is sent through a channel.
fn channel_body() -> (mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Body) {
    struct Received(mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>);
    impl futures_core::Stream for Received {
        type Item = Result<Bytes, std::io::Error>;
        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context)
        }
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Body::from_stream(Received(receiver)))
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_body_and_slowness_does_not() {
    let server = Server::new(Config::default()).await;
    let before = rows(&server.store);
    let (sender, body) = channel_body();
    sender.send(Ok(Bytes::from(vec![1; 500_000]))).unwrap();
    let begun = tokio::time::Instant::now();
    let nothing = sender.clone();
    tokio::spawn(async move {
        // Nothing that is no byte breaks the silence.
        tokio::time::sleep(Duration::from_secs(59)).await;
        nothing.send(Ok(Bytes::new())).unwrap();
    });
    let answer = server.push(NIL, body).await;
    answer.is(408, b"nothing arrived for too long");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(begun.elapsed().as_secs(), 60);
    TaskChampion::open(&server.store, Config::default()).await.unwrap();
    assert_eq!(rows(&server.store), before);

    let (sender, body) = channel_body();
    tokio::spawn(async move {
        for _ in 0..300 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            sender.send(Ok(Bytes::from_static(b"x"))).unwrap();
        }
    });
    server.push(NIL, body).await.is(200, b"");
    server.get(&format!("get-child-version/{NIL}")).await.is(200, &[b'x'; 300]);
}

#[tokio::test]
async fn a_body_that_is_cut_off_leaves_nothing() {
    let server = Server::new(Config::default()).await;
    let before = rows(&server.store);
    for size in [10, 1_000_000] {
        let (sender, body) = channel_body();
        sender.send(Ok(Bytes::from(vec![1; size]))).unwrap();
        sender.send(Err(std::io::Error::other("the network went away"))).unwrap();
        server.push(NIL, body).await.is(400, b"the body was cut off");
        assert_sound(&server.store);
        TaskChampion::open(&server.store, Config::default()).await.unwrap();
        assert_eq!(rows(&server.store), before);
    }
}

#[tokio::test]
async fn failures_of_the_store_are_500_or_503_and_do_not_leak() {
    for (fault, status, retry_after) in [
        (Fault::AppliedUnknown, 500, None),
        (Fault::NotAppliedUnknown, 500, None),
        (Fault::NotApplied(ErrorKind::Backend), 500, None),
        (Fault::NotApplied(ErrorKind::Closed), 500, None),
        (Fault::NotApplied(ErrorKind::Busy), 503, Some("1")),
        (Fault::NotApplied(ErrorKind::Timeout), 503, Some("1")),
    ] {
        let (store, oddities): (Store, Arc<Mutex<Oddities>>) = Odd::store();
        let server = Server::over(store, Config::default()).await;
        let first = server.pushed(NIL, "first").await;
        for what in ["push", "snapshot"] {
            oddities.lock().unwrap().faults = vec![fault];
            let answer = match what {
                "push" => server.push(&first, "second").await,
                _ => server.put_snapshot(&first, "snapshot").await,
            };
            assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (status, retry_after));
            assert!(!answer.text().contains("taskchampion-00"), "{}", answer.text());
        }
        assert_sound(&server.store);
        // The client asks again, as it does after any failure.
        let child = server.get(&format!("get-child-version/{first}")).await;
        assert_eq!(child.status, if fault == Fault::AppliedUnknown { 200 } else { 404 });
    }
}

#[tokio::test]
async fn large_values_stream_with_their_length() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let server = Server::over(store, Config::default()).await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let version = server.pushed(NIL, body.clone()).await;
    server.put_snapshot(&version, body.clone()).await.is(200, b"");
    for path in [format!("get-child-version/{NIL}"), "snapshot".to_owned()] {
        let answer = server.get(&path).await;
        assert_eq!(answer.header("content-length"), Some("5000000"));
        assert!(answer.body == body);
    }
}

/// Lines of the log, from `level` on.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

#[tokio::test]
async fn the_log_tells_a_wrong_client_and_not_what_is_ordinary() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = Server::new(Config::default()).await;
    let version = server.pushed(NIL, "abcd").await;
    server.get(&format!("get-child-version/{version}")).await.is(404, b"no such version");
    server.push(NIL, "late").await.is(409, b"");
    assert_eq!(lines.take(), "", "an idle sync and a conflict are ordinary");

    let line = format!("GET /v1/client/get-child-version/{NIL}");
    server.ask(&line, &[("x-client-id", UNKNOWN)], "").await.is(404, b"no such client");
    let told = lines.take();
    assert!(told.contains(" INFO ") && told.contains("client=99999999..."), "{told}");
    assert!(!told.contains(UNKNOWN), "the id is a credential: {told}");

    let allowed = BTreeSet::from([Uuid::parse_str(CLIENT).unwrap()]);
    let server = Server::new(Config { allowed_clients: Some(allowed), ..Config::default() }).await;
    server.ask(&line, &[("x-client-id", UNKNOWN)], "").await.is(403, b"unknown x-client-id");
    let told = lines.take();
    assert!(told.contains(" WARN ") && told.contains("allow list"), "{told}");
    assert!(!told.contains(" ERROR "), "{told}");
}

#[tokio::test]
async fn no_failure_tells_the_log_a_whole_client_id() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let client = Uuid::parse_str(CLIENT).unwrap();
    let secrets =
        [CLIENT.to_owned(), client.simple().to_string(), client.as_bytes().escape_ascii().to_string()];
    let told = |level: &str| {
        let told = lines.take();
        for part in [level, "client=01234567...", "tenant=\"taskchampion-00\""] {
            assert!(told.contains(part), "{part:?} is missing: {told}");
        }
        for secret in &secrets {
            assert!(!told.contains(secret), "the id is a credential: {told}");
        }
        told
    };

    let (store, oddities) = Odd::store();
    let server = Server::over(store, Config::default()).await;
    let first = server.pushed(NIL, "first").await;
    lines.take();
    for (kind, status, level) in [
        (ErrorKind::Busy, 503, " WARN "),
        (ErrorKind::Backend, 500, " ERROR "),
        (ErrorKind::Corrupt, 500, " ERROR "),
    ] {
        for what in ["push", "snapshot"] {
            oddities.lock().unwrap().faults = vec![Fault::NotApplied(kind)];
            let answer = match what {
                "push" => server.push(&first, "second").await,
                _ => server.put_snapshot(&first, "snapshot").await,
            };
            assert_eq!(answer.status, status);
            let told = told(level);
            assert!(told.contains(&format!("kind={kind}")), "{told}");
            assert!(told.contains("cause=\"a cause that the test planted\""), "{told}");
        }
    }

    // Damaged rows, and chunks that are missing.
    let large = server.pushed(&first, vec![1; 9_000]).await;
    server.put_snapshot(&large, "snapshot").await.is(200, b"");
    let tenant = server.store.tenant("taskchampion-00").unwrap();
    let key =
        |version: &str| [client.as_bytes().as_slice(), Uuid::parse_str(version).unwrap().as_bytes()].concat();
    tenant.put("taskchampion.version", key(NIL), *b"damaged").await.unwrap();
    tenant.put("taskchampion.snapshot", client, *b"damaged").await.unwrap();
    for path in [format!("get-child-version/{NIL}"), "snapshot".to_owned()] {
        lines.take();
        server.get(&path).await.is(500, b"the store failed, ask again");
        assert!(told(" ERROR ").contains("kind=corrupt"));
    }
    let mut chunks = Batch::new();
    chunks.delete_prefix("taskchampion.chunk", b"");
    tenant.apply(chunks, Durability::Durable).await.unwrap().applied().unwrap();
    let request = Request::get(format!("/v1/client/get-child-version/{first}")).header("x-client-id", CLIENT);
    let response = server.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert!(axum::body::to_bytes(response.into_body(), usize::MAX).await.is_err());
    assert!(told(" ERROR ").contains("cut off in the middle"));
    tenant.put("taskchampion.client", client, *b"damaged").await.unwrap();
    server.push(&large, "third").await.is(500, b"the store failed, ask again");
    assert!(told(" ERROR ").contains("kind=corrupt"));
    let error = server.taskchampion.client(client).await.unwrap_err().to_string();
    assert!(error.contains("the row 01234567... of taskchampion.client is damaged"), "{error}");
}

#[tokio::test]
async fn the_router_merges_with_another_that_has_a_fallback() {
    let server = Server::new(Config::default()).await;
    let others = Router::new()
        .route("/healthz", axum::routing::get(async || "fine"))
        .fallback(async || (StatusCode::NOT_FOUND, "elsewhere"));
    let app = server.app.clone().merge(others);
    for (path, status, text) in
        [("/healthz", 200, "fine"), ("/nowhere", 404, "elsewhere"), ("/v1/client/nowhere", 404, "")]
    {
        let response = app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), text.as_bytes());
    }
}
