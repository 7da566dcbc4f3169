//! Asks where partitions begin that were assigned, away from the polling thread: the database and
//! brokers take their time, and the group must not notice.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    assignment::{Assignment, Due},
    broker::Broker,
    poller::News,
};
use crate::{
    event::Environment,
    flow::{
        ingest::Ingest,
        ledger::Ledger,
        outcome::At,
        takeover::{Begin, Candidate, Takeover},
    },
    telemetry::Chain,
};

/// How long to wait when the database or the brokers don't answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Answers where partitions begin.
pub(super) struct Asker<L> {
    pub(super) asked: mpsc::UnboundedReceiver<Vec<Due>>,
    pub(super) environment: Environment,
    pub(super) broker: Arc<Broker>,
    pub(super) takeover: Takeover,
    pub(super) ingest: Arc<Ingest<L>>,
    pub(super) assignment: Arc<Assignment>,
    pub(super) news: std_mpsc::Sender<News>,
}

/// Where partitions begin.
pub(super) type Begun = Vec<(Due, Begin)>;

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl<L: Ledger> Asker<L> {
    /// Answers until `stop`. What can't be answered is asked again.
    pub(super) async fn answer(mut self, stop: CancellationToken) {
        let mut due = Vec::new();
        while self.asked.recv_many(&mut due, 64).await > 0 {
            let mut due: Vec<Due> = due.drain(..).flatten().collect();
            while !due.is_empty() && !stop.is_cancelled() {
                due.retain(|d| self.assignment.era(&d.topic, d.partition) == Some(d.era));
                match stop.run_until_cancelled(self.begin(&due)).await {
                    Some(Ok(begun)) => {
                        due.clear();
                        let _ = self.news.send(News::Begun(begun));
                    }
                    Some(Err(error)) => {
                        let error: &(dyn std::error::Error + 'static) = &*error;
                        warn!(partitions = due.len(), error = %Chain(error),
                            "could not find out where partitions begin; trying again");
                        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                    }
                    None => {}
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// The order matters: see [`Takeover::positions`].
    async fn begin(&self, due: &[Due]) -> Result<Begun, Failure> {
        let candidates = self.candidates(due).await?;
        let (known, places) = (candidates.values(), candidates.values().map(|c| c.at.clone()));
        let places: Vec<At> = places.collect();
        let positions = self.takeover.positions(known).await?;
        positions.in_doubt.iter().for_each(|tenant| self.ingest.doubt(tenant.clone()));
        let spans = self.of_broker(&places, Broker::spans).await?;
        let broker = self.broker.clone();
        let cluster = tokio::task::spawn_blocking(move || broker.cluster()).await?;
        let cluster = cluster.ok_or("no broker tells the cluster's id")?;
        let mut begun = Begun::with_capacity(candidates.len());
        for (due, candidate) in candidates {
            let (topic, partition) = &candidate.at;
            let Some(span) = spans.get(&candidate.at) else {
                debug!(kafka.topic = %topic, kafka.partition = partition, "no leader yet");
                self.assignment.hold(due, Some(PAUSE));
                continue;
            };
            let (broker, at) = (self.broker.clone(), candidate.at.clone());
            let time_at = move |offset| {
                let (broker, at) = (broker.clone(), at.clone());
                let asked = tokio::task::spawn_blocking(move || broker.time_at(&at, offset));
                async move { asked.await.ok()? }
            };
            let begin =
                self.takeover.begin(&candidate, &positions, *span, &cluster, time_at).await?;
            debug!(kafka.topic = %topic, kafka.partition = partition, ?span, ?begin,
                "partition taken over");
            self.ingest.look_afresh(topic, *partition);
            begun.push((due.clone(), begin));
        }
        Ok(begun)
    }

    async fn candidates<'a>(
        &self,
        due: &'a [Due],
    ) -> Result<BTreeMap<&'a Due, Candidate>, Failure> {
        let places: Vec<At> = due.iter().map(|d| (Arc::from(&*d.topic), d.partition)).collect();
        let committed = self.of_broker(&places, Broker::committed).await?;
        let candidate = |(due, at): (&'a Due, At)| {
            let topic = Arc::new(self.environment.parse(&due.topic)?);
            let committed = committed.get(&at).copied();
            Some((due, Candidate { at, topic, committed, remade: due.remade }))
        };
        Ok(due.iter().zip(places).filter_map(candidate).collect())
    }

    async fn of_broker<T: Send + 'static>(
        &self,
        places: &[At],
        ask: fn(&Broker, &[At]) -> Result<T, super::Error>,
    ) -> Result<T, Failure> {
        let (broker, places) = (self.broker.clone(), places.to_vec());
        Ok(tokio::task::spawn_blocking(move || ask(&broker, &places)).await??)
    }
}
