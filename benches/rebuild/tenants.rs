//! Measures the simultaneous enabling of many tenants. Their events are in topics of a tenant collection
//! and in topics of each tenant.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::future::join_all;
use patron_blocks::{
    clock::Clock,
    event::TenantId,
    store::{Db, Schema},
};
use reqwest::Client;
use serde_json::{Value, json};
use simulator::{
    kafka::{Publisher, create_topics},
    wire::{Record, Topic},
};
use tokio::time::interval;
use uuid::Uuid;

use crate::{fixture::print_line, library::bootstrap};

const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// Check-outs per tenant in the tenant's own topic, and in the topic of the collection.
const OWN_EVENTS: usize = 200;
const SHARED_EVENTS: usize = 1800;

pub(crate) struct TenantSet {
    http: Client,
    pub(crate) port: u16,
    tenants: Vec<String>,
}

impl TenantSet {
    pub(crate) fn of(number: usize, port: u16) -> Self {
        let http = Client::builder().no_proxy().build().expect("a client");
        let tenants = (0..number).map(|n| format!("branch{n:03}")).collect();
        Self { http, port, tenants }
    }

    /// Publishes check-outs of all tenants, each with its own loan. Returns the number of records in the
    /// topic of the collection.
    pub(crate) async fn publish(&self, environment: &str) -> usize {
        let own = |tenant: &str| Topic {
            name: format!("{environment}.{tenant}.circulation.ITEM_CHECKED_OUT"),
            partitions: 2,
        };
        let mut topics: Vec<Topic> = self.tenants.iter().map(|tenant| own(tenant)).collect();
        topics.push(Topic { partitions: 10, ..own("ALL") });
        create_topics(&bootstrap(), &topics, 1).await.expect("Kafka responds");
        let publisher = Publisher::new(&bootstrap()).expect("a producer");
        for tenant in &self.tenants {
            let id: Arc<str> = Arc::from(&**tenant);
            for n in 0..OWN_EVENTS + SHARED_EVENTS {
                let topic = if n < OWN_EVENTS { own(tenant) } else { own("ALL") };
                let record = check_out(topic.name.into(), id.clone());
                publisher.publish(&record).await.expect("the broker accepts the record");
            }
        }
        publisher.flush(FLUSH_TIMEOUT).await.expect("the broker accepts the records");
        self.tenants.len() * SHARED_EVENTS
    }

    /// Enables all tenants at once.
    pub(crate) async fn enable(&self) {
        let body = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let calls = self.tenants.iter().map(|tenant| {
            let url = format!("http://127.0.0.1:{}/_/tenant", self.port);
            self.http.post(url).header("X-Okapi-Tenant", tenant).json(&body).send()
        });
        for answer in join_all(calls).await {
            let status = answer.expect("a response").status();
            assert!(status.is_success(), "enabling: {status}");
        }
    }

    /// Waits until the group offset is after every published record; no tenant is enabled yet.
    pub(crate) async fn until_skipped(&self) {
        let mut poll = interval(Duration::from_millis(100));
        let all = (self.tenants.len() * (OWN_EVENTS + SHARED_EVENTS)) as f64;
        while self.metric("patron_blocks_records_total{outcome=\"tenant_disabled\"} ").await < all {
            poll.tick().await;
        }
    }

    /// Deletes the loans of the first three tenants.
    pub(crate) async fn lose_some(&self, db: &Db) {
        for tenant in &self.tenants[..3] {
            let schema = Schema::of(&TenantId::parse(tenant).expect("a tenant's id"));
            let sql = format!("truncate {0}.loan, {0}.patron_counter", schema.name());
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .execute(db)
                .await
                .expect("the process belongs to the bench");
        }
    }

    /// Rebuilds this many tenants at once. Returns the start and the end of the work on each.
    pub(crate) async fn rebuild(&self, number: usize) -> String {
        let began = Clock::system().now();
        let runs = self.tenants[..number].iter().map(async |tenant| {
            let path = format!("http://127.0.0.1:{}/patron-blocks/rebuilds", self.port);
            let request = self.http.post(&path).header("X-Okapi-Tenant", tenant).json(&json!({}));
            let accepted: Value =
                request.send().await.expect("a response").json().await.expect("JSON");
            let id = accepted["id"].as_str().expect("an id").to_owned();
            let mut poll = interval(Duration::from_millis(20));
            loop {
                poll.tick().await;
                let request =
                    self.http.get(format!("{path}/{id}")).header("X-Okapi-Tenant", tenant);
                let status: Value =
                    request.send().await.expect("a response").json().await.expect("JSON");
                if status["status"] == "done" {
                    let at = |member: &str| {
                        let at: DateTime<Utc> =
                            status[member].as_str().expect("a time").parse().expect("a time");
                        (at - began).num_milliseconds() as f64 / 1e3
                    };
                    return format!("from {:.1} to {:.1} s", at("startedAt"), at("endedAt"));
                }
            }
        });
        join_all(runs).await.join(", ")
    }

    /// Waits until every tenant is complete.
    pub(crate) async fn until_complete(&self) {
        let mut poll = interval(Duration::from_millis(100));
        for tenant in &self.tenants {
            while self.completeness(tenant).await != json!("complete") {
                poll.tick().await;
            }
        }
    }

    async fn completeness(&self, tenant: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/patron-blocks/ingest", self.port);
        let asked = self.http.get(url).header("X-Okapi-Tenant", tenant).send().await;
        // Before the enabling of the tenant, the response is plain text.
        let body: Value = asked.expect("a response").json().await.unwrap_or_default();
        body["knowledge"].clone()
    }

    /// Checks that every loan of every tenant counts once.
    pub(crate) async fn judge(&self, db: &Db) {
        for tenant in &self.tenants {
            let schema = Schema::of(&TenantId::parse(tenant).expect("a tenant's id"));
            let sql = format!("select sum(open_loans)::int8 from {}.patron_counter", schema.name());
            let open: Option<i64> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(db).await.expect("a number");
            assert_eq!(open, Some((OWN_EVENTS + SHARED_EVENTS) as i64), "{tenant}");
        }
        print_line(&format!(
            "  all {} loans of each of {} tenants are stored",
            OWN_EVENTS + SHARED_EVENTS,
            self.tenants.len()
        ));
    }

    /// Returns the number of records that rebuilds have read from topics.
    pub(crate) async fn replayed(&self) -> f64 {
        self.metric("patron_blocks_replayed_records_total ").await
    }

    async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let text = reqwest::get(url).await.expect("a response").text().await.expect("text");
        let number = text.lines().find_map(|line| line.strip_prefix(name));
        number.and_then(|number| number.parse().ok()).unwrap_or_default()
    }
}

fn check_out(topic: Arc<str>, tenant: Arc<str>) -> Record {
    let (user, loan, now) = (Uuid::new_v4(), Uuid::new_v4(), Clock::system().now());
    let due = (now + TimeDelta::days(14)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let payload = json!({
        "id": Uuid::new_v4(),
        "type": "UPDATED",
        "tenant": &*tenant,
        "timestamp": now.timestamp_millis(),
        "data": { "userId": user, "loanId": loan, "dueDate": due },
    });
    Record {
        topic,
        key: loan.to_string(),
        headers: vec![("folio.tenantId", tenant)],
        timestamp_ms: now.timestamp_millis(),
        payload: payload.to_string().into_bytes(),
    }
}
