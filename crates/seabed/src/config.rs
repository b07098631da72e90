//! Every setting of the server, with its flag, its environment variable and its default.
//!
//! The first group is the original taskchampion-sync-server's, name by name, so that its compose files and units go on working. Two
//! defaults differ, because `seabed serve` must work without arguments: the address and the directory.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use uuid::Uuid;

use crate::output::Exit;
use crate::store_url::{StoreUrl, is_postgres};

/// Where a store is unless told otherwise.
const DATA_DIR_DEFAULT: &str = "./seabed-data";

/// Which store to work on.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The store: sqlite:DIR, or the URL of a PostgreSQL database [default: sqlite:./seabed-data]
    #[arg(long, env = "SEABED_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<Given>,
    /// The directory that holds the store: the same as --store sqlite:DIR
    #[arg(short, long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A URL as it was given. It is read when it is used: what the parser of arguments refuses it shows.
#[derive(Clone)]
pub(crate) struct Given(String);

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Given {
    /// The URL of a PostgreSQL database, when it is one.
    pub(crate) fn as_postgres(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| is_postgres(text))
    }

    /// The path that it is otherwise.
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The store that it names.
    ///
    /// # Errors
    /// Exit code 2 when it is no URL of one.
    pub(crate) fn url(&self) -> anyhow::Result<StoreUrl> {
        StoreUrl::parse(&self.0)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given")
    }
}

impl StoreArgs {
    /// The store that they name.
    ///
    /// # Errors
    /// Exit code 2 when they name two, or what is no URL.
    pub(crate) fn url(&self) -> anyhow::Result<StoreUrl> {
        match (&self.store, &self.data_dir) {
            (Some(_), Some(_)) => Err(Exit::usage(
                "two stores are named, one by --store or SEABED_STORE and one by --data-dir or DATA_DIR; leave one of them out",
            )),
            (Some(given), None) => given.url(),
            (None, Some(directory)) => Ok(StoreUrl::Sqlite(directory.clone())),
            (None, None) => Ok(StoreUrl::Sqlite(PathBuf::from(DATA_DIR_DEFAULT))),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed serve
  seabed serve --listen 0.0.0.0:8080 \\
    --allow-client-id 67e55044-10b1-426f-9247-bb680e5fe0c8
  LISTEN=127.0.0.1:9000,[::1]:9000 DATA_DIR=/var/lib/seabed seabed serve
  SEABED_STORE=postgres://seabed@db.example/seabed seabed serve
  RUST_LOG=info seabed serve     one line a request on stderr (default: warn)

Flags and variables of the original taskchampion-sync-server mean the same here. \
Ends on SIGTERM or SIGINT: requests under way get 5 seconds, then the store is closed.

Exit codes: 0 after an orderly end; 1 could not start or end; 2 wrong usage, or a directory that holds something else.")]
#[command(mut_arg("store", |arg| {
    arg.help("The store: sqlite:DIR, memory:, or the URL of a PostgreSQL database [default: sqlite:./seabed-data]")
}))]
pub(crate) struct ServeArgs {
    /// Address to listen on, host:port; repeat it or separate several with commas
    #[arg(
        short,
        long,
        env = "LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = address,
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: Vec<String>,

    /// Let in only this client id; repeat it or separate several with commas [default: all]
    #[arg(
        short = 'C',
        long = "allow-client-id",
        env = "CLIENT_ID",
        hide_env_values = true,
        value_name = "UUID",
        value_delimiter = ',',
        value_parser = client_id
    )]
    pub(crate) allow_client_ids: Option<Vec<Uuid>>,

    /// Do not create clients at their first push; the variable is false for that, and true to create them
    #[arg(long = "no-create-clients", env = "CREATE_CLIENTS", action = ArgAction::SetFalse, default_value = "true")]
    pub(crate) create_clients: bool,

    /// After how many versions a client is asked for a snapshot
    #[arg(long, env = "SNAPSHOT_VERSIONS", value_name = "N", default_value_t = 100)]
    pub(crate) snapshot_versions: u32,

    /// After how many days a client is asked for a snapshot
    #[arg(long, env = "SNAPSHOT_DAYS", value_name = "N", default_value_t = 14)]
    pub(crate) snapshot_days: u32,

    /// Drop versions that are older than this many days once a snapshot covers them [default: keep all]
    #[arg(
        long,
        env = "SEABED_RETENTION_DAYS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) retention_days: Option<u32>,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// How many connections are served at once; more wait to be accepted
    #[arg(
        long,
        env = "SEABED_CONNECTIONS_MAX",
        value_name = "N",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = "Limits"
    )]
    pub(crate) connections_max: u32,

    /// The largest body of a request
    #[arg(
        long,
        env = "SEABED_BODY_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = 104_857_600,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Limits"
    )]
    pub(crate) body_bytes_max: u64,

    /// How long a connection may be silent, between requests and within one
    #[arg(
        long,
        env = "SEABED_SILENCE_MS_MAX",
        value_name = "MS",
        default_value_t = 60_000,
        value_parser = clap::value_parser!(u64).range(10..=3_600_000),
        help_heading = "Limits"
    )]
    pub(crate) silence_ms_max: u64,

    /// The longest message of an Automerge client; a whole document is one
    #[arg(
        long,
        env = "SEABED_AUTOMERGE_MESSAGE_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = 67_108_864,
        value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824),
        help_heading = "Limits"
    )]
    pub(crate) automerge_message_bytes_max: u32,

    /// How many messages an Automerge client may send in a second; it is not read from until it may send again
    #[arg(
        long,
        env = "SEABED_AUTOMERGE_MESSAGES_PER_SECOND_MAX",
        value_name = "N",
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Limits"
    )]
    pub(crate) automerge_messages_per_second_max: u32,

    /// How many documents an Automerge client may have open
    #[arg(
        long,
        env = "SEABED_AUTOMERGE_DOCUMENTS_MAX",
        value_name = "N",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Limits"
    )]
    pub(crate) automerge_documents_max: u32,

    /// About how much memory documents may take; beyond it those go that were not used for the longest time
    #[arg(
        long,
        env = "SEABED_AUTOMERGE_MEMORY_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = 536_870_912,
        help_heading = "Limits"
    )]
    pub(crate) automerge_memory_bytes_max: u64,
}

impl ServeArgs {
    /// What the TaskChampion layer is told.
    pub(crate) fn taskchampion(&self) -> seabed_taskchampion::Config {
        seabed_taskchampion::Config {
            snapshot_versions: self.snapshot_versions,
            snapshot_days: self.snapshot_days,
            create_clients: self.create_clients,
            allowed_clients: self.allow_client_ids.as_ref().map(|ids| ids.iter().copied().collect()),
            body_bytes_max: self.body_bytes_max,
            retention_days: self.retention_days,
            silence_ms_max: self.silence_ms_max,
        }
    }

    /// What the Automerge layer is told.
    pub(crate) fn automerge(&self) -> seabed_automerge::LiveOptions {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        seabed_automerge::LiveOptions {
            message_bytes_max: size(self.automerge_message_bytes_max),
            documents_per_connection_max: size(self.automerge_documents_max),
            messages_per_second_max: self.automerge_messages_per_second_max,
            resident_bytes_max: self.automerge_memory_bytes_max,
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("an address is host:port, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080".to_owned()),
    }
}

fn client_id(text: &str) -> Result<Uuid, String> {
    if text.is_empty() {
        return Err("an empty list would let nobody in; leave CLIENT_ID unset to let everybody in".to_owned());
    }
    text.parse().map_err(|error| format!("a client id is a UUID: {error}"))
}
