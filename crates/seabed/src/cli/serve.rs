//! `seabed serve`: opens the store, says so, and serves until it is told to end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seabed_automerge::{DocStore, LiveServer};
use seabed_taskchampion::{ORIGINAL_FILE, TaskChampion};
use uuid::Uuid;

use crate::cli::{clients, environment, version};
use crate::config::ServeArgs;
use crate::node::{Node, sentence};
use crate::output::{self, counted};
use crate::own;
use crate::server::automerge::Guard;
use crate::server::{self, Server, socket, trace};
use crate::store_url::StoreUrl;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    trace::init();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async move {
        let server = start(&args).await?;
        // Whoever started it may have stopped listening to what it says; its clients have not.
        if let Err(error) = announce(&server, &args).await {
            tracing::warn!("the addresses could not be printed: {error:#}");
        }
        server.run().await
    });
    // The store is closed: a verification that still reads a large file must not keep the process.
    runtime.shutdown_background();
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// As many open files as the system lets this user have: each connection is one, and each tenant in use is several.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the number of open files stays limited to {:?}", limit.current);
    }
}

async fn start(args: &ServeArgs) -> anyhow::Result<Server> {
    environment::refuse_original_database()?;
    let url = args.store.url()?;
    let store = crate::open::store(&url)?;
    let original = match url.absolute().root() {
        Some(root) => refuse_original(&store, root).await?,
        None => None,
    };
    crate::open::refuse_foreign(&url)?;
    // Before the store is touched, so that a taken port leaves no empty directory behind.
    let mut listeners = Vec::new();
    for address in &args.listen {
        server::listen(address, &mut listeners).await?;
    }
    let place = || format!("cannot open the store in {}", url.absolute());
    store.own().with_context(place)?;
    // Only now: the directory may just have been made.
    let url = url.absolute();
    own::refuse_copying(&store, &url).await?;
    own::refuse_missing(&store).await.with_context(place)?;
    let taskchampion = TaskChampion::open(&store, args.taskchampion()).await.with_context(place)?;
    if let (Some(original), Some(root)) = (original, url.root()) {
        refuse_newer_original(&taskchampion, root, &original).await?;
    }
    let documents = DocStore::open(&store).await.with_context(place)?;
    for spread in own::LAYERS {
        own::remember_layer(&store, spread).await.with_context(place)?;
    }
    let node = Node::new(store, url);
    let tokens = node.tokens().await.with_context(place)?.clone();
    let live = LiveServer::open(documents, args.automerge(), Guard::new(tokens)).await.with_context(place)?;
    let silence_max = Duration::from_millis(args.silence_ms_max);
    Server::new(node, listeners, taskchampion, live, args.connections_max, silence_max).await
}

/// Replacing the original's binary must not fork anybody's history: a store beside the original's database would answer "no such
/// client" to devices that have years of tasks there. Answers what that import left out knowingly; `None` when there is no such database.
async fn refuse_original(store: &seabed_kv::Store, root: &Path) -> anyhow::Result<Option<Original>> {
    let file = root.join(ORIGINAL_FILE);
    if !file.exists() {
        return Ok(None);
    }
    // Where a link leads, as the import has it.
    let file = crate::open::absolute(&file);
    if let Some(left_out) = own::imported(store, Some(root), &file).await? {
        return Ok(Some(Original { file, left_out }));
    }
    bail!(
        "{file} holds the data of the original taskchampion-sync-server, and this store has not imported it, or not to its end. \
         It was not touched. Run `seabed import taskchampion {file} --data-dir {root}` first, or start with an empty --data-dir",
        file = file.display(),
        root = root.display(),
    )
}

/// The original's database beside the store, imported.
struct Original {
    file: PathBuf,
    left_out: BTreeSet<String>,
}

/// When the original went on after it was imported, its devices have versions that are not here: what they push here would fork
/// from them.
async fn refuse_newer_original(
    taskchampion: &TaskChampion,
    root: &Path,
    original: &Original,
) -> anyhow::Result<()> {
    let file = original.file.display();
    let changed = taskchampion.changed_since_import(&original.file).await.map_err(|error| {
        anyhow!(
            "cannot tell whether {file} has changed since it was imported: {}. Make it readable; or, when nobody needs what it \
             holds, move it away, with {file}-wal and {file}-shm",
            sentence(error)
        )
    })?;
    let changed = changed.iter().filter(|client| !original.left_out.contains(*client)).count();
    if changed == 0 {
        return Ok(());
    }
    bail!(
        "{file} holds clients whose latest versions came after it was imported, or that were deleted here since: {changed} of them. \
         Stop the original server and run `seabed import taskchampion {file} --data-dir {root}` again; or, when nobody needs \
         them, move the file away, with {file}-wal and {file}-shm",
        root = root.display(),
    )
}

