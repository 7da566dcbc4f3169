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
    okapi::{CallError, Caller, Users},
    store::{
        self, Db,
        patrons::{self, State},
    },
    telemetry::Chain,
};

/// Patrons whose group is asked for in the background at once, at most. Of others, the next answer asks.
const ASKING_MOST: usize = 100;

/// What an answer rests on (http contract 2). A closed list: clients see it in a header, metrics are
/// labelled with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The patron has nothing open.
    NothingOpen,
    /// The library has set no limit.
    NoLimits,
    /// A patron group that the topic of users named, and that no newer answer contradicts. An old one is asked
    /// for again in the background.
    ToldGroup,
    /// A patron group that was asked for a moment ago.
    FreshGroup,
    /// One that is old enough to be asked again in the background.
    UsableGroup,
    /// One that the users module was asked for.
    AskedGroup,
    /// The last known one, because the users module fails.
    LastKnownGroup,
    /// The last known one, because the users module hangs and nobody waits for it.
    LastKnownUnasked,
    /// The users module says that there is none.
    NoGroup,
    /// The users module fails, and no group is known: nothing is blocked.
    GroupNotTold,
    /// The users module hangs and is not asked, and no group is known: nothing is blocked.
    GroupUnasked,
    /// The database fails, or is too slow: what is answered then is a setting.
    NotEvaluated,
    /// Too many ask at once: the same.
    TooMany,
}

impl Basis {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::NothingOpen,
        Self::NoLimits,
        Self::ToldGroup,
        Self::FreshGroup,
        Self::UsableGroup,
        Self::AskedGroup,
        Self::LastKnownGroup,
        Self::LastKnownUnasked,
        Self::NoGroup,
        Self::GroupNotTold,
        Self::GroupUnasked,
        Self::NotEvaluated,
        Self::TooMany,
    ];

    /// As clients and metrics see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingOpen => "nothing-open",
            Self::NoLimits => "no-limits",
            Self::ToldGroup => "told-group",
            Self::FreshGroup => "fresh-group",
            Self::UsableGroup => "usable-group",
            Self::AskedGroup => "asked-group",
            Self::LastKnownGroup => "last-known-group",
            Self::LastKnownUnasked => "last-known-group-unasked",
            Self::NoGroup => "no-group",
            Self::GroupNotTold => "group-not-told",
            Self::GroupUnasked => "group-unasked",
            Self::NotEvaluated => "not-evaluated",
            Self::TooMany => "too-many",
        }
    }
}

/// An evaluation with what it was made from.
#[derive(Debug)]
pub struct Answer {
    /// What the patron has; all zero where nothing is open.
    pub measures: Measures,
    /// The group whose limits were compared, where one is known.
    pub group: Option<String>,
    /// What it rests on.
    pub basis: Basis,
    policy: Arc<Policy>,
}

impl Answer {
    /// Every limit of the group, with the numbers that were compared and the actions they reach.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        let limits = self.group.iter().flat_map(|group| self.policy.limits_of(group));
        blocks::evaluate(&self.measures, limits, &self.policy.conditions)
    }
}

/// Answers about patrons. Shared by all who answer; the connections to use come with each call.
pub struct Answers {
    clock: Clock,
    users: Users,
    ages: OkapiConfig,
    user_topics: Arc<UserTopics>,
    /// What libraries have set.
    pub policies: Policies,
    /// Patrons whose group is being asked for in the background.
    asking: Mutex<HashSet<(TenantId, Uuid)>>,
}

/// Who asks what for whom, over which connections.
#[derive(Clone)]
pub struct Question {
    /// Connections of the thread that answers.
    pub db: Db,
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// The patron.
    pub user: Uuid,
    /// On whose behalf.
    pub caller: Caller,
}

impl Answers {
    /// Asks the users module as `ages` says. Nobody waits for a group that a topic named.
    pub fn new(
        clock: Clock,
        users: Users,
        ages: OkapiConfig,
        user_topics: Arc<UserTopics>,
    ) -> Self {
        let (policies, asking) = (Policies::default(), Mutex::default());
        Self { clock, users, ages, user_topics, policies, asking }
    }

    /// Evaluates a patron at this moment.
    pub async fn blocks(
        self: &Arc<Self>,
        question: &Question,
    ) -> Result<Answer, Arc<store::Error>> {
        let now = self.clock.now();
        let Question { db, tenant, user, .. } = question;
        let state =
            store::read(db, async |db| patrons::state(db, &tenant.schema, *user, now).await)
                .await?;
        let Some(state) = state.filter(|state| !state.measures.is_empty()) else {
            let measures = Measures::default();
            let basis = Basis::NothingOpen;
            return Ok(Answer { measures, group: None, basis, policy: Arc::default() });
        };
        let policy = self.policies.of(db, tenant).await?;
        // Without any limit there is nothing that the group could decide.
        let (group, basis) = match policy.limits.is_empty() {
            true => (None, Basis::NoLimits),
            false => self.group(question, &state).await,
        };
        Ok(Answer { measures: state.measures, group, basis, policy })
    }

