//! Looking at patrons of whom something may have changed, many at once, and writing down what there is to tell.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Telling,
    message::{APPROACHING, BLOCKS, envelope, headers},
};
use crate::{
    blocks::{self, Approaching, Blocked, Cause, Change, Finding, Measure, Told},
    figures::figures,
    flow::{policy::Policy, tenants::Tenant},
    patron,
    store::{
        self, Tx,
        outbox::{self, Message},
        patrons::{self, State},
        telling::{self, Last, Turn},
        tenants,
    },
};

/// Patrons in one transaction, about.
const MOST: i64 = 2000;

/// What follows for a patron from what there is at a moment.
pub(in crate::flow) enum Found<'a> {
    /// Every limit of the group, compared.
    Findings(Vec<Finding<'a>>),
    /// Nobody has ever said which group the patron belongs to.
    GroupUnknown,
}

/// Evaluates a patron as the desk does, but asks nobody for the group.
pub(in crate::flow) fn evaluate<'a>(state: Option<&'a State>, policy: &'a Policy) -> Found<'a> {
    let Some(state) = state.filter(|state| !state.measures.is_empty()) else {
        return Found::Findings(Vec::new());
    };
    if policy.limits.is_empty() {
        return Found::Findings(Vec::new());
    }
    match state.known_group().map(|known| &known.group) {
        None => Found::GroupUnknown,
        Some(None) => Found::Findings(Vec::new()),
        Some(Some(group)) => {
            let limits = policy.limits_of(group);
            Found::Findings(blocks::evaluate(&state.measures, limits, &policy.conditions))
        }
    }
}

/// When time alone may change what was found.
fn look_at(
    findings: &[Finding<'_>],
    state: &State,
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

/// Something that is told of a patron has changed.
struct Pending {
    user: Uuid,
    topic: &'static str,
    change: Change,
    old: Value,
    new: Value,
}

/// What is told of patrons, from what was told before.
#[derive(Default)]
struct Changes {
    pending: Vec<Pending>,
    kept: Vec<(Uuid, Last)>,
}

impl Changes {
    fn add(&mut self, user: Uuid, old: Last, new: Last) {
        let before = self.pending.len();
        let look_at = new.look_at;
        let is_same = look_at == old.look_at;
        let last = Last {
            blocked: self.change(user, BLOCKS, old.blocked, new.blocked),
            approaching: self.change(user, APPROACHING, old.approaching, new.approaching),
            look_at,
        };
        if !is_same || self.pending.len() > before {
            self.kept.push((user, last));
        }
    }

    /// What was told last from now on: what is new, unless it says nothing new.
    fn change<T: Told + Serialize>(
        &mut self,
        user: Uuid,
        topic: &'static str,
        old: Option<T>,
        new: Option<T>,
    ) -> Option<T> {
        let Some(change) = Change::between(old.as_ref(), new.as_ref()) else { return old };
        let (old, told) = (json!(old), json!(new));
        self.pending.push(Pending { user, topic, change, old, new: told });
        new
    }
}

impl Telling {
    /// Looks at some of those patrons of a tenant who are to be looked at. Tells whether there may be more.
    pub(super) async fn tell_some(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        let schema = &tenant.schema;
        let mut tx = store::begin(&self.db).await?;
        if tenants::enter(&mut tx, &tenant.id).await? != Some(tenant.since) {
            return Ok(false);
        }
        // Whoever has the turn does it, and if not all of it, the next look finds the rest.
        if !telling::take_turn(&mut tx, &tenant.id, Turn::Tell).await? {
            return Ok(false);
        }
        // All instances evaluate by one clock.
        let now = store::now(&mut *tx).await?;
        let (touched, more) = telling::take(&mut tx, schema, now, MOST).await?;
        if touched.is_empty() {
            store::commit(tx).await?;
            return Ok(false);
        }
        let changes = self.look_at_patrons(&mut tx, tenant, &touched, now).await?;
        telling::keep(&mut tx, schema, &changes.kept).await?;
        // Numbered after the look: a greater number is never of an older one.
        let numbers = outbox::numbers(&mut *tx, schema, changes.pending.len()).await?;
        let messages: Vec<Message> = changes
            .pending
            .into_iter()
            .zip(numbers)
            .map(|(pending, sequence)| self.message(tenant, pending, sequence, now))
            .collect();
        outbox::add(&mut tx, schema, &messages).await?;
        store::commit(tx).await?;
        figures().looked_at(touched.len(), messages.len());
        if !messages.is_empty() {
            self.to_send.wake(&tenant.id);
        }
        Ok(more)
    }

    async fn look_at_patrons(
        &self,
        tx: &mut Tx,
        tenant: &Tenant,
        touched: &BTreeMap<Uuid, Cause>,
        now: DateTime<Utc>,
    ) -> Result<Changes, store::Error> {
        let schema = &tenant.schema;
        let users: Vec<Uuid> = touched.keys().copied().collect();
        let states = patrons::states(&mut **tx, schema, &users, now).await?;
        let policy = Policy::load(tx, schema).await?;
        let mut last: HashMap<Uuid, Last> = telling::last(tx, schema, &users).await?;
        // As all instances do, whatever their own settings are. Where that was never set, as this one does.
        let way = telling::way(&mut **tx, schema).await?;
        let percent = way.map_or(self.config.approaching_percent, |way| way.approaching_percent);
        let mut changes = Changes::default();
        for (user, cause) in touched {
            let old = last.remove(user).unwrap_or_default();
            let found = states.get(user);
            let state = found.map(|(state, _)| state);
            let Found::Findings(findings) = evaluate(state, &policy) else {
                // What was told stays, until the desk or the topic says which group it is; but nobody need look.
                changes.add(*user, old.clone(), Last { look_at: None, ..old });
                continue;
            };
            let new = Last {
                blocked: Blocked::of(*user, &findings, *cause),
                approaching: Approaching::of(*user, &findings, percent, *cause),
                look_at: found.and_then(|(state, next)| look_at(&findings, state, *next, now)),
            };
            changes.add(*user, old, new);
        }
        Ok(changes)
    }

    fn message(
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
            .filter(|(_, told)| !told.is_null())
            .map(|(name, told)| (name.to_owned(), told))
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
