//! Answers about one patron: the state in one round trip, the group as fresh as need be, the limits of
//! the group, and the evaluation.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
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
    okapi::{Caller, Users},
    store::{
        self, Db,
        patrons::{self, KnownGroup},
    },
    telemetry::Chain,
};

/// What an answer rests on (http contract 2). A closed list: clients see it in a header, metrics are
/// labelled with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The patron has nothing open.
    NothingOpen,
    /// The library has set no limit.
    NoLimits,
    /// A patron group that the topic of users told, which is read as long as it is there.
    ToldGroup,
    /// A patron group that was asked for a moment ago.
    FreshGroup,
    /// One that is old enough to be asked again in the background.
    UsableGroup,
    /// One that the users module was asked for.
    AskedGroup,
    /// The last known one, because the users module fails.
    LastKnownGroup,
    /// The users module says that there is none, or its topic.
    NoGroup,
    /// The users module fails, and no group is known: nothing is blocked.
    GroupNotTold,
    /// The database fails, or is too slow: what is answered then is a setting.
    NotEvaluated,
    /// Too many ask at once: the same.
    TooMany,
}

impl Basis {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NothingOpen,
        Self::NoLimits,
        Self::ToldGroup,
        Self::FreshGroup,
        Self::UsableGroup,
        Self::AskedGroup,
        Self::LastKnownGroup,
        Self::NoGroup,
        Self::GroupNotTold,
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
            Self::NoGroup => "no-group",
            Self::GroupNotTold => "group-not-told",
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
    /// Asks the users module as `ages` says, but of tenants whose topic tells of users.
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
            false => self.group(question, state.asked, state.told, now).await,
        };
        Ok(Answer { measures: state.measures, group, basis, policy })
    }

    /// The patron's group (http contract 2). What the topic told does not age while the topic is there. Of
    /// what is known else, a fresh one is used; a usable one is used and asked for in the background; else it
    /// is asked for, and where that fails the last known one serves for a while.
    async fn group(
        self: &Arc<Self>,
        question: &Question,
        asked: Option<KnownGroup>,
        told: Option<KnownGroup>,
        now: DateTime<Utc>,
    ) -> (Option<String>, Basis) {
        let told = match told {
            Some(told) if self.user_topics.tell_of(&question.tenant.id) => {
                let basis = if told.group.is_some() { Basis::ToldGroup } else { Basis::NoGroup };
                return (told.group, basis);
            }
            told => told,
        };
        let newest = asked.into_iter().chain(told).max_by_key(|known| known.known_at);
        let known = newest.and_then(|known| Some((now - known.known_at, known.group?)));
        match known {
            Some((age, group)) if age <= self.ages.fresh => (Some(group), Basis::FreshGroup),
            Some((age, group)) if age <= self.ages.usable => {
                self.ask_in_background(question);
                (Some(group), Basis::UsableGroup)
            }
            known => match (self.ask(question).await, known) {
                (Ok(Some(group)), _) => (Some(group), Basis::AskedGroup),
                (Ok(None), _) => (None, Basis::NoGroup),
                (Err(()), Some((age, group))) if age <= self.ages.fallback => {
                    (Some(group), Basis::LastKnownGroup)
                }
                (Err(()), _) => (None, Basis::GroupNotTold),
            },
        }
    }

    fn ask_in_background(self: &Arc<Self>, question: &Question) {
        let who = (question.tenant.id.clone(), question.user);
        if !self.asking.lock().unwrap_or_else(PoisonError::into_inner).insert(who.clone()) {
            return;
        }
        let (answers, question) = (self.clone(), question.clone());
        tokio::spawn(async move {
            let _ = answers.ask(&question).await;
            answers.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&who);
        });
    }

    /// Asks the users module and keeps its answer. A failure is logged here; who asks needs only know
    /// that there was no answer.
    async fn ask(&self, question: &Question) -> Result<Option<String>, ()> {
        let Question { db, tenant, user, caller } = question;
        let known_at = self.clock.now();
        let group = self.users.patron_group(caller, *user).await.map_err(|error| {
            warn!(tenant = %tenant.id, user.id = %user, error = %Chain(&error),
                "patron group not told");
        })?;
        let known = KnownGroup { group, known_at };
        if let Err(error) = patrons::learn_group(db, &tenant.schema, *user, &known).await {
            // The answer is right all the same; the next one asks again.
            debug!(tenant = %tenant.id, user.id = %user, error = %Chain(&error),
                "patron group not kept");
        }
        Ok(known.group)
    }
}
