//! The tenants with a topic of users. A patron group from such a topic is used at once and, if stale,
//! refreshed in the background (docs/decisions/0017).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::BrokerClient;
use crate::event::{Environment, Kind, TenantId};

/// The known topics of users.
#[derive(Debug, Default)]
pub struct UserTopics {
    /// The topics of the last successful listing; `None` before the first.
    topics: RwLock<Option<UserTopicNames>>,
    /// The topic of the newest record about users, per tenant that was looked up; `None` if the
    /// tenant never had a record.
    newest_topics: RwLock<HashMap<TenantId, Option<String>>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct UserTopicNames {
    /// Tenants with a topic of their own.
    tenants: HashSet<TenantId>,
    /// Topics of tenant collections, which may contain records of any tenant.
    collection_topics: HashSet<String>,
}

impl UserTopicNames {
    fn from_names<'a>(names: impl IntoIterator<Item = &'a str>, environment: &Environment) -> Self {
        let mut found = Self::default();
        let topics = names.into_iter().filter_map(|name| Some((name, environment.parse(name)?)));
        for (name, topic) in topics.filter(|(_, topic)| topic.kind == Kind::StoredUser) {
            match topic.tenant {
                Some(tenant) => {
                    found.tenants.insert(tenant);
                }
                None => {
                    found.collection_topics.insert(name.to_owned());
                }
            }
        }
        found
    }
}

impl UserTopics {
    /// Returns whether a topic of this tenant's users is being read. Before the first listing the
    /// answer is `true`, so that no request waits on an instance that starts while no broker answers.
    /// A collection topic counts for a tenant if it contains the tenant's newest record. Until that
    /// record is looked up, any collection topic counts. After the deletion of a tenant's own topic,
    /// records of other tenants therefore do not count.
    pub fn has_topic_for(&self, tenant: &TenantId) -> bool {
        let found = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let Some(UserTopicNames { tenants, collection_topics }) = &*found else { return true };
        if tenants.contains(tenant) {
            return true;
        }
        let newest = self.newest_topics.read().unwrap_or_else(PoisonError::into_inner);
        match newest.get(tenant) {
            Some(topic) => topic.as_ref().is_some_and(|topic| collection_topics.contains(topic)),
            None => !collection_topics.is_empty(),
        }
    }

    /// Replaces the topics of the newest records; tenants not in `newest` become unknown.
    pub fn set_newest_topics(&self, newest: HashMap<TenantId, Option<String>>) {
        *self.newest_topics.write().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    /// Lists the topics at each interval until `stop`. While no broker answers, the last listing
    /// remains valid.
    pub async fn run(
        self: Arc<Self>,
        broker: Arc<BrokerClient>,
        environment: Environment,
        interval: Duration,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let client = broker.clone();
            match stop.run_until_cancelled(spawn_blocking(move || client.topic_names())).await {
                Some(Ok(Ok(names))) => {
                    self.set_topics(UserTopicNames::from_names(
                        names.iter().map(String::as_str),
                        &environment,
                    ));
                }
                Some(Ok(Err(error))) => {
                    debug!(%error, "user topics: could not list the topics of mod-users; retrying")
                }
                Some(Err(_)) | None => {}
            }
            stop.run_until_cancelled(sleep(interval)).await;
        }
    }

    fn set_topics(&self, latest: UserTopicNames) {
        let mut found = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref() != Some(&latest) {
            let UserTopicNames { tenants, collection_topics } = &latest;
            info!(
                tenants = tenants.len(),
                of_collections = collection_topics.len(),
                "user topics: found the topics of mod-users"
            );
        }
        *found = Some(latest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    fn topics_found(names: &[&str]) -> UserTopics {
        let topics = UserTopics::default();
        topics.set_topics(UserTopicNames::from_names(
            names.iter().copied(),
            &Environment::new(Some("prod1")),
        ));
        topics
    }

    #[test]
    fn topic_groups_count_until_their_topic_is_gone() {
        let topics = UserTopics::default();
        assert!(topics.has_topic_for(&tenant("northlib")));
        topics.set_topics(UserTopicNames::default());
        assert!(!topics.has_topic_for(&tenant("northlib")));
    }

    /// Before the newest topics are known, any collection topic may have records of a tenant.
    #[test]
    fn foreign_collection_records_do_not_count_for_tenant() {
        let topics = topics_found(&["prod1.ALL.users.users", "prod1.southlib.users.users"]);
        let (north, shared) = (tenant("northlib"), Some("prod1.ALL.users.users".to_owned()));
        for (newest, expected) in [
            (Some("prod1.northlib.users.users".to_owned()), false),
            (None, false),
            (Some("prod1.EAST.users.users".to_owned()), false),
            (shared, true),
        ] {
            topics.set_newest_topics(HashMap::from([(north.clone(), newest)]));
            assert_eq!(topics.has_topic_for(&north), expected);
        }
        assert!(topics.has_topic_for(&tenant("southlib")));
        topics.set_newest_topics(HashMap::new());
        assert!(topics.has_topic_for(&north));
    }

    #[test]
    fn tenant_is_covered_by_own_or_collection_topic() {
        let own = topics_found(&["prod1.northlib.users.users", "prod1.southlib.circulation.loan"]);
        assert!(own.has_topic_for(&tenant("northlib")));
        assert!(!own.has_topic_for(&tenant("southlib")));
        let shared = topics_found(&["prod1.ALL.users.users"]);
        assert!(shared.has_topic_for(&tenant("southlib")));
        let unrelated =
            topics_found(&["prod2.northlib.users.users", "prod1.northlib.users.userGroup"]);
        assert!(!unrelated.has_topic_for(&tenant("northlib")));
    }
}
