//! From the rows of an earlier layout to those of this one: as a channel is loaded, before anything else happens to it.

use std::sync::atomic::Ordering;

use seabed_sds_core::{ChannelId, Record};

use super::keys::{CHANNEL, channel_prefix};
use super::{ChannelRows, KernelStore};
use crate::contract::{StoreError, StoreResult};

/// After how many bytes a batch ends.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// After how many records; each is a row that comes and at most two that go.
const BATCH_RECORDS: usize = 8_192;

impl KernelStore {
    /// Moves each record to its new row, in batches. A record moves whole, and rows of both layouts together are a channel: a process that ends between two
    /// batches goes on with what is left when the channel is loaded again. The rows themselves say how far it came.
    pub(super) async fn upgrade(&self, channel: &ChannelId, rows: &ChannelRows) -> StoreResult<()> {
        let prefix = channel_prefix(channel);
        // The row that holds off another manager: where it was, until it has moved itself.
        let mut clock = rows.clock.clone();
        let mut left = rows.records.iter().peekable();
        while left.peek().is_some() {
            let mut batch = self.new_batch();
            if let Some((key, payload)) = &clock {
                batch.check_equals(CHANNEL, key.as_slice(), payload.clone());
            }
            for count in 0..BATCH_RECORDS {
                let Some(record) = left.peek() else { break };
                let row = (record.key().to_bytes_after(&prefix), record.to_bytes());
                // A large one comes alone.
                if count > 0 && batch.bytes() + row.0.len() + row.1.len() > BATCH_BYTES {
                    break;
                }
                for old in record.old_keys() {
                    batch.delete(CHANNEL, [prefix.clone(), old].concat());
                }
                batch.put(CHANNEL, row.0.as_slice(), row.1.clone());
                if matches!(record, Record::Meta(_)) {
                    clock = Some(row);
                }
                left.next();
            }
            if !self.tenant.apply(batch, self.durability).await?.is_applied() {
                return Err(StoreError::not_applied(format!(
                    "somebody else has written the channel {channel} while it was upgraded; one manager at a time works on a channel"
                )));
            }
            self.formatted.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}
