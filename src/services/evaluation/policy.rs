//! A cache of each tenant's limits and conditions for the evaluation.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use moka::future::Cache;
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;
use uuid::Uuid;

use super::{certainty::CertaintySettings, certainty_reads::CertaintyReads};
use crate::{
    blocks::{Actions, Condition, Limit},
    event::TenantId,
    services::tenants::Tenant,
    store::{
        self, Connection, Db, Schema,
        settings::{conditions, limits, records},
    },
};

/// Lifetime of a cached policy, and so the longest delay of a change by another instance.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// Age up to which certainty settings count if they cannot be read again. A single slow read then makes no
/// evaluation doubtful.
const SETTINGS_GRACE_TIME: Duration = Duration::from_secs(10);

/// Largest number of tenants with a cached policy.
const CACHED_TENANTS_MAX: u64 = 10_000;

/// Number of change counters. Several tenants share a counter, so a change of one tenant reloads the
/// policies of the others. The bound limits memory for any number of tenants.
const CHANGE_COUNTERS: usize = 1024;

/// The limits and conditions of a tenant.
#[derive(Debug, Default, PartialEq)]
pub struct Policy {
    /// All limits, in the order of their creation.
    pub limits: Vec<Limit>,
    /// All conditions.
    pub conditions: Vec<Condition>,
}

impl Policy {
    /// Returns the limits of a patron group; the comparison of ids ignores case.
    pub fn limits_of<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Limit> {
        self.limits.iter().filter(move |limit| limit.patron_group.eq_ignore_ascii_case(group))
    }

    /// Loads the current limits and conditions.
    pub async fn load(connection: &mut Connection, schema: &Schema) -> Result<Self, store::Error> {
        let limits = records::all(&mut *connection, schema, &limits::RECORDS).await?;
        let conditions = records::all(connection, schema, &conditions::RECORDS).await?;
        Ok(Self::parse(limits, conditions))
    }

    /// Parses stored records, and leaves out the unreadable ones.
    pub(in crate::services) fn parse(limits: Vec<Value>, conditions: Vec<Value>) -> Self {
        Self {
            limits: limits.into_iter().filter_map(parse_limit).collect(),
            conditions: conditions.into_iter().filter_map(parse_condition).collect(),
        }
    }
}

/// The cached policies and certainty settings of all tenants.
#[derive(Debug)]
pub struct Policies {
    /// Policies by tenant and change counter. After a change, a policy that was loaded before has an
    /// unreachable key.
    cache: Cache<(TenantId, u64), Arc<Policy>>,
    /// Certainty settings, by the same keys.
    certainty: Cache<(TenantId, u64), Arc<CertaintySettings>>,
    /// The certainty settings that were read last, of the tenants that were evaluated.
    last_settings: RwLock<HashMap<TenantId, LastSettings>>,
    change_counts: [AtomicU64; CHANGE_COUNTERS],
}

/// Certainty settings with their age.
#[derive(Debug)]
struct LastSettings {
    /// The enabling of the tenant; a purge may precede the next one.
    enabled_at: DateTime<Utc>,
    settings: Arc<CertaintySettings>,
    change_count: u64,
    loaded_at: Instant,
}

impl Default for Policies {
    fn default() -> Self {
        let change_counts = [const { AtomicU64::new(0) }; CHANGE_COUNTERS];
        let last_settings = RwLock::default();
        Self { cache: cache(), certainty: cache(), last_settings, change_counts }
    }
}

fn cache<T: Clone + Send + Sync + 'static>() -> Cache<(TenantId, u64), T> {
    Cache::builder().max_capacity(CACHED_TENANTS_MAX).time_to_live(CACHE_TTL).build()
}

impl Policies {
    /// Returns the tenant's policy. Concurrent callers share one load.
    pub async fn get(&self, db: &Db, tenant: &Tenant) -> Result<Arc<Policy>, Arc<store::Error>> {
        let key = (tenant.id.clone(), self.change_count(&tenant.id));
        if let Some(cached) = self.cache.get(&key).await {
            return Ok(cached);
        }
        let read =
            store::read(db, async |db| Ok(Arc::new(Policy::load(db, &tenant.schema).await?)));
        // Few evaluations get here, so their future is not a part of every evaluation.
        Box::pin(self.cache.try_get_with(key, read)).await
    }

