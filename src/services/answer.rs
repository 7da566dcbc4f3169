//! Answers about one patron: the state in one round trip, the group as fresh as need be, the limits of
//! the group, and the evaluation.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    policy::{Policies, Policy},
    tenants::Tenant,
};
use crate::{
    blocks::{self, Finding, Measures},
    clock::Clock,
    config::OkapiConfig,
    event::TenantId,
    kafka::UserTopics,
    logging::ErrorChain,
    okapi::{CallError, Caller, Users},
    store::{
        self, Db,
        patrons::{self, PatronState},
    },
};

/// Patrons whose group is asked for in the background at once, at most. Of others, the next answer asks.
const BACKGROUND_REFRESHES_MAX: usize = 100;

/// What an answer rests on (docs/contract/http-api.md#2-blocks). A closed list: clients see it in a
/// header, metrics are labelled with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The patron has nothing open.
    NothingOpen,
    /// The library has set no limit.
    NoLimits,
    /// A patron group that the topic of users named, and that no newer answer contradicts. An old one is asked
    /// for again in the background.
    GroupFromTopic,
    /// A patron group that was asked for a moment ago.
    GroupFromCache,
    /// One that is old enough to be asked again in the background.
    GroupFromStaleCache,
    /// One that the users module was asked for.
    GroupFromUsers,
    /// The last known one, because the users module fails.
    GroupFallback,
    /// The last known one, because the users module hangs and nobody waits for it.
    GroupFallbackCircuitOpen,
    /// The users module says that there is none.
    GroupNone,
    /// The users module fails, and no group is known: nothing is blocked.
    GroupUnknown,
    /// The users module hangs and is not asked, and no group is known: nothing is blocked.
    GroupUnknownCircuitOpen,
    /// The database fails, or is too slow: what is answered then is a setting.
    NotEvaluated,
    /// Too many ask at once: the same.
    Overloaded,
}

impl AnswerSource {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::NothingOpen,
        Self::NoLimits,
        Self::GroupFromTopic,
        Self::GroupFromCache,
        Self::GroupFromStaleCache,
        Self::GroupFromUsers,
        Self::GroupFallback,
        Self::GroupFallbackCircuitOpen,
        Self::GroupNone,
        Self::GroupUnknown,
        Self::GroupUnknownCircuitOpen,
        Self::NotEvaluated,
        Self::Overloaded,
    ];

    /// As clients and metrics see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingOpen => "nothing-open",
            Self::NoLimits => "no-limits",
            Self::GroupFromTopic => "told-group",
            Self::GroupFromCache => "group-from-cache",
            Self::GroupFromStaleCache => "group-from-stale-cache",
            Self::GroupFromUsers => "group-from-users",
            Self::GroupFallback => "group-fallback",
            Self::GroupFallbackCircuitOpen => "group-fallback-circuit-open",
            Self::GroupNone => "group-none",
            Self::GroupUnknown => "group-unknown",
            Self::GroupUnknownCircuitOpen => "group-unknown-circuit-open",
            Self::NotEvaluated => "not-evaluated",
            Self::Overloaded => "too-many",
        }
    }
}

/// An evaluation with what it was made from.
#[derive(Debug)]
pub struct Evaluation {
    /// What the patron has; all zero where nothing is open.
    pub measures: Measures,
    /// The group whose limits were compared, where one is known.
    pub group: Option<String>,
    /// What it rests on.
    pub source: AnswerSource,
    policy: Arc<Policy>,
}

impl Evaluation {
    /// Every limit of the group, with the numbers that were compared and the actions they reach.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        let limits = self.group.iter().flat_map(|group| self.policy.limits_of(group));
        blocks::evaluate(&self.measures, limits, &self.policy.conditions)
    }
}

/// Answers about patrons. Shared by all who answer; the connections to use come with each call.
pub struct Evaluator {
    clock: Clock,
    users: Users,
    config: OkapiConfig,
    user_topics: Arc<UserTopics>,
    /// What libraries have set.
    pub policies: Policies,
    /// Patrons whose group is being asked for in the background.
    refreshing: Mutex<HashSet<(TenantId, Uuid)>>,
}

/// Who asks what for whom, over which connections.
#[derive(Clone)]
pub struct EvaluationRequest {
    /// Connections of the thread that answers.
    pub db: Db,
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// The patron.
    pub user: Uuid,
    /// On whose behalf.
    pub caller: Caller,
}

impl Evaluator {
    /// Asks the users module as `ages` says. Nobody waits for a group that a topic named.
    pub fn new(
        clock: Clock,
        users: Users,
        config: OkapiConfig,
        user_topics: Arc<UserTopics>,
    ) -> Self {
        let (policies, refreshing) = (Policies::default(), Mutex::default());
        Self { clock, users, config, user_topics, policies, refreshing }
    }

    /// Evaluates a patron at this moment.
    pub async fn evaluate(
        self: &Arc<Self>,
        request: &EvaluationRequest,
    ) -> Result<Evaluation, Arc<store::Error>> {
        let now = self.clock.now();
        let EvaluationRequest { db, tenant, user, .. } = request;
        let state =
            store::read(db, async |db| patrons::load_state(db, &tenant.schema, *user, now).await)
                .await?;
        let Some(state) = state.filter(|state| !state.measures.is_empty()) else {
            let measures = Measures::default();
            let source = AnswerSource::NothingOpen;
            return Ok(Evaluation { measures, group: None, source, policy: Arc::default() });
        };
        let policy = self.policies.get(db, tenant).await?;
        // Without any limit there is nothing that the group could decide.
        let (group, source) = match policy.limits.is_empty() {
            true => (None, AnswerSource::NoLimits),
            false => self.resolve_group(request, &state).await,
        };
        Ok(Evaluation { measures: state.measures, group, source, policy })
    }

    /// The patron's group (docs/contract/http-api.md#2-blocks): the newer of an answer and a record
    /// of the topic. One that the topic named is used at once and asked for in the background where
    /// it is old. Of others a fresh one is used; a usable one is used and asked for in the
    /// background; else it is asked for, and where that fails the last known one serves for a
    /// while. Who is said to have none is always asked about.
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
            // What is answered elsewhere is not stored, so nobody but this request would learn of it.
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

    /// The group as the users module says, or the last one that serves where that fails.
    async fn fetch_group_or_fallback(
        self: &Arc<Self>,
        request: &EvaluationRequest,
        last: Option<String>,
    ) -> (Option<String>, AnswerSource) {
        // While the module hangs, only who has no group to go by waits for the call that finds out.
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

    /// Asks without making anybody wait. What is asked elsewhere serves nobody, but it closes the breaker.
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

    /// Asks the users module and stores its answer, unless a request chose whom to ask: that answer is the
    /// request's alone. A failure is logged here.
    async fn fetch_group(&self, request: &EvaluationRequest) -> Result<Option<String>, CallError> {
        let EvaluationRequest { db, tenant, user, caller } = request;
        let started = Instant::now();
        let group = self.users.fetch_patron_group(caller, *user).await.inspect_err(|error| {
            // That a module is not asked was said when that began.
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
            // The answer is right all the same; the next one asks again.
            debug!(tenant = %tenant.id, user.id = %user, error = %ErrorChain(&error),
                "evaluation: could not store the patron group");
        }
        Ok(group)
    }
}
