//! The channels of a store, for operators: from the rows alone, whoever's they are.

use std::collections::BTreeMap;

use seabed_kv::{KeyRange, Result, ScanSpec, Tenant};
use seabed_sds_core::{ChannelId, Record, Row};
use serde::Serialize;
use serde_json::Value;

use crate::inspect::decode_row;
use crate::kernel::keys::{CHANNEL, LOG, META, channel_prefix, damaged, read_key, strange_key};
use crate::kernel::logos;

/// What the rows of a channel say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChannelInfo {
    /// Its id.
    pub channel: String,
    /// Whether it is in the form of logos-delivery.
    pub logos: bool,
    /// The logical clock, in the channel's unit.
    pub lamport: u64,
    /// Messages in the log.
    pub log: u64,
    /// Own messages that nobody has acknowledged.
    pub unacknowledged: u64,
    /// Messages that wait for others.
    pub waiting: u64,
    /// Messages that are missing.
    pub missing: u64,
    /// Answers that are going to be sent.
    pub repairs_in: u64,
    /// Bytes of its rows, keys included.
    pub bytes: u64,
}

/// Every channel in the tenant of this layer, in ascending order, those of logos-delivery included. Reads every row once.
///
/// # Errors
/// Those of the store's reads; `Corrupt` for a row that does not read.
pub async fn channels(tenant: &Tenant) -> Result<Vec<ChannelInfo>> {
    let mut channels: BTreeMap<ChannelId, ChannelInfo> = BTreeMap::new();
    let mut rows = tenant.scan(ScanSpec::new(CHANNEL, KeyRange::all()));
    while let Some(row) = rows.next().await {
        let row = row?;
        let bytes = (row.key.as_bytes().len() + row.payload.len()) as u64;
        let (id, key) =
            read_key(row.key.as_bytes()).ok_or_else(|| strange_key(tenant, row.key.as_bytes()))?;
        let read = Row::from_bytes(key, &row.payload).map_err(|error| damaged(tenant, &id, key, &error))?;
        let info = channels.entry(id).or_insert_with_key(named);
        info.bytes += bytes;
        match read {
            Row::Record(Record::Meta(meta)) => info.lamport = meta.lamport,
            Row::Record(Record::Log(_)) => info.log += 1,
            Row::Record(Record::Outgoing { .. }) | Row::OldState { .. } => info.unacknowledged += 1,
            Row::Record(Record::Incoming(_)) => info.waiting += 1,
            Row::Record(Record::Missing(_)) => info.missing += 1,
            Row::Record(Record::Answer(_)) => info.repairs_in += 1,
            _ => {}
        }
    }
    for id in logos::channels(tenant).await? {
        let Some(data) = logos::read(tenant, &id).await? else { continue };
        let info = channels.entry(id).or_insert_with_key(named);
        *info = ChannelInfo {
            logos: true,
            lamport: data.meta.lamport,
            log: data.history.len() as u64,
            unacknowledged: data.meta.outgoing.len() as u64,
            waiting: data.meta.incoming.len() as u64,
            missing: data.meta.outgoing_repair.len() as u64,
            repairs_in: data.meta.incoming_repair.len() as u64,
            bytes: data.encode().len() as u64,
            channel: std::mem::take(&mut info.channel),
        };
    }
    Ok(channels.into_values().collect())
}

fn named(id: &ChannelId) -> ChannelInfo {
    ChannelInfo { channel: id.to_string(), ..ChannelInfo::default() }
}

/// The rows of one channel as [`decode_row`] tells them; empty when it is not there.
///
/// # Errors
/// Those of the store's reads. A row that does not read is told as damaged.
pub async fn channel_rows(tenant: &Tenant, channel: &ChannelId) -> Result<Vec<Value>> {
    let logos_prefix = logos::meta_key(channel)?.into_bytes();
    let mut told = Vec::new();
    for (category, prefix) in
        [(CHANNEL, &channel_prefix(channel)), (META, &logos_prefix), (LOG, &logos_prefix)]
    {
        let mut rows = tenant.scan(ScanSpec::new(category, KeyRange::prefix(prefix)));
        while let Some(row) = rows.next().await {
            let row = row?;
            told.extend(decode_row(category.as_bytes(), row.key.as_bytes(), &row.payload));
        }
    }
    Ok(told)
}