    /// Returns the tenant's policy like [`Self::get`], but no other caller waits for this load. An evaluation must not
    /// wait for the connection of an operator.
    pub async fn get_unshared(
        &self,
        db: &Db,
        tenant: &Tenant,
    ) -> Result<Arc<Policy>, store::Error> {
        let key = (tenant.id.clone(), self.change_count(&tenant.id));
        if let Some(cached) = self.cache.get(&key).await {
            return Ok(cached);
        }
        let load = async |db: &mut Connection| Policy::load(db, &tenant.schema).await;
        Ok(Arc::new(store::read(db, load).await?))
    }

    /// Returns the tenant's certainty settings. Concurrent callers share one load. If the load fails, the last known
    /// policy counts, because an evaluation needs no settings.
    pub(super) async fn certainty(
        &self,
        reads: &CertaintyReads,
        tenant: &Arc<Tenant>,
    ) -> Arc<CertaintySettings> {
        let change_count = self.change_count(&tenant.id);
        if let Some(recent) = self.recent_settings(&tenant.id, tenant.enabled_at, change_count) {
            return recent;
        }
        // Few evaluations get here, so their future is not a part of every evaluation.
        Box::pin(self.load_certainty(reads, tenant, change_count)).await
    }

    /// Returns the settings from memory if they are recent. Every evaluation needs them, so the way is short.
    fn recent_settings(
        &self,
        tenant: &TenantId,
        enabled_at: DateTime<Utc>,
        change_count: u64,
    ) -> Option<Arc<CertaintySettings>> {
        let last = self.last_settings.read().unwrap_or_else(PoisonError::into_inner);
        let last = last.get(tenant).filter(|last| last.enabled_at == enabled_at)?;
        let is_recent = last.change_count == change_count && last.loaded_at.elapsed() < CACHE_TTL;
        is_recent.then(|| last.settings.clone())
    }

    async fn load_certainty(
        &self,
        reads: &CertaintyReads,
        tenant: &Arc<Tenant>,
        change_count: u64,
    ) -> Arc<CertaintySettings> {
        let load = async {
            let settings = reads.settings(tenant).await.ok_or(())?;
            let settings = Arc::new(CertaintySettings::from(settings));
            let last = LastSettings {
                enabled_at: tenant.enabled_at,
                settings: settings.clone(),
                change_count,
                loaded_at: Instant::now(),
            };
            let mut all = self.last_settings.write().unwrap_or_else(PoisonError::into_inner);
            all.insert(tenant.id.clone(), last);
            Ok::<_, ()>(settings)
        };
        match self.certainty.try_get_with((tenant.id.clone(), change_count), load).await {
            Ok(settings) => settings,
            Err(_) => self.settings_after_failure(&tenant.id, tenant.enabled_at),
        }
    }

    /// Returns the last settings. If they are old, a record may have been parked since.
    fn settings_after_failure(
        &self,
        tenant: &TenantId,
        enabled_at: DateTime<Utc>,
    ) -> Arc<CertaintySettings> {
        let all = self.last_settings.read().unwrap_or_else(PoisonError::into_inner);
        let last = all.get(tenant).filter(|last| last.enabled_at == enabled_at);
        match last {
            Some(last) if last.loaded_at.elapsed() < SETTINGS_GRACE_TIME => last.settings.clone(),
            _ => {
                let policy = last.map(|last| last.settings.policy.clone()).unwrap_or_default();
                Arc::new(CertaintySettings { policy, ..CertaintySettings::default() })
            }
        }
    }

    fn change_count(&self, tenant: &TenantId) -> u64 {
        self.change_counts[counter_index(tenant)].load(Ordering::SeqCst)
    }

