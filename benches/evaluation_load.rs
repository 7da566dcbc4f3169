//! A load of evaluations: a few connections request the blocks of 200 patrons in a loop and record each
//! answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{TENANT, print_line};

/// The number of requested patrons.
pub(crate) const PATRONS: usize = 200;
const CONNECTIONS: usize = 8;

/// For each patron, the blocking conditions of each answer in order.
type Seen = BTreeMap<Uuid, Vec<BTreeSet<String>>>;

pub(crate) struct EvaluationLoad {
    stop: CancellationToken,
    connections: Vec<JoinHandle<(Seen, Vec<Duration>)>>,
    began: Instant,
}

pub(crate) struct LoadResult {
    seen: Seen,
    took: Vec<Duration>,
    time: Duration,
}

impl EvaluationLoad {
    /// Starts the requests for these patrons to the service at `port`; the service may call other modules
    /// at `okapi`.
    pub(crate) fn begin(patrons: Vec<Uuid>, okapi: &str, port: u16) -> Self {
        let stop = CancellationToken::new();
        let patrons = Arc::new(patrons);
        let connections = (0..CONNECTIONS).map(|n| {
            let (stop, patrons, okapi) = (stop.clone(), patrons.clone(), okapi.to_owned());
            tokio::spawn(async move {
                // One connection requests a patron always, so the answers of a patron are in order.
                let connection_users: Vec<Uuid> =
                    patrons.iter().copied().skip(n).step_by(CONNECTIONS).collect();
                let http = reqwest::Client::builder().no_proxy().build().expect("a client");
                let (mut seen, mut took) = (Seen::new(), Vec::new());
                while !stop.is_cancelled() {
                    for user in &connection_users {
                        let began = Instant::now();
                        let url = format!("http://127.0.0.1:{port}/automated-patron-blocks/{user}");
                        let request = http.get(url).header("X-Okapi-Tenant", TENANT);
                        let answer = request.header("X-Okapi-Url", &okapi).send().await;
                        let body: Value = answer.expect("a response").json().await.expect("JSON");
                        took.push(began.elapsed());
                        let blocks = body["automatedPatronBlocks"].as_array().expect("a list");
                        let ids = blocks.iter().map(|b| b["patronBlockConditionId"].to_string());
                        seen.entry(*user).or_default().push(ids.collect());
                    }
                }
                (seen, took)
            })
        });
        Self { connections: connections.collect(), stop, began: Instant::now() }
    }

    pub(crate) async fn end_after(self, time: Duration) -> LoadResult {
        sleep(time).await;
        self.stop.cancel();
        let (mut seen, mut took) = (Seen::new(), Vec::new());
        for connections in self.connections {
            let (s, t) = connections.await.expect("no panic");
            seen.extend(s);
            took.extend(t);
        }
        took.sort();
        LoadResult { seen, took, time: self.began.elapsed() }
    }
}

impl LoadResult {
    pub(crate) fn report(&self, when: &str) {
        let at = |share: f64| {
            let n = (self.took.len() as f64 * share) as usize;
            self.took[n.min(self.took.len() - 1)].as_secs_f64() * 1e3
        };
        print_line(&format!(
            "  {} patrons over {CONNECTIONS} connections, {when}: {:.0} answers/s; {:.2}, {:.2}, {:.2} ms",
            self.seen.len(),
            self.took.len() as f64 / self.time.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
        ));
    }

    /// Checks that every condition in the first and in the last answer of a patron is in all answers
    /// between.
    pub(crate) fn assert_blocks_without_gap(&self) {
        let (mut changed, mut answers) = (0, 0);
        for (user, seen) in &self.seen {
            let (Some(first), Some(last)) = (seen.first(), seen.last()) else { continue };
            changed += usize::from(first != last);
            answers += seen.len();
            for condition in first.intersection(last) {
                assert!(
                    seen.iter().all(|blocks| blocks.contains(condition)),
                    "{user} was unblocked for a while"
                );
            }
        }
        print_line(&format!(
            "  {answers} answers: no patron was unblocked for a while; the blocks of {changed} patrons changed"
        ));
    }
}
