//! A backend of one's own for contract (B): two files a channel. What a backend owes is in `seabed_sds::contract`.
//! `cargo run -p seabed-sds --example own_backend`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seabed_sds::contract::{SnapshotPersistence, StoreError, StoreResult, async_trait};
use seabed_sds::core::snapshot::{ChannelData, ChannelMeta, HistoryUpdate};
use seabed_sds::core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds::core::{ChannelId, Message};
use seabed_sds::{SdsManager, What};

/// A directory a channel, in it `meta` and `history`. Every write makes a new file and gives it the name of the old one, so that a crash leaves the
/// one or the other: enough for a chat, too much writing for a server.
struct Files {
    root: PathBuf,
    /// For the demonstration: the disk refuses writes.
    full: AtomicBool,
}

impl Files {
    fn directory(&self, channel: &ChannelId) -> PathBuf {
        // An id is any bytes, and no path.
        self.root.join(format!("channel-{}", hex::encode(channel.as_bytes())))
    }

    fn replace(&self, directory: &Path, name: &str, bytes: &[u8]) -> StoreResult<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::new("the disk is full"));
        }
        fs::create_dir_all(directory).map_err(StoreError::from_source)?;
        let new = directory.join(format!("{name}.new"));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, directory.join(name))?;
            // The name, too, has to survive.
            File::open(directory)?.sync_all()
        });
        written.map_err(StoreError::from_source)
    }

    /// The history, oldest first; a file that is not there is an empty one.
    fn history(directory: &Path) -> StoreResult<Vec<Message>> {
        let bytes = read(&directory.join("history"))?;
        let mut rest = bytes.as_slice();
        let mut history = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(StoreError::from_source)?;
            let Some((message, after)) = after.split_at_checked(length) else {
                return Err(StoreError::new("a history that is cut off"));
            };
            let decoded = wire::decode(message, ReadDialect::Strict(Dialect::Nim), &WireLimits::OFF);
            history.push(decoded.map_err(StoreError::from_source)?.message);
            rest = after;
        }
        if rest.is_empty() { Ok(history) } else { Err(StoreError::new("a history that is cut off")) }
    }
}

fn read(file: &Path) -> StoreResult<Vec<u8>> {
    match fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(StoreError::from_source),
    }
}

#[async_trait]
impl SnapshotPersistence for Files {
    async fn save_channel_meta(&self, channel: &ChannelId, meta: &ChannelMeta) -> StoreResult<()> {
        self.replace(&self.directory(channel), "meta", &meta.encode())
    }

    async fn update_history(&self, channel: &ChannelId, update: &HistoryUpdate) -> StoreResult<()> {
        let directory = self.directory(channel);
        let mut history = Self::history(&directory)?;
        // A call that failed is made again: what is there already is replaced, what is gone already stays gone.
        for message in &update.append {
            match history.iter_mut().find(|there| there.message_id == message.message_id) {
                Some(there) => there.clone_from(message),
                None => history.push(message.clone()),
            }
        }
        history.retain(|message| !update.evict.contains(&message.message_id));
        let mut bytes = Vec::new();
        for message in &history {
            let message = wire::encode(message, Dialect::Nim);
            let length = u32::try_from(message.len()).map_err(StoreError::from_source)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&message);
        }
        self.replace(&directory, "history", &bytes)
    }

    async fn load_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
        let directory = self.directory(channel);
        let meta = read(&directory.join("meta"))?;
        if meta.is_empty() {
            return Ok(ChannelData::default());
        }
        let meta = ChannelMeta::decode(&meta).map_err(StoreError::from_source)?;
        Ok(ChannelData { meta, history: Self::history(&directory)? })
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        match fs::remove_dir_all(self.directory(channel)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(StoreError::from_source),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let files = Arc::new(Files { root: directory.path().to_owned(), full: AtomicBool::new(false) });
    let alice = SdsManager::builder("alice").snapshots(files.clone()).build()?;
    let bob = SdsManager::builder("bob").build()?;
    let mut events = alice.events()?;

    let first = alice.send("room", "a1", b"in two files").wait()?;
    assert!(first.is_committed());
    bob.receive(first.release().wire).wait()?;
    alice.receive(bob.send("room", "b1", b"I see").wait()?.release().wire).wait()?;

    // With this contract memory wins: what could not be stored leaves all the same, is told, and is stored by the next operation that can.
    files.full.store(true, Ordering::SeqCst);
    assert!(!alice.send("room", "a2", b"on a full disk").wait()?.is_committed());
    files.full.store(false, Ordering::SeqCst);
    assert!(alice.send("room", "a3", b"there is room again").wait()?.is_committed());
    let mut failures = 0;
    while let Some(happened) = events.try_next() {
        failures += u32::from(matches!(happened.what, What::PersistenceFailed(_)));
    }
    assert!(failures > 0);

    // Another process, later.
    let again = SdsManager::builder("alice").snapshots(files.clone()).build()?;
    let log = again.read("room", |room| {
        room.log().map(|entry| entry.message.message_id.to_string()).collect::<Vec<_>>()
    });
    let mut log = log.wait()?.unwrap_or_default();
    log.sort();
    assert_eq!(log, ["a1", "a2", "a3", "b1"]);
    // Bob has acknowledged the first one.
    assert_eq!(again.status("room").wait()?.map(|status| status.unacknowledged), Some(2));

    again.remove_channel("room").wait()?;
    assert_eq!(fs::read_dir(directory.path())?.count(), 0);
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
