//! Looks every so often whether what is read comes on. The client may stop reading a partition without a word
//! (a leader epoch that it knows from a topic that was made anew), and it goes on reading in a new log as if it
//! were the old one.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc as std_mpsc},
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    assignment::{Assignment, Watched},
    broker::Broker,
    look::{Look, Looked},
    poller::News,
    progress::{Progress, Shown, is_same_log},
    status::Status,
};
use crate::{
    event::Environment,
    flow::{
        outcome::At,
        takeover::{Span, Takeover},
    },
    telemetry::Chain,
};

/// How often it looks at least.
const OFTEN: Duration = Duration::from_secs(10);

/// Of so many topics older records are looked for at once.
const TOPICS: usize = 100;

/// How long a new client has to show that it reads what the one before did not. Doubled each time.
const TRUST: Duration = Duration::from_secs(60);

/// Watches the partitions of this instance.
pub(super) struct Watchdog {
    pub(super) assignment: Arc<Assignment>,
    pub(super) status: Arc<Status>,
    pub(super) environment: Environment,
    pub(super) broker: Arc<Broker>,
    pub(super) takeover: Arc<Takeover>,
    pub(super) news: std_mpsc::Sender<News>,
    progress: Progress,
    /// Until when no new client is made, and how long the next one is trusted.
    trusted: (Option<Instant>, Duration),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Watchdog {
    pub(super) fn new(
        (assignment, status): (Arc<Assignment>, Arc<Status>),
        environment: Environment,
        broker: Arc<Broker>,
        takeover: Arc<Takeover>,
        news: std_mpsc::Sender<News>,
    ) -> Self {
        let (progress, trusted) = (Progress::default(), (None, TRUST));
        Self { assignment, status, environment, broker, takeover, news, progress, trusted }
    }

    /// Looks until `stop`, as often as topics are looked for and no less than every few seconds.
    pub(super) async fn watch(mut self, every: Duration, stop: CancellationToken) {
        let every = every.min(OFTEN);
        while stop.run_until_cancelled(sleep(every)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.look()).await {
                let error: &(dyn std::error::Error + 'static) = &*error;
                debug!(error = %Chain(error), "could not look whether partitions come on");
            }
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let settled = self.assignment.settled();
        let (watched, idle) = (self.assignment.watched(), self.status.idle());
        let place =
            |((topic, partition), _): &((String, i32), i64)| (Arc::from(&**topic), *partition);
        let places: Vec<At> = settled.iter().map(place).collect();
        let broker = self.broker.clone();
        let spans: HashMap<At, Span> = spawn_blocking(move || broker.spans(&places)).await??;
        let lag = |settled: ((String, i32), i64)| {
            let end = spans.get(&place(&settled))?.end;
            Some((settled.0, (end - settled.1).max(0)))
        };
        let set_back = self.takeover.set_back(&self.environment, &settled).await?;
        self.status.set_lags(settled.into_iter().filter_map(lag).collect());
        self.assignment.begin_anew(|choice| {
            !choice.held && set_back.contains(&(choice.topic.to_owned(), choice.partition))
        });
        let span = |watched: &Watched| spans.get(&at(watched)).copied();
        let shown = self.progress.compare(watched, span, idle, TOPICS);
        let looked = self.records(&shown).await?;
        self.confirm(&shown, &looked);
        for watched in &shown.standing {
            // What can't be read stands before the end as well: marks of transactions, for example.
            if let Some(record) = looked.get(&at(watched)).and_then(|found| found.first())
                && record.offset >= watched.next
            {
                self.note_stall(watched, span(watched)).await?;
            }
        }
        Ok(())
    }

    /// One record of each partition in doubt: of one that stands still the next, else the older one.
    async fn records(&self, shown: &Shown) -> Result<Looked, Failure> {
        let older = shown.to_search.iter().filter(|watched| !shown.standing.contains(watched));
        let older = older.filter_map(|watched| Some((watched, watched.older?.offset)));
        let next = shown.standing.iter().map(|watched| (watched, watched.next));
        let look = |(watched, from)| Look { at: at(watched), from, records: 1 };
        let looks: Vec<Look> = older.chain(next).map(look).collect();
        if looks.is_empty() {
            return Ok(Looked::new());
        }
        let broker = self.broker.clone();
        Ok(spawn_blocking(move || broker.look(&looks)).await?)
    }

    /// Has topics begin anew whose logs are not the ones that they were.
    fn confirm(&self, shown: &Shown, looked: &Looked) {
        for watched in &shown.outlived {
            self.assignment.confirm(watched);
        }
        for watched in &shown.remade {
            self.remake(watched);
        }
        for watched in shown.to_search.iter().filter(|watched| !shown.standing.contains(watched)) {
            let found = looked.get(&at(watched)).map_or(&[][..], Vec::as_slice);
            match watched.older.and_then(|older| is_same_log(older, found)) {
                Some(true) => self.assignment.confirm(watched),
                Some(false) => self.remake(watched),
                None => {}
            }
        }
    }

    fn remake(&self, watched: &Watched) {
        let Watched { topic, partition, era, .. } = watched;
        // It may have begun anew meanwhile, for this reason or another.
        if self.assignment.era(topic, *partition) == Some(*era) {
            warn!(kafka.topic = topic, kafka.partition = partition, "the topic was made anew");
            self.assignment.remake(topic, *partition);
        }
    }

    /// What stands still is assigned afresh; where that does not help, all is, to a new client.
    async fn note_stall(&mut self, watched: &Watched, span: Option<Span>) -> Result<(), Failure> {
        let Watched { topic, partition, next, .. } = watched;
        let end = span.map_or(*next, |span| span.end);
        let times = self.progress.note_stall(watched);
        error!(
            kafka.topic = topic,
            kafka.partition = partition,
            next,
            end,
            times,
            "a partition is read no further although it holds more"
        );
        if let Some(parsed) = self.environment.parse(topic) {
            self.takeover.note_stall(&parsed, (topic, *partition), *next..end).await?;
        }
        // Nobody listens only when the service stops.
        if times == 1 {
            let _ = self.news.send(News::Stalled(watched.clone()));
        } else if self.trusted.0.is_none_or(|until| until < Instant::now()) {
            let (_, trust) = self.trusted;
            self.trusted = (Some(Instant::now() + trust), trust.saturating_mul(2));
            let _ = self.news.send(News::Renew);
        }
        Ok(())
    }
}

fn at(watched: &Watched) -> At {
    (Arc::from(&*watched.topic), watched.partition)
}
