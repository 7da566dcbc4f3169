//! Which events a rebuild wants.

use std::collections::HashSet;

use uuid::Uuid;

use super::work::{Failure, Work};
use crate::{
    event::{Fact, TenantId},
    store::rows,
};

/// Whose events are wanted.
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    user: Option<Uuid>,
    /// What the patron has, or had.
    subjects: HashSet<Uuid>,
}

impl Wanted {
    pub(super) async fn of(work: &Work) -> Result<Self, Failure> {
        let subjects = match work.ask.user {
            Some(user) => {
                let mut tx = work.begin().await?;
                rows::all_of(&mut tx, &work.tenant.schema, user).await?
            }
            None => Vec::new(),
        };
        let (tenant, user) = (work.tenant.id.clone(), work.ask.user);
        Ok(Self { tenant, user, subjects: subjects.into_iter().collect() })
    }

    /// What names nobody may be the patron's.
    pub(super) fn admits(&self, fact: &Fact) -> bool {
        self.user.is_none_or(|user| {
            fact.user().is_none_or(|named| named == user) || self.subjects.contains(&fact.subject())
        })
    }
}
