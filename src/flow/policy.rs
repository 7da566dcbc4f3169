//! A tenant's limits and conditions as evaluation needs them, kept for a moment.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;
use uuid::Uuid;

use super::tenants::Tenant;
use crate::{
    blocks::{Actions, Condition, Limit},
    event::TenantId,
    store::{self, Connection, Db, Schema, conditions, limits, records},
};

/// How long an instance may use limits that another one has changed.
const STALE_AT_MOST: Duration = Duration::from_secs(1);

/// Tenants whose policies are kept at once.
const TENANTS_MOST: u64 = 10_000;

/// Counts of changes. Several tenants share one: a change made to one of them has the others read anew, which is
/// right as well, and so no number of tenants takes more room.
const CHANGES: usize = 1024;

/// What a library has set.
#[derive(Debug, Default)]
pub struct Policy {
    /// All limits, in the order in which they were made.
    pub limits: Vec<Limit>,
    /// All conditions.
    pub conditions: Vec<Condition>,
}

impl Policy {
    /// The limits of a patron group; ids are compared as text, to the letter.
    pub fn limits_of<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Limit> {
        self.limits.iter().filter(move |limit| limit.patron_group == group)
    }

    /// Reads it as it is set now.
    pub async fn load(connection: &mut Connection, schema: &Schema) -> Result<Self, store::Error> {
        let limits = records::all(&mut *connection, schema, &limits::RECORDS).await?;
        let conditions = records::all(connection, schema, &conditions::RECORDS).await?;
        Ok(Self {
            limits: limits.into_iter().filter_map(limit).collect(),
            conditions: conditions.into_iter().filter_map(condition).collect(),
        })
    }
}

/// The policies of all tenants.
#[derive(Debug)]
pub struct Policies {
    /// By tenant and the number of changes made here: whatever was being read when a change was made
    /// is never found again.
    read: Cache<(TenantId, u64), Arc<Policy>>,
    changes: [AtomicU64; CHANGES],
}

impl Default for Policies {
    fn default() -> Self {
        let read = Cache::builder().max_capacity(TENANTS_MOST).time_to_live(STALE_AT_MOST).build();
        Self { read, changes: [const { AtomicU64::new(0) }; CHANGES] }
    }
}

impl Policies {
    /// The tenant's policy. Of many who ask at once, one reads it.
    pub async fn of(&self, db: &Db, tenant: &Tenant) -> Result<Arc<Policy>, Arc<store::Error>> {
        let read =
            store::read(db, async |db| Ok(Arc::new(Policy::load(db, &tenant.schema).await?)));
        self.read.try_get_with((tenant.id.clone(), self.changes_of(&tenant.id)), read).await
    }

    fn changes_of(&self, tenant: &TenantId) -> u64 {
        self.changes[count_of(tenant)].load(Ordering::SeqCst)
    }

    /// Forgets a policy that this instance has just changed.
    pub fn forget(&self, tenant: &TenantId) {
        self.changes[count_of(tenant)].fetch_add(1, Ordering::SeqCst);
    }
}

/// Which count is the tenant's.
fn count_of(tenant: &TenantId) -> usize {
    let mut hasher = DefaultHasher::new();
    tenant.hash(&mut hasher);
    // The remainder is less than a number that is a `usize`.
    (hasher.finish() % CHANGES as u64) as usize
}

/// Reads a stored limit. What older versions or other programs have left there may lack anything: a
/// limit without a condition or a value counts for nothing (evaluation contract 2).
fn limit(record: Value) -> Option<Limit> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored {
        id: Uuid,
        patron_group_id: String,
        condition_id: Option<Uuid>,
        value: Option<f64>,
    }
    match serde_json::from_value::<Stored>(record) {
        Ok(stored) => Some(Limit {
            id: stored.id,
            patron_group: stored.patron_group_id,
            condition: stored.condition_id,
            value: stored.value,
        }),
        Err(error) => {
            warn!(%error, "a stored limit can't be read and counts for nothing");
            None
        }
    }
}

fn condition(record: Value) -> Option<Condition> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored {
        id: Uuid,
        block_borrowing: Option<bool>,
        block_renewals: Option<bool>,
        block_requests: Option<bool>,
        message: Option<String>,
    }
    match serde_json::from_value::<Stored>(record) {
        Ok(stored) => Some(Condition {
            id: stored.id,
            blocks: Actions {
                borrowing: stored.block_borrowing.unwrap_or_default(),
                renewals: stored.block_renewals.unwrap_or_default(),
                requests: stored.block_requests.unwrap_or_default(),
            },
            message: stored.message.unwrap_or_default(),
        }),
        Err(error) => {
            warn!(%error, "a stored condition can't be read and blocks nothing");
            None
        }
    }
}
