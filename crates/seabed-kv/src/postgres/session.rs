//! Whose session a connection leads to: one of its own for as long as it lives, or whichever one a pooler lends it for a transaction.
//!
//! Only in a session of our own may statements keep names, under which they are parsed and planned once:
//!
//! 1. At the beginning the server says which process is to be asked to cancel. A pooler says a number of its own there. So names are given
//!    where that process is the one that answers statements, and nowhere else.
//! 2. A pooler that hands on what one of its sessions has said, or whose number is the same by chance, passes that test, and in another
//!    session a name may mean what another store has named. So what has a name carries a number that its connection has drawn, is sent with
//!    that number, and divides by zero at every other one. An error comes before anything is answered or applied, and the connection goes
//!    on without names.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::future::{Ready, ready};
use std::hash::BuildHasher as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Statement};

use super::failure::Failure;

/// A session of our own.
pub(super) struct OwnSession {
    /// What the names of this connection are told from others' by.
    pub(super) mark: i64,
    /// By their texts without the guard.
    named: BTreeMap<String, Statement>,
}

impl OwnSession {
    /// `None` unless the process that answers statements is the one that the server has named at the beginning.
    pub(super) async fn of(client: &Client, answering: i32) -> Option<Self> {
        let told = told_process_id(client).await?;
        let drawn = RandomState::new().hash_one(answering);
        (told == answering).then(|| Self { mark: (drawn >> 1).cast_signed(), named: BTreeMap::new() })
    }

    pub(super) fn named(&self, sql: &str) -> Option<Statement> {
        self.named.get(sql).cloned()
    }

    pub(super) fn name(&mut self, sql: &str, statement: Statement) {
        self.named.insert(sql.to_owned(), statement);
    }
}

/// A statement of so many parameters, with one more: the mark, without which it fails.
pub(super) fn guarded(sql: &str, parameters: usize, mark: i64) -> String {
    let joint = if sql.contains(" WHERE ") { "AND" } else { "WHERE" };
    format!("{sql} {joint} 1 / CAST({mark} = ${} AS integer) = 1", parameters + 1)
}

/// Whether a name did not mean what it meant when it was given: in another session, or because somebody has made the tables anew. The server
/// has begun nothing.
pub(super) fn is_misnamed(failure: &Failure) -> bool {
    failure.is(&[
        SqlState::INVALID_SQL_STATEMENT_NAME,
        // The guard.
        SqlState::DIVISION_BY_ZERO,
        // "cached plan must not change result type"
        SqlState::FEATURE_NOT_SUPPORTED,
        // Other parameters.
        SqlState::PROTOCOL_VIOLATION,
    ])
}

/// The process that the server has said is to be asked to cancel. The client keeps it to itself, but writes it into a request to cancel, and
/// this one goes nowhere.
async fn told_process_id(client: &Client) -> Option<i32> {
    let mut request = Overheard::default();
    client.cancel_token().cancel_query_raw(&mut request, Unencrypted).await.ok()?;
    process_id(&request.written)
}

/// 8 bytes that ask for encryption, where the connection has it, and then length, code and process, 4 bytes each.
fn process_id(written: &[u8]) -> Option<i32> {
    const ENCRYPTION_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    const CANCEL_CODE: [u8; 4] = 80_877_102_i32.to_be_bytes();
    let request = written.strip_prefix(&ENCRYPTION_REQUEST).unwrap_or(written);
    let (code, rest) = request.get(4..)?.split_first_chunk::<4>()?;
    (*code == CANCEL_CODE).then_some(i32::from_be_bytes(*rest.first_chunk()?))
}

/// What keeps what is written, and answers that it encrypts.
#[derive(Default)]
struct Overheard {
    written: Vec<u8>,
}

impl AsyncRead for Overheard {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        read.put_slice(if read.remaining() > 0 { b"S" } else { b"" });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for &mut Overheard {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Encrypts nothing: nothing leaves.
struct Unencrypted;

impl<'a> TlsConnect<&'a mut Overheard> for Unencrypted {
    type Stream = &'a mut Overheard;
    type Error = io::Error;
    type Future = Ready<io::Result<&'a mut Overheard>>;

    fn connect(self, stream: &'a mut Overheard) -> Self::Future {
        ready(Ok(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_the_last_parameter() {
        assert_eq!(
            guarded("SELECT f($1, $2)", 2, 7),
            "SELECT f($1, $2) WHERE 1 / CAST(7 = $3 AS integer) = 1"
        );
        assert_eq!(
            guarded("SELECT a FROM t WHERE b = $1", 1, 7),
            "SELECT a FROM t WHERE b = $1 AND 1 / CAST(7 = $2 AS integer) = 1"
        );
    }

    #[test]
    fn a_process_is_found_in_a_request_to_cancel_and_in_nothing_else() {
        let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 1, 2, 9, 9, 9, 9];
        let encrypted = [&[0, 0, 0, 8, 4, 210, 22, 47], &cancel[..]].concat();
        assert_eq!([&cancel[..], &encrypted].map(process_id), [Some(258); 2]);
        for other in [&[][..], &cancel[..11], &encrypted[..8], &[0; 24]] {
            assert_eq!(process_id(other), None, "{other:?}");
        }
    }
}
