//! Automerge's clients beside the others: upgrades to a WebSocket on `/` and `/automerge`, and who may open them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN, UPGRADE, VIA};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use seabed_automerge::{Access, Admission, Denied, DocumentId, Identity, LiveServer, Policy, live_limits};
use tower::ServiceExt;

use crate::node::Node;
use crate::own;
use crate::server::limits::Peer;
use crate::tokens::{Scope, Tokens};

/// Hands Automerge what is its own: `/automerge`, and `/` when a WebSocket is asked for. Otherwise that is TaskChampion's.
pub(crate) async fn divert(State(live): State<Router>, request: Request, next: Next) -> Response {
    let websocket =
        text(request.headers(), &UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    match (request.uri().path(), websocket) {
        ("/automerge", _) | ("/", true) => live.oneshot(request).await.into_response(),
        _ => next.run(request).await,
    }
}

/// Looks each second what others have stored: documents, tokens, and whether they copy another store into this one. That ends it.
pub(crate) async fn poll(live: LiveServer, node: Arc<Node>) {
    let mut tokens = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(live_limits::POLL_MS)).await;
        match is_withdrawn(&node).await {
            Ok(false) => {}
            Ok(true) => return live.close().await,
            Err(error) => {
                tracing::warn!(%error, "looking for a copy into the store failed, and is tried again in a second");
            }
        }
        // Neither waits for the other to work.
        if let Err(error) = look_at_tokens(&live, &node, &mut tokens).await {
            tracing::warn!(%error, "reading the tokens failed, and is tried again in a second");
        }
        look_at_documents(&live).await;
    }
}

async fn is_withdrawn(node: &Node) -> seabed_kv::Result<bool> {
    let own = node.store.open(own::TENANT).await?;
    Ok(node.look_at_copying(&own).await?.is_some())
}

async fn look_at_tokens(live: &LiveServer, node: &Node, tokens: &mut u64) -> seabed_kv::Result<()> {
    let version = node.tokens().await?.refresh().await?;
    if version != *tokens {
        live.recheck().await;
        *tokens = version;
    }
    Ok(())
}

/// Looks what others have stored of the documents in use.
pub(crate) async fn look_at_documents(live: &LiveServer) {
    if let Err(error) = live.poll().await {
        tracing::warn!(%error, "looking for what others have stored of a document failed, and is tried again in a second");
    }
}

/// Lets in programs on this machine while there are no tokens, and from the first token on whoever has one.
#[derive(Debug)]
pub(crate) struct Guard {
    tokens: Arc<Tokens>,
}

/// The identity of those who need no token.
const LOCAL: &str = "local";

impl Guard {
    pub(crate) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens }
    }

    fn decide(&self, parts: &Parts) -> Result<Identity, Denied> {
        let unauthorized =
            |message: &str| Denied { status: StatusCode::UNAUTHORIZED, message: message.to_owned() };
        if let Some(token) = given(parts) {
            let token = self.tokens.find(&token);
            let token = token.ok_or_else(|| unauthorized("the token is not known, or was revoked"))?;
            return Ok(Identity::new(token.id));
        }
        if self.tokens.are_used() {
            return Err(unauthorized("a token is needed: connect to ws://HOST/automerge?token=TOKEN"));
        }
        if is_local(parts) {
            return Ok(Identity::new(LOCAL));
        }
        Err(unauthorized(
            "from another machine, another site or through a proxy a token is needed; make one with `seabed token create NAME`, \
             and connect to ws://HOST/automerge?token=TOKEN",
        ))
    }
}

impl Policy for Guard {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> Admission<'a> {
        Box::pin(async { self.decide(request) })
    }

    fn admits(&self, identity: &Identity) -> bool {
        match identity.name() {
            LOCAL => !self.tokens.are_used(),
            id => self.tokens.good(id).is_some(),
        }
    }

    fn access(&self, identity: &Identity, _: DocumentId) -> Access {
        match (identity.name(), self.tokens.good(identity.name()).map(|token| token.access)) {
            (_, Some(Scope::Write)) => Access::Write,
            (_, Some(Scope::Read)) => Access::Read,
            (LOCAL, None) if !self.tokens.are_used() => Access::Write,
            _ => Access::None,
        }
    }
}

/// The token of a request: a browser can put it into the URL alone.
fn given(parts: &Parts) -> Option<String> {
    let header = text(&parts.headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let pairs = parts.uri.query().unwrap_or_default().split('&');
    let query = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "token");
    header.or(query.map(|(_, token)| token)).map(|token| token.trim().to_owned())
}