/// What is open, where it answers, and what to paste into Taskwarrior. The last line says that it serves.
async fn announce(server: &Server, args: &ServeArgs) -> anyhow::Result<()> {
    let node = &server.node;
    let addresses = server.addresses()?;
    let tenants = node.store.list().await?.len();
    let clients = clients::count(node).await;
    output::line(format!("Seabed {}", version()))?;
    let lasting = if node.url == StoreUrl::Memory { " (what it holds ends with this process)" } else { "" };
    output::line(format!("store   {}{lasting}", node.url))?;
    let tenants = counted(tenants as u64, "tenant");
    output::line(match &clients {
        Ok(clients) => format!("holds   {tenants}, {}", counted(*clients, "client")),
        // What cannot be counted may well be served.
        Err(failure) => format!("holds   {tenants}; {}", failure.message),
    })?;
    if let Some(root) = node.url.root() {
        output::line(format!("socket  {}", root.join(socket::NAME).display()))?;
    }
    output::line("")?;
    paste(&addresses, args, clients.is_ok_and(|clients| clients == 0))?;
    automerge(&addresses)?;
    output::line("")?;
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    output::line(format!("ready: serving on {}", urls.join(" ")))
}

/// Whether others than this machine reach one of the addresses.
fn is_reached(addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|address| !address.ip().to_canonical().is_loopback())
}

/// An address to paste: one that stands for all of this machine's is none.
fn shown(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
}

/// What an application of automerge-repo is given.
fn automerge(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let Some(first) = addresses.first() else { return Ok(()) };
    output::line("")?;
    output::line("# automerge-repo, in the network of a Repo:")?;
    output::line(format!("  new WebSocketClientAdapter(\"ws://{}/automerge\")", shown(*first)))?;
    if is_reached(addresses) {
        output::line("# From another machine it needs a token, ...?token=TOKEN: seabed token create NAME")?;
    }
    Ok(())
}

/// Everything may be pasted into a shell as it stands: what is for people is a comment. A fresh pair of credentials is printed for the
/// first client only: what a server prints is often kept in a log.
fn paste(addresses: &[SocketAddr], args: &ServeArgs, first_run: bool) -> anyhow::Result<()> {
    let Some(first) = addresses.first() else { return Ok(()) };
    output::line(if is_reached(addresses) {
        "# Taskwarrior, the same three lines on each of your devices:"
    } else {
        "# Taskwarrior, on this machine:"
    })?;
    output::line(format!("  task config sync.server.url http://{}", shown(*first)))?;
    let fresh_id = first_run && args.allow_client_ids.is_none() && args.create_clients;
    let id = match &args.allow_client_ids {
        // An id is a credential: those that are allowed are known to who allowed them, and stay out of the logs.
        Some(_) => "ONE-OF-THE-ALLOWED-IDS".to_owned(),
        None if !args.create_clients => "AN-EXISTING-ID  # see: seabed clients list".to_owned(),
        None if !first_run => "THE-ID-OF-YOUR-OTHER-DEVICES  # somebody new: uuidgen".to_owned(),
        None => Uuid::new_v4().to_string(),
    };
    output::line(format!("  task config sync.server.client_id {id}"))?;
    if first_run {
        output::line(format!("  task config sync.encryption_secret {}", Uuid::new_v4().simple()))?;
        output::line(if fresh_id {
            "# The id and the secret were made just now and are kept nowhere: once pasted, keep them."
        } else {
            "# The secret was made just now and is kept nowhere: once pasted, keep it."
        })?;
    } else {
        output::line(
            "  task config sync.encryption_secret THE-SECRET-OF-YOUR-OTHER-DEVICES  # the server never needs it",
        )?;
    }
    if !is_reached(addresses) {
        output::line(
            "# Only this machine reaches that address. For your other devices: docs/operate/serve.md, \"On the network\".",
        )?;
    } else if first.ip().is_unspecified() {
        output::line("# On another device, put this machine's name in place of 127.0.0.1.")?;
    }
    if args.allow_client_ids.is_none() && args.create_clients && is_reached(addresses) {
        output::line(
            "# Whoever reaches this address may store data here; --allow-client-id lets in only your own ids.",
        )?;
    }
    Ok(())
}
