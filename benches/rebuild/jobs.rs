//! Rebuilds over HTTP.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use patron_blocks::store::Db;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::{Interval, interval};
use uuid::Uuid;

use crate::{
    fixture::{TENANT, print_line},
    library::Month,
};

pub(crate) struct Jobs {
    http: Client,
    url: String,
    okapi: String,
}

/// A rebuild at rest.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) body: Value,
    /// Seconds in total, until the shadow has the whole source, and for the replay of topics alone.
    pub(crate) seconds: f64,
    pub(crate) reading: f64,
    pub(crate) replay: f64,
    /// The number of read records.
    pub(crate) records: u64,
}

impl Job {
    pub(crate) fn report(&self, what: &str) {
        let rate = self.records as f64 / self.replay.max(0.001);
        print_line(&format!(
            "  {what}: {:.1} s in total, {:.1} s until the shadow was complete, {:.1} s for the replay of {} records \
             ({rate:.0}/s)",
            self.seconds, self.reading, self.replay, self.records
        ));
    }
}

const ALL: &str = "/patron-blocks/rebuilds";

impl Jobs {
    pub(crate) fn new(port: u16, month: &Month) -> Self {
        let http = Client::builder().no_proxy().build().expect("a client");
        Self { http, url: format!("http://127.0.0.1:{port}"), okapi: month.folio.url() }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request.header("X-Okapi-Tenant", TENANT).header("X-Okapi-Url", &self.okapi);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.expect("a response");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap_or(Value::Null)
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn request(&self, ask: Value) -> String {
        let body = self.send(Method::POST, ALL, Some(&ask)).await;
        body["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn run(&self, ask: Value) -> Job {
        let id = self.request(ask).await;
        let job = self.until_at_rest(&id).await;
        assert!(matches!(job.body["status"].as_str(), Some("done" | "compared")), "{}", job.body);
        job
    }

    /// Polls a rebuild until it is at rest.
    pub(crate) async fn until_at_rest(&self, id: &str) -> Job {
        let (began, mut read, mut records) = (Instant::now(), None, 0);
        let (mut replay_began, mut replay) = (None, None);
        let mut poll = poll_interval();
        loop {
            poll.tick().await;
            let body = self.get(&format!("{ALL}/{id}")).await;
            let status = body["status"].as_str().expect("a status").to_owned();
            match (body["progress"]["stage"] == "reading topics", replay_began) {
                (true, None) => replay_began = Some(Instant::now()),
                (false, Some(since)) => _ = replay.get_or_insert(since.elapsed()),
                _ => {}
            }
            if status == "reading" {
                records = records.max(body["progress"]["total"].as_u64().unwrap_or_default());
            } else if status != "waiting" {
                read.get_or_insert(began.elapsed());
            }
            if ["compared", "done", "failed", "cancelled"].contains(&&*status) {
                let reading = read.unwrap_or_default().as_secs_f64();
                let seconds = began.elapsed().as_secs_f64();
                let replay = replay.unwrap_or_default().as_secs_f64();
                return Job { id: id.to_owned(), body, seconds, reading, replay, records };
            }
        }
    }

    pub(crate) async fn apply(&self, dry: &Job) -> Job {
        self.send(Method::POST, &format!("{ALL}/{}/apply", dry.id), None).await;
        let job = self.until_at_rest(&dry.id).await;
        assert_eq!(job.body["status"], "done", "{}", job.body);
        job
    }

    pub(crate) async fn until_started(&self, id: &str) {
        let mut poll = poll_interval();
        while self.get(&format!("{ALL}/{id}")).await["status"] == "waiting" {
            poll.tick().await;
        }
    }

    pub(crate) async fn stage(&self, id: &str) -> String {
        let body = self.get(&format!("{ALL}/{id}")).await;
        body["status"].as_str().expect("a status").to_owned()
    }

    /// Returns all patrons with differences, as the service reports them.
    pub(crate) async fn differences(&self, job: &Job) -> Vec<Value> {
        let (mut all, page) = (Vec::new(), 500);
        loop {
            let offset = all.len();
            let path = format!("{ALL}/{}/differences?limit={page}&offset={offset}", job.id);
            let body = self.get(&path).await;
            let patrons = body["patrons"].as_array().expect("a list").clone();
            if patrons.is_empty() {
                return all;
            }
            all.extend(patrons);
        }
    }

    pub(crate) async fn differing_patrons(&self, job: &Job) -> BTreeSet<Uuid> {
        let id =
            |patron: &Value| patron["userId"].as_str().expect("an id").parse().expect("a UUID");
        self.differences(job).await.iter().map(id).collect()
    }

    /// Waits until every rebuild has ended. The kill may also have interrupted the initial fill shortly
    /// before its end.
    pub(crate) async fn until_all_have_ended(&self) {
        let mut poll = poll_interval();
        loop {
            let all = self.get(&format!("{ALL}?limit=100")).await;
            let all = all["rebuilds"].as_array().expect("a list");
            if all.iter().all(|rebuild| !rebuild["endedAt"].is_null()) {
                return;
            }
            poll.tick().await;
        }
    }

    pub(crate) async fn until_complete(&self) {
        let mut poll = poll_interval();
        while self.get("/patron-blocks/ingest").await["knowledge"] != json!("complete") {
            poll.tick().await;
        }
    }

    pub(crate) async fn until_no_lag(&self) {
        let mut poll = poll_interval();
        while self.get("/patron-blocks/ingest").await["lag"] != json!(0) {
            poll.tick().await;
        }
    }

    pub(crate) async fn cancel(&self, id: &str) {
        let request = self.http.delete(format!("{}{ALL}/{id}", self.url));
        let request = request.header("X-Okapi-Tenant", TENANT).header("X-Okapi-Url", &self.okapi);
        let status = request.send().await.expect("a response").status().as_u16();
        // If the rebuild has ended meanwhile, the status is 409 or 422.
        assert!(matches!(status, 204 | 409 | 422), "{status}");
    }

    /// Returns the number of remaining rows of a rebuild that were not applied.
    pub(crate) async fn difference_count(&self, db: &Db, id: &str) -> i64 {
        let schema = crate::fixture::schema();
        let sql = format!(
            "select (select count(*) from {0}.rebuild_patron where rebuild_id = $1 and applied_at is null)
                  + (select count(*) from {0}.rebuild_difference d where rebuild_id = $1 and not applied
                        and not exists (select from {0}.rebuild_patron p where p.rebuild_id = $1
                                           and p.user_id = d.user_id and p.applied_at is not null))",
            schema.name()
        );
        let id: Uuid = id.parse().expect("a UUID");
        let left = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(id).fetch_one(db).await;
        left.expect("a number")
    }

    pub(crate) async fn shadows(&self, db: &Db) -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_namespace where nspname like '%mod_patron_blocks_r%'",
        )
        .fetch_one(db)
        .await
        .expect("a number")
    }
}

fn poll_interval() -> Interval {
    interval(Duration::from_millis(25))
}
