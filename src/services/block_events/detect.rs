//! The detect worker: evaluates pending patrons in batches, and writes their block events to the outbox.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    BlockEvents,
    envelope::{APPROACHING_LIMIT_TOPIC, AUTOMATED_BLOCK_TOPIC, envelope, headers},
};
use crate::{
    blocks::{
        self, ApproachingLimits, AutomatedBlocks, Cause, ChangeType, Comparable, Finding, Measure,
    },
    patron,
    services::{evaluation::policy::Policy, metrics::metrics, tenants::Tenant},
    store::{
        self, Tx,
        messages::{
            outbox::{self, Message},
            pending_patrons::{self, LastPublished, WorkerLock},
        },
        state::patrons::{self, PatronState},
        tenants,
    },
};

/// Approximate maximum of patrons per transaction.
const BATCH_PATRONS_MAX: i64 = 2000;

/// The result of an evaluation at one instant.
pub(in crate::services) enum PatronFindings<'a> {
    /// One finding per limit of the patron group.
    Findings(Vec<Finding<'a>>),
    /// Neither the topic nor an earlier evaluation supplied the patron group.
    GroupUnknown,
}

/// Evaluates a patron as the API does, but never requests the patron group from mod-users.
pub(in crate::services) fn evaluate<'a>(
    state: Option<&'a PatronState>,
    policy: &'a Policy,
) -> PatronFindings<'a> {
    let Some(state) = state.filter(|state| !state.measures.is_empty()) else {
        return PatronFindings::Findings(Vec::new());
    };
    if policy.limits.is_empty() {
        return PatronFindings::Findings(Vec::new());
    }
    match state.known_group().map(|known| &known.group) {
        None => PatronFindings::GroupUnknown,
        Some(None) => PatronFindings::Findings(Vec::new()),
        Some(Some(group)) => {
            let limits = policy.limits_of(group);
            PatronFindings::Findings(blocks::evaluate(&state.measures, limits, &policy.conditions))
        }
    }
}

