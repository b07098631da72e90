//! What the live server counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Counter,
    pub(super) denied: Counter,
    pub(super) messages: Counter,
    pub(super) malformed: Counter,
    pub(super) refused: Counter,
    pub(super) panics: Counter,
    pub(super) reloads: Counter,
    pub(super) failures: Counter,
    pub(super) unreadable: Counter,
    pub(super) commits: Counter,
    pub(super) changes: Counter,
    pub(super) loads: Counter,
    pub(super) unloads: Counter,
    pub(super) compactions: Counter,
    pub(super) dropped: Counter,
    pub(super) stalled: Counter,
}

/// What [`LiveServer::metrics`](super::LiveServer::metrics) tells: how it is now, and what has happened since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LiveMetrics {
    /// Connections that have joined, now.
    pub sessions: u64,
    /// Documents that connections have open, now.
    pub documents_open: u64,
    /// Those of them that are in memory, now.
    pub documents_resident: u64,
    /// About how many bytes of memory those take, now.
    pub resident_bytes: u64,
    /// How many bytes wait to be written to connections, now.
    pub outgoing_bytes: u64,
    /// How many bytes have arrived of messages that are not whole, now.
    pub incoming_bytes: u64,
    /// Connections that have joined.
    pub connections_total: u64,
    /// Connections that the policy has denied.
    pub denied_total: u64,
    /// Sync messages that documents have received.
    pub messages_total: u64,
    /// Frames that were none; each has ended its connection.
    pub malformed_total: u64,
    /// Sync messages that automerge refused; each has ended its connection.
    pub refused_total: u64,
    /// Panics of automerge; each has ended the session that caused it.
    pub panics_total: u64,
    /// Documents that were loaded again because what was in memory could not be trusted.
    pub reloads_total: u64,
    /// Failures of the store; each has ended the sessions whose changes were not stored.
    pub failures_total: u64,
    /// Requests for documents that cannot be read.
    pub unreadable_total: u64,
    /// Batches that were stored.
    pub commits_total: u64,
    /// Changes in them.
    pub changes_total: u64,
    /// Documents that were loaded.
    pub loads_total: u64,
    /// Documents whose memory was given back.
    pub unloads_total: u64,
    /// Documents that were compacted.
    pub compactions_total: u64,
    /// Ephemeral messages that a slow connection did not get.
    pub ephemeral_dropped_total: u64,
    /// Connections that did not take what was sent to them, or not in time when others waited for it, or fell silent.
    pub stalled_total: u64,
    /// Connections that were ended because too much had arrived of messages that are not whole, and they had sent the most.
    pub crowded_out_total: u64,
}

impl Counters {
    pub(super) fn read(&self) -> LiveMetrics {
        LiveMetrics {
            connections_total: self.connections.get(),
            denied_total: self.denied.get(),
            messages_total: self.messages.get(),
            malformed_total: self.malformed.get(),
            refused_total: self.refused.get(),
            panics_total: self.panics.get(),
            reloads_total: self.reloads.get(),
            failures_total: self.failures.get(),
            unreadable_total: self.unreadable.get(),
            commits_total: self.commits.get(),
            changes_total: self.changes.get(),
            loads_total: self.loads.get(),
            unloads_total: self.unloads.get(),
            compactions_total: self.compactions.get(),
            ephemeral_dropped_total: self.dropped.get(),
            stalled_total: self.stalled.get(),
            ..LiveMetrics::default()
        }
    }
}
