//! Who may do what: asked when a connection is made and when a document is first spoken of, and again when it has changed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::DocumentId;

/// What somebody may do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// For them there is no such document.
    None,
    /// They are told of it, and what they change is not taken.
    Read,
    /// Both.
    Write,
}

/// Whoever is at the other end of a connection, as the [`Policy`] calls them. Two connections of one identity may replace each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// Of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Somebody who was not asked.
    pub fn anonymous() -> Self {
        Self(String::new())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Why a connection is not made: what the request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// 401 when a credential is missing or wrong, 403 when none would help.
    pub status: StatusCode,
    /// What to do about it.
    pub message: String,
}

/// What [`Policy::authenticate`] answers.
pub type Admission<'a> = Pin<Box<dyn Future<Output = Result<Identity, Denied>> + Send + 'a>>;

/// Decides who may do what. After its mind has changed, [`LiveServer::recheck`](super::LiveServer::recheck) has it asked again about
/// everybody who is connected.
///
/// ```
/// use axum::http::{StatusCode, request::Parts};
/// use seabed_automerge::{Access, Admission, Denied, DocumentId, Identity, Policy};
///
/// /// Everybody reads, and who knows the word writes.
/// #[derive(Debug)]
/// struct Word;
///
/// impl Policy for Word {
///     fn authenticate<'a>(&'a self, request: &'a Parts) -> Admission<'a> {
///         let knows = request.uri.query() == Some("word=sesame");
///         Box::pin(async move { Ok(Identity::new(if knows { "writer" } else { "reader" })) })
///     }
///
///     fn access(&self, identity: &Identity, _: DocumentId) -> Access {
///         if identity.name() == "writer" { Access::Write } else { Access::Read }
///     }
/// }
/// ```
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Who makes this connection: asked with the request for the upgrade, before it is granted.
    fn authenticate<'a>(&'a self, request: &'a Parts) -> Admission<'a>;

    /// Whether they are still welcome: asked after a [recheck](super::LiveServer::recheck).
    fn admits(&self, _identity: &Identity) -> bool {
        true
    }

    /// What they may do with a document.
    fn access(&self, identity: &Identity, document: DocumentId) -> Access;
}

/// Whoever can connect may read and write every document whose id they know: for loopback, and for what stands behind something that asks.
///
/// ```
/// use seabed_automerge::{Access, DocumentId, Everybody, Identity, Policy as _};
///
/// let anybody = Identity::anonymous();
/// assert_eq!(Everybody.access(&anybody, DocumentId::from_bytes([7; 16])), Access::Write);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Everybody;

impl Policy for Everybody {
    fn authenticate<'a>(&'a self, _: &'a Parts) -> Admission<'a> {
        Box::pin(async { Ok(Identity::anonymous()) })
    }

    fn access(&self, _: &Identity, _: DocumentId) -> Access {
        Access::Write
    }
}
