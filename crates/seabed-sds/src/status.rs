//! What a channel holds and what has happened in it, as numbers.

use seabed_sds_core::{Broadcast, Channel, Event, Output, Reason};

/// What a channel holds now, and what has happened in it since this manager has had it in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelStatus {
    /// The logical clock, in the channel's unit.
    pub lamport: u64,
    /// Messages in the log.
    pub log: usize,
    /// Own messages that nobody has acknowledged.
    pub unacknowledged: usize,
    /// Messages that wait for others.
    pub waiting: usize,
    /// Messages that others rest on and that are not here.
    pub missing: usize,
    /// Missing messages that will be asked for.
    pub repairs_out: usize,
    /// Messages that somebody asked for and that will be sent.
    pub repairs_in: usize,
    /// When something is due next, in milliseconds of Unix time.
    pub next_due_ms: Option<u64>,
    /// What has happened.
    pub counters: Counters,
}

/// What has happened in a channel since this manager has had it in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were delivered.
    pub delivered: u64,
    /// Dependencies that were given up as lost.
    pub lost: u64,
    /// Own messages that were acknowledged.
    pub acknowledged: u64,
    /// Own messages that were given up.
    pub unconfirmed: u64,
    /// Own messages that were sent again.
    pub resent: u64,
    /// Messages that were sent because somebody asked for them.
    pub repaired: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Whether memory is ahead of the store.
    pub failing: bool,
}

impl Counters {
    pub(crate) fn count(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Event(Event::Delivered { .. }) => self.delivered += 1,
                Output::Event(Event::DependenciesLost { entries }) => self.lost += entries.len() as u64,
                Output::Event(Event::Acknowledged { .. }) => self.acknowledged += 1,
                Output::Event(Event::DeliveryUnconfirmed { .. }) => self.unconfirmed += 1,
                Output::Broadcast(Broadcast { reason: Reason::Resend, .. }) => self.resent += 1,
                Output::Broadcast(Broadcast { reason: Reason::Repair, .. }) => self.repaired += 1,
                _ => {}
            }
        }
    }
}

impl ChannelStatus {
    pub(crate) fn of(channel: &Channel, counters: Counters) -> Self {
        Self {
            lamport: channel.lamport(),
            log: channel.log().count(),
            unacknowledged: channel.outgoing().count(),
            waiting: channel.incoming().count(),
            missing: channel.missing().count(),
            repairs_out: channel.missing().filter(|entry| entry.request_due_ms.is_some()).count(),
            repairs_in: channel.answers().count(),
            next_due_ms: channel.next_due(),
            counters,
        }
    }
}
