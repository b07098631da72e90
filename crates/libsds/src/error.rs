//! What went wrong, as a number and as a text.

use std::ffi::c_int;

use seabed_sds::{Error, ErrorKind};

/// The request was accepted, or has succeeded.
pub const RET_OK: c_int = 0;
/// The request was refused, or has failed.
pub const RET_ERR: c_int = 1;
/// There is no callback to call. Give one.
pub const RET_MISSING_CALLBACK: c_int = 2;

/// In a callback of a context of `seabed_sds_open`: fix the call. Nothing was changed.
pub const SEABED_SDS_INVALID_ARGUMENT: c_int = 3;
/// Likewise: split the content, or drop the message that came.
pub const SEABED_SDS_MESSAGE_TOO_LARGE: c_int = 4;
/// Likewise: these bytes are no message. Their sender speaks another language.
pub const SEABED_SDS_DESERIALIZATION: c_int = 5;
/// Likewise: too much is not acknowledged, or waits. Try again later.
pub const SEABED_SDS_BACKPRESSURE: c_int = 6;
/// Likewise: the dialect or profile has no such thing.
pub const SEABED_SDS_UNSUPPORTED: c_int = 7;
/// Likewise: the store failed, nothing was said. Try again, or look after it.
pub const SEABED_SDS_PERSISTENCE: c_int = 8;
/// Likewise: another process, or another context, has the store.
pub const SEABED_SDS_BUSY: c_int = 9;
/// Likewise: the context has ended. Open a new one.
pub const SEABED_SDS_CLOSED: c_int = 10;
/// Likewise: a defect of this library. Please report the text.
pub const SEABED_SDS_INTERNAL: c_int = 11;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidArgument,
    MessageTooLarge,
    Deserialization,
    Backpressure,
    Unsupported,
    Persistence,
    Busy,
    Closed,
    Internal,
}

impl Kind {
    pub(crate) fn code(self) -> c_int {
        match self {
            Self::InvalidArgument => SEABED_SDS_INVALID_ARGUMENT,
            Self::MessageTooLarge => SEABED_SDS_MESSAGE_TOO_LARGE,
            Self::Deserialization => SEABED_SDS_DESERIALIZATION,
            Self::Backpressure => SEABED_SDS_BACKPRESSURE,
            Self::Unsupported => SEABED_SDS_UNSUPPORTED,
            Self::Persistence => SEABED_SDS_PERSISTENCE,
            Self::Busy => SEABED_SDS_BUSY,
            Self::Closed => SEABED_SDS_CLOSED,
            Self::Internal => SEABED_SDS_INTERNAL,
        }
    }

    /// What nim-sds calls it.
    pub(crate) fn nim_name(self) -> &'static str {
        match self {
            Self::InvalidArgument | Self::Backpressure | Self::Unsupported => "reInvalidArgument",
            Self::MessageTooLarge => "reMessageTooLarge",
            Self::Deserialization => "reDeserializationError",
            Self::Persistence | Self::Busy => "rePersistenceError",
            Self::Closed | Self::Internal => "reInternalError",
        }
    }
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InvalidArgument => Kind::InvalidArgument,
            ErrorKind::MessageTooLarge => Kind::MessageTooLarge,
            ErrorKind::Deserialization => Kind::Deserialization,
            ErrorKind::Backpressure => Kind::Backpressure,
            ErrorKind::Unsupported => Kind::Unsupported,
            ErrorKind::Persistence => Kind::Persistence,
            ErrorKind::Closed => Kind::Closed,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<seabed_kv::Error> for Failure {
    fn from(error: seabed_kv::Error) -> Self {
        let kind = match error.kind() {
            seabed_kv::ErrorKind::InvalidArgument => Kind::InvalidArgument,
            seabed_kv::ErrorKind::Busy => Kind::Busy,
            seabed_kv::ErrorKind::Unsupported => Kind::Unsupported,
            _ => Kind::Persistence,
        };
        Self::new(kind, error.to_string())
    }
}

/// What a caller is refused with on its own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) text: &'static std::ffi::CStr,
}

impl Refusal {
    pub(crate) const fn argument(text: &'static std::ffi::CStr) -> Self {
        Self { kind: Kind::InvalidArgument, text }
    }
}
