//! How much of a tenant's share one transaction takes: all of it, until that is refused or takes too long.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{event::TenantId, store::LockTimeout};

/// A transaction that takes so many records counts as one of usual size.
const USUAL_RECORDS: usize = 1024;

/// What is left of a size after a time-out. Each try may take as long as the longest statement, so a few of them
/// have to reach a single record.
const SHRINK_DIVISOR: usize = 16;

/// How much the next transaction of a share takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TransactionSize {
    records_max: usize,
    /// How long it waits for locks.
    pub(super) wait: LockTimeout,
    /// Whether it is small because more took too long.
    has_timed_out: bool,
}

impl TransactionSize {
    fn usual() -> Self {
        Self { records_max: usize::MAX, wait: LockTimeout::Normal, has_timed_out: false }
    }

    /// What the next transaction takes of what is left.
    pub(super) fn next(self, left: Range<usize>) -> Range<usize> {
        left.start..left.end.min(left.start.saturating_add(self.records_max))
    }

    /// That much went well: the next transaction takes twice as much.
    pub(super) fn grow(&mut self) {
        self.records_max = self.records_max.saturating_mul(2);
        self.wait = LockTimeout::Normal;
        self.has_timed_out &= self.records_max < USUAL_RECORDS;
    }

    /// Something among so many is refused.
    pub(super) fn halve(&mut self, records: usize) {
        self.records_max = (records / 2).max(1);
    }

    /// So many took too long.
    pub(super) fn shrink(&mut self, records: usize) {
        *self = Self {
            records_max: (records / SHRINK_DIVISOR).max(1),
            wait: LockTimeout::Short,
            has_timed_out: true,
        };
    }
}

/// Sizes of tenants whose last shares took too long.
#[derive(Debug, Default)]
pub(super) struct TransactionSizes(Mutex<HashMap<TenantId, usize>>);

impl TransactionSizes {
    /// The size with which a share begins: the one that did last time, where more took too long.
    pub(super) fn begin(&self, tenant: Option<&TenantId>) -> TransactionSize {
        let Some(records_max) = tenant.and_then(|tenant| self.lock().get(tenant).copied()) else {
            return TransactionSize::usual();
        };
        let wait = if records_max == 1 { LockTimeout::Short } else { LockTimeout::Normal };
        TransactionSize { records_max, wait, has_timed_out: true }
    }

    /// The size with which a share ended.
    pub(super) fn end(&self, tenant: Option<&TenantId>, size: TransactionSize) {
        let Some(tenant) = tenant else { return };
        if size.has_timed_out {
            self.lock().insert(tenant.clone(), size.records_max);
        } else {
            self.lock().remove(tenant);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("northlib").unwrap()
    }

    #[test]
    fn few_timeouts_lead_to_a_single_record() {
        let mut size = TransactionSize::usual();
        let mut tries = Vec::new();
        while tries.last() != Some(&1) {
            let records = size.next(0..2000).len();
            tries.push(records);
            size.shrink(records);
        }
        assert_eq!(tries, [2000, 125, 7, 1]);
        assert_eq!(size.wait, LockTimeout::Short);
    }

    #[test]
    fn batch_size_recovers_to_the_usual_size() {
        let sizes = TransactionSizes::default();
        let mut size = sizes.begin(Some(&tenant()));
        size.shrink(1);
        sizes.end(Some(&tenant()), size);
        let mut size = sizes.begin(Some(&tenant()));
        assert_eq!((size.next(5..90), size.wait), (5..6, LockTimeout::Short));
        let mut grown = 0;
        while size.has_timed_out {
            size.grow();
            grown += 1;
        }
        assert_eq!((grown, size.wait), (10, LockTimeout::Normal));
        sizes.end(Some(&tenant()), size);
        assert_eq!(sizes.begin(Some(&tenant())), TransactionSize::usual());
    }

    #[test]
    fn refused_batch_does_not_shrink_the_next_one() {
        let sizes = TransactionSizes::default();
        let mut size = sizes.begin(Some(&tenant()));
        size.halve(2000);
        assert_eq!(size.next(0..2000), 0..1000);
        sizes.end(Some(&tenant()), size);
        assert_eq!(sizes.begin(Some(&tenant())), TransactionSize::usual());
    }
}
