//! The evaluation of one patron. It loads the state in one round trip, resolves the patron group, and
//! compares the state with the limits of the group.

pub(super) mod answer_source;
pub mod ask;
pub(super) mod ask_outcome;
pub mod certainty;
pub mod certainty_counts;
pub mod certainty_reads;
pub mod explanations;
pub mod known_blocks;
pub mod latency;
pub mod policy;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::time::timeout;
use tracing::{debug, warn};
use uuid::Uuid;

use self::{
    ask::StorageQuestions,
    certainty::{AssessedCertainty, CertaintySettings},
    certainty_counts::CertaintyCounts,
    certainty_reads::CertaintyReads,
    latency::LatencyHistory,
    policy::{Policies, Policy},
};
pub use answer_source::AnswerSource;
pub use ask_outcome::AskOutcome;

use super::{
    freshness::{Freshness, TenantFreshness},
    tenants::Tenant,
};
use crate::{
    blocks::{self, Certainty, Finding, Measures, Reactions, UncertainReaction},
    clock::Clock,
    config::OkapiConfig,
    event::{TenantId, stamp::Horizon},
    kafka::UserTopics,
    logging::ErrorChain,
    okapi::{CallError, Caller, Users},
    store::{
        self, Db,
        state::patrons::{self, PatronState},
    },
};

/// Largest number of concurrent background refreshes of patron groups. Beyond it, the next evaluation
/// of the patron tries again.
const BACKGROUND_REFRESHES_MAX: usize = 100;

/// Time limit of the evaluation after a question. The first evaluation counts afterwards.
const REEVALUATION_TIMEOUT: Duration = Duration::from_secs(1);

/// The measures, the group and the limits of one evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// The patron's numbers; all zero if nothing is open.
    pub measures: Measures,
    /// The group that determines the limits, if it is known.
    pub group: Option<String>,
    /// The origin of the group.
    pub source: AnswerSource,
    /// How certain the evaluation is.
    pub assessed: AssessedCertainty,
    /// The reactions of the tenant's policy to the certainty.
    pub reactions: Reactions,
    /// The outcome of a question to the storage modules, if the policy required one.
    pub asked: Option<AskOutcome>,
    /// The certainty settings of the tenant.
    pub settings: Arc<CertaintySettings>,
    policy: Arc<Policy>,
}

impl Evaluation {
    fn new(
        measures: Measures,
        (group, source): (Option<String>, AnswerSource),
        (settings, assessed): (Arc<CertaintySettings>, AssessedCertainty),
        policy: Arc<Policy>,
    ) -> Self {
        let reactions = settings.policy.reactions(assessed.certainty.state);
        Self { measures, group, source, assessed, reactions, asked: None, settings, policy }
    }

    /// Returns one finding per limit of the group, with the compared number and the affected actions.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        let limits = self.group.iter().flat_map(|group| self.policy.limits_of(group));
        blocks::evaluate(&self.measures, limits, &self.policy.conditions)
    }

    /// Returns how certain the evaluation is.
    pub fn certainty(&self) -> Certainty {
        self.assessed.certainty
    }

    /// Returns what the certainty policy did, as a list of names; `None` if it did nothing.
    pub fn policy_outcome(&self) -> Option<String> {
        let has = |reaction| !self.reactions.actions_with(reaction).is_empty();
        let asked = self.asked.map(|outcome| format!("ask/{}", outcome.name()));
        let others = [UncertainReaction::Block, UncertainReaction::Allow];
        let others = others.into_iter().filter(|reaction| has(*reaction));
        let names: Vec<String> =
            asked.into_iter().chain(others.map(|reaction| reaction.name().to_owned())).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn shows_recall_days(&self, is_explained: bool) -> bool {
        self.findings().iter().any(|finding| finding.shows_recall_days(is_explained))
    }
}

/// The service that evaluates patrons. All threads share one evaluator; each request brings its own
/// connection pool.
pub struct Evaluator {
    clock: Clock,
    users: Users,
    config: OkapiConfig,
    user_topics: Arc<UserTopics>,
    /// Limits and conditions of all tenants.
    pub policies: Policies,
    /// Patrons with a background refresh of their group in progress.
    refreshing: Mutex<HashSet<(TenantId, Uuid)>>,
    /// How far the events of each tenant are applied.
    pub freshness: Arc<Freshness>,
    /// `None` on the command line, which knows no progress of ingest.
    certainty: Option<CertaintyServices>,
    /// The numbers of evaluations by certainty.
    pub counts: CertaintyCounts,
    /// The durations of evaluations in the last hour.
    pub latencies: LatencyHistory,
}

