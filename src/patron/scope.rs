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
