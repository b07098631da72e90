//! What a context is made of.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use seabed_kv::{Durability, Store};
use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{Config, ParticipantId};
use seabed_sds::{ConfigPatch, KernelStore, SdsManager, UnknownChannels};
use serde::Deserialize;

use crate::error::{Failure, Kind};
use crate::limits::CHANNELS_BY_MESSAGES_MAX;

/// The configuration of `seabed_sds_open`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    profile: ProfileName,
    dialect: DialectName,
    durability: DurabilityName,
    /// How many channels received messages make.
    channels_by_messages_max: Option<usize>,
    /// What differs from the profile's configuration of a channel.
    channel: ConfigPatch,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProfileName {
    #[default]
    Seabed,
    Nim,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DialectName {
    #[default]
    Nim,
    Spec,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityName {
    #[default]
    Durable,
    Relaxed,
}

/// A manager, and the store that is closed after it.
pub(crate) struct Made {
    pub(crate) manager: SdsManager,
    pub(crate) store: Option<Store>,
}

/// What nim-sds' own C library makes: nobody, in memory, with every default.
pub(crate) fn nim() -> Result<Made, Failure> {
    let config = Config { repair: false, ..Config::nim() };
    let unknown = UnknownChannels::Create { channels_max: CHANNELS_BY_MESSAGES_MAX };
    let manager = SdsManager::builder("").config(config).unknown_channels(unknown).build()?;
    Ok(Made { manager, store: None })
}

/// What a program asks for.
pub(crate) fn open(participant: &[u8], path: Option<&[u8]>, options: Option<&[u8]>) -> Result<Made, Failure> {
    let options: Options = match options {
        Some(text) => serde_json::from_slice(text).map_err(|error| {
            Failure::new(Kind::InvalidArgument, format!("the configuration does not read: {error}"))
        })?,
        None => Options::default(),
    };
    let mut config = match (options.profile, options.dialect) {
        (ProfileName::Seabed, DialectName::Nim) => Config::seabed(Dialect::Nim),
        (ProfileName::Seabed, DialectName::Spec) => Config::seabed(Dialect::Spec),
        (ProfileName::Nim, DialectName::Nim) => Config::nim(),
        (ProfileName::Nim, DialectName::Spec) => {
            return Err(Failure::new(Kind::InvalidArgument, "profile nim speaks dialect nim"));
        }
    };
    options.channel.apply(&mut config);
    // Who has no name takes no part in repair.
    config.repair &= !participant.is_empty();
    let mut builder = SdsManager::builder(ParticipantId::from(participant)).config(config.clone());
    if let Some(channels_max) = options.channels_by_messages_max {
        builder = builder.unknown_channels(UnknownChannels::Create { channels_max });
    }
    // Before anything is made on the disk.
    config.check().map_err(seabed_sds::Error::from)?;
    let Some(path) = path else { return Ok(Made { manager: builder.build()?, store: None }) };
    let store = Store::sqlite(OsStr::from_bytes(path))?;
    let durability = match options.durability {
        DurabilityName::Durable => Durability::Durable,
        DurabilityName::Relaxed => Durability::Relaxed,
    };
    let kept = KernelStore::open(&store).wait().map_err(Failure::from);
    let manager = kept.and_then(|kept| {
        let kept = Arc::new(kept.with_durability(durability));
        Ok(builder.store(kept).build()?)
    });
    match manager {
        Ok(manager) => Ok(Made { manager, store: Some(store) }),
        Err(failure) => {
            close(&store);
            Err(failure)
        }
    }
}

/// Frees the path of a store that nobody gets.
pub(crate) fn close(store: &Store) {
    // The failure that came first is told; there is nothing in the store that somebody was told of.
    let _ = store.close().wait();
}

// Miri does not see into SQLite.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_be_used_is_let_go_of() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::sqlite(root.path()).unwrap();
        let later = [u32::MAX.to_be_bytes().as_slice(), b"a later version"].concat();
        let tenant = store.open("sds").wait().unwrap();
        tenant.put("sds.format", b"", later).wait().unwrap();
        store.close().wait().unwrap();
        for _ in 0..2 {
            let failure = open(b"alice", Some(root.path().as_os_str().as_bytes()), None).err().unwrap();
            assert_eq!(failure.kind, Kind::Unsupported, "{}", failure.text);
        }
    }
}
