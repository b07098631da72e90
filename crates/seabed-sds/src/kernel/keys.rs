//! Rows: categories, keys, and the row that names the version (`docs/formats/sds.md`).

use std::fmt::Display;

use seabed_kv::{Error, ErrorKind, Key, KeyReader, Result, Tenant};
use seabed_sds_core::{ChannelId, Meta, Record};

/// The tenant of this layer, and of logos-delivery's persistency.
pub const TENANT: &str = "sds";

/// Which layout the tenant has, and who made it: one row, with an empty key.
pub(crate) const FORMAT: &str = "sds.format";
/// Channel id and record key to the record.
pub(crate) const CHANNEL: &str = "sds.channel";
/// logos-delivery: channel id to the snapshot of the channel.
pub(crate) const META: &str = "sds.meta";
/// logos-delivery: channel id and message id to a message of the log.
pub(crate) const LOG: &str = "sds.log";

/// The layout that this crate writes. It reads all from 1 on, and a channel is rewritten as it is loaded.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// What the rows of a channel begin with: its id as ordered bytes, so that no channel's rows lie among another's.
pub(crate) fn channel_prefix(channel: &ChannelId) -> Vec<u8> {
    // Ordered components have no bound that could be exceeded.
    Key::builder().blob(channel.as_bytes()).build().unwrap_or_default().into_bytes()
}

/// Where a channel's clock is, which every channel has: in this layout, and in those before it.
pub(crate) fn clock_keys() -> Vec<Vec<u8>> {
    let clock = Record::Meta(Meta::default());
    let mut keys = vec![clock.key().to_bytes()];
    keys.extend(clock.old_keys());
    keys
}

/// The channel of a row, and the key of its record.
pub(crate) fn read_key(key: &[u8]) -> Option<(ChannelId, &[u8])> {
    let mut reader = KeyReader::new(key);
    let channel = reader.blob()?;
    Some((ChannelId::from(channel.as_slice()), reader.rest()))
}

/// The row of `sds.format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormatRow {
    pub(crate) version: u32,
    pub(crate) writer: String,
}

impl FormatRow {
    pub(crate) fn ours() -> Self {
        Self { version: FORMAT_VERSION, writer: writer() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.version.to_be_bytes().as_slice(), self.writer.as_bytes()].concat()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, writer) = bytes.split_at_checked(4)?;
        let writer = String::from_utf8(writer.to_vec()).ok()?;
        Some(Self { version: u32::from_be_bytes(version.try_into().ok()?), writer })
    }

    /// Whether that is a layout which this program reads.
    pub(crate) fn is_known(&self) -> bool {
        (1..=FORMAT_VERSION).contains(&self.version)
    }

    /// Whether this program knows what that row names. Tells whether it is what this program writes.
    pub(crate) fn check(bytes: &[u8], tenant: &Tenant) -> Result<bool> {
        match Self::from_bytes(bytes) {
            Some(row) if row.is_known() => Ok(row.version == FORMAT_VERSION),
            Some(row) if row.version > FORMAT_VERSION => {
                let message = format!(
                    "SDS channels in format {}, written by {:?}; this is {}, which reads formats up to {FORMAT_VERSION}: use that \
                     version or a later one",
                    row.version,
                    row.writer,
                    writer()
                );
                Err(Error::new(ErrorKind::Unsupported, message).in_tenant(tenant.id()))
            }
            _ => Err(corrupt(tenant, &format!("the row of {FORMAT} does not read"))),
        }
    }
}

/// This program, as it signs what it writes.
fn writer() -> String {
    format!("seabed {}", env!("CARGO_PKG_VERSION"))
}

/// A row of a channel that does not read as a record.
pub(crate) fn damaged(tenant: &Tenant, channel: &ChannelId, key: &[u8], error: &dyn Display) -> Error {
    corrupt(tenant, &format!("the row {} of channel {channel} is damaged: {error}", key.escape_ascii()))
}

/// A row whose key names no channel.
pub(crate) fn strange_key(tenant: &Tenant, key: &[u8]) -> Error {
    corrupt(tenant, &format!("{CHANNEL}: the key {} names no channel", key.escape_ascii()))
}

pub(crate) fn corrupt(tenant: &Tenant, what: &str) -> Error {
    let message = format!("{what}; run `seabed verify` and restore from a backup");
    Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_channel_lies_among_the_rows_of_another() {
        let ids: [&[u8]; 6] = [b"", b"a", b"a\0", b"a\0\x01", b"ab", b"\xff"];
        for id in ids {
            let prefix = channel_prefix(&id.into());
            let key = [prefix.as_slice(), b"\x01rest"].concat();
            assert_eq!(read_key(&key), Some((id.into(), b"\x01rest".as_slice())));
            for other in ids.into_iter().filter(|other| *other != id) {
                assert!(
                    !key.starts_with(&channel_prefix(&other.into())),
                    "{other:?} holds the rows of {id:?}"
                );
            }
        }
    }
}
