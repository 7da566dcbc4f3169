//! How much of a tenant's share one transaction takes: all of it, until that is refused or takes too long.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{event::TenantId, store::LockWait};

/// A transaction that takes so many records counts as one of usual size.
const USUAL: usize = 1024;

/// What is left of a size after a time-out. Each try may take as long as the longest statement, so a few of them
/// have to reach a single record.
const SHRINK: usize = 16;

/// How much the next transaction of a share takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShareSize {
    most: usize,
    /// How long it waits for locks.
    pub(super) wait: LockWait,
    /// Whether it is small because more took too long.
    slow: bool,
}

impl ShareSize {
    fn usual() -> Self {
        Self { most: usize::MAX, wait: LockWait::Usual, slow: false }
    }

    /// What the next transaction takes of what is left.
    pub(super) fn next(self, left: Range<usize>) -> Range<usize> {
        left.start..left.end.min(left.start.saturating_add(self.most))
    }

    /// That much went well: the next transaction takes twice as much.
    pub(super) fn grow(&mut self) {
        self.most = self.most.saturating_mul(2);
        self.wait = LockWait::Usual;
        self.slow &= self.most < USUAL;
    }

    /// Something among so many is refused.
    pub(super) fn halve(&mut self, many: usize) {
        self.most = (many / 2).max(1);
    }

    /// So many took too long.
    pub(super) fn shrink(&mut self, many: usize) {
        *self = Self { most: (many / SHRINK).max(1), wait: LockWait::Brief, slow: true };
    }
}

/// Sizes of tenants whose last shares took too long.
#[derive(Debug, Default)]
pub(super) struct ShareSizes(Mutex<HashMap<TenantId, usize>>);

impl ShareSizes {
    /// The size with which a share begins: the one that did last time, where more took too long.
    pub(super) fn begin(&self, tenant: Option<&TenantId>) -> ShareSize {
        let Some(most) = tenant.and_then(|tenant| self.lock().get(tenant).copied()) else {
            return ShareSize::usual();
        };
        let wait = if most == 1 { LockWait::Brief } else { LockWait::Usual };
        ShareSize { most, wait, slow: true }
    }

    /// The size with which a share ended.
    pub(super) fn end(&self, tenant: Option<&TenantId>, size: ShareSize) {
        let Some(tenant) = tenant else { return };
        if size.slow {
            self.lock().insert(tenant.clone(), size.most);
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
    fn few_time_outs_lead_to_a_single_record() {
        let mut size = ShareSize::usual();
        let mut tries = Vec::new();
        while tries.last() != Some(&1) {
            let many = size.next(0..2000).len();
            tries.push(many);
            size.shrink(many);
        }
        assert_eq!(tries, [2000, 125, 7, 1]);
        assert_eq!(size.wait, LockWait::Brief);
    }

    #[test]
    fn what_goes_well_grows_until_it_is_as_usual() {
        let sizes = ShareSizes::default();
        let mut size = sizes.begin(Some(&tenant()));
        size.shrink(1);
        sizes.end(Some(&tenant()), size);
        let mut size = sizes.begin(Some(&tenant()));
        assert_eq!((size.next(5..90), size.wait), (5..6, LockWait::Brief));
        let mut grown = 0;
        while size.slow {
            size.grow();
            grown += 1;
        }
        assert_eq!((grown, size.wait), (10, LockWait::Usual));
        sizes.end(Some(&tenant()), size);
        assert_eq!(sizes.begin(Some(&tenant())), ShareSize::usual());
    }

    #[test]
    fn what_is_refused_is_no_reason_to_begin_small_the_next_time() {
        let sizes = ShareSizes::default();
        let mut size = sizes.begin(Some(&tenant()));
        size.halve(2000);
        assert_eq!(size.next(0..2000), 0..1000);
        sizes.end(Some(&tenant()), size);
        assert_eq!(sizes.begin(Some(&tenant())), ShareSize::usual());
    }
}
