//! nim's filter that forgets: it rolls over to the newest ids when it has taken too many (sds.md section 5.3).

use std::collections::VecDeque;

use super::{Filter, Hashed, or_default};
use crate::MessageId;
use crate::wire::Dialect;

/// A filter with the ids in it, to the byte as nim-sds keeps it: an id that is added again counts again; beyond 120 % of the capacity the newest
/// 80 % are kept, in a filter that from then on is sized for the 120 %.
///
/// ```
/// use seabed_sds_core::bloom::RollingFilter;
///
/// let mut filter = RollingFilter::new(10, 0.001);
/// for number in 0..13 {
///     filter.add(&format!("m{number}").as_str().into());
/// }
/// assert_eq!(filter.ids().len(), 8);
/// assert!(filter.contains(b"m12") && !filter.contains(b"m4"));
/// ```
#[derive(Debug, Clone)]
pub struct RollingFilter {
    filter: Filter,
    ids: VecDeque<(MessageId, Hashed)>,
    ids_kept: usize,
    ids_max: usize,
    error_rate: f64,
}

impl RollingFilter {
    /// An empty one for so many ids and that rate of false answers. No ids, or a rate that is not between 0 and 1, is the
    /// default's.
    pub fn new(capacity: usize, error_rate: f64) -> Self {
        let (capacity, error_rate) = or_default(capacity, error_rate);
        Self {
            filter: Filter::new(Dialect::Nim, capacity, error_rate),
            ids: VecDeque::new(),
            ids_kept: part(capacity, 0.8),
            ids_max: part(capacity, 1.2),
            error_rate,
        }
    }

    /// Adds an id, and rolls over when it is one too many.
    pub fn add(&mut self, id: &MessageId) {
        let hashed = Hashed::new(Dialect::Nim, id.as_bytes());
        self.filter.insert_hashed(hashed);
        self.ids.push_back((id.clone(), hashed));
        if self.ids.len() > self.ids_max {
            self.roll();
        }
    }

    fn roll(&mut self) {
        self.ids.drain(..self.ids.len().saturating_sub(self.ids_kept));
        self.filter = Filter::new(Dialect::Nim, self.ids_max, self.error_rate);
        self.filter.extend(self.ids.iter().map(|(_, hashed)| *hashed));
    }

    /// Whether the id was added and not forgotten, or looks so.
    pub fn contains(&self, id: &[u8]) -> bool {
        self.filter.contains(id)
    }

    /// The filter as it is sent.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The ids that it remembers, oldest first, each as often as it was added.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &MessageId> {
        self.ids.iter().map(|(id, _)| id)
    }
}

/// A part of a capacity, cut to a whole number as nim does.
fn part(capacity: usize, factor: f64) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "positive, and as exact as nim's"
    )]
    let part = (capacity as f64 * factor) as usize;
    part
}
