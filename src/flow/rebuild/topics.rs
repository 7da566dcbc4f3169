//! Reading topics, for one rebuild or for several at once: then a topic of many tenants is read once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    fold::Fold,
    lay::{self, Reached},
    wanted::Wanted,
    work::{Failure, Progress, Work},
};
use crate::{
    config::KafkaConfig,
    event::{self, Event, Reading, TenantId, Topic},
    figures::figures,
    flow::outcome::At,
    kafka::reader::{self, Batch, Part, Seen},
    patron::Said,
    store::shadow,
};

/// All that was folded is laid out after so long, whatever room there is: the way back after a crash is no
/// longer than that.
pub(super) const LAY_OUT: Duration = Duration::from_secs(20);

/// In about how many portions the memory that there is is let go of.
const PORTIONS: usize = 6;

/// One rebuild's share in what is read.
pub(super) struct Share {
    work: Work,
    wanted: Wanted,
    parts: BTreeMap<At, Part>,
}

impl Share {
    /// What is still to be read for a rebuild, as its shadow tells.
    pub(super) async fn of(work: &Work, wanted: Wanted) -> Result<Self, Failure> {
        let mut tx = work.begin().await?;
        let reading = shadow::reading(&mut tx, &work.shadow).await?;
        drop(tx);
        let parts: BTreeMap<At, Part> = reading.into_iter().map(part).collect();
        let left = parts.values().map(|part| part.end - part.next).sum::<i64>();
        work.progress.begin("reading topics", u64::try_from(left).unwrap_or_default());
        Ok(Self { work: work.clone(), wanted, parts })
    }

    /// As far as it is of topics that tenants share.
    pub(super) fn shared(mut self) -> Self {
        let environment = &self.work.kafka.environment;
        let is_shared = |topic: Topic| topic.tenant.is_none();
        self.parts.retain(|(name, _), _| environment.parse(name).is_some_and(is_shared));
        self
    }

    /// Whether there is anything to be read.
    pub(super) fn is_left(&self) -> bool {
        self.parts.values().any(|part| part.next < part.end)
    }
}

fn part(reading: shadow::Reading) -> (At, Part) {
    let shadow::Reading { topic, partition, next_offset, end_offset } = reading;
    ((Arc::from(topic), partition), Part { next: next_offset, end: end_offset })
}

/// Reads all that they want. Fails where nothing can be read; tells of each why it goes no further where the
/// others do.
pub(super) async fn read(shares: Vec<Share>) -> Result<Vec<Option<Failure>>, Failure> {
    let Some(first) = shares.first().map(|share| share.work.clone()) else {
        return Ok(Vec::new());
    };
    let cluster = first.ask_broker(|broker| Ok(broker.cluster())).await?;
    let cluster = cluster.ok_or(Failure::Away("no broker tells the cluster's id"))?;
    let works: Vec<Work> = shares.iter().map(|share| share.work.clone()).collect();
    let (folded, mut portions) = mpsc::channel::<Portion>(1);
    let folds = Folds::of(shares, first.setting.memory);
    let reading = tokio::task::spawn_blocking(move || fold(&first.kafka, cluster, folds, &folded));
    let mut failures: Vec<Option<Failure>> = works.iter().map(|_| None).collect();
    while let Some(Portion { of, said, reached }) = portions.recv().await {
        if works[of].stop.is_cancelled() {
            continue;
        }
        if failures[of].is_none()
            && let Err(failure) = lay::lay_out(&works[of], said, reached).await
        {
            failures[of] = Some(failure);
            if failures.iter().all(Option::is_some) {
                break;
            }
        }
    }
    drop(portions);
    reading.await.map_err(|end| Failure::of_thread(&end, "reading"))??;
    for (work, failure) in works.iter().zip(&mut failures) {
        if work.stop.is_cancelled() {
            *failure = Some(Failure::Away("reading was ended"));
        }
    }
    Ok(failures)
}

/// A part of what was folded, on its way into a shadow.
struct Portion {
    /// Whose, by the order of shares.
    of: usize,
    said: Said,
    reached: Reached,
}

/// What a record says, if anything, and where it stood.
struct Heard {
    place: usize,
    offset: i64,
    said: Option<(TenantId, Box<Event>)>,
}

