//! Asks where partitions begin that were assigned, away from the polling thread: the database and
//! brokers take their time, and the group must not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    assignment::{Assignment, Due, Remade},
    broker::Broker,
    look::{Look, Looked},
    poller::News,
};
use crate::{
    event::Environment,
    flow::{
        ingest::Ingest,
        ledger::Ledger,
        outcome::At,
        takeover::{Begin, Candidate, Decided, Span, Takeover},
    },
    store::{self, incidents::Kind},
    telemetry::Chain,
};

/// How long to wait when the database or the brokers don't answer.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the database may take for one question, and when a partition is asked about again of which what was
/// found can't be stored.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(5);

/// Answers where partitions begin.
pub(super) struct Asker<L> {
    pub(super) asked: mpsc::UnboundedReceiver<Vec<Due>>,
    pub(super) environment: Environment,
    pub(super) broker: Arc<Broker>,
    pub(super) takeover: Arc<Takeover>,
    pub(super) ingest: Arc<Ingest<L>>,
    pub(super) assignment: Arc<Assignment>,
    pub(super) news: std_mpsc::Sender<News>,
}

/// Where partitions begin.
pub(super) type Begun = Vec<(Due, Begin)>;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was decided of a partition.
struct Question {
    due: Due,
    candidate: Candidate,
    span: Span,
    decided: Decided,
}

