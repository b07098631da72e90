//! Tokens: who may connect from elsewhere. Kept as SHA-256 in the program's own tenant; the text is told once and kept nowhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use seabed_kv::{Batch, Durability, Error, ErrorKind, KeyRange, ScanSpec, Store, Tenant};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::node::now_unix_s;
use crate::own;

/// A row for each token, under its id.
pub(crate) const TOKEN: &str = "seabed.token";
/// How many tokens a store has at most, those that were revoked included.
pub(crate) const TOKENS_MAX: usize = 10_000;
/// The longest name of a token, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// What a token begins with, so that a search for leaked secrets finds it.
const PREFIX: &str = "seabed_";

/// What a token lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// Read every document whose id they know.
    Read,
    /// Read and write them.
    Write,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// What `revoke` takes.
    pub(crate) id: String,
    /// Whose it is, for people.
    pub(crate) name: String,
    pub(crate) access: Scope,
    pub(crate) created_unix_s: u64,
    /// When it was revoked; null while it is good. The row stays: a store that has had tokens asks everybody for one.
    pub(crate) revoked_unix_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    sha256: String,
    #[serde(flatten)]
    token: Token,
}

/// The tokens of a store.
#[derive(Debug)]
pub(crate) struct Tokens {
    own: Tenant,
    rows: RwLock<Vec<Row>>,
    /// One reads at a time: what was read earlier never takes the place of what was read later.
    reading: tokio::sync::Mutex<()>,
    /// Counts how often they were found to be others.
    version: AtomicU64,
}

impl Tokens {
    /// Reads them all.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` for a row that does not read.
    pub(crate) async fn open(store: &Store) -> Result<Self, Error> {
        let tokens = Self {
            own: own::open(store).await?,
            rows: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            version: AtomicU64::new(0),
        };
        tokens.refresh().await?;
        Ok(tokens)
    }

    /// Reads them again; answers a number that grows whenever there is something new.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn refresh(&self) -> Result<u64, Error> {
        let _reading = self.reading.lock().await;
        let mut rows = Vec::new();
        let mut scan = self.own.scan(ScanSpec::new(TOKEN, KeyRange::all()));
        while let Some(row) = scan.next().await {
            let row = row?;
            let read = serde_json::from_slice::<Row>(&row.payload).map_err(|error| {
                let message = format!("a row of {TOKEN} is damaged; restore from a backup");
                Error::new(ErrorKind::Corrupt, message).in_tenant(self.own.id()).with_source(error)
            });
            rows.push(read?);
        }
        let mut known = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let new = u64::from(*known != rows);
        *known = rows;
        Ok(self.version.fetch_add(new, Ordering::Relaxed) + new)
    }

    /// Makes a token, and answers it with its text.
    ///
    /// # Errors
    /// `InvalidArgument` beyond a bound; those of the store.
    pub(crate) async fn create(&self, name: &str, access: Scope) -> Result<(Token, String), Error> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return invalid(format!(
                "a token's name has 1 to {NAME_BYTES_MAX} bytes, and none of them is a control character"
            ));
        }
        if self.list().len() >= TOKENS_MAX {
            return invalid(format!("there are {TOKENS_MAX} tokens already (TOKENS_MAX)"));
        }
        // 244 random bits.
        let text = format!("{PREFIX}{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let id = Uuid::new_v4().simple().to_string();
        let created_unix_s = now_unix_s();
        let token = Token { id, name: name.to_owned(), access, created_unix_s, revoked_unix_s: None };
        self.write(Row { sha256: digest(&text), token: token.clone() }).await?;
        Ok((token, text))
    }

    /// Revokes a token; `None` when there is none of that id.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn revoke(&self, id: &str) -> Result<Option<Token>, Error> {
        let found = self.read(|rows| rows.iter().find(|row| row.token.id == id).cloned());
        let Some(mut row) = found else { return Ok(None) };
        row.token.revoked_unix_s.get_or_insert_with(now_unix_s);
        let token = row.token.clone();
        self.write(row).await?;
        Ok(Some(token))
    }

    /// Every token that there ever was.
    pub(crate) fn list(&self) -> Vec<Token> {
        self.read(|rows| rows.iter().map(|row| row.token.clone()).collect())
    }

    /// Whether there has ever been one: from then on everybody needs one.
    pub(crate) fn are_used(&self) -> bool {
        self.read(|rows| !rows.is_empty())
    }

    /// The good token of that text.
    pub(crate) fn find(&self, text: &str) -> Option<Token> {
        let asked = digest(text);
        self.read(|rows| {
            // All of them, so that the time tells nothing.
            let mut found = None;
            for row in rows {
                if same(&row.sha256, &asked) && row.token.revoked_unix_s.is_none() {
                    found = Some(row.token.clone());
                }
            }
            found
        })
    }

    /// The good token of that id.
    pub(crate) fn good(&self, id: &str) -> Option<Token> {
        let good = |row: &&Row| row.token.id == id && row.token.revoked_unix_s.is_none();
        self.read(|rows| rows.iter().find(good).map(|row| row.token.clone()))
    }

    fn read<T>(&self, read: impl FnOnce(&[Row]) -> T) -> T {
        read(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write(&self, row: Row) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&row).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "the token cannot be written").with_source(error)
        })?;
        let mut batch = Batch::new();
        batch.put(TOKEN, row.token.id.as_bytes(), bytes);
        self.own.apply(batch, Durability::Durable).await?;
        // What others read from now on.
        self.refresh().await.map(drop)
    }
}

/// Whether a row of [`TOKEN`] is a token, under its own id.
pub(crate) fn reads(key: &[u8], payload: &[u8]) -> bool {
    serde_json::from_slice::<Row>(payload).is_ok_and(|row| row.token.id.as_bytes() == key)
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// In a time that does not depend on where they differ.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_good_until_it_is_revoked_and_its_text_is_kept_nowhere() {
        let store = Store::memory();
        let tokens = Tokens::open(&store).await.unwrap();
        assert!(!tokens.are_used());
        let (token, text) = tokens.create("phone", Scope::Read).await.unwrap();
        assert_eq!(tokens.find(&text), Some(token.clone()));
        assert_eq!(tokens.find(&text[1..]), None);
        assert!(tokens.good(&token.id).is_some());

        let other = Tokens::open(&store).await.unwrap();
        assert_eq!(other.find(&text), Some(token.clone()));
        let row = store.tenant(own::TENANT).unwrap().get(TOKEN, token.id.as_bytes()).await.unwrap().unwrap();
        assert!(!String::from_utf8(row).unwrap().contains(&text[PREFIX.len()..]));

        assert!(tokens.revoke("nobody").await.unwrap().is_none());
        assert!(tokens.revoke(&token.id).await.unwrap().unwrap().revoked_unix_s.is_some());
        assert!(other.find(&text).is_some(), "not read again yet");
        let version = other.refresh().await.unwrap();
        assert_eq!((version, other.refresh().await.unwrap()), (2, 2));
        assert_eq!((other.find(&text), other.good(&token.id)), (None, None));
        assert!(other.are_used(), "a store that has had tokens asks for one");
        for name in ["", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(
                tokens.create(name, Scope::Write).await.unwrap_err().kind(),
                ErrorKind::InvalidArgument
            );
        }
    }
}
