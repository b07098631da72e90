//! Verification: does everything that is stored read, and is each channel a state that it can go on from?

use seabed_kv::{KeyRange, Result, ScanSpec, Tenant};
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{Channel, ChannelId, Config, Key, ParticipantId, Record, Rows};
use serde::Serialize;

use crate::kernel::keys::{CHANNEL, FORMAT, FORMAT_VERSION, FormatRow, channel_prefix, read_key};
use crate::kernel::logos;
use crate::limits::FINDINGS_MAX;

/// What [`verify`] examined and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// How many channels were examined, those of logos-delivery included.
    pub channels: u64,
    /// How many messages their logs hold.
    pub messages: u64,
    /// What is wrong, a sentence each, at most [`FINDINGS_MAX`](crate::FINDINGS_MAX) and one more; empty when all is well.
    pub findings: Vec<String>,
}

/// Examines the tenant of this layer: that every row reads, and that the rows of each channel are a state that a participant can go on
/// from. Holds one channel at a time. Beside a manager that writes, a channel that changes meanwhile may be looked at in two states at
/// once and be reported: look again.
///
/// ```
/// # pollster::block_on(async {
/// use std::sync::Arc;
/// use seabed_sds::{KernelStore, SdsManager};
///
/// let store = seabed_kv::Store::memory();
/// let manager = SdsManager::builder("alice").store(Arc::new(KernelStore::open(&store).await?)).build()?;
/// manager.send("room", "m1", b"hello").await?;
/// let report = seabed_sds::verify(&store.tenant(seabed_sds::TENANT)?).await?;
/// assert_eq!((report.channels, report.messages, report.findings.len()), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the store's reads. Damage is no error but a finding.
pub async fn verify(tenant: &Tenant) -> Result<VerifyReport> {
    let mut verifier = Verifier::default();
    verifier.format(tenant).await?;
    verifier.channels(tenant).await?;
    match logos::channels(tenant).await {
        Ok(channels) => {
            for channel in channels {
                verifier.logos_channel(tenant, &channel).await?;
            }
        }
        Err(error) => verifier.find_damage(error)?,
    }
    Ok(verifier.report())
}

#[derive(Default)]
struct Verifier {
    report: VerifyReport,
    unspoken: u64,
}

impl Verifier {
    fn find(&mut self, finding: String) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        } else {
            self.unspoken += 1;
        }
    }

    /// Damage is a finding; everything else keeps from looking.
    fn find_damage(&mut self, error: seabed_kv::Error) -> Result<()> {
        if error.kind() != seabed_kv::ErrorKind::Corrupt {
            return Err(error);
        }
        self.find(error.to_string());
        Ok(())
    }

    fn report(mut self) -> VerifyReport {
        if self.unspoken > 0 {
            self.report.findings.push(format!("and {} more", self.unspoken));
        }
        self.report
    }

    async fn format(&mut self, tenant: &Tenant) -> Result<()> {
        let row = tenant.get(FORMAT, b"").await?;
        match row.as_deref().map(FormatRow::from_bytes) {
            // Written with the first row of a channel.
            None => {
                let first = ScanSpec::new(CHANNEL, KeyRange::all()).keys_only().limit(1);
                if !tenant.scan_page(first).await?.rows.is_empty() {
                    self.find(format!("the row of {FORMAT} is missing"));
                }
            }
            Some(None) => self.find(format!("the row of {FORMAT} does not read")),
            Some(Some(row)) if !row.is_known() => self.find(format!(
                "{FORMAT} says version {}, written by {:?}; this program knows 1 to {FORMAT_VERSION}",
                row.version, row.writer
            )),
            Some(Some(_)) => {}
        }
        Ok(())
    }

    async fn channels(&mut self, tenant: &Tenant) -> Result<()> {
        let mut rows = tenant.scan(ScanSpec::new(CHANNEL, KeyRange::all()));
        let mut channel: Option<(ChannelId, Rows, bool)> = None;
        while let Some(row) = rows.next().await {
            let row = row?;
            let Some((id, key)) = read_key(row.key.as_bytes()) else {
                self.find(format!("{CHANNEL}: the key {:?} names no channel", row.key));
                continue;
            };
            if channel.as_ref().is_none_or(|(current, ..)| *current != id) {
                self.channel(channel.take());
                channel = Some((id.clone(), Rows::default(), true));
            }
            let Some((_, rows, whole)) = &mut channel else { continue };
            if let Err(error) = rows.add(key, &row.payload) {
                *whole = false;
                let key = Key::from_bytes(key)
                    .map_or_else(|_| key.escape_ascii().to_string(), |key| format!("{key:?}"));
                self.find(format!("channel {id}: the row {key} does not read: {error}"));
            }
        }
        self.channel(channel);
        Ok(())
    }

    fn channel(&mut self, rows: Option<(ChannelId, Rows, bool)>) {
        let Some((id, rows, whole)) = rows else { return };
        self.report.channels += 1;
        // What rows are missing cannot be told when some do not read.
        let loaded = rows.into_records().and_then(|records| {
            self.report.messages +=
                records.iter().filter(|record| matches!(record, Record::Log(_))).count() as u64;
            if whole { loads(&id, records) } else { Ok(()) }
        });
        if whole && let Err(error) = loaded {
            self.find(format!("channel {id}: {error}"));
        }
    }

    async fn logos_channel(&mut self, tenant: &Tenant, channel: &ChannelId) -> Result<()> {
        self.report.channels += 1;
        if tenant.count(CHANNEL, &KeyRange::prefix(channel_prefix(channel))).await? > 0 {
            self.find(format!("channel {channel} is here and in the form of logos-delivery"));
        }
        match logos::read(tenant, channel).await {
            Ok(data) => self.report.messages += data.map_or(0, |data| data.history.len()) as u64,
            Err(error) => self.find_damage(error)?,
        }
        Ok(())
    }
}

/// Whether these rows are a state. Which participant and configuration they are of is not stored; the rules that rows must keep are those
/// of all.
fn loads(id: &ChannelId, records: Vec<Record>) -> std::result::Result<(), seabed_sds_core::LoadError> {
    let stored_whole = records.iter().any(|record| match record {
        Record::Log(entry) => entry.message.bloom_filter.is_some(),
        _ => false,
    });
    let mut config = if stored_whole { Config::nim() } else { Config::seabed(Dialect::Nim) };
    config.repair = false;
    Channel::load(id.clone(), ParticipantId::default(), config, records, 0).map(drop)
}
