//! Messages as bytes: the names of the dialects; the codec comes with the vectors.

/// A layout of fields that a channel writes (sds.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// N: nim-sds.
    Nim,
    /// S: the specification's.
    Spec,
}

/// Which layouts a channel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDialect {
    /// One.
    Strict(Dialect),
    /// Any, told apart by what they hold.
    Auto,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no message")]
pub struct DecodeError;
