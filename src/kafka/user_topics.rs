//! Of which tenants there is a topic of users. A patron group that it names is used at once, and where it is old
//! it is asked for again in the background (docs/decisions/0017).

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Broker;
use crate::event::{Environment, Kind, TenantId};

/// What the last look at the log's topics has found; nothing before the first one.
#[derive(Debug, Default)]
pub struct UserTopics(RwLock<Option<Found>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Tenants with a topic of their own.
    of: HashSet<TenantId>,
    /// Whether there is one of a tenant collection: any tenant's records may stand in it.
    of_collections: bool,
}

impl Found {
    fn among<'a>(names: impl IntoIterator<Item = &'a str>, environment: &Environment) -> Self {
        let mut found = Self::default();
        let topics = names.into_iter().filter_map(|name| environment.parse(name));
        for topic in topics.filter(|topic| topic.kind == Kind::StoredUser) {
            match topic.tenant {
                Some(tenant) => {
                    found.of.insert(tenant);
                }
                None => found.of_collections = true,
            }
        }
        found
    }
}

impl UserTopics {
    /// Whether this tenant's users have a topic that is read. It is believed until a look has found none: an
    /// instance that starts while no broker answers must make nobody wait.
    pub fn tell_of(&self, tenant: &TenantId) -> bool {
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().is_none_or(|found| found.of_collections || found.of.contains(tenant))
    }

    /// Whether it was looked at all.
    pub fn is_known(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Looks every so often, until `stop`. While no broker answers, what was found last is so still.
    pub async fn follow(
        self: Arc<Self>,
        broker: Arc<Broker>,
        environment: Environment,
        every: Duration,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let asked = broker.clone();
            match stop.run_until_cancelled(spawn_blocking(move || asked.topics())).await {
                Some(Ok(Ok(names))) => {
                    self.keep(Found::among(names.iter().map(String::as_str), &environment));
                }
                Some(Ok(Err(error))) => debug!(%error, "could not look for topics of users"),
                Some(Err(_)) | None => {}
            }
            stop.run_until_cancelled(sleep(every)).await;
        }
    }

    fn keep(&self, now: Found) {
        let mut found = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref() != Some(&now) {
            let Found { of, of_collections } = &now;
            info!(tenants = of.len(), of_collections, "topics that tell of users");
        }
        *found = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    fn looked(names: &[&str]) -> UserTopics {
        let topics = UserTopics::default();
        topics.keep(Found::among(names.iter().copied(), &Environment::new(Some("prod1"))));
        topics
    }

    #[test]
    fn what_was_told_is_believed_until_its_topic_is_known_to_be_gone() {
        let topics = UserTopics::default();
        assert!(topics.tell_of(&tenant("northlib")));
        topics.keep(Found::default());
        assert!(!topics.tell_of(&tenant("northlib")));
    }

    #[test]
    fn a_tenant_is_told_of_by_its_own_topic_or_by_one_of_a_collection() {
        let own = looked(&["prod1.northlib.users.users", "prod1.southlib.circulation.loan"]);
        assert!(own.tell_of(&tenant("northlib")));
        assert!(!own.tell_of(&tenant("southlib")));
        let shared = looked(&["prod1.ALL.users.users"]);
        assert!(shared.tell_of(&tenant("southlib")));
        let others = looked(&["prod2.northlib.users.users", "prod1.northlib.users.userGroup"]);
        assert!(!others.tell_of(&tenant("northlib")));
    }
}