/// What determines and improves the certainty of evaluations.
struct CertaintyServices {
    reads: CertaintyReads,
    questions: StorageQuestions,
}

/// The input of one evaluation: tenant, patron, caller and connection pool.
#[derive(Clone)]
pub struct EvaluationRequest {
    /// The connection pool of the thread that serves the request.
    pub db: Db,
    /// The tenant, with its schema.
    pub tenant: Arc<Tenant>,
    /// The patron's user id.
    pub user: Uuid,
    /// The gateway, token and tenant for calls to mod-users.
    pub caller: Caller,
}

impl Evaluator {
    /// Creates an evaluator; `config` has the ages at which a patron group is fresh, stale or
    /// unusable.
    pub fn new(
        clock: Clock,
        users: Users,
        config: OkapiConfig,
        user_topics: Arc<UserTopics>,
    ) -> Self {
        let (policies, refreshing) = (Policies::default(), Mutex::default());
        let (freshness, certainty) = (Arc::default(), None);
        let (counts, latencies) = (CertaintyCounts::default(), LatencyHistory::default());
        Self {
            clock,
            users,
            config,
            user_topics,
            policies,
            refreshing,
            freshness,
            certainty,
            counts,
            latencies,
        }
    }

    /// Adds what makes evaluations certain: the progress of ingest, reads about certainty, and questions to the
    /// storage modules.
    #[must_use]
    pub fn with_certainty(
        self,
        freshness: Arc<Freshness>,
        reads: CertaintyReads,
        questions: StorageQuestions,
    ) -> Self {
        Self { freshness, certainty: Some(CertaintyServices { reads, questions }), ..self }
    }

    /// Evaluates a patron at the current time. With `is_explained`, the response contains the numbers of each
    /// block. If the evaluation is not certain, the policy of the tenant may require a question to the storage
    /// modules; after a response, the patron is evaluated again.
    pub async fn evaluate(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        is_explained: bool,
    ) -> Result<Evaluation, Arc<store::Error>> {
        let evaluation = self.evaluate_known(request, is_explained, None).await?;
        let asks = !evaluation.reactions.actions_with(UncertainReaction::Ask).is_empty();
        let Some(certainty) = self.certainty.as_ref().filter(|_| asks) else {
            return Ok(evaluation);
        };
        let policy = &evaluation.settings.policy;
        // A snapshot contains no patron group, so it does not help if only the group is outdated.
        if !evaluation.assessed.improves_by_snapshot(policy.late_after()) {
            return Ok(evaluation);
        }
        // Few evaluations get here, so these futures are not a part of every evaluation.
        let outcome = Box::pin(certainty.questions.ask(request, policy.ask_deadline())).await;
        let mut evaluation = Evaluation { asked: Some(outcome), ..evaluation };
        if outcome == AskOutcome::Answered {
            let known = match evaluation.source {
                AnswerSource::NothingOpen | AnswerSource::NoLimits => None,
                source => Some((evaluation.group.clone(), source)),
            };
            let again = Box::pin(self.evaluate_known(request, is_explained, known));
            // The first evaluation is valid, whatever happens to the second one.
            if let Ok(Ok(again)) = timeout(REEVALUATION_TIMEOUT, again).await {
                evaluation = Evaluation { asked: Some(outcome), ..again };
            }
        }
        Ok(evaluation)
    }

