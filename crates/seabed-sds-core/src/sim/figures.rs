//! How quickly participants confirm, notice and agree, and what it costs.

use std::collections::BTreeMap;

use crate::{Event, MessageId, Reason};

/// What a run has shown. The three shares are the targets of the project: a message at least every `S`, receipt confirmed within S, nine of
/// ten misses noticed within 3 S, all logs equal within 6 S. A message counts for one when its time had passed at the end of the run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// A hash of everything that happened: equal for equal seeds.
    pub trace_hash: u64,
    /// How many operations there were.
    pub operations: u64,
    /// How long the run took, in virtual milliseconds.
    pub duration_ms: u64,
    /// After how many of them, counted from the last message that all must have, all logs were equal.
    pub settled_ms: u64,
    /// How many messages were said whose fate was followed.
    pub messages: usize,
    /// Which share of them was acknowledged, at least possibly, within S; of one.
    pub confirmed_within_s: f64,
    /// Which share of lost copies was noticed by their receivers within 3 S.
    pub noticed_within_3s: f64,
    /// Which share of messages everybody had within 6 S.
    pub consistent_within_6s: f64,
    /// How long it took until the sender knew that somebody has a message, at least possibly.
    pub confirmed: Times,
    /// How long it took until a lost copy was noticed by its receiver.
    pub noticed: Times,
    /// How long it took until everybody had a message.
    pub consistent: Times,
    /// How many first copies were lost.
    pub lost_copies: usize,
    /// What was sent, by reason.
    pub traffic: BTreeMap<Reason, Traffic>,
    /// The most rows that a participant has stored.
    pub rows_max: usize,
}

/// How long something took, in virtual milliseconds, where it came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Half took no longer.
    pub p50_ms: u64,
    /// Nine of ten took no longer.
    pub p90_ms: u64,
    /// Ninety-nine of a hundred took no longer.
    pub p99_ms: u64,
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

    /// What there is to say at the end, apart from what the world knows.
    pub(super) fn report(self, end_ms: u64) -> Report {
        let (mut confirmed, mut noticed, mut consistent) = (Vec::new(), Vec::new(), Vec::new());
        for fate in self.fates.values() {
            let since = |at_ms: Option<u64>| at_ms.map(|at_ms| at_ms - fate.said_ms);
            let age_ms = end_ms - fate.said_ms;
            confirmed.push((age_ms, since(fate.confirmed_ms)));
            noticed.extend(fate.lost.values().map(|noticed_ms| (age_ms, since(*noticed_ms))));
            let everybody_ms =
                fate.held_ms.iter().copied().try_fold(0, |latest, held| Some(latest.max(held?)));
            consistent.push((age_ms, since(everybody_ms)));
        }
        Report {
            messages: self.fates.len(),
            confirmed_within_s: share(&confirmed, self.interval_ms),
            noticed_within_3s: share(&noticed, self.interval_ms.saturating_mul(3)),
            consistent_within_6s: share(&consistent, self.interval_ms.saturating_mul(6)),
            lost_copies: noticed.len(),
            confirmed: Times::of(confirmed),
            noticed: Times::of(noticed),
            consistent: Times::of(consistent),
            traffic: self.traffic,
            ..Report::default()
        }
    }
}

impl Times {
    fn of(waits: Vec<(u64, Option<u64>)>) -> Self {
        let mut times_ms: Vec<u64> = waits.into_iter().filter_map(|(_, took_ms)| took_ms).collect();
        times_ms.sort_unstable();
        let at = |percent: usize| {
            let place = (times_ms.len() * percent).div_ceil(100).saturating_sub(1);
            times_ms.get(place).copied().unwrap_or(0)
        };
        Self { p50_ms: at(50), p90_ms: at(90), p99_ms: at(99) }
    }
}

impl Fate {
    fn notice(&mut self, who: usize, time_ms: u64) {
        if let Some(noticed_ms) = self.lost.get_mut(&who) {
            noticed_ms.get_or_insert(time_ms);
        }
    }
}

/// Which share of what had so much time took no longer; all of none.
fn share(waits: &[(u64, Option<u64>)], within_ms: u64) -> f64 {
    let (mut yes, mut all) = (0_u32, 0_u32);
    for (_, took_ms) in waits.iter().filter(|(age_ms, _)| *age_ms >= within_ms) {
        yes += u32::from(took_ms.is_some_and(|took_ms| took_ms <= within_ms));
        all += 1;
    }
    if all == 0 { 1.0 } else { f64::from(yes) / f64::from(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_had_its_time_counts_for_a_share() {
        let waits = [(100, Some(10)), (100, Some(60)), (100, None), (40, None), (20, Some(10))];
        assert!((share(&waits, 50) - 1.0 / 3.0).abs() < 1e-9);
        assert!((share(&waits, 200) - 1.0).abs() < 1e-9, "nothing had the time");
    }

    #[test]
    fn times_are_those_that_so_many_took() {
        let times = Times::of((1..=200).rev().map(|ms| (0, Some(ms))).chain([(0, None)]).collect());
        assert_eq!(times, Times { p50_ms: 100, p90_ms: 180, p99_ms: 198 });
        assert_eq!(Times::of(vec![(0, Some(7))]), Times { p50_ms: 7, p90_ms: 7, p99_ms: 7 });
        assert_eq!(Times::of(Vec::new()), Times::default());
    }
}
