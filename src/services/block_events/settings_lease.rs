//! The lease of a tenant's detection settings. Without the lease, instances with different settings, as
//! during a rollout, would alternate, and each change would trigger an evaluation of all patrons.

use uuid::Uuid;

use crate::store::messages::pending_patrons::{DetectionSettings, PendingCounts};

/// The action of an instance on a tenant's detection settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// The settings are correct, or another instance has the lease.
    Skip,
    /// Acquire or renew the lease.
    Renew,
    /// Store the settings, and acquire the lease.
    Apply,
}

/// Returns the action of instance `instance_id`, which has these `settings`. The lease owner changes the
/// settings at most once per half lease. An instance without publishing has no lease, and waits until no
/// other instance has the lease.
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
        // If no settings are stored, the owner stores its settings at once.
        let unset = PendingCounts { approaching_percent: None, ..fresh };
        assert_eq!(next_action(&unset, INSTANCE, true, SETTINGS), LeaseAction::Apply);
    }
}