    /// Evaluates a patron from the known state. `known_group` has the group of an evaluation a moment ago.
    async fn evaluate_known(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        is_explained: bool,
        known_group: Option<(Option<String>, AnswerSource)>,
    ) -> Result<Evaluation, Arc<store::Error>> {
        let now = self.clock.now();
        let EvaluationRequest { db, tenant, user, .. } = request;
        // The view precedes the state, so the state has the events up to the instant of the view.
        let view = self.freshness.view();
        let (freshness, view_now) = (view.of(&tenant.id), view.now().unwrap_or(now));
        let settings = self.certainty_settings(tenant).await;
        let needs_horizon = self.certainty.is_some()
            && certainty::needs_only_horizon(tenant, (freshness, view_now), &settings);
        let state = store::read(db, async |db| {
            patrons::load_state(db, &tenant.schema, *user, now, needs_horizon).await
        })
        .await?;
        let read_at = state.as_ref().map_or(view_now, |state| state.read_at);
        let horizon = state.as_ref().filter(|_| needs_horizon).map(|state| state.snapshot_horizon);
        let assess = async |source| {
            let assessed =
                self.assess(request, (freshness, read_at), &settings, (source, horizon)).await;
            (settings.clone(), assessed)
        };
        let Some(state) = state.filter(|state| !state.measures.is_empty()) else {
            let source = AnswerSource::NothingOpen;
            let assessed = assess(source).await;
            return Ok(Evaluation::new(
                Measures::default(),
                (None, source),
                assessed,
                Arc::default(),
            ));
        };
        let policy = self.policies.get(db, tenant).await?;
        // Without limits the group decides nothing.
        let (group, source) = match (policy.limits.is_empty(), known_group) {
            (true, _) => (None, AnswerSource::NoLimits),
            (false, Some(known)) => known,
            (false, None) => self.resolve_group(request, &state).await,
        };
        let assessed = assess(source).await;
        let mut evaluation = Evaluation::new(state.measures, (group, source), assessed, policy);
        // Almost no block shows how many loans a limit of days requires, and most patrons have one recall at most.
        if evaluation.measures.overdue_recalls > 1 && evaluation.shows_recall_days(is_explained) {
            let load = store::read(db, async |db| {
                patrons::load_recall_days(db, &tenant.schema, *user, now).await
            });
            evaluation.measures.recall_days = Box::pin(load).await?;
        }
        Ok(evaluation)
    }

    /// Returns the certainty settings of a tenant; the default on the command line.
    async fn certainty_settings(&self, tenant: &Arc<Tenant>) -> Arc<CertaintySettings> {
        match &self.certainty {
            Some(CertaintyServices { reads, .. }) => self.policies.certainty(reads, tenant).await,
            None => Arc::default(),
        }
    }

    /// Determines the certainty of an evaluation. On the command line, nothing is known about missing events.
    async fn assess(
        &self,
        EvaluationRequest { tenant, user, .. }: &EvaluationRequest,
        progress: (TenantFreshness, DateTime<Utc>),
        settings: &CertaintySettings,
        read: (AnswerSource, Option<Option<Horizon>>),
    ) -> AssessedCertainty {
        match &self.certainty {
            Some(CertaintyServices { reads, .. }) => {
                certainty::assess(reads, (tenant, *user), progress, settings, read).await
            }
            None => AssessedCertainty::unknown(progress.1),
        }
    }

    /// Returns the patron's group (docs/contract/http-api.md#2-blocks), the newer of a response of
    /// mod-users and a record of the topic. A group from the topic is used at once, and refreshed in
    /// the background if stale. A cached group is used while fresh; while stale, it is used and
    /// refreshed in the background. Otherwise the service calls mod-users, and if the call fails, the
    /// last known group serves for a limited time. If the last response contained no group, each
    /// evaluation calls mod-users.
    async fn resolve_group(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        state: &PatronState,
    ) -> (Option<String>, AnswerSource) {
        let is_from_topic =
            state.is_topic_group() && self.user_topics.has_topic_for(&request.tenant.id);
        let is_other_gateway = request.caller.is_foreign_gateway;
        let known = state.known_group();
        let known = known.and_then(|known| Some((state.age(known), known.group.clone()?)));
        match known {
            // A response of another gateway is not cached, so a background refresh would have no
            // effect.
            Some((age, group))
                if is_from_topic && age > self.config.patron_group_stale && is_other_gateway =>
            {
                self.fetch_group_or_fallback(request, Some(group)).await
            }
            Some((age, group)) if is_from_topic => {
                if age > self.config.patron_group_stale {
                    self.refresh_in_background(request);
                }
                (Some(group), AnswerSource::GroupFromTopic)
            }
            Some((age, group)) if age <= self.config.patron_group_ttl => {
                (Some(group), AnswerSource::GroupFromCache)
            }
            Some((age, group)) if age <= self.config.patron_group_stale => {
                if !is_other_gateway {
                    self.refresh_in_background(request);
                }
                (Some(group), AnswerSource::GroupFromStaleCache)
            }
            Some((age, group)) if age <= self.config.patron_group_fallback => {
                self.fetch_group_or_fallback(request, Some(group)).await
            }
            _ => self.fetch_group_or_fallback(request, None).await,
        }
    }

