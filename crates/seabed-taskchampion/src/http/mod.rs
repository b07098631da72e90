//! The router: the original server's paths, headers, status codes and texts (`docs/protocols/taskchampion.md`).

mod body;
mod headers;

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, any};
use uuid::Uuid;

use crate::clock::now_unix_ms;
use crate::error::ErrorKind;
use crate::{
    AddSnapshot, AddVersion, ChildVersion, Error, GetSnapshot, TaskChampion, Upload, Urgency, Value,
};

#[doc(hidden)]
pub use headers::fuzz_headers;

const HISTORY_SEGMENT: &str = "application/vnd.taskchampion.history-segment";
const SNAPSHOT: &str = "application/vnd.taskchampion.snapshot";
const VERSION_ID: HeaderName = HeaderName::from_static("x-version-id");
const PARENT_VERSION_ID: HeaderName = HeaderName::from_static("x-parent-version-id");
const SNAPSHOT_REQUEST: HeaderName = HeaderName::from_static("x-snapshot-request");

const NO_SUCH_CLIENT: &str = "No such client";

/// Where the router takes the time and fresh ids from. The default is the system's; tests bring their own.
#[derive(Clone)]
pub struct Environment {
    /// Milliseconds since 1970.
    pub now_unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// A fresh random id, as [`Uuid::new_v4`] makes.
    pub fresh_id: Arc<dyn Fn() -> Uuid + Send + Sync>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { now_unix_ms: Arc::new(now_unix_ms), fresh_id: Arc::new(Uuid::new_v4) }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// The sync server: `GET /` and everything below `/v1/client`. Merge it with routers of your own; it needs tokio's timers.
///
/// ```
/// # pollster::block_on(async {
/// use seabed_taskchampion::{Config, TaskChampion, router};
///
/// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
/// let app: axum::Router = router(taskchampion);
/// // let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// // axum::serve(listener, app).await?;
/// # drop(app);
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
pub fn router(taskchampion: TaskChampion) -> Router {
    router_with(taskchampion, Environment::default())
}

/// The same, with time and ids from `environment`.
pub fn router_with(taskchampion: TaskChampion, environment: Environment) -> Router {
    // `any`, because the original answers 404 to a wrong method, also to HEAD.
    Router::new()
        .route("/", any(banner))
        .route("/v1/client/get-child-version/{parent}", any(get_child_version))
        .route("/v1/client/add-version/{parent}", any(add_version))
        .route("/v1/client/add-snapshot/{version}", any(add_snapshot))
        .route("/v1/client/snapshot", any(get_snapshot))
        .route("/v1/client/{*rest}", any(async || Refusal::not_found()))
        .layer(map_response(never_cached))
        .with_state(Server { taskchampion, environment })
}

#[derive(Debug, Clone)]
struct Server {
    taskchampion: TaskChampion,
    environment: Environment,
}

impl Server {
    fn now_unix_ms(&self) -> u64 {
        (self.environment.now_unix_ms)()
    }

    fn now_unix_s(&self) -> u64 {
        self.now_unix_ms() / 1_000
    }

    fn fresh_id(&self) -> Uuid {
        (self.environment.fresh_id)()
    }

    fn client_id(&self, headers: &HeaderMap) -> Result<Uuid, Refusal> {
        let Some(client) = headers::client_id(headers) else {
            return Err(Refusal::bad_request("bad x-client-id"));
        };
        let allowed = &self.taskchampion.config().allowed_clients;
        if allowed.as_ref().is_some_and(|allowed| !allowed.contains(&client)) {
            tracing::warn!(client = %Shortened(client), "a client that is not on the allow list was refused");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "unknown x-client-id"));
        }
        Ok(client)
    }

    fn no_such_client(&self, client: Uuid, text: &'static str) -> Refusal {
        if self.taskchampion.config().create_clients {
            // How every new replica of a new client begins.
            tracing::info!(client = %Shortened(client), "a client that this server does not know asked");
        } else {
            tracing::warn!(client = %Shortened(client), "a client that this server does not know was refused");
        }
        Refusal::new(StatusCode::NOT_FOUND, text)
    }
}

/// A client id as logs show it: enough to tell clients apart and too little to be one, because the id is the credential.
struct Shortened(Uuid);

impl fmt::Display for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}...", self.0.as_fields().0)
    }
}

/// An answer that is not a success.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: std::borrow::Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The refusal for what went wrong below, which is for the log. Never a 409 and never a success: whether the batch was applied may be
/// unknown. The client recovers from any of these by asking again, also when a push took effect in spite of its error: it then pulls
/// its own version, and goes on from there.
fn failed(client: Uuid) -> impl Fn(Error) -> Refusal {
    move |error| {
        let ((kind, tenant, cause), client) = (told(&error), Shortened(client));
        let applied = error.applied();
        if matches!(error.kind(), ErrorKind::Busy) || error.is_retryable() {
            tracing::warn!(%client, %kind, tenant, cause, ?applied, "a request was put off");
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy, ask again").with(RETRY_AFTER, "1");
        }
        tracing::error!(%client, %kind, tenant, cause, ?applied, "a request failed");
        if error.is_disk_full() {
            let text = "the server's disk is full, ask again when there is room";
            return Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text);
        }
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed, ask again")
    }
}

/// What the log is told of an error: its kind, tenant and cause. Not its text, which may name a row by its key, and so a client by
/// its whole id.
fn told(error: &Error) -> (ErrorKind, Option<String>, Option<String>) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    (error.kind(), error.tenant().map(ToString::to_string), cause)
}

async fn never_cached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store, max-age=0"));
    response
}

