//! Which instance says how patrons are looked at. Two with other settings, as during a rollout, would change that in
//! turns, and each change is a look at all patrons.

use uuid::Uuid;

use crate::store::telling::{Waiting, Way};

/// What an instance does about the way in which a tenant's patrons are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as it should be, or another instance's to change.
    Nothing,
    /// Take the lease, or renew it.
    Renew,
    /// Change it, and take the lease.
    Set,
}

/// What instance `me` does, which wants messages (`on`) and has this way set. The owner changes the way, and once in
/// half a lease at most. An instance that wants no messages owns nothing: it waits until no instance wants any.
pub(super) fn next(stored: &Waiting, me: Uuid, on: bool, way: Way) -> Step {
    let is_mine = stored.owner == Some(me);
    if stored.is_owned && !is_mine {
        return Step::Nothing;
    }
    if !on {
        return if stored.is_on { Step::Set } else { Step::Nothing };
    }
    let is_settled = stored.is_owned && stored.way().is_some() && !stored.to_renew;
    let is_another = stored.way() != Some(way) && !is_settled;
    if !stored.is_on || is_another {
        Step::Set
    } else if !is_mine || stored.to_renew {
        Step::Renew
    } else {
        Step::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);
    const WAY: Way = Way { approaching_percent: 20 };
    const ANOTHER: Way = Way { approaching_percent: 10 };

    fn stored(owner: Option<Uuid>, is_owned: bool) -> Waiting {
        Waiting {
            is_on: true,
            approaching_percent: Some(20),
            owner,
            is_owned,
            to_renew: !is_owned,
            ..Waiting::default()
        }
    }

    #[test]
    fn what_another_instance_owns_stays_as_it_is() {
        let others = stored(Some(OTHER), true);
        for (on, way) in [(true, WAY), (true, ANOTHER), (false, WAY)] {
            assert_eq!(next(&others, ME, on, way), Step::Nothing);
        }
        let off = Waiting { is_on: false, ..others };
        assert_eq!(next(&off, ME, true, WAY), Step::Nothing);
    }

    #[test]
    fn what_nobody_owns_is_taken_by_an_instance_that_wants_messages() {
        for owner in [None, Some(OTHER)] {
            let free = stored(owner, false);
            assert_eq!(next(&free, ME, true, WAY), Step::Renew);
            assert_eq!(next(&free, ME, true, ANOTHER), Step::Set);
            assert_eq!(next(&free, ME, false, WAY), Step::Set);
            let off = Waiting { is_on: false, ..free };
            assert_eq!(next(&off, ME, true, WAY), Step::Set);
            assert_eq!(next(&off, ME, false, WAY), Step::Nothing);
        }
    }

    #[test]
    fn the_owner_changes_its_mind_once_in_half_a_lease_at_most() {
        let fresh = stored(Some(ME), true);
        assert_eq!(next(&fresh, ME, true, WAY), Step::Nothing);
        assert_eq!(next(&fresh, ME, true, ANOTHER), Step::Nothing);
        let half = Waiting { to_renew: true, ..fresh };
        assert_eq!(next(&half, ME, true, WAY), Step::Renew);
        assert_eq!(next(&half, ME, true, ANOTHER), Step::Set);
        // What was never set can't be overturned.
        let unset = Waiting { approaching_percent: None, ..fresh };
        assert_eq!(next(&unset, ME, true, WAY), Step::Set);
    }
}