/// Whether a program on this machine asks for itself: not a proxy for others, and not a browser for a page from elsewhere.
fn is_local(parts: &Parts) -> bool {
    let here = match parts.extensions.get::<Peer>() {
        Some(Peer::Owner) => true,
        Some(Peer::Network(address)) => address.ip().to_canonical().is_loopback(),
        None => false,
    };
    let direct = !parts.headers.keys().any(is_of_a_proxy);
    // A name that leads here may be somebody else's (DNS rebinding).
    let named = text(&parts.headers, &HOST).is_some_and(is_loopback);
    let page = match parts.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        None => true,
        Some(origin) => origin.split_once("://").is_some_and(|(_, host)| is_loopback(host)),
    };
    here && direct && named && page
}

/// Whether a proxy adds such a header. One that adds none is not noticed: the manual says to make a token before there is a proxy.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    let begins = ["x-forwarded", "x-original-", "x-real-", "x-envoy-", "x-amzn-", "cf-", "fly-", "fastly-"];
    let is =
        ["client-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cdn-loop", "x-proxyuser-ip"];
    name == FORWARDED
        || name == VIA
        || is.contains(&name.as_str())
        || begins.iter().any(|begin| name.as_str().starts_with(begin))
}

/// Whether host and port are this machine's own, by any of its names.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use seabed_kv::Store;

    use super::*;

    fn parts(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/automerge");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer::Network(peer.parse::<SocketAddr>().unwrap()));
        parts
    }

    #[tokio::test]
    async fn only_programs_on_this_machine_need_no_token() {
        let tokens = Arc::new(Tokens::open(&Store::memory()).await.unwrap());
        let guard = Guard::new(tokens.clone());
        let host = ("host", "127.0.0.1:8080");
        for (allowed, peer, headers) in [
            (true, "127.0.0.1:1", vec![host]),
            (true, "[::1]:1", vec![("host", "[::1]:8080")]),
            (true, "127.0.0.1:1", vec![("host", "localhost"), ("origin", "http://localhost:3000")]),
            (false, "192.0.2.1:1", vec![host]),
            (false, "127.0.0.1:1", vec![]),
            (false, "127.0.0.1:1", vec![("host", "notes.example:8080")]),
            (false, "127.0.0.1:1", vec![("host", "localhost.example")]),
            (false, "127.0.0.1:1", vec![host, ("origin", "https://example.org")]),
            (false, "127.0.0.1:1", vec![host, ("origin", "null")]),
            (false, "127.0.0.1:1", vec![host, ("x-forwarded-for", "192.0.2.1")]),
            (false, "127.0.0.1:1", vec![host, ("forwarded", "for=192.0.2.1")]),
            (false, "127.0.0.1:1", vec![host, ("via", "1.1 proxy")]),
            (false, "127.0.0.1:1", vec![host, ("x-forwarded-proto", "https")]),
            (false, "127.0.0.1:1", vec![host, ("x-real-ip", "192.0.2.1")]),
            (false, "127.0.0.1:1", vec![host, ("cf-connecting-ip", "192.0.2.1")]),
            (false, "127.0.0.1:1", vec![host, ("true-client-ip", "192.0.2.1")]),
            (false, "127.0.0.1:1", vec![host, ("authorization", "Bearer seabed_wrong")]),
        ] {
            assert_eq!(guard.decide(&parts(peer, &headers)).is_ok(), allowed, "{peer} {headers:?}");
        }
    }

    #[tokio::test]
    async fn from_the_first_token_on_everybody_needs_one() {
        let tokens = Arc::new(Tokens::open(&Store::memory()).await.unwrap());
        let guard = Guard::new(tokens.clone());
        let near = parts("127.0.0.1:1", &[("host", "localhost")]);
        let local = guard.decide(&near).unwrap();
        let document = DocumentId::from_bytes([7; 16]);
        assert_eq!((guard.admits(&local), guard.access(&local, document)), (true, Access::Write));

        let (token, text) = tokens.create("phone", Scope::Read).await.unwrap();
        assert_eq!((guard.admits(&local), guard.access(&local, document)), (false, Access::None));
        assert_eq!(guard.decide(&near).unwrap_err().status, StatusCode::UNAUTHORIZED);
        let far = parts("192.0.2.1:1", &[("authorization", &format!("Bearer {text}"))]);
        let phone = guard.decide(&far).unwrap();
        assert_eq!((guard.admits(&phone), guard.access(&phone, document)), (true, Access::Read));
        let mut browser = parts("192.0.2.1:1", &[("origin", "https://example.org")]);
        browser.uri = format!("/automerge?a=b&token={text}").parse().unwrap();
        assert_eq!(guard.decide(&browser).unwrap(), phone);

        tokens.revoke(&token.id).await.unwrap();
        assert_eq!((guard.admits(&phone), guard.access(&phone, document)), (false, Access::None));
        assert!(guard.decide(&far).is_err() && guard.decide(&near).is_err());
    }
}