    /// Returns the last known group, without a call.
    fn last_known_group(
        &self,
        request: &EvaluationRequest,
        state: &PatronState,
    ) -> (Option<String>, AnswerSource) {
        let known = state.known_group();
        let known = known.and_then(|known| Some((state.age(known), known.group.clone()?)));
        let Some((age, group)) = known else { return (None, AnswerSource::GroupUnknown) };
        let is_from_topic =
            state.is_topic_group() && self.user_topics.has_topic_for(&request.tenant.id);
        let source = if is_from_topic {
            AnswerSource::GroupFromTopic
        } else if age <= self.config.patron_group_fallback {
            // An evaluation asks mod-users, and almost always gets the same group.
            AnswerSource::GroupFromStaleCache
        } else {
            AnswerSource::GroupFallback
        };
        (Some(group), source)
    }

    /// Returns the group from mod-users, or `last` if the call fails.
    async fn fetch_group_or_fallback(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        last: Option<String>,
    ) -> (Option<String>, AnswerSource) {
        // While the breaker is open, only a request without a known group waits for the trial call.
        if last.is_some() && !self.users.is_available(&request.caller) {
            self.refresh_in_background(request);
            return (last, AnswerSource::GroupFallbackCircuitOpen);
        }
        let failure = match self.fetch_group(request).await {
            Ok(Some(group)) => return (Some(group), AnswerSource::GroupFromUsers),
            Ok(None) => return (None, AnswerSource::GroupNone),
            Err(failure) => failure,
        };
        let source = match (failure, last.is_some()) {
            (CallError::CircuitOpen, true) => AnswerSource::GroupFallbackCircuitOpen,
            (CallError::CircuitOpen, false) => AnswerSource::GroupUnknownCircuitOpen,
            (_, true) => AnswerSource::GroupFallback,
            (_, false) => AnswerSource::GroupUnknown,
        };
        (last, source)
    }

    /// Refreshes the group in a background task. A response of another gateway is not stored, but can
    /// close the breaker.
    fn refresh_in_background(self: &Arc<Self>, request: &EvaluationRequest) {
        let key = (request.tenant.id.clone(), request.user);
        let mut refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshing.len() >= BACKGROUND_REFRESHES_MAX || !refreshing.insert(key.clone()) {
            return;
        }
        drop(refreshing);
        let (evaluator, request) = (self.clone(), request.clone());
        tokio::spawn(async move {
            let _ = evaluator.fetch_group(&request).await;
            evaluator.refreshing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }

    /// Calls mod-users and logs a failure. Stores the response, unless the request uses another
    /// gateway: that response serves only this request.
    async fn fetch_group(&self, request: &EvaluationRequest) -> Result<Option<String>, CallError> {
        let EvaluationRequest { db, tenant, user, caller } = request;
        let started = Instant::now();
        let group = self.users.fetch_patron_group(caller, *user).await.inspect_err(|error| {
            // The log already has a message about the open breaker.
            if !matches!(error, CallError::CircuitOpen) {
                warn!(tenant = %tenant.id, user.id = %user, error = %ErrorChain(error),
                    "evaluation: could not get the patron group from mod-users");
            }
        })?;
        if caller.is_foreign_gateway {
            return Ok(group);
        }
        let (schema, known, age) = (&tenant.schema, group.as_deref(), started.elapsed());
        if let Err(error) = patrons::store_users_group(db, schema, *user, known, age).await {
            // The group is valid nevertheless; the next evaluation calls again.
            debug!(tenant = %tenant.id, user.id = %user, error = %ErrorChain(&error),
                "evaluation: could not store the patron group");
        }
        Ok(group)
    }
}
