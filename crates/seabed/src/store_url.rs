//! Which store: a URL. That of a database may hold a password, so what is shown of it is built from the parts that hold none.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::output::Exit;

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    /// `sqlite:DIR`.
    Sqlite(PathBuf),
    /// `memory:`.
    Memory,
    /// `postgres://..`, or `postgres+portable://..`: the whole of it, for nobody but who connects.
    Postgres(String),
}

/// What precedes the parts of a database's URL.
const SCHEMES: [&str; 4] = ["postgres://", "postgresql://", "postgres+portable://", "postgresql+portable://"];

impl StoreUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Exit code 2 when it is none. The text is not repeated: what does not read may hold a password all the same.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if is_postgres(text) {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(directory) if !directory.is_empty() => Ok(Self::Sqlite(PathBuf::from(directory))),
            _ => Err(Exit::usage(
                "the URL of a store is sqlite:DIR, postgres://USER@HOST/DATABASE, postgres+portable://USER@HOST/DATABASE, or for \
                 `seabed serve` memory:",
            )),
        }
    }

    /// The same, unless it is in memory.
    ///
    /// # Errors
    /// Exit code 2: such a store is empty when it is opened and gone when the program ends, so nothing could be found in it, and
    /// what came into it would be lost with a message that all went well.
    pub(crate) fn lasting(self) -> anyhow::Result<Self> {
        if self == Self::Memory {
            return Err(Exit::usage(
                "a store in memory ends with the program that opened it, so memory: is for `seabed serve` alone; name a directory \
                 or a database",
            ));
        }
        Ok(self)
    }

    /// The directory, where the store is one.
    pub(crate) fn root(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(root) => Some(root),
            Self::Memory | Self::Postgres(_) => None,
        }
    }

    /// The same store, whatever the working directory will be.
    pub(crate) fn absolute(&self) -> Self {
        match self {
            Self::Sqlite(root) => Self::Sqlite(crate::open::absolute(root)),
            other => other.clone(),
        }
    }
}

/// Whether it is the URL of a PostgreSQL database.
pub(crate) fn is_postgres(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// A directory as its path, as ever; a database without what may be secret.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(root) => root.display().fmt(f),
            Self::Memory => f.write_str("memory:"),
            Self::Postgres(url) => f.write_str(&without_secrets(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// A database's URL as it may be shown: scheme, user, hosts and database. The parameters may hold a password, and where an `@` or a
/// `?` stands in an unexpected place a part of one may look like something else; then nothing but the scheme is left.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let named = rest.split('?').next().unwrap_or_default();
    let (authority, database) = named.split_once('/').unwrap_or((named, ""));
    let (user, hosts) = match authority.split_once('@') {
        Some((user, hosts)) => (user.split(':').next().unwrap_or_default(), hosts),
        None => ("", authority),
    };
    let ats = authority.matches('@').count();
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%,:[]".contains(&byte));
    if rest.matches('@').count() != ats || ats > 1 || ![user, hosts, database].into_iter().all(plain) {
        return format!("{scheme}://...");
    }
    let user = if ats == 1 { format!("{user}@") } else { String::new() };
    let database = if database.is_empty() { String::new() } else { format!("/{database}") };
    format!("{scheme}://{user}{hosts}{database}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_shown() {
        for (text, url) in [
            ("sqlite:data", StoreUrl::Sqlite("data".into())),
            ("sqlite:/var/lib/seabed", StoreUrl::Sqlite("/var/lib/seabed".into())),
            ("memory:", StoreUrl::Memory),
            ("postgres://a@b/c", StoreUrl::Postgres("postgres://a@b/c".to_owned())),
            ("postgres+portable://b", StoreUrl::Postgres("postgres+portable://b".to_owned())),
        ] {
            assert_eq!(StoreUrl::parse(text).unwrap(), url);
        }
        for text in ["", "sqlite:", "data", "/var/lib/seabed", "mysql://root:secret@host/db", "memory"] {
            let error = StoreUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains("sqlite:DIR") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_password_is_shown_wherever_it_stands() {
        for (url, shown) in [
            ("postgres://anna:SECRET@db.example/tasks", "postgres://anna@db.example/tasks"),
            (
                "postgres://anna@db.example:5433/tasks?password=SECRET",
                "postgres://anna@db.example:5433/tasks",
            ),
            ("postgresql://one,two:5433/tasks?sslmode=require", "postgresql://one,two:5433/tasks"),
            (
                "postgres+portable://anna:SECRET@%2Frun%2Fpg/tasks",
                "postgres+portable://anna@%2Frun%2Fpg/tasks",
            ),
            ("postgres://anna:SECRET@[::1]/", "postgres://anna@[::1]"),
            ("postgres:///tasks?host=/run/pg&user=a&password=SECRET", "postgres:///tasks"),
            ("postgres://anna:SEC@RET@db/tasks", "postgres://..."),
            ("postgres://anna:SECRET?x@db/tasks", "postgres://..."),
            ("postgres://anna:SECRET/x@db/tasks", "postgres://..."),
            ("postgres://db/tasks?user=a@b&password=SECRET", "postgres://..."),
            ("postgres://anna:SECRET@db host/tasks", "postgres://..."),
        ] {
            let url = StoreUrl::Postgres(url.to_owned());
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("SEC"));
        }
    }
}