impl<L: Ledger> Asker<L> {
    /// Answers until `stop`. What can't be answered is asked again.
    pub(super) async fn answer(mut self, stop: CancellationToken) {
        let mut due = Vec::new();
        while self.asked.recv_many(&mut due, 64).await > 0 {
            let mut due: Vec<Due> = due.drain(..).flatten().collect();
            while !due.is_empty() && !stop.is_cancelled() {
                due.retain(|d| self.assignment.era(&d.topic, d.partition) == Some(d.era));
                match stop.run_until_cancelled(self.begin(&mut due)).await {
                    Some(Ok(())) => due.clear(),
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

    /// Has those begin that can, and takes them from `due`. The order matters: see [`Takeover::positions`].
    async fn begin(&self, due: &mut Vec<Due>) -> Result<(), Failure> {
        let candidates = self.candidates(due).await?;
        let places: Vec<At> = candidates.values().map(|c| c.at.clone()).collect();
        let positions = self.takeover.positions(candidates.values());
        let positions = store::within(PATIENCE, positions).await?;
        positions.in_doubt.iter().for_each(|tenant| self.ingest.doubt(tenant.clone()));
        let spans = self.of_broker(&places, Broker::spans).await?;
        let broker = self.broker.clone();
        let cluster = tokio::task::spawn_blocking(move || broker.cluster()).await?;
        let cluster = cluster.ok_or("no broker tells the cluster's id")?;
        let mut questions = Vec::with_capacity(candidates.len());
        for (due, candidate) in candidates {
            let Some(span) = spans.get(&candidate.at).copied() else {
                let (topic, partition) = &candidate.at;
                debug!(kafka.topic = %topic, kafka.partition = partition, "no leader yet");
                self.assignment.hold(&due, Some(PAUSE));
                continue;
            };
            let decided = self.takeover.decide(&candidate, &positions, span, &cluster);
            questions.push(Question { due, candidate, span, decided });
        }
        self.remake(&mut questions, |question| {
            let Question { candidate, span, .. } = question;
            question.decided = self.takeover.decide(candidate, &positions, *span, &cluster);
        });
        // What fits waits for nobody, but for the misfits of its own topic where that was made anew: storing
        // these sets back the positions of all its partitions, and none may have been read by then.
        let anew: BTreeSet<String> =
            questions.iter().filter(|q| q.is_anew()).map(|q| q.due.topic.clone()).collect();
        let (fits, misfits): (Vec<_>, Vec<_>) = questions.into_iter().partition(|question| {
            question.decided.misfit.is_none() && !anew.contains(&question.due.topic)
        });
        *due = misfits.iter().map(|question| question.due.clone()).collect();
        self.tell(fits);
        let looks: Vec<Look> = misfits.iter().filter_map(Question::look).collect();
        let looked = self.look(looks).await?;
        let mut of_anew = Vec::new();
        for question in misfits {
            let Question { due: of, candidate, decided, .. } = &question;
            let records = looked.get(&candidate.at).map_or(&[][..], Vec::as_slice);
            let concluded =
                self.takeover.conclude(candidate, &positions, decided, &cluster, records);
            match store::within(PATIENCE, concluded).await {
                Ok(()) if anew.contains(&of.topic) => of_anew.push(question),
                Ok(()) => self.tell(vec![question]),
                // One tenant's trouble keeps no other's partitions from beginning.
                Err(error) => {
                    warn!(kafka.topic = of.topic, kafka.partition = of.partition, error = %Chain(&error),
                        "what does not fit can't be stored; the partition is asked about again");
                    self.assignment.hold(of, Some(AGAIN));
                }
            }
        }
        self.tell(of_anew);
        due.clear();
        Ok(())
    }

    /// Where a partition shows that its topic was made anew, its others begin anew as well: what was read of
    /// them may be of the new log already.
    fn remake(&self, questions: &mut [Question], decide: impl Fn(&mut Question)) {
        let is_anew =
            |question: &&Question| question.due.remade == Remade::No && question.is_anew();
        let anew: BTreeSet<String> =
            questions.iter().filter(is_anew).map(|question| question.due.topic.clone()).collect();
        for topic in anew {
            let of_topic = |question: &&mut Question| question.due.topic == topic;
            let mut known = Vec::new();
            for question in questions.iter_mut().filter(of_topic) {
                known.push(question.due.partition);
                if !is_anew(&&*question) {
                    question.candidate.remade = Remade::Elsewhere;
                    decide(question);
                }
            }
            self.assignment.remake_others(&topic, &known);
        }
    }

    async fn look(&self, looks: Vec<Look>) -> Result<Looked, Failure> {
        if looks.is_empty() {
            return Ok(Looked::new());
        }
        let broker = self.broker.clone();
        Ok(tokio::task::spawn_blocking(move || broker.look(&looks)).await?)
    }

    fn tell(&self, questions: Vec<Question>) {
        let mut begun = Begun::with_capacity(questions.len());
        for Question { due, candidate, span, decided: Decided { begin, .. } } in questions {
            let (topic, partition) = &candidate.at;
            debug!(kafka.topic = %topic, kafka.partition = partition, ?span, ?begin,
                "partition taken over");
            self.ingest.look_afresh(topic, *partition);
            begun.push((due, begin));
        }
        if !begun.is_empty() {
            // Nobody listens only when the service stops.
            let _ = self.news.send(News::Begun(begun));
        }
    }

    async fn candidates(&self, due: &[Due]) -> Result<BTreeMap<Due, Candidate>, Failure> {
        let places: Vec<At> = due.iter().map(|d| (Arc::from(&*d.topic), d.partition)).collect();
        let committed = self.of_broker(&places, Broker::committed).await?;
        let candidate = |(due, at): (&Due, At)| {
            let topic = Arc::new(self.environment.parse(&due.topic)?);
            let committed = committed.get(&at).copied();
            Some((due.clone(), Candidate { at, topic, committed, remade: due.remade }))
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

impl Question {
    /// Whether the partition shows that its topic was made anew.
    fn is_anew(&self) -> bool {
        self.decided.misfit.as_ref().is_some_and(|misfit| misfit.kind == Kind::TopicMadeAnew)
    }

    /// Which records are to be looked at.
    fn look(&self) -> Option<Look> {
        self.decided.look.map(|from| Look { at: self.candidate.at.clone(), from, records: 2 })
    }
}
