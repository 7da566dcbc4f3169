//! Which instance says how patrons are looked at. Two with other settings, as during a rollout, would change that in
//! turns, and each change is a look at all patrons.

use uuid::Uuid;

use crate::store::pending_patrons::{DetectionSettings, PendingCounts};

/// What an instance does about the way in which a tenant's patrons are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// It is as it should be, or another instance's to change.
    Skip,
    /// Take the lease, or renew it.
    Renew,
    /// Change it, and take the lease.
    Apply,
}

/// What instance `me` does, which wants messages (`on`) and has this way set. The owner changes the way, and once in
/// half a lease at most. An instance that wants no messages owns nothing: it waits until no instance wants any.
pub(super) fn next_action(
    stored: &PendingCounts,
    instance_id: Uuid,
    enabled: bool,
    settings: DetectionSettings,
) -> LeaseAction {
    let is_owner = stored.lease_holder == Some(instance_id);
    if stored.is_leased && !is_owner {
        return LeaseAction::Skip;
    }
    if !enabled {
        return if stored.is_enabled { LeaseAction::Apply } else { LeaseAction::Skip };
    }
    let is_settled =
        stored.is_leased && stored.detection_settings().is_some() && !stored.should_renew;
    let is_another = stored.detection_settings() != Some(settings) && !is_settled;
    if !stored.is_enabled || is_another {
        LeaseAction::Apply
    } else if !is_owner || stored.should_renew {
        LeaseAction::Renew
    } else {
        LeaseAction::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(1);
    const OTHER_INSTANCE: Uuid = Uuid::from_u128(2);
    const SETTINGS: DetectionSettings = DetectionSettings { approaching_percent: 20 };
    const OTHER_SETTINGS: DetectionSettings = DetectionSettings { approaching_percent: 10 };

    fn stored(owner: Option<Uuid>, is_owned: bool) -> PendingCounts {
        PendingCounts {
            is_enabled: true,
            approaching_percent: Some(20),
            lease_holder: owner,
            is_leased: is_owned,
            should_renew: !is_owned,
            ..PendingCounts::default()
        }
    }

    #[test]
    fn settings_of_another_owner_stay_unchanged() {
        let others = stored(Some(OTHER_INSTANCE), true);
        for (on, way) in [(true, SETTINGS), (true, OTHER_SETTINGS), (false, SETTINGS)] {
            assert_eq!(next_action(&others, INSTANCE, on, way), LeaseAction::Skip);
        }
        let off = PendingCounts { is_enabled: false, ..others };
        assert_eq!(next_action(&off, INSTANCE, true, SETTINGS), LeaseAction::Skip);
    }

    #[test]
    fn free_settings_are_claimed_by_a_publishing_instance() {
        for owner in [None, Some(OTHER_INSTANCE)] {
            let free = stored(owner, false);
            assert_eq!(next_action(&free, INSTANCE, true, SETTINGS), LeaseAction::Renew);
            assert_eq!(next_action(&free, INSTANCE, true, OTHER_SETTINGS), LeaseAction::Apply);
            assert_eq!(next_action(&free, INSTANCE, false, SETTINGS), LeaseAction::Apply);
            let off = PendingCounts { is_enabled: false, ..free };
            assert_eq!(next_action(&off, INSTANCE, true, SETTINGS), LeaseAction::Apply);
            assert_eq!(next_action(&off, INSTANCE, false, SETTINGS), LeaseAction::Skip);
        }
    }

    #[test]
    fn owner_changes_settings_once_per_half_lease() {
        let fresh = stored(Some(INSTANCE), true);
        assert_eq!(next_action(&fresh, INSTANCE, true, SETTINGS), LeaseAction::Skip);
        assert_eq!(next_action(&fresh, INSTANCE, true, OTHER_SETTINGS), LeaseAction::Skip);
        let half = PendingCounts { should_renew: true, ..fresh };
        assert_eq!(next_action(&half, INSTANCE, true, SETTINGS), LeaseAction::Renew);
        assert_eq!(next_action(&half, INSTANCE, true, OTHER_SETTINGS), LeaseAction::Apply);
        // What was never set can't be overturned.
        let unset = PendingCounts { approaching_percent: None, ..fresh };
        assert_eq!(next_action(&unset, INSTANCE, true, SETTINGS), LeaseAction::Apply);
    }
}