/// Phone applications tell people to look for this text.
async fn banner(method: Method) -> Result<String, Refusal> {
    only(&method, &Method::GET)?;
    Ok(format!("TaskChampion sync server v{}", env!("CARGO_PKG_VERSION")))
}

async fn get_child_version(
    State(server): State<Server>,
    method: Method,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    only(&method, &Method::GET)?;
    let parent = version_id(path)?;
    let client = server.client_id(&headers)?;
    let child = server.taskchampion.get_child_version(client, parent).await;
    match child.map_err(failed(client))?.release() {
        ChildVersion::Found { version, parent, value } => {
            let ids = [(VERSION_ID, id_value(version)), (PARENT_VERSION_ID, id_value(parent))];
            Ok((ids, with_body(client, HISTORY_SEGMENT, value)).into_response())
        }
        ChildVersion::UpToDate => {
            tracing::debug!(client = %Shortened(client), "up to date");
            Err(Refusal::new(StatusCode::NOT_FOUND, "no such version"))
        }
        ChildVersion::Gone => Err(Refusal::new(StatusCode::GONE, "version has been deleted")),
        ChildVersion::NoSuchClient => Err(server.no_such_client(client, "no such client")),
    }
}

/// What a POST expects of its body, and says when there is none.
struct Posting {
    media_type: &'static str,
    empty: &'static str,
    /// Whether it creates its client where that is allowed.
    creates: bool,
}

const PUSH: Posting = Posting { media_type: HISTORY_SEGMENT, empty: "Empty body", creates: true };
const PUT_SNAPSHOT: Posting = Posting { media_type: SNAPSHOT, empty: "No snapshot supplied", creates: false };

/// Makes the checks of a POST, whose order is the original's and so a contract, and takes the body. Answers the version id in the
/// path, too.
async fn posted(
    server: &Server,
    posting: &Posting,
    method: &Method,
    path: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Uuid, Upload), Refusal> {
    only(method, &Method::POST)?;
    let id = version_id(path)?;
    headers::expect_media_type(headers, posting.media_type)?;
    let client = server.client_id(headers)?;
    Ok((id, body::receive(server, posting, client, headers, body).await?))
}

async fn add_version(
    State(server): State<Server>,
    method: Method,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (parent, upload) = posted(&server, &PUSH, &method, path, &headers, body).await?;
    let (client, version) = (upload.client(), server.fresh_id());
    let added = server.taskchampion.add_version(upload, parent, version, server.now_unix_s()).await;
    match added.map_err(failed(client))?.release() {
        AddVersion::Added { version, urgency } => {
            let mut response = [(VERSION_ID, id_value(version))].into_response();
            let request = match urgency {
                Urgency::None => return Ok(response),
                Urgency::Low => "urgency=low",
                Urgency::High => "urgency=high",
            };
            response.headers_mut().insert(SNAPSHOT_REQUEST, HeaderValue::from_static(request));
            Ok(response)
        }
        AddVersion::Conflict { latest } => {
            tracing::debug!(client = %Shortened(client), "a push onto an older version");
            Ok((StatusCode::CONFLICT, [(PARENT_VERSION_ID, id_value(latest))]).into_response())
        }
        AddVersion::NoSuchClient => Err(server.no_such_client(client, NO_SUCH_CLIENT)),
    }
}

async fn add_snapshot(
    State(server): State<Server>,
    method: Method,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (version, upload) = posted(&server, &PUT_SNAPSHOT, &method, path, &headers, body).await?;
    let client = upload.client();
    let added = server.taskchampion.add_snapshot(upload, version, server.now_unix_s()).await;
    match added.map_err(failed(client))?.release() {
        AddSnapshot::Kept => Ok(StatusCode::OK.into_response()),
        AddSnapshot::Ignored(why) => {
            tracing::info!(client = %Shortened(client), ?why, "a snapshot was ignored");
            Ok(StatusCode::OK.into_response())
        }
        AddSnapshot::NoSuchClient => Err(server.no_such_client(client, NO_SUCH_CLIENT)),
    }
}

async fn get_snapshot(
    State(server): State<Server>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    only(&method, &Method::GET)?;
    let client = server.client_id(&headers)?;
    let snapshot = server.taskchampion.get_snapshot(client).await;
    match snapshot.map_err(failed(client))?.release() {
        GetSnapshot::Found { version, value } => {
            Ok(([(VERSION_ID, id_value(version))], with_body(client, SNAPSHOT, value)).into_response())
        }
        GetSnapshot::NoSnapshot => Err(Refusal::new(StatusCode::NOT_FOUND, "no snapshot")),
        GetSnapshot::NoSuchClient => Err(server.no_such_client(client, NO_SUCH_CLIENT)),
    }
}

fn only(method: &Method, allowed: &Method) -> Result<(), Refusal> {
    if method == allowed { Ok(()) } else { Err(Refusal::not_found()) }
}

fn version_id(path: Result<Path<String>, PathRejection>) -> Result<Uuid, Refusal> {
    let Ok(Path(text)) = path else { return Err(Refusal::not_found()) };
    Uuid::parse_str(&text).map_err(|_| Refusal::not_found())
}

fn id_value(id: Uuid) -> HeaderValue {
    // Hexadecimal digits and dashes are a header value always.
    HeaderValue::from_str(&id.to_string()).unwrap_or(HeaderValue::from_static(""))
}

fn with_body(client: Uuid, media_type: &'static str, value: Value) -> impl IntoResponse {
    // The real client insists on exactly this type; the length lets it see a download that was cut off.
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (CONTENT_LENGTH, HeaderValue::from(value.bytes())),
    ];
    (headers, Body::from_stream(body::Parts::new(client, value)))
}
