//! The explanation of one patron's blocks, from one snapshot of the rows. It uses the connections of operators,
//! so no evaluation waits for it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tracing::warn;
use uuid::Uuid;

use super::{AnswerSource, EvaluationRequest, Evaluator, policy::Policy};
use crate::{
    blocks::{
        Certainty, Evidence, Explanation, ExplanationInput, Limit, Measures, OpenItems, Reactions,
    },
    logging::ErrorChain,
    services::{maintenance::counter_check, metrics::metrics},
    store::{
        self, LockTimeout,
        state::{
            open_items,
            patrons::{self, PatronState},
        },
    },
};

/// Maximum number of loans, and of fees/fines, that an explanation reads.
pub const ITEMS_MAX: i64 = 2_000;

/// What an explanation does besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplanationMode {
    /// Whether to ask mod-users for the patron group, as an evaluation does. Otherwise the last known group counts.
    pub asks_users: bool,
    /// Whether to repair wrong counters.
    pub repairs: bool,
}

impl ExplanationMode {
    /// An explanation with all effects.
    pub const FULL: Self = Self { asks_users: true, repairs: true };
}

/// The rows, the group and the limits that explain a patron's blocks.
#[derive(Debug)]
pub struct ExplainedPatron {
    /// The patron.
    pub user: Uuid,
    /// The instant of the evaluation.
    pub now: DateTime<Utc>,
    /// The group that determines the limits, if it is known.
    pub group: Option<String>,
    /// The origin of the group.
    pub source: AnswerSource,
    /// When the source reported the group; `None` if no stored group was used.
    pub group_known_at: Option<DateTime<Utc>>,
    /// The measures of all open items, from a recount.
    pub measures: Measures,
    /// How certain the explanation is; `None` without knowledge of the progress of ingest.
    pub certainty: Option<Certainty>,
    /// What the certainty follows from; `None` without a certainty.
    pub evidence: Option<Evidence>,
    /// The reactions of the tenant's policy to the certainty.
    pub reactions: Reactions,
    /// Whether the stored counters differed from the recount. [`ExplanationMode`] decides whether the service has
    /// tried to repair them.
    pub counters_differ: bool,
    items: OpenItems,
    policy: Arc<Policy>,
}

impl ExplainedPatron {
    /// Returns whether the patron has more open items than an explanation reads; it has no way out then.
    pub fn is_truncated(&self) -> bool {
        let (loans, fees) = (self.items.loans.len() as i64, self.items.fees.len() as i64);
        self.measures.open_loans > loans || self.measures.open_fees_fines > fees
    }

    /// Returns the limits of the patron's group, in the order of the evaluation.
    pub fn limits(&self) -> Vec<&Limit> {
        self.group.iter().flat_map(|group| self.policy.limits_of(group)).collect()
    }

    /// Explains the blocks by these limits.
    pub fn explain<'a>(&'a self, limits: &'a [&'a Limit]) -> Explanation<'a> {
        let total_measures = self.is_truncated().then_some(&self.measures);
        let (items, conditions, now) = (&self.items, &self.policy.conditions[..], self.now);
        let explanation =
            Explanation::new(ExplanationInput { items, total_measures, limits, conditions, now });
        let unsolved = explanation.actions.iter().filter(|action| {
            total_measures.is_none() && !action.because.is_empty() && action.way_out.is_none()
        });
        let unsolved = unsolved.count();
        if unsolved > 0 {
            warn!(user.id = %self.user, "explanation: found no way out of a block");
            metrics().blocks_without_way_out.increment(unsolved as u64);
        }
        explanation
    }
}

impl Evaluator {
    /// Loads what explains the blocks of a patron at the current time. A patron without open items has no
    /// limits. A repair of wrong counters ends if writers use the tenant for too long.
    pub async fn explain(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        mode: ExplanationMode,
    ) -> Result<ExplainedPatron, Arc<store::Error>> {
        // The view precedes the state, so the state has the events up to the instant of the view.
        let view = self.freshness.view();
        let (state, items, counters_differ, now) = self.load_items(request).await?;
        let EvaluationRequest { db, tenant, user, .. } = request;
        if counters_differ {
            metrics().wrong_counters.increment(1);
            warn!(tenant = %tenant.id, user.id = %user,
                "explanation: the counters of a patron differ from the rows");
            if mode.repairs {
                repair_counters(request).await;
            }
        }
        let policy = self.policies.get_unshared(db, tenant).await?;
        let (group, source) = if state.measures.is_empty() {
            (None, AnswerSource::NothingOpen)
        } else if policy.limits.is_empty() {
            (None, AnswerSource::NoLimits)
        } else if mode.asks_users {
            self.resolve_group(request, &state).await
        } else {
            self.last_known_group(request, &state)
        };
        let known = state.known_group().filter(|known| {
            source != AnswerSource::GroupFromUsers && known.group.is_some() && known.group == group
        });
        let (mut certainty, mut evidence, mut reactions) = (None, None, Reactions::default());
        if self.certainty.is_some() {
            let progress = (view.of(&tenant.id), state.read_at);
            let settings = self.certainty_settings(tenant).await;
            let assessed = self.assess(request, progress, &settings, (source, None)).await;
            reactions = settings.policy.reactions(assessed.certainty.state);
            (certainty, evidence) = (Some(assessed.certainty), Some(assessed.evidence));
        }
        Ok(ExplainedPatron {
            user: *user,
            now,
            certainty,
            evidence,
            reactions,
            group_known_at: known.map(|known| known.known_at),
            group,
            source,
            measures: state.measures,
            counters_differ,
            items,
            policy,
        })
    }

    async fn load_items(
        &self,
        request: &EvaluationRequest,
    ) -> Result<(PatronState, OpenItems, bool, DateTime<Utc>), store::Error> {
        let (now, user) = (self.clock.now(), request.user);
        let schema = &request.tenant.schema;
        store::read(&request.db, async |connection| {
            let mut snapshot = store::begin_snapshot(connection).await?;
            let recounted = patrons::load_recounted_state(&mut *snapshot, schema, user, now).await;
            let (mut state, counters_differ) = recounted?;
            // A truncated list of loans may lack some of the recalls.
            let recall_days = patrons::load_recall_days(&mut *snapshot, schema, user, now).await;
            state.measures.recall_days = recall_days?;
            let items = open_items::load(&mut snapshot, schema, user, ITEMS_MAX).await?;
            Ok((state, items, counters_differ, now))
        })
        .await
    }
}

/// Sets the counters of a patron to the recount. If writers use the lock of the tenant for too long, a later
/// explanation tries again.
async fn repair_counters(EvaluationRequest { db, tenant, user, .. }: &EvaluationRequest) {
    let (id, schema, users) = (&tenant.id, &tenant.schema, [*user]);
    let repaired = counter_check::repair_counters(db, id, schema, &users, LockTimeout::Short);
    if let Err(error) = repaired.await {
        warn!(tenant = %tenant.id, user.id = %user, error = %ErrorChain(&error),
            "explanation: could not repair the counters of a patron");
    }
}