/// Understands records of these topics, each by the number of its place.
fn understand(
    topics: Vec<Option<Topic>>,
    cluster: Arc<str>,
) -> impl Fn(usize, &Seen<'_>) -> Heard + Send + 'static {
    move |place, record| {
        let topic = topics.get(place).and_then(Option::as_ref);
        let said = match topic.map(|topic| event::read(record, topic, &cluster)) {
            Some(Reading::Event(tenant, event)) => Some((tenant, event)),
            _ => None,
        };
        Heard { place, offset: record.place.offset, said }
    }
}

/// Folds what is read, on a thread that may block, until all is read or nobody takes what was folded.
fn fold(
    kafka: &KafkaConfig,
    cluster: Arc<str>,
    mut folds: Folds,
    folded: &mpsc::Sender<Portion>,
) -> Result<(), Failure> {
    let parts: Vec<_> = folds.places.iter().map(|place| (place.at.clone(), place.part)).collect();
    let topics = parts.iter().map(|((name, _), _)| kafka.environment.parse(name)).collect();
    let batches = reader::read(kafka, &parts, understand(topics, cluster))?;
    let mut since = Instant::now();
    // The reader has nothing more to say once it was at the end.
    while let Ok(batch) = batches.recv() {
        let Batch { records, is_end } = batch?;
        figures().replayed.increment(records.len() as u64);
        records.into_iter().for_each(|heard| folds.hear(heard));
        let mut portions = Vec::new();
        if is_end {
            folds.end();
        } else if folds.is_plenty() {
            portions = folds.let_go_of_some();
        }
        if is_end || since.elapsed() > LAY_OUT {
            portions.extend(folds.take_all());
            since = Instant::now();
        }
        for portion in portions {
            if folded.blocking_send(portion).is_err() {
                return Ok(());
            }
        }
        if is_end || folds.is_left_alone() {
            return Ok(());
        }
    }
    Err(Failure::Away("reading ended by itself"))
}

/// What is being folded, and how far reading is.
struct Folds {
    places: Vec<Place>,
    shares: Vec<Folding>,
    /// How many bytes may be held, and how many were when something was last let go of.
    room: usize,
    kept: usize,
}

/// A partition that is read.
struct Place {
    at: At,
    /// As far as anybody wants it. What is next moves on.
    part: Part,
    /// Who wants which part of it.
    wanted: Vec<(usize, Part)>,
}

/// What is folded for one rebuild.
struct Folding {
    wanted: Wanted,
    fold: Fold,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl Folds {
    fn of(shares: Vec<Share>, memory: usize) -> Self {
        let mut places: BTreeMap<At, Place> = BTreeMap::new();
        for (n, share) in shares.iter().enumerate() {
            for (at, part) in &share.parts {
                let place = places.entry(at.clone()).or_insert_with(|| Place {
                    at: at.clone(),
                    part: *part,
                    wanted: Vec::new(),
                });
                place.part.next = place.part.next.min(part.next);
                place.part.end = place.part.end.max(part.end);
                place.wanted.push((n, *part));
            }
        }
        let shares = shares.into_iter().map(|Share { work, wanted, .. }| {
            let (progress, stop) = (work.progress.clone(), work.stop.clone());
            Folding { wanted, fold: Fold::default(), progress, stop }
        });
        let (places, shares) = (places.into_values().collect(), shares.collect());
        // Beside what is held, one portion is laid out, one waits, and one is read in the meantime.
        Self { places, shares, room: memory * PORTIONS / (PORTIONS + 3), kept: 0 }
    }

    fn hear(&mut self, Heard { place, offset, said }: Heard) {
        let Some(place) = self.places.get_mut(place) else { return };
        place.part.next = offset + 1;
        for (share, part) in &place.wanted {
            if offset < part.next || offset >= part.end {
                continue;
            }
            let share = &mut self.shares[*share];
            share.progress.add(1);
            if let Some((tenant, event)) = &said
                && *tenant == share.wanted.tenant
                && share.wanted.admits(&event.fact)
            {
                share.fold.hear(event);
            }
        }
    }

    /// Behind the last records may stand what can't be read.
    fn end(&mut self) {
        self.places.iter_mut().for_each(|place| place.part.next = place.part.end);
    }

    fn bytes(&self) -> usize {
        self.shares.iter().map(|share| share.fold.bytes()).sum()
    }

    /// Whether there is enough to be let go of: while that is laid out, more is read.
    fn is_plenty(&self) -> bool {
        self.bytes() > self.kept + self.room / PORTIONS
    }

    /// Lets go of what has ended, and where that is not enough of as much as has to go: of that there is more to come,
    /// to be put together in the end. It is the same ids each time, so that of the others all is heard here.
    fn let_go_of_some(&mut self) -> Vec<Portion> {
        let portion = |of, said| Portion { of, said, reached: Reached::Nowhere };
        let shares = self.shares.iter_mut().enumerate();
        let mut portions: Vec<_> =
            shares.map(|(of, share)| portion(of, share.fold.take_ended())).collect();
        let least = self.room / PORTIONS;
        while self.bytes() > self.room - least {
            let shares = self.shares.iter_mut().enumerate();
            let Some((of, share)) = shares.max_by_key(|(_, share)| share.fold.bytes()) else {
                break;
            };
            portions.push(portion(of, share.fold.take_first(least)));
        }
        portions.retain(|portion| portion.said != Said::default());
        self.kept = self.bytes();
        portions
    }

    fn take_all(&mut self) -> Vec<Portion> {
        let mut portions = Vec::with_capacity(self.shares.len());
        for of in 0..self.shares.len() {
            let reached = Reached::Topics(self.reached(of));
            portions.push(Portion { of, said: self.shares[of].fold.take_all(), reached });
        }
        self.kept = 0;
        portions
    }

    /// How far what a rebuild wants was read.
    fn reached(&self, of: usize) -> Vec<shadow::Reading> {
        let mut reached = Vec::new();
        for Place { at: (topic, partition), part, wanted, .. } in &self.places {
            for (_, wanted) in wanted.iter().filter(|(share, _)| *share == of) {
                reached.push(shadow::Reading {
                    topic: topic.to_string(),
                    partition: *partition,
                    next_offset: part.next.clamp(wanted.next, wanted.end),
                    end_offset: wanted.end,
                });
            }
        }
        reached
    }

    /// Lets go of what nobody waits for any more. Tells whether that is all.
    fn is_left_alone(&mut self) -> bool {
        let mut left = 0;
        for share in &mut self.shares {
            if share.stop.is_cancelled() {
                share.fold = Fold::default();
            } else {
                left += 1;
            }
        }
        left == 0
    }
}
