//! Hints between the servers of one database: NOTIFY after a commit, and LISTEN, on one connection that is in no pool.
//!
//! They make others look sooner, and nobody relies on them: what is told while the connection is broken is lost, and behind a pooler that hands
//! out connections for a transaction nothing is heard.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fmt::{self, Write as _};
use std::future::poll_fn;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Shared;
use super::failure::Failure;
use super::session::OwnSession;
use crate::backend::Hints;
use crate::limits::{HINT_BYTES_MAX, HINTS_WAITING_MAX, POSTGRES_ANSWER_MS_MAX, POSTGRES_BACKOFF_MS_MAX};
use crate::{Error, ErrorKind, Op, Result};

/// How many hints one notification carries: it has room for 8,000 bytes, and a byte of a hint is two.
const TOGETHER: usize = 8_000 / (2 * HINT_BYTES_MAX + 1) - 1;

/// The hints of one store.
pub(super) struct PostgresHints {
    shared: Arc<Shared>,
    tell: mpsc::Sender<Vec<u8>>,
    heard: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
}

impl PostgresHints {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (tell, told) = mpsc::channel(HINTS_WAITING_MAX);
        let (hear, heard) = mpsc::channel(HINTS_WAITING_MAX);
        shared.handle().spawn(run(Arc::downgrade(&shared), told, hear));
        Self { shared, tell, heard: Arc::new(Mutex::new(heard)) }
    }
}

impl Hints for PostgresHints {
    fn tell(&self, hint: &[u8]) {
        if hint.len() <= HINT_BYTES_MAX {
            // Where too many wait, the others see it when they look.
            let _ = self.tell.try_send(hint.to_vec());
        }
    }

    fn hear(&self) -> Op<Vec<Vec<u8>>> {
        let heard = self.heard.clone();
        self.shared.spawn(async move {
            let mut hints = Vec::new();
            heard.lock().await.recv_many(&mut hints, HINTS_WAITING_MAX).await;
            let closed = || Error::new(ErrorKind::Closed, "the store is closed; make a new one");
            if hints.is_empty() { Err(closed()) } else { Ok(hints) }
        })
    }
}

impl fmt::Debug for PostgresHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresHints").field("schema", &self.shared.schema).finish_non_exhaustive()
    }
}

/// Until nobody tells any more, or the store is closed: connected, and connected again.
async fn run(shared: Weak<Shared>, mut told: mpsc::Receiver<Vec<u8>>, hear: mpsc::Sender<Vec<u8>>) {
    // What is told comes back, too.
    let ours = RandomState::new().hash_one(std::process::id());
    loop {
        let Some(shared) = shared.upgrade().filter(|shared| !shared.pool.is_closed()) else { return };
        let mut closed = shared.closed.subscribe();
        let channel = shared.schema.clone();
        let address = shared.pool.manager().address();
        drop(shared);
        let serving = async {
            // Ends with the connection that it reads from.
            let mut hearing = JoinSet::new();
            let client = within(connect(address, ours, &hear, &mut hearing)).await?;
            serve(&client, &channel, ours, &mut told, &mut hearing).await
        };
        let connected = async {
            let Err(failure) = serving.await else { return true };
            tracing::debug!(error = %failure.of_read(), "there is no connection for hints; one is made soon");
            // That the database is away the operations say themselves.
            tokio::time::sleep(Duration::from_millis(POSTGRES_BACKOFF_MS_MAX)).await;
            false
        };
        let ended = tokio::select! {
            ended = connected => ended,
            _ = closed.wait_for(|closed| *closed) => true,
        };
        if ended {
            return;
        }
    }
}

/// What the server does not answer in time it does not answer.
async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    let most = Duration::from_millis(POSTGRES_ANSWER_MS_MAX);
    Ok(timeout(most, work).await.map_err(|_| Failure::Silent)??)
}

async fn connect(
    (config, tls): (Config, Option<MakeRustlsConnect>),
    ours: u64,
    hear: &mpsc::Sender<Vec<u8>>,
    hearing: &mut JoinSet<()>,
) -> Result<Client, tokio_postgres::Error> {
    if let Some(tls) = tls {
        let (client, connection) = config.connect(tls).await?;
        hearing.spawn(hear_all(connection, ours, hear.clone()));
        return Ok(client);
    }
    let (client, connection) = config.connect(NoTls).await?;
    hearing.spawn(hear_all(connection, ours, hear.clone()));
    Ok(client)
}

/// Listens, in a session of our own: in one that a pooler lends us it would go on for whom it is lent to next.
async fn listen(client: &Client, channel: &str) -> Result<(), tokio_postgres::Error> {
    let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    if OwnSession::of(client, row.try_get(0)?).await.is_none() {
        tracing::debug!("a pooler stands before PostgreSQL: hints are told, and none is heard");
        return Ok(());
    }
    client.batch_execute(&format!("LISTEN {channel}")).await
}

/// Tells what there is to tell, until nobody tells any more.
async fn serve(
    client: &Client,
    channel: &str,
    ours: u64,
    told: &mut mpsc::Receiver<Vec<u8>>,
    hearing: &mut JoinSet<()>,
) -> Result<(), Failure> {
    within(listen(client, channel)).await?;
    loop {
        let mut hints = Vec::new();
        tokio::select! {
            count = told.recv_many(&mut hints, TOGETHER) => if count == 0 {
                return Ok(());
            },
            _ = hearing.join_next() => return Err(Failure::Silent),
        }
        let hints: BTreeSet<_> = hints.iter().map(|hint| hex(hint)).collect();
        let hints: Vec<_> = hints.into_iter().collect();
        // It need not survive anything, so it waits for no flush; and the setting is gone with the transaction.
        let notify = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {channel}, '{ours:016x},{}'; COMMIT",
            hints.join(",")
        );
        within(client.batch_execute(&notify)).await?;
    }
}

/// Reads from the server for as long as the connection lives.
async fn hear_all<S>(mut connection: Connection<Socket, S>, ours: u64, hear: mpsc::Sender<Vec<u8>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        let AsyncMessage::Notification(notification) = message else { continue };
        for hint in hints(notification.payload(), ours) {
            // Where too many wait, it is seen when somebody looks.
            let _ = hear.try_send(hint);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // A string takes everything.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What others have told. Anybody may write there who may connect: what is no hint is none.
fn hints(payload: &str, ours: u64) -> Vec<Vec<u8>> {
    let Some((from, hints)) = payload.split_once(',') else { return Vec::new() };
    if u64::from_str_radix(from, 16) == Ok(ours) {
        return Vec::new();
    }
    let hint = |hex: &str| {
        let places = (0..hex.len()).step_by(2);
        places
            .map(|place| u8::from_str_radix(hex.get(place..place + 2)?, 16).ok())
            .collect::<Option<Vec<_>>>()
    };
    hints.split(',').filter_map(hint).filter(|hint| hint.len() <= HINT_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_by_others_alone_and_what_is_no_hint_is_none() {
        let payload = format!("{:016x},{},{}", 7, hex(b"one"), hex(&[0, 255]));
        assert!(hints(&payload, 7).is_empty());
        assert_eq!(hints(&payload, 8), [b"one".to_vec(), vec![0, 255]]);
        let long = format!("0,{}", hex(&[1; HINT_BYTES_MAX + 1]));
        for none in ["", "7", "7,x", "7,123", "7,ä1", "nobody,zz", &long] {
            assert!(hints(none, 8).is_empty(), "{none}");
        }
        let most = TOGETHER * (2 * HINT_BYTES_MAX + 1) + 16;
        assert!(most < 8_000);
    }
}
