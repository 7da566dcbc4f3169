//! Of which tenants there is a topic of users. A patron group that it names is used at once, and where it is old
//! it is asked for again in the background (docs/decisions/0017).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Broker;
use crate::event::{Environment, Kind, TenantId};

/// What is known of topics that tell of users.
#[derive(Debug, Default)]
pub struct UserTopics {
    /// What the last look at the log's topics has found; nothing before the first one.
    found: RwLock<Option<Found>>,
    /// The topic in which the newest record of a tenant's users stood, of each tenant of which that was looked up;
    /// none where there never was a record.
    newest: RwLock<HashMap<TenantId, Option<String>>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Tenants with a topic of their own.
    of: HashSet<TenantId>,
    /// Topics of tenant collections: any tenant's records may stand in them.
    of_collections: HashSet<String>,
}

impl Found {
    fn among<'a>(names: impl IntoIterator<Item = &'a str>, environment: &Environment) -> Self {
        let mut found = Self::default();
        let topics = names.into_iter().filter_map(|name| Some((name, environment.parse(name)?)));
        for (name, topic) in topics.filter(|(_, topic)| topic.kind == Kind::StoredUser) {
            match topic.tenant {
                Some(tenant) => {
                    found.of.insert(tenant);
                }
                None => {
                    found.of_collections.insert(name.to_owned());
                }
            }
        }
        found
    }
}

impl UserTopics {
    /// Whether this tenant's users have a topic that is read. It is believed until a look has found none: an
    /// instance that starts while no broker answers must make nobody wait. A topic of a tenant collection counts for
    /// a tenant whose newest record stands in it; of one whose own topic is gone, records of others say nothing.
    pub fn tell_of(&self, tenant: &TenantId) -> bool {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Found { of, of_collections }) = &*found else { return true };
        if of.contains(tenant) {
            return true;
        }
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        match newest.get(tenant) {
            Some(topic) => topic.as_ref().is_some_and(|topic| of_collections.contains(topic)),
            None => !of_collections.is_empty(),
        }
    }

    /// Keeps in which topic the newest record of each tenant's users stood; others are not known any more.
    pub fn learn(&self, newest: HashMap<TenantId, Option<String>>) {
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = newest;
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
                Some(Ok(Err(error))) => debug!(%error, "user topics: could not list the topics of mod-users; retrying"),
                Some(Err(_)) | None => {}
            }
            stop.run_until_cancelled(sleep(every)).await;
        }
    }

    fn keep(&self, now: Found) {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref() != Some(&now) {
            let Found { of, of_collections } = &now;
            info!(
                tenants = of.len(),
                of_collections = of_collections.len(),
                "user topics: found the topics of mod-users"
            );
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

    /// Where nobody has looked it up, any topic of a collection may tell of a tenant.
    #[test]
    fn others_records_in_a_collection_say_nothing_of_a_tenant() {
        let topics = looked(&["prod1.ALL.users.users", "prod1.southlib.users.users"]);
        let (north, shared) = (tenant("northlib"), Some("prod1.ALL.users.users".to_owned()));
        for (newest, tells) in [
            (Some("prod1.northlib.users.users".to_owned()), false),
            (None, false),
            (Some("prod1.EAST.users.users".to_owned()), false),
            (shared, true),
        ] {
            topics.learn(HashMap::from([(north.clone(), newest)]));
            assert_eq!(topics.tell_of(&north), tells);
        }
        assert!(topics.tell_of(&tenant("southlib")));
        topics.learn(HashMap::new());
        assert!(topics.tell_of(&north));
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
