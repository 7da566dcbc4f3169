//! The number of records per transaction of a tenant batch: all of them, until a transaction is
//! refused or times out.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{event::TenantId, store::LockTimeout};

/// A transaction with this many records counts as normal again.
const USUAL_RECORDS: usize = 1024;

/// Divisor of the size after a timeout. Each attempt may last as long as the longest statement, so a
/// few attempts must reach a single record.
const SHRINK_DIVISOR: usize = 16;

/// The size of the next transaction of a tenant batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TransactionSize {
    records_max: usize,
    /// How long the transaction waits for locks.
    pub(super) wait: LockTimeout,
    /// `true` if the size was reduced after a timeout.
    has_timed_out: bool,
}

impl TransactionSize {
    fn usual() -> Self {
        Self { records_max: usize::MAX, wait: LockTimeout::Normal, has_timed_out: false }
    }

    /// Returns the range of the next transaction within the remaining records.
    pub(super) fn next(self, left: Range<usize>) -> Range<usize> {
        left.start..left.end.min(left.start.saturating_add(self.records_max))
    }

    /// Doubles the size after a success.
    pub(super) fn grow(&mut self) {
        self.records_max = self.records_max.saturating_mul(2);
        self.wait = LockTimeout::Normal;
        self.has_timed_out &= self.records_max < USUAL_RECORDS;
    }

    /// Halves the size after the database refused some of `records` records.
    pub(super) fn halve(&mut self, records: usize) {
        self.records_max = (records / 2).max(1);
    }

    /// Shrinks the size after a transaction with `records` records timed out.
    pub(super) fn shrink(&mut self, records: usize) {
        *self = Self {
            records_max: (records / SHRINK_DIVISOR).max(1),
            wait: LockTimeout::Short,
            has_timed_out: true,
        };
    }
}

/// The sizes of tenants with a timeout in their last batch.
#[derive(Debug, Default)]
pub(super) struct TransactionSizes(Mutex<HashMap<TenantId, usize>>);

impl TransactionSizes {
    /// Returns the first size of a tenant batch: the size to try next, if an earlier one timed out.
    pub(super) fn begin(&self, tenant: Option<&TenantId>) -> TransactionSize {
        let Some(records_max) = tenant.and_then(|tenant| self.lock().get(tenant).copied()) else {
            return TransactionSize::usual();
        };
        let wait = if records_max == 1 { LockTimeout::Short } else { LockTimeout::Normal };
        TransactionSize { records_max, wait, has_timed_out: true }
    }

    /// Records the last size of a tenant batch for the next batch.
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
