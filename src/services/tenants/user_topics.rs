//! Finds the topic of the newest record about each tenant's users. Together with the list of existing
//! topics, the result decides whether a topic covers a tenant (docs/decisions/0017).

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Tenant, TenantRegistry};
use crate::{
    event::{Environment, Kind},
    kafka::UserTopics,
    logging::ErrorChain,
    store::{self, Db, ingest::positions},
};

/// Time limit of one lookup; a tenant has few positions.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest interval between two lookups.
const REFRESH_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Looks up all tenants at each interval until `stop`. If the lookup of a tenant fails, the tenant is
/// unknown until the next interval.
pub async fn run(
    db: Db,
    tenants: Arc<TenantRegistry>,
    user_topics: Arc<UserTopics>,
    environment: Environment,
    interval: Duration,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(tenants.ready()).await;
    while !stop.is_cancelled() {
        let mut newest = HashMap::new();
        for tenant in tenants.all() {
            let lookup =
                store::with_timeout(QUERY_TIMEOUT, newest_topic(&db, &tenant, &environment));
            match stop.run_until_cancelled(lookup).await {
                Some(Ok(topic)) => drop(newest.insert(tenant.id.clone(), topic)),
                Some(Err(error)) => {
                    debug!(tenant = %tenant.id, error = %ErrorChain(&error), "user topics: could not read the positions of a tenant");
                }
                None => return,
            }
        }
        user_topics.set_newest_topics(newest);
        stop.run_until_cancelled(sleep(interval.min(REFRESH_INTERVAL_MAX))).await;
    }
}

async fn newest_topic(
    db: &Db,
    tenant: &Tenant,
    environment: &Environment,
) -> Result<Option<String>, store::Error> {
    let positions = positions::list(db, &tenant.schema).await?;
    let records = positions.into_iter().map(|((topic, _), at)| (at.last_record_at, topic));
    Ok(newest_of_users(records, environment))
}

/// Returns the topic of users that contains the newest record.
fn newest_of_users(
    records: impl Iterator<Item = (Option<DateTime<Utc>>, String)>,
    environment: &Environment,
) -> Option<String> {
    let of_users =
        |topic: &str| environment.parse(topic).is_some_and(|topic| topic.kind == Kind::StoredUser);
    records.filter(|(_, topic)| of_users(topic)).max().map(|(_, topic)| topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_users_record_decides() {
        let environment = Environment::new(Some("prod1"));
        let newest = |of: &[(i64, &str)]| {
            let at = |seconds| DateTime::from_timestamp(seconds, 0);
            let records = of.iter().map(|(seconds, topic)| (at(*seconds), (*topic).to_owned()));
            newest_of_users(records, &environment)
        };
        let (own, all) = ("prod1.northlib.users.users", "prod1.ALL.users.users");
        assert_eq!(newest(&[(1, own), (2, all)]).as_deref(), Some(all));
        assert_eq!(newest(&[(3, own), (2, all)]).as_deref(), Some(own));
        assert_eq!(newest(&[(3, "prod1.northlib.circulation.loan")]), None);
    }
}
