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
    okapi::{Caller, Users},
    store::{
        self, Db,
        patrons::{self, KnownGroup},
    },
    telemetry::Chain,
};

/// An evaluation with what it was made from.
#[derive(Debug)]
pub struct Answer {
    /// What the patron has; all zero where nothing is open.
    pub measures: Measures,
    /// The group whose limits were compared, where one is known.
    pub group: Option<String>,
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
    /// Asks the users module as `ages` says.
    pub fn new(clock: Clock, users: Users, ages: OkapiConfig) -> Self {
        Self { clock, users, ages, policies: Policies::default(), asking: Mutex::default() }
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
            let nothing =
                Answer { measures: Measures::default(), group: None, policy: Arc::default() };
            return Ok(nothing);
        };
        let policy = self.policies.of(db, tenant).await?;
        // Without any limit there is nothing that the group could decide.
        let group = match policy.limits.is_empty() {
            true => None,
            false => self.group(question, state.group, now).await,
        };
        Ok(Answer { measures: state.measures, group, policy })
    }

    /// The patron's group (http contract 2): a fresh one is used; a usable one is used and asked for in
    /// the background; else it is asked for, and where that fails the last known one serves for a while.
    async fn group(
        self: &Arc<Self>,
        question: &Question,
        known: Option<KnownGroup>,
        now: DateTime<Utc>,
    ) -> Option<String> {
        let age = known.as_ref().map(|known| now - known.known_at);
        if age.is_some_and(|age| age <= self.ages.usable) {
            if age.is_some_and(|age| age > self.ages.fresh) {
                self.ask_in_background(question);
            }
            return known.map(|known| known.group);
        }
        match self.ask(question).await {
            Ok(group) => group,
            Err(()) if age.is_some_and(|age| age <= self.ages.fallback) => {
                known.map(|known| known.group)
            }
            Err(()) => None,
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
        let kept = match &group {
            Some(group) => {
                let known = KnownGroup { group: group.clone(), known_at };
                patrons::learn_group(db, &tenant.schema, *user, &known).await
            }
            None => patrons::forget_group(db, &tenant.schema, *user).await,
        };
        if let Err(error) = kept {
            // The answer is right all the same; the next one asks again.
            debug!(tenant = %tenant.id, user.id = %user, error = %Chain(&error),
                "patron group not kept");
        }
        Ok(group)
    }
}
