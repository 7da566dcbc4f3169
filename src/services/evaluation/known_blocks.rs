//! The blocks of several patrons as known, without calls of other modules and without certainty.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::policy::Policy;
use crate::{
    blocks::{self, Actions},
    store::{self, Connection, Schema, state::patrons},
};

/// Returns the blocked actions of each of `users` whose patron group is known. Other patrons are omitted, because no
/// limit can be compared.
pub async fn known_blocks(
    db: &mut Connection,
    schema: &Schema,
    policy: &Policy,
    users: &[Uuid],
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Actions>, store::Error> {
    if users.is_empty() {
        return Ok(HashMap::new());
    }
    let groups = patrons::load_groups(&mut *db, schema, users).await?;
    let states = patrons::load_states(db, schema, users, now).await?;
    let blocked = groups.into_iter().map(|(user, group)| {
        let Some((state, _)) = states.get(&user) else { return (user, Actions::NONE) };
        let limits = policy.limits_of(&group);
        let findings = blocks::evaluate(&state.measures, limits, &policy.conditions);
        let blocked = findings.iter().map(|finding| finding.blocked);
        (user, blocked.fold(Actions::NONE, Actions::union))
    });
    Ok(blocked.collect())
}
