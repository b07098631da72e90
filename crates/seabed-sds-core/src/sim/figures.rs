//! How quickly participants confirm, notice and agree, and what it costs.

use std::collections::BTreeMap;

use crate::{Event, MessageId, Reason};

/// What a run has shown. The three shares are the targets of the project: a message at least every `S`, receipt confirmed within S, nine of
/// ten misses noticed within 3 S, all logs equal within 6 S.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// A hash of everything that happened: equal for equal seeds.
    pub trace_hash: u64,
    /// How many operations there were.
    pub operations: u64,
    /// How long the run took, in virtual milliseconds.
    pub duration_ms: u64,
    /// How many messages were said whose fate was followed.
    pub messages: usize,
    /// Which share of them was acknowledged, at least possibly, within S; of one.
    pub confirmed_within_s: f64,
    /// Which share of lost copies was noticed by their receivers within 3 S.
    pub noticed_within_3s: f64,
    /// Which share of messages everybody had within 6 S.
    pub consistent_within_6s: f64,
    /// What was sent, by reason.
    pub traffic: BTreeMap<Reason, Traffic>,
    /// The most rows that a participant has stored.
    pub rows_max: usize,
}

/// What was sent for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// How many messages.
    pub messages: u64,
    /// How many bytes, once for each message however many received it.
    pub bytes: u64,
}

#[derive(Debug)]
struct Fate {
    said_ms: u64,
    by: usize,
    confirmed_ms: Option<u64>,
    /// When each participant had it.
    held_ms: Vec<Option<u64>>,
    /// For each participant that lost the first copy: when it noticed.
    lost: BTreeMap<usize, Option<u64>>,
}

#[derive(Debug)]
pub(super) struct Figures {
    interval_ms: u64,
    fates: BTreeMap<MessageId, Fate>,
    traffic: BTreeMap<Reason, Traffic>,
}

impl Figures {
    pub(super) fn new(interval_ms: u64) -> Self {
        Self { interval_ms, fates: BTreeMap::new(), traffic: BTreeMap::new() }
    }

    pub(super) fn said(&mut self, id: &MessageId, by: usize, participants: usize, time_ms: u64) {
        let held_ms = (0..participants).map(|who| (who == by).then_some(time_ms)).collect();
        let fate = Fate { said_ms: time_ms, by, confirmed_ms: None, held_ms, lost: BTreeMap::new() };
        self.fates.insert(id.clone(), fate);
    }

    pub(super) fn sent(&mut self, reason: Reason, bytes: usize) {
        let traffic = self.traffic.entry(reason).or_default();
        traffic.messages += 1;
        traffic.bytes += bytes as u64;
    }

    pub(super) fn lost(&mut self, by: usize, id: &MessageId) {
        if let Some(fate) = self.fates.get_mut(id) {
            fate.lost.insert(by, None);
        }
    }

    pub(super) fn note(&mut self, who: usize, event: &Event, time_ms: u64) {
        match event {
            Event::Acknowledged { message_id } | Event::PossiblyAcknowledged { message_id, .. } => {
                if let Some(fate) = self.fates.get_mut(message_id).filter(|fate| fate.by == who) {
                    fate.confirmed_ms.get_or_insert(time_ms);
                }
            }
            Event::Delivered { message, .. } => {
                if let Some(fate) = self.fates.get_mut(&message.message_id) {
                    if let Some(held_ms) = fate.held_ms.get_mut(who) {
                        held_ms.get_or_insert(time_ms);
                    }
                    fate.notice(who, time_ms);
                }
            }
            Event::MissingDependencies { entries, .. } => {
                for entry in entries {
                    if let Some(fate) = self.fates.get_mut(&entry.message_id) {
                        fate.notice(who, time_ms);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn report(
        self,
        trace_hash: u64,
        operations: u64,
        duration_ms: u64,
        rows_max: usize,
    ) -> Report {
        let within = |from_ms: u64, to_ms: Option<u64>, intervals: u64| {
            to_ms.is_some_and(|to_ms| to_ms - from_ms <= self.interval_ms * intervals)
        };
        let fates = self.fates.values();
        let lost =
            fates.clone().flat_map(|fate| fate.lost.values().map(|noticed_ms| (fate.said_ms, *noticed_ms)));
        Report {
            trace_hash,
            operations,
            duration_ms,
            messages: self.fates.len(),
            confirmed_within_s: share(fates.clone().map(|fate| within(fate.said_ms, fate.confirmed_ms, 1))),
            noticed_within_3s: share(lost.map(|(said_ms, noticed_ms)| within(said_ms, noticed_ms, 3))),
            consistent_within_6s: share(
                fates.map(|fate| fate.held_ms.iter().all(|held_ms| within(fate.said_ms, *held_ms, 6))),
            ),
            traffic: self.traffic,
            rows_max,
        }
    }
}

impl Fate {
    fn notice(&mut self, who: usize, time_ms: u64) {
        if let Some(noticed_ms) = self.lost.get_mut(&who) {
            noticed_ms.get_or_insert(time_ms);
        }
    }
}

/// Which share of the answers is yes; all of none.
fn share(answers: impl Iterator<Item = bool>) -> f64 {
    let (mut yes, mut all) = (0_u32, 0_u32);
    for answer in answers {
        yes += u32::from(answer);
        all += 1;
    }
    if all == 0 { 1.0 } else { f64::from(yes) / f64::from(all) }
}
