//! Which events a rebuild wants.

use std::collections::HashSet;

use uuid::Uuid;

use super::work::{Failure, Work};
use crate::{
    event::{Fact, TenantId},
    patron::Scope,
    store::rows,
};

/// Whose events are wanted.
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    scope: Scope,
    /// What the patron has, or had.
    subjects: HashSet<Uuid>,
}

impl Wanted {
    pub(super) async fn of(work: &Work) -> Result<Self, Failure> {
        let subjects = match work.ask.scope {
            Scope::Patron(user) => {
                let mut tx = work.begin().await?;
                rows::all_of(&mut tx, &work.tenant.schema, user).await?
            }
            Scope::Tenant => Vec::new(),
        };
        let (tenant, scope) = (work.tenant.id.clone(), work.ask.scope);
        Ok(Self { tenant, scope, subjects: subjects.into_iter().collect() })
    }

    /// What names nobody may be the patron's.
    pub(super) fn admits(&self, fact: &Fact) -> bool {
        fact.user().is_none_or(|named| self.scope.includes(named))
            || fact.subject().is_some_and(|subject| self.subjects.contains(&subject))
    }
}
