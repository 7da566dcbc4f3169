//! Of whom something speaks.

use uuid::Uuid;

/// A whole tenant or one of its patrons. No id stands for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everybody in the tenant.
    Tenant,
    /// This patron alone.
    Patron(Uuid),
}

impl Scope {
    /// The patron, where it is one alone.
    pub fn patron(self) -> Option<Uuid> {
        match self {
            Self::Tenant => None,
            Self::Patron(user) => Some(user),
        }
    }

    /// Whether it speaks of this patron.
    pub fn includes(self, user: Uuid) -> bool {
        self.patron().is_none_or(|one| one == user)
    }
}