    /// Invalidates the policy of a tenant after a change by this instance.
    pub fn invalidate(&self, tenant: &TenantId) {
        self.change_counts[counter_index(tenant)].fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns the index of the tenant's change counter.
fn counter_index(tenant: &TenantId) -> usize {
    let mut hasher = DefaultHasher::new();
    tenant.hash(&mut hasher);
    // The remainder is less than `CHANGE_COUNTERS`, which is a `usize`.
    (hasher.finish() % CHANGE_COUNTERS as u64) as usize
}

/// Parses a stored limit, or returns `None` if it is unreadable. Rows of older versions or of other
/// programs may be incomplete. A limit without a condition or a value has no effect
/// (docs/contract/evaluation.md#2-order). The parser accepts every form of a number, flag or text
/// that Java's mapper accepts.
fn parse_limit(record: Value) -> Option<Limit> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored {
        id: Uuid,
        patron_group_id: String,
        condition_id: Option<Value>,
        value: Option<Value>,
        created_date: Option<Value>,
        updated_date: Option<Value>,
    }
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    match serde_json::from_value::<Stored>(record) {
        Ok(stored) => Some(Limit {
            id: stored.id,
            patron_group: stored.patron_group_id,
            condition: stored.condition_id.and_then(|id| Uuid::try_parse(id.as_str()?).ok()),
            value: stored.value.as_ref().and_then(number),
            created_date: text(stored.created_date),
            updated_date: text(stored.updated_date),
        }),
        Err(error) => {
            warn!(%error, "policy: could not read a stored limit; the limit is ignored");
            None
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

fn flag(value: Option<Value>) -> bool {
    match value {
        Some(Value::Bool(flag)) => flag,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
        Some(Value::String(text)) => text.trim().eq_ignore_ascii_case("true"),
        _ => false,
    }
}

fn parse_condition(record: Value) -> Option<Condition> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored {
        id: Uuid,
        block_borrowing: Option<Value>,
        block_renewals: Option<Value>,
        block_requests: Option<Value>,
        message: Option<Value>,
    }
    match serde_json::from_value::<Stored>(record) {
        Ok(stored) => Some(Condition {
            id: stored.id,
            blocks: Actions {
                borrowing: flag(stored.block_borrowing),
                renewals: flag(stored.block_renewals),
                requests: flag(stored.block_requests),
            },
            message: stored.message.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        }),
        Err(error) => {
            warn!(%error, "policy: could not read a stored condition; the condition blocks nothing");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GROUP: &str = "503732a7-0dc8-455c-9be9-3ff90c51f6a7";

    /// A purge between two enablings deletes the policy.
    #[test]
    fn certainty_settings_of_an_earlier_enabling_do_not_count() {
        let (policies, tenant) = (Policies::default(), TenantId::parse("northlib").unwrap());
        let enabled_at = DateTime::UNIX_EPOCH;
        let mut settings =
            CertaintySettings { has_dead_letters: Some(false), ..Default::default() };
        settings.policy.late_seconds = 5;
        let settings = Arc::new(settings);
        let loaded_at = Instant::now();
        let last = LastSettings { enabled_at, settings, change_count: 7, loaded_at };
        policies.last_settings.write().unwrap().insert(tenant.clone(), last);
        let later = enabled_at + chrono::TimeDelta::seconds(1);
        let recent = |at, count| policies.recent_settings(&tenant, at, count).is_some();
        assert_eq!(
            [recent(enabled_at, 7), recent(enabled_at, 8), recent(later, 7)],
            [true, false, false]
        );
        let failed = |at| policies.settings_after_failure(&tenant, at).policy.late_seconds;
        assert_eq!([failed(enabled_at), failed(later)], [5, 60]);
    }

    #[test]
    fn groups_are_compared_case_insensitively() {
        let limit = |group: &str| {
            let record = json!({
                "id": Uuid::new_v4(), "patronGroupId": group, "conditionId": Uuid::new_v4(), "value": 1,
            });
            super::parse_limit(record).unwrap()
        };
        let limits = vec![limit(GROUP), limit(&GROUP.to_uppercase()), limit("other")];
        let policy = Policy { limits, conditions: Vec::new() };
        for group in [GROUP.to_owned(), GROUP.to_uppercase()] {
            assert_eq!(policy.limits_of(&group).count(), 2, "{group}");
        }
    }

    /// Rows as older versions and other programs left them, which Java's mapper accepts, too.
    #[test]
    fn stored_limits_and_conditions_are_read_leniently() {
        for (value, expected) in [
            (json!("10"), Some(10.0)),
            (json!(" 10.4 "), Some(10.4)),
            (json!(""), None),
            (json!("ten"), None),
            (json!(true), None),
            (json!(null), None),
        ] {
            let id = Uuid::new_v4();
            let record = json!({
                "id": id, "patronGroupId": GROUP, "conditionId": id.to_string().to_uppercase(), "value": value,
            });
            let limit = parse_limit(record).unwrap();
            assert_eq!((limit.value, limit.condition), (expected, Some(id)), "{value}");
        }
        let odd =
            json!({ "id": Uuid::new_v4(), "patronGroupId": GROUP, "conditionId": "x", "value": 1 });
        assert_eq!(parse_limit(odd).unwrap().condition, None);
        let record = json!({
            "id": Uuid::new_v4(), "blockBorrowing": "True", "blockRenewals": "no", "blockRequests": 1, "message": 7,
        });
        let condition = parse_condition(record).unwrap();
        assert!(condition.blocks.borrowing && condition.blocks.requests);
        assert!(!condition.blocks.renewals);
        assert_eq!(condition.message, "");
    }
}
