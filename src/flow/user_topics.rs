//! In which topic the newest record of each tenant's users stood: whether a topic that is there tells of a tenant is
//! the log's and the tenant's positions' to say (docs/decisions/0017).

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::tenants::{Tenant, Tenants};
use crate::{
    event::{Environment, Kind},
    kafka::UserTopics,
    store::{self, Db, positions},
    telemetry::Chain,
};

/// Positions are few; looking them up takes a moment at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to look at least.
const LOOK: Duration = Duration::from_secs(30);

/// Looks every so often, until `stop`. Of a tenant that can't be looked up nothing is known.
pub async fn follow(
    db: Db,
    tenants: Arc<Tenants>,
    user_topics: Arc<UserTopics>,
    environment: Environment,
    every: Duration,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(tenants.ready()).await;
    while !stop.is_cancelled() {
        let mut newest = HashMap::new();
        for tenant in tenants.all() {
            let look = store::within(PATIENCE, newest_topic(&db, &tenant, &environment));
            match stop.run_until_cancelled(look).await {
                Some(Ok(topic)) => drop(newest.insert(tenant.id.clone(), topic)),
                Some(Err(error)) => {
                    debug!(tenant = %tenant.id, error = %Chain(&error), "user topics: could not read the positions of a tenant");
                }
                None => return,
            }
        }
        user_topics.learn(newest);
        stop.run_until_cancelled(sleep(every.min(LOOK))).await;
    }
}

async fn newest_topic(
    db: &Db,
    tenant: &Tenant,
    environment: &Environment,
) -> Result<Option<String>, store::Error> {
    let positions = positions::list(db, &tenant.schema).await?;
    let reached = positions.into_iter().map(|((topic, _), at)| (at.last_record_at, topic));
    Ok(newest_of_users(reached, environment))
}

/// The topic of users in which the newest record stood.
fn newest_of_users(
    reached: impl Iterator<Item = (Option<DateTime<Utc>>, String)>,
    environment: &Environment,
) -> Option<String> {
    let of_users =
        |topic: &str| environment.parse(topic).is_some_and(|topic| topic.kind == Kind::StoredUser);
    reached.filter(|(_, topic)| of_users(topic)).max().map(|(_, topic)| topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_users_decides() {
        let environment = Environment::new(Some("prod1"));
        let newest = |of: &[(i64, &str)]| {
            let at = |seconds| DateTime::from_timestamp(seconds, 0);
            let reached = of.iter().map(|(seconds, topic)| (at(*seconds), (*topic).to_owned()));
            newest_of_users(reached, &environment)
        };
        let (own, all) = ("prod1.northlib.users.users", "prod1.ALL.users.users");
        assert_eq!(newest(&[(1, own), (2, all)]).as_deref(), Some(all));
        assert_eq!(newest(&[(3, own), (2, all)]).as_deref(), Some(own));
        assert_eq!(newest(&[(3, "prod1.northlib.circulation.loan")]), None);
    }
}
