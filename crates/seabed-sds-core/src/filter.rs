//! The filter that this participant sends: which ids it covers, and when it is built anew.
//!
//! Others look for their own unacknowledged messages in it, so it need not cover more than what was received of late: the ids of
//! the ring from a number on, that number and the size being part of the stored state, so that the same filter comes back after a
//! restart. Ids are only added until it is full, or far too large; then it is built again from those of the horizon.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::MessageId;
use crate::bloom::{Filter, Hashed, RollingFilter};
use crate::config::Config;
use crate::history::Seen;
use crate::record::Meta;
use crate::ring::Ring;
use crate::wire::Dialect;

/// The fewest ids that a filter is made for.
const IDS_MIN: usize = 16;

/// The filter that is sent.
#[derive(Debug)]
pub(crate) enum OwnFilter {
    /// Profile `seabed`: part of the ring.
    Ring(RingFilter),
    /// Profile `nim`.
    Rolling(RollingFilter),
}

/// An id that the filter covers.
#[derive(Debug, Clone, Copy)]
struct Member {
    number: u64,
    seen_ms: u64,
    hashed: Hashed,
}

/// A filter over the ids of a ring from a number on.
#[derive(Debug)]
pub(crate) struct RingFilter {
    dialect: Dialect,
    filter: Filter,
    members: VecDeque<Member>,
    /// It has bits of ids that are no members.
    has_more: bool,
    /// Its bytes, as long as nothing is added.
    encoded: Option<Arc<[u8]>>,
}

impl OwnFilter {
    pub(crate) fn new(config: &Config) -> Self {
        if config.rules().filter_of_ring {
            Self::Ring(RingFilter {
                dialect: config.dialect,
                filter: empty(config, IDS_MIN),
                members: VecDeque::new(),
                has_more: false,
                encoded: None,
            })
        } else {
            Self::Rolling(RollingFilter::new(config.bloom_capacity, config.bloom_error_rate))
        }
    }

    /// The bytes that go into a message.
    pub(crate) fn encode(&mut self, config: &Config, meta: &Meta) -> Arc<[u8]> {
        match self {
            Self::Ring(ring) => {
                if ring.has_more {
                    // As large as before, which is how it would come back after a restart.
                    ring.fill(config, usize::try_from(meta.filter_ids).unwrap_or(usize::MAX));
                }
                ring.encoded.get_or_insert_with(|| ring.filter.to_shared_bytes()).clone()
            }
            Self::Rolling(rolling) => rolling.filter().to_bytes().into(),
        }
    }
}

/// In dialect N a filter has the size that it needs; in S all have the one that readers expect.
fn empty(config: &Config, ids: usize) -> Filter {
    match config.dialect {
        Dialect::Nim => Filter::sized_for(ids, config.bloom_error_rate),
        Dialect::Spec => Filter::new(Dialect::Spec, config.bloom_capacity, config.bloom_error_rate),
    }
}

impl RingFilter {
    /// Whether an id belongs into it. Own ones are in no other's buffer; dialect S has them all the same, because its filters are as
    /// large anyway and its other implementation does so.
    pub(crate) fn covers(&self, seen: &Seen) -> bool {
        !seen.own || self.dialect == Dialect::Spec
    }

    /// Comes back as it was when `meta` was stored.
    pub(crate) fn restore(&mut self, config: &Config, meta: &Meta, ring: &Ring<Seen>) {
        self.members.clear();
        for (number, id, seen) in ring.from(meta.filter_from) {
            if self.covers(seen) {
                let hashed = Hashed::new(self.dialect, id.as_bytes());
                self.members.push_back(Member { number, seen_ms: seen.at_ms, hashed });
            }
        }
        self.fill(config, usize::try_from(meta.filter_ids).unwrap_or(usize::MAX));
    }

    fn fill(&mut self, config: &Config, ids: usize) {
        self.filter = empty(config, ids);
        self.filter.extend(self.members.iter().map(|member| member.hashed));
        self.has_more = false;
        self.encoded = None;
    }

    /// Adds the newest id of the ring.
    pub(crate) fn add(&mut self, number: u64, seen_ms: u64, id: &MessageId) {
        let hashed = Hashed::new(self.dialect, id.as_bytes());
        self.filter.insert_hashed(hashed);
        self.members.push_back(Member { number, seen_ms, hashed });
        self.encoded = None;
    }

    /// A number is free again because its id has a newer one: its bits stay.
    pub(crate) fn renumbered(&mut self, number: u64) {
        if let Ok(index) = self.members.binary_search_by_key(&number, |member| member.number) {
            self.members.remove(index);
        }
    }

    /// An id was forgotten: its bits must go before the filter is sent. Not at once: whoever makes us forget many would make us build it as often.
    pub(crate) fn remove(&mut self, number: u64) {
        if let Ok(index) = self.members.binary_search_by_key(&number, |member| member.number) {
            self.members.remove(index);
            self.has_more = true;
        }
    }

    /// The ring has forgotten its oldest id. When the filter covered it, it forgets an eighth of its own, so that this is rare.
    pub(crate) fn forgotten(&mut self, config: &Config, meta: &mut Meta, number: u64) {
        if self.members.front().is_some_and(|member| member.number <= number) {
            let count = self.members.len() / 8 + 1;
            self.members.drain(..count.min(self.members.len()));
            self.rebuild(config, meta, number.saturating_add(1));
        }
    }

    /// Whether it is full, or four times larger than what it must cover.
    pub(crate) fn is_unfit(&self, config: &Config, meta: &Meta, now_ms: u64) -> bool {
        let ids = usize::try_from(meta.filter_ids).unwrap_or(usize::MAX).max(IDS_MIN);
        match self.dialect {
            Dialect::Spec => self.members.len() > config.bloom_capacity,
            Dialect::Nim => {
                let recent = self.members.len() - self.stale(config, now_ms);
                self.members.len() > ids || (ids > IDS_MIN && recent * 4 < ids)
            }
        }
    }

    /// Drops what need not be covered and takes the size that the rest needs. `next_number` is the one after the ring's newest.
    pub(crate) fn renew(&mut self, config: &Config, meta: &mut Meta, now_ms: u64, next_number: u64) {
        let dropped = match self.dialect {
            Dialect::Nim => self.stale(config, now_ms),
            // As nim's filter rolls: the newest 80 % of what it is for stay.
            Dialect::Spec => self.members.len().saturating_sub(config.bloom_capacity / 5 * 4),
        };
        self.members.drain(..dropped);
        self.rebuild(config, meta, next_number);
    }

    fn rebuild(&mut self, config: &Config, meta: &mut Meta, next_number: u64) {
        meta.filter_from = self.members.front().map_or(next_number, |member| member.number);
        // An eighth more, so that the next ids do not fill it at once.
        self.fill(config, self.members.len() + self.members.len() / 8 + 1);
        meta.filter_ids = match self.dialect {
            Dialect::Nim => self.filter.capacity(),
            Dialect::Spec => 0,
        };
    }

    /// How many of its oldest ids are beyond the horizon.
    fn stale(&self, config: &Config, now_ms: u64) -> usize {
        let horizon = |member: &&Member| member.seen_ms.saturating_add(config.filter_horizon_ms) < now_ms;
        self.members.iter().take_while(horizon).count()
    }
}