/// Returns the next time at which the findings may change without an event.
fn next_reevaluation(
    findings: &[Finding<'_>],
    state: &PatronState,
    next_overdue: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let has = |measure: Measure| findings.iter().any(|f| f.condition.id == measure.condition_id());
    let days = has(Measure::RecallOverdueDays);
    let overdue = days || has(Measure::OverdueItems) || has(Measure::OverdueRecalls);
    let next_day = state.first_recall_due.filter(|_| days);
    let next_day = next_day.map(|due| patron::next_overdue_day(due, now));
    next_overdue.filter(|_| overdue).into_iter().chain(next_day).min()
}

/// A change of a patron's published content.
struct Pending {
    user: Uuid,
    topic: &'static str,
    change: ChangeType,
    old: Value,
    new: Value,
}

/// The changes of a batch, relative to the last published content.
#[derive(Default)]
struct Changes {
    pending: Vec<Pending>,
    published: Vec<(Uuid, LastPublished)>,
}

impl Changes {
    fn add(&mut self, user: Uuid, old: LastPublished, new: LastPublished) {
        let before = self.pending.len();
        let reevaluate_at = new.reevaluate_at;
        let is_same = reevaluate_at == old.reevaluate_at;
        let last = LastPublished {
            blocked: self.record_change(user, AUTOMATED_BLOCK_TOPIC, old.blocked, new.blocked),
            approaching: self.record_change(
                user,
                APPROACHING_LIMIT_TOPIC,
                old.approaching,
                new.approaching,
            ),
            reevaluate_at,
        };
        if !is_same || self.pending.len() > before {
            self.published.push((user, last));
        }
    }

    /// Adds a message if `new` differs from `old`. Returns the content that counts as last published.
    fn record_change<T: Comparable + Serialize>(
        &mut self,
        user: Uuid,
        topic: &'static str,
        old: Option<T>,
        new: Option<T>,
    ) -> Option<T> {
        let Some(change) = ChangeType::between(old.as_ref(), new.as_ref()) else { return old };
        let (old, new_json) = (json!(old), json!(new));
        self.pending.push(Pending { user, topic, change, old, new: new_json });
        new
    }
}

impl BlockEvents {
    /// Evaluates a batch of a tenant's pending patrons. Returns `true` if more may remain.
    pub(super) async fn detect_batch(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        let schema = &tenant.schema;
        let mut tx = store::begin(&self.detect_db).await?;
        if tenants::lock_shared(&mut tx, &tenant.id).await? != Some(tenant.enabled_at) {
            return Ok(false);
        }
        // If another instance has the lock, that instance does the work; the next poll finds the rest.
        if !pending_patrons::try_lock_worker(&mut tx, &tenant.id, WorkerLock::Detect).await? {
            return Ok(false);
        }
        // All instances evaluate by the database clock.
        let now = store::now(&mut *tx).await?;
        let (pending_patrons, more) =
            pending_patrons::claim_pending(&mut tx, schema, now, BATCH_PATRONS_MAX).await?;
        if pending_patrons.is_empty() {
            store::commit(tx).await?;
            return Ok(false);
        }
        let changes = self.reevaluate(&mut tx, tenant, &pending_patrons, now).await?;
        pending_patrons::store_last_published(&mut tx, schema, &changes.published).await?;
        // The numbers are assigned after the evaluation: a greater number never belongs to an earlier
        // evaluation.
        let numbers = outbox::next_sequences(&mut *tx, schema, changes.pending.len()).await?;
        let messages: Vec<Message> = changes
            .pending
            .into_iter()
            .zip(numbers)
            .map(|(pending, sequence)| self.build_message(tenant, pending, sequence, now))
            .collect();
        outbox::insert(&mut tx, schema, &messages).await?;
        store::commit(tx).await?;
        metrics().reevaluated_patrons.increment(pending_patrons.len() as u64);
        metrics().written_messages.increment(messages.len() as u64);
        if !messages.is_empty() {
            self.publish_wakeups.wake(&tenant.id);
        }
        Ok(more)
    }

    async fn reevaluate(
        &self,
        tx: &mut Tx,
        tenant: &Tenant,
        pending_patrons: &BTreeMap<Uuid, Cause>,
        now: DateTime<Utc>,
    ) -> Result<Changes, store::Error> {
        let schema = &tenant.schema;
        let users: Vec<Uuid> = pending_patrons.keys().copied().collect();
        let states = patrons::load_states(&mut **tx, schema, &users, now).await?;
        let policy = Policy::load(tx, schema).await?;
        let mut last_published: HashMap<Uuid, LastPublished> =
            pending_patrons::load_last_published(tx, schema, &users).await?;
        // All instances use the stored settings. Without stored settings, this instance uses its own
        // settings.
        let settings = pending_patrons::load_detection_settings(&mut **tx, schema).await?;
        let percent =
            settings.map_or(self.config.approaching_percent, |way| way.approaching_percent);
        let mut changes = Changes::default();
        for (user, cause) in pending_patrons {
            let old = last_published.remove(user).unwrap_or_default();
            let found = states.get(user);
            let state = found.map(|(state, _)| state);
            let PatronFindings::Findings(findings) = evaluate(state, &policy) else {
                // The last event stays valid until the API or the topic supplies the patron group; no
                // evaluation is due.
                changes.add(*user, old.clone(), LastPublished { reevaluate_at: None, ..old });
                continue;
            };
            let new = LastPublished {
                blocked: AutomatedBlocks::from_findings(*user, &findings, *cause),
                approaching: ApproachingLimits::from_findings(*user, &findings, percent, *cause),
                reevaluate_at: found
                    .and_then(|(state, next)| next_reevaluation(&findings, state, *next, now)),
            };
            changes.add(*user, old, new);
        }
        Ok(changes)
    }

    fn build_message(
        &self,
        tenant: &Tenant,
        pending: Pending,
        sequence: i64,
        at: DateTime<Utc>,
    ) -> Message {
        let Pending { user, topic, change, old, new } = pending;
        let (id, tenant) = (Uuid::new_v4(), &tenant.id);
        let headers: Map<String, Value> =
            headers(tenant, id).into_iter().map(|(name, value)| (name, value.into())).collect();
        let data: Map<String, Value> = [("old", old), ("new", new)]
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Message {
            sequence,
            id,
            kafka_topic: self.topic(tenant, topic),
            key: user.to_string(),
            headers: headers.into(),
            payload: envelope(id, change.name(), tenant, sequence, at, [("data", data.into())]),
        }
    }
}
