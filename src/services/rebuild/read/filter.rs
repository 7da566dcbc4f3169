//! The selection of events that a rebuild applies.

use std::collections::HashSet;

use uuid::Uuid;

use crate::{
    event::{Fact, TenantId},
    patron::Scope,
    services::rebuild::{context::RebuildContext, error::RebuildError},
    store::state::rows,
};

/// Tenant, scope and subjects of a rebuild.
pub(in crate::services::rebuild) struct EventFilter {
    pub(in crate::services::rebuild) tenant: TenantId,
    scope: Scope,
    /// Ids of the loans and fees/fines that the patron has or had.
    subject_ids: HashSet<Uuid>,
}

impl EventFilter {
    pub(in crate::services::rebuild) async fn load(
        context: &RebuildContext,
    ) -> Result<Self, RebuildError> {
        let subjects = match context.request.scope {
            Scope::Patron(user) => {
                let mut tx = context.begin().await?;
                rows::subjects_of_patron(&mut tx, &context.tenant.schema, user).await?
            }
            Scope::Tenant => Vec::new(),
        };
        let (tenant, scope) = (context.tenant.id.clone(), context.request.scope);
        Ok(Self { tenant, scope, subject_ids: subjects.into_iter().collect() })
    }

    /// Returns `true` if the fact concerns the scope. A fact without a user matches, because the fact may
    /// concern the patron.
    pub(in crate::services::rebuild) fn matches(&self, fact: &Fact) -> bool {
        fact.user().is_none_or(|named| self.scope.includes(named))
            || fact.subject().is_some_and(|subject| self.subject_ids.contains(&subject))
    }
}
