//! Three concurrent summary exports: one is cancelled, and the instance of one is killed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use patron_blocks::store::Db;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    UNREACHABLE_URL,
    evaluation_load::{EvaluationLoad, PATRONS},
    fixture::{TENANT, database, patron, print_line},
    library,
    servers::Service,
    topic::{self, count},
};

const SUMMARIES: u64 = 100_000;
const CONNECTIONS: u32 = 11;
const JOBS: &str = "/patron-blocks/user-summaries/iteration";

/// The number of concurrent requests for summaries.
const CONCURRENT_REQUESTS: usize = 8;

struct Jobs {
    http: reqwest::Client,
    port: u16,
}

impl Jobs {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn request(&self, topic: &str) -> String {
        let body = json!({ "topicName": topic });
        let asked = self.http.post(self.url(JOBS)).header("X-Okapi-Tenant", TENANT).json(&body);
        let job: Value = asked.send().await.expect("a response").json().await.expect("JSON");
        job["id"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
    }

    async fn get(&self, id: &str) -> Value {
        let url = self.url(&format!("{JOBS}/{id}"));
        let asked = self.http.get(url).header("X-Okapi-Tenant", TENANT).send();
        asked.await.expect("a response").json().await.expect("JSON")
    }

    async fn cancel(&self, id: &str) {
        let url = self.url(&format!("{JOBS}/{id}"));
        let asked = self.http.delete(url).header("X-Okapi-Tenant", TENANT).send();
        assert_eq!(asked.await.expect("a response").status(), 204);
    }

    async fn until(&self, id: &str, reached: impl Fn(&Value) -> bool) -> Value {
        loop {
            let job = self.get(id).await;
            if reached(&job) {
                return job;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn published(job: &Value) -> u64 {
    job["numberOfRecordsPublished"].as_u64().expect("a number")
}

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_iterations").await;
    let environment = format!("iterations-{}", Uuid::new_v4().simple());
    library::fill(&db, SUMMARIES).await;
    let total = SUMMARIES + 1;
    let topics: Vec<String> =
        ["a", "b", "c"].map(|name| format!("{environment}.{TENANT}.summaries.{name}")).to_vec();
    topic::make(&topics).await;
    let first = Service::start(&login, &environment, CONNECTIONS).await;
    let jobs = Jobs {
        http: reqwest::Client::builder().no_proxy().build().expect("a client"),
        port: first.port,
    };
    let watch = || {
        EvaluationLoad::begin(
            (0..PATRONS as u64).map(patron).collect(),
            UNREACHABLE_URL,
            first.port,
        )
    };
    watch().end_after(Duration::from_secs(10)).await.report("alone");
    let (load, began) = (watch(), Instant::now());
    let single_export = jobs.request(&topics[0]).await;
    let job = jobs.until(&single_export, |status| status["status"] == "done").await;
    let took = began.elapsed().as_secs_f64();
    print_line(&format!("{} summaries by one export: {took:.1} s", published(&job)));
    load.end_after(Duration::ZERO).await.report("meanwhile");

    let began = Instant::now();
    let mut ids = Vec::new();
    for topic in &topics {
        ids.push(jobs.request(topic).await);
    }
    for (id, far) in [(&ids[1], SUMMARIES / 10), (&ids[2], SUMMARIES / 5)] {
        jobs.until(id, |job| published(job) > far).await;
        if *id == ids[1] {
            jobs.cancel(id).await;
        }
    }
    let cancelled = jobs.get(&ids[1]).await;
    assert_eq!(cancelled["status"], "cancelled", "{cancelled}");
    drop(first);
    let killed = published_of(&db, &ids[2]).await;
    let second = Service::start(&login, &environment, CONNECTIONS).await;
    let jobs = Jobs { port: second.port, ..jobs };
    for id in [&ids[0], &ids[2]] {
        let job = jobs.until(id, |status| status.get("endedDate").is_some()).await;
        assert_eq!((&job["status"], published(&job)), (&json!("done"), total), "{job}");
    }
    print_line(&format!(
        "three exports at once, one cancelled after {}, the instance killed after {killed}: {:.1} s",
        published(&cancelled),
        began.elapsed().as_secs_f64()
    ));
    check(&topics, &ids, &jobs, total).await;
    drop(second);
    topic::remove(&topics).await;
}

async fn published_of(db: &Db, id: &str) -> i64 {
    let published = "select (progress ->> 'published')::bigint from mod_patron_blocks.job";
    count(db, &format!("{published} where id = '{id}'")).await
}

/// Checks that each export contains each patron once, except repeats of a message with the same id. The
/// published summaries must equal the answers over REST.
async fn check(topics: &[String], ids: &[String], jobs: &Jobs, total: u64) {
    let mut summaries: HashMap<String, Value> = HashMap::new();
    for (topic, id) in [(&topics[0], &ids[0]), (&topics[2], &ids[2])] {
        let (mut known, mut again) = (HashMap::new(), 0);
        topic::read(topic, |key, message| {
            if message["jobId"] != json!(id) {
                return;
            }
            let event = message["id"].clone();
            match known.get(&key) {
                Some(before) => {
                    assert_eq!(before, &event, "a repeated message has the same id");
                    again += 1;
                }
                None => {
                    known.insert(key.clone(), event);
                }
            }
            summaries.insert(key, message["summary"].clone());
        });
        let events: HashSet<&Value> = known.values().collect();
        assert_eq!((known.len() as u64, events.len() as u64), (total, total));
        print_line(&format!(
            "  {} summaries, {again} of them published again with the same id",
            known.len()
        ));
    }
    let all: Arc<Vec<(String, Value)>> = Arc::new(summaries.into_iter().collect());
    let requests = (0..CONCURRENT_REQUESTS).map(|n| {
        let (all, http, port) = (all.clone(), jobs.http.clone(), jobs.port);
        tokio::spawn(async move {
            for (user, summary) in all.iter().skip(n).step_by(CONCURRENT_REQUESTS) {
                let url = format!("http://127.0.0.1:{port}/user-summary/{user}");
                let asked = http.get(url).header("X-Okapi-Tenant", TENANT).send();
                let answer: Value = asked.await.expect("a response").json().await.expect("JSON");
                assert_eq!(&answer, summary);
            }
        })
    });
    for done in requests.collect::<Vec<_>>() {
        done.await.expect("the summaries are equal");
    }
    print_line(&format!(
        "  the exported summaries of {} patrons equal the responses of the API",
        all.len()
    ));
}