    /// The patron's group (http contract 2): the newer of an answer and a record of the topic. One that the topic
    /// named is used at once and asked for in the background where it is old. Of others a fresh one is used; a
    /// usable one is used and asked for in the background; else it is asked for, and where that fails the last
    /// known one serves for a while. Who is said to have none is always asked about.
    async fn group(
        self: &Arc<Self>,
        question: &Question,
        state: &State,
    ) -> (Option<String>, Basis) {
        let by_topic = state.is_group_of_topic() && self.user_topics.tell_of(&question.tenant.id);
        let is_elsewhere = question.caller.is_elsewhere;
        let known = state.known_group();
        let known = known.and_then(|known| Some((state.age(known), known.group.clone()?)));
        match known {
            // What is answered elsewhere is not stored, so nobody but this request would learn of it.
            Some((age, group)) if by_topic && age > self.ages.usable && is_elsewhere => {
                self.asked_group(question, Some(group)).await
            }
            Some((age, group)) if by_topic => {
                if age > self.ages.usable {
                    self.ask_in_background(question);
                }
                (Some(group), Basis::ToldGroup)
            }
            Some((age, group)) if age <= self.ages.fresh => (Some(group), Basis::FreshGroup),
            Some((age, group)) if age <= self.ages.usable => {
                if !is_elsewhere {
                    self.ask_in_background(question);
                }
                (Some(group), Basis::UsableGroup)
            }
            Some((age, group)) if age <= self.ages.fallback => {
                self.asked_group(question, Some(group)).await
            }
            _ => self.asked_group(question, None).await,
        }
    }

    /// The group as the users module says, or the last one that serves where that fails.
    async fn asked_group(
        self: &Arc<Self>,
        question: &Question,
        last: Option<String>,
    ) -> (Option<String>, Basis) {
        // While the module hangs, only who has no group to go by waits for the call that finds out.
        if last.is_some() && !self.users.may_ask(&question.caller) {
            self.ask_in_background(question);
            return (last, Basis::LastKnownUnasked);
        }
        let failure = match self.ask(question).await {
            Ok(Some(group)) => return (Some(group), Basis::AskedGroup),
            Ok(None) => return (None, Basis::NoGroup),
            Err(failure) => failure,
        };
        let basis = match (failure, last.is_some()) {
            (CallError::Unasked, true) => Basis::LastKnownUnasked,
            (CallError::Unasked, false) => Basis::GroupUnasked,
            (_, true) => Basis::LastKnownGroup,
            (_, false) => Basis::GroupNotTold,
        };
        (last, basis)
    }

    /// Asks without making anybody wait. What is asked elsewhere serves nobody, but it closes the breaker.
    fn ask_in_background(self: &Arc<Self>, question: &Question) {
        let who = (question.tenant.id.clone(), question.user);
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.len() >= ASKING_MOST || !asking.insert(who.clone()) {
            return;
        }
        drop(asking);
        let (answers, question) = (self.clone(), question.clone());
        tokio::spawn(async move {
            let _ = answers.ask(&question).await;
            answers.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&who);
        });
    }

    /// Asks the users module and stores its answer, unless a request chose whom to ask: that answer is the
    /// request's alone. A failure is logged here.
    async fn ask(&self, question: &Question) -> Result<Option<String>, CallError> {
        let Question { db, tenant, user, caller } = question;
        let began = Instant::now();
        let group = self.users.patron_group(caller, *user).await.inspect_err(|error| {
            // That a module is not asked was said when that began.
            if !matches!(error, CallError::Unasked) {
                warn!(tenant = %tenant.id, user.id = %user, error = %Chain(error),
                    "evaluation: could not get the patron group from mod-users");
            }
        })?;
        if caller.is_elsewhere {
            return Ok(group);
        }
        let (schema, known, ago) = (&tenant.schema, group.as_deref(), began.elapsed());
        if let Err(error) = patrons::learn_group(db, schema, *user, known, ago).await {
            // The answer is right all the same; the next one asks again.
            debug!(tenant = %tenant.id, user.id = %user, error = %Chain(&error),
                "evaluation: could not store the patron group");
        }
        Ok(group)
    }
}
