//! What it is worth to keep a tenant's files open: how often it was used, and a use counts the less the longer it is ago.
//!
//! Tenants are used unevenly, and most uses of those that are used seldom stand alone. Where the last use decides, each of them puts one
//! away that is used often: of uses by Zipf's law over 10,000 tenants with 256 open half would meet one that is not. Here it is 39
//! of a hundred, where who knew each one's share beforehand would come to 37. The history is kept while a tenant's files are closed, too.

use std::sync::atomic::{AtomicU64, Ordering};

/// After so many uses, times how many tenants may be open, a use counts half. Shorter and less is known of who is used often, longer and
/// what is no longer used stays open for longer.
const HALF_LIFE_USES: f64 = 16.0;

/// Made of every use that was noted. It is the binary logarithm of a sum that has a term for each: two to the power of its time in
/// half-lives. So all of them would be made smaller by the same as time goes by, and none has to be.
#[derive(Debug)]
pub(super) struct Worth(AtomicU64);

impl Worth {
    /// That of a tenant that was never used.
    pub(super) fn none() -> Self {
        Self(AtomicU64::new(f64::NEG_INFINITY.to_bits()))
    }

    /// Notes a use, the `number`-th of all tenants' where `open_max` may be open.
    #[allow(clippy::cast_precision_loss, reason = "as exact as it has to be for longer than anybody counts")]
    pub(super) fn note(&self, number: u64, open_max: usize) {
        let time = number as f64 / (HALF_LIFE_USES * open_max as f64);
        let before = self.get();
        let (larger, smaller) = (before.max(time), before.min(time));
        // Of two threads that note one at once, one is lost.
        self.0.store(
            (larger + (smaller - larger).exp2().ln_1p() / std::f64::consts::LN_2).to_bits(),
            Ordering::Relaxed,
        );
    }

    /// To be compared by.
    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "small numbers; a failure is the test's"
)]
mod tests {
    use super::*;

    /// The share of tenants that may be open is that of 256 of 10,000.
    const TENANTS: usize = 1_600;
    const OPEN_MAX: usize = 41;

    /// How many of a hundred uses meet a tenant that is not open, when `order` says who of those that are goes first. From
    /// `turning` on the shares of all tenants are others.
    fn misses_per_cent(uses: u64, turning: u64, order: impl Fn(&Worth, u64) -> f64) -> u64 {
        let mut sum = 0.0;
        let shares: Vec<f64> = (1..=TENANTS)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        let tenants: Vec<(Worth, AtomicU64)> =
            (0..TENANTS).map(|_| (Worth::none(), AtomicU64::new(0))).collect();
        let (mut open, mut misses, mut random) = (Vec::new(), 0, 1_u64);
        for number in 1..=uses {
            // Knuth's generator of 64 bits: its upper ones.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            let rank = shares.partition_point(|edge| *edge <= at);
            let used = if number < turning { rank } else { TENANTS - 1 - rank };
            tenants[used].0.note(number, OPEN_MAX);
            tenants[used].1.store(number, Ordering::Relaxed);
            if open.contains(&used) {
                continue;
            }
            misses += u64::from(number > uses / 2);
            if open.len() == OPEN_MAX {
                let value =
                    |tenant: usize| order(&tenants[tenant].0, tenants[tenant].1.load(Ordering::Relaxed));
                let first = (0..OPEN_MAX).min_by(|a, b| value(open[*a]).total_cmp(&value(open[*b]))).unwrap();
                open.swap_remove(first);
            }
            open.push(used);
        }
        misses * 200 / uses
    }

    #[test]
    fn fewer_uses_meet_a_closed_tenant_than_by_the_last_use_and_hardly_more_than_must() {
        let by_last_use = misses_per_cent(60_000, u64::MAX, |_, last| last as f64);
        let by_worth = misses_per_cent(60_000, u64::MAX, |worth, _| worth.get());
        // The 41 that are used most have 54 of a hundred uses.
        assert!((59..=62).contains(&by_last_use), "{by_last_use} of a hundred");
        assert!((46..=49).contains(&by_worth), "{by_worth} of a hundred");
    }

    #[test]
    fn who_was_used_often_and_no_longer_is_goes_after_some_half_lives() {
        // In the second half others are used; all its misses count.
        let turned = misses_per_cent(60_000, 30_001, |worth, _| worth.get());
        let steady = misses_per_cent(60_000, u64::MAX, |worth, _| worth.get());
        assert!(turned <= steady + 4, "{turned} of a hundred, {steady} otherwise");
    }
}
