//! What all connections of a store may cache, shared out as they are opened: much to the first, little to the thousandth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most that one connection caches: more gained nothing in `bench/run.sh kv`. It is SQLite's default, which need not be set.
const SHARE_BYTES_MAX: u64 = 2_000 * 1024;
/// What every connection may cache, also when nothing is left: the pages of one batch.
const SHARE_BYTES_MIN: u64 = 128 * 1024;

/// The budget of one store.
#[derive(Debug, Clone)]
pub(super) struct CacheBudget {
    bytes_max: u64,
    shared_bytes: Arc<AtomicU64>,
}

/// What one connection may cache. Dropped with it, it is there for others.
#[derive(Debug)]
pub(super) struct CacheShare {
    pub(super) bytes: u64,
    budget: CacheBudget,
}

impl CacheBudget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, shared_bytes: Arc::default() }
    }

    /// An eighth of what is left.
    pub(super) fn share(&self) -> CacheShare {
        let left = self.bytes_max.saturating_sub(self.shared_bytes.load(Ordering::Relaxed));
        let bytes = (left / 8).clamp(SHARE_BYTES_MIN, SHARE_BYTES_MAX);
        self.shared_bytes.fetch_add(bytes, Ordering::Relaxed);
        CacheShare { bytes, budget: self.clone() }
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.budget.shared_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let budget = CacheBudget::new(64 * 1024 * 1024);
        let first = budget.share();
        assert_eq!(first.bytes, SHARE_BYTES_MAX);
        let many: Vec<_> = (0..512).map(|_| budget.share()).collect();
        assert_eq!(many.last().map(|share| share.bytes), Some(SHARE_BYTES_MIN));
        let shared: u64 = many.iter().map(|share| share.bytes).sum();
        assert!(shared <= budget.bytes_max + 512 * SHARE_BYTES_MIN, "{shared}");
        drop((first, many));
        assert_eq!(budget.share().bytes, SHARE_BYTES_MAX);
    }
}
