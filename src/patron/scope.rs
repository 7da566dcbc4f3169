//! The subject of a rebuild or a horizon.

use uuid::Uuid;

/// A whole tenant or one of its patrons. No patron id stands for all patrons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All patrons of the tenant.
    Tenant,
    /// One patron.
    Patron(Uuid),
}

impl Scope {
    /// Returns the patron, or `None` for the whole tenant.
    pub fn patron(self) -> Option<Uuid> {
        match self {
            Self::Tenant => None,
            Self::Patron(user) => Some(user),
        }
    }

    /// Returns whether the scope includes this patron.
    pub fn includes(self, user: Uuid) -> bool {
        self.patron().is_none_or(|one| one == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_of_a_patron_includes_only_that_patron() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(Scope::Tenant.patron(), None);
        assert_eq!(Scope::Patron(one).patron(), Some(one));
        let includes = |scope: Scope| [one, other].map(|user| scope.includes(user));
        assert_eq!(includes(Scope::Tenant), [true, true]);
        assert_eq!(includes(Scope::Patron(one)), [true, false]);
    }
}
