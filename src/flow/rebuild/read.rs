//! Reading a source into the shadow. How far it has come is noted in the same transactions, so whoever
//! takes a rebuild over goes on from there.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    ask::{From, Source, Start},
    fold, storage,
    work::{Failure, Work},
};
use crate::{
    event::{Environment, Event, Fact, Reading, TenantId, Topic, stamp::Horizon, stored::Stored},
    flow::{outcome::At, takeover::Span},
    kafka::{
        Broker,
        reader::{Part, Read, Reader},
    },
    patron::{Coverage, Said},
    store::{self, Schema, incidents, merge, positions, rebuilds, rows, shadow},
};

/// Entries in one statement.
const STATEMENT_MOST: usize = 2000;

/// Events of the inbox that are read at once.
const PAGE: i64 = 5000;

/// What was folded is laid out after so long, whatever room there is: the way back after a crash is no
/// longer than that.
const LAY_OUT: Duration = Duration::from_secs(20);

/// By how much the time of an event may be later than that of its record (events contract 6.4).
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// How far back the inbox is looked at for what came in while reading began.
const MARGIN: TimeDelta = TimeDelta::minutes(2);

/// The inbox is not relied on for what it is about to lose: housekeeping goes on while it is read.
pub(super) fn reserve(work: &Work) -> TimeDelta {
    TimeDelta::days(1).min(work.housekeeping.inbox / 2)
}

/// What is to be read of the log, and how much of it was not there any more.
struct Plan {
    parts: BTreeMap<At, Part>,
    complete_since: Option<Horizon>,
    lacks_before: Option<DateTime<Utc>>,
}

/// Reads what is not read yet.
pub(super) async fn read(work: &Work) -> Result<(), Failure> {
    let begun = match state(work).await? {
        Some(begun) => begun,
        None => begin(work).await?,
    };
    if begun.whole {
        return Ok(());
    }
    if work.ask.source == Source::Storage {
        storage::read(work, &begun).await?;
    } else {
        let wanted = Wanted::of(work).await?;
        if work.ask.source == Source::Topics {
            read_topics(work, &wanted).await?;
        }
        if work.ask.source == Source::Inbox || work.ask.covered_by_inbox {
            read_inbox(work, begun.read_up_to, &wanted).await?;
        }
    }
    let covered = covered(work, begun.covered.log).await?;
    let mut tx = work.begin().await?;
    shadow::set_whole(&mut tx, &work.shadow, &covered).await?;
    Ok(store::commit(tx).await?)
}

/// Since when the source holds everything, now that it was read: `log` is what was found when that began.
async fn covered(work: &Work, log: Option<Horizon>) -> Result<Coverage, Failure> {
    let inbox = work.inbox_complete_since().await?;
    let asked = match work.ask.from {
        From::Time(time) => Some(Horizon::at(time + CLOCKS)),
        From::Earliest | From::Places(_) => None,
    };
    let inbox = if work.ask.source == Source::Inbox { inbox.max(asked) } else { inbox };
    Ok(match work.ask.source {
        Source::Storage => Coverage::NONE,
        Source::Topics if work.ask.fill => Coverage::NONE,
        Source::Inbox => Coverage { log: inbox, http: inbox },
        Source::Topics if work.ask.covered_by_inbox => {
            Coverage { log: log.max(inbox), http: inbox }
        }
        Source::Topics => Coverage { log, http: inbox },
    })
}

async fn state(work: &Work) -> Result<Option<shadow::State>, Failure> {
    let mut tx = work.begin().await?;
    Ok(shadow::state(&mut tx, &work.shadow).await?)
}

/// Makes the shadow, and notes in it what is to be read.
async fn begin(work: &Work) -> Result<shadow::State, Failure> {
    let now = work.clock.now();
    let read_from = if work.ask.source == Source::Storage { now } else { now - MARGIN };
    let Plan { parts, complete_since, lacks_before } = plan(work).await?;
    let mut tx = work.begin().await?;
    shadow::make(&mut tx, &work.shadow, complete_since, read_from, lacks_before).await?;
    shadow::set_reading(&mut tx, &work.shadow, &noted(&parts)).await?;
    rebuilds::forget_read(&mut tx, work.id).await?;
    store::commit(tx).await?;
    state(work).await?.ok_or(Failure::Lost)
}

fn part(reading: shadow::Reading) -> (At, Part) {
    let shadow::Reading { topic, partition, next_offset, end_offset } = reading;
    ((Arc::from(topic), partition), Part { next: next_offset, end: end_offset })
}

fn noted(parts: &BTreeMap<At, Part>) -> Vec<shadow::Reading> {
    let noted = |((topic, partition), part): (&At, &Part)| shadow::Reading {
        topic: topic.to_string(),
        partition: *partition,
        next_offset: part.next,
        end_offset: part.end,
    };
    parts.iter().map(noted).collect()
}

/// Whose events are wanted.
#[derive(Clone)]
struct Wanted {
    tenant: TenantId,
    user: Option<Uuid>,
    /// What the patron has, or had.
    subjects: HashSet<Uuid>,
}

impl Wanted {
    async fn of(work: &Work) -> Result<Self, Failure> {
        let subjects = match work.ask.user {
            Some(user) => {
                let mut tx = work.begin().await?;
                rows::all_of(&mut tx, &work.tenant.schema, user).await?
            }
            None => Vec::new(),
        };
        let (tenant, user) = (work.tenant.id.clone(), work.ask.user);
        Ok(Self { tenant, user, subjects: subjects.into_iter().collect() })
    }

    /// What names nobody may be the patron's.
    fn admits(&self, fact: &Fact) -> bool {
        self.user.is_none_or(|user| {
            fact.user().is_none_or(|named| named == user) || self.subjects.contains(&fact.subject())
        })
    }
}

async fn plan(work: &Work) -> Result<Plan, Failure> {
    let now = work.clock.now();
    let of_inbox = work.inbox_complete_since().await?;
    let (parts, lacks_before) = (BTreeMap::new(), None);
    let of_none = |complete_since| Ok(Plan { parts, complete_since, lacks_before });
    match work.ask.source {
        Source::Inbox => return of_none(of_inbox),
        // It knows nothing of what happened: what is known here is kept, and what it says is merged.
        Source::Storage => return of_none(Some(Horizon::NEVER)),
        Source::Topics => {}
    }
    let (environment, id) = (work.kafka.environment.clone(), work.tenant.id.clone());
    let asked = work.ask_broker(move |broker| places(&broker, &environment, &id));
    let (places, spans) = asked.await?;
    let mut parts = BTreeMap::new();
    for at in &places {
        let Some(Span { start, end }) = spans.get(at) else {
            return Err(Failure::Away("a partition has no leader"));
        };
        parts.insert(at.clone(), Part { next: *start, end: *end });
    }
    let mut lacks_before = None;
    let missing = missing(work, &parts, now).await?;
    let wanted = match &work.ask.from {
        From::Earliest => None,
        From::Time(time) => {
            let time = *time;
            let first = work.ask_broker(move |broker| broker.since(&places, time)).await?;
            for (at, part) in &mut parts {
                part.next = first.get(at).map_or(part.end, |first| part.next.max(*first));
            }
            Some(time)
        }
        From::Places(places) => {
            parts = only(&parts, places)?;
            None
        }
    };
    let missing = missing.filter(|(_, until)| wanted.is_none_or(|wanted| *until > wanted));
    let complete_since = match missing {
        missing if work.ask.fill => {
            lacks_before = missing.map(|(_, until)| until);
            Some(Horizon::NEVER)
        }
        None => wanted.map(|time| Horizon::at(time + CLOCKS)),
        Some(_) if work.ask.covered_by_inbox => {
            of_inbox.max(wanted.map(|time| Horizon::at(time + CLOCKS)))
        }
        Some((at, until)) => {
            return Err(Failure::Refused(format!(
                "topic {}, partition {}, does not hold what was written before {}: what happened until then \
                 can't be told from it; say that the inbox covers it (coveredBy), or begin later (from)",
                at.0,
                at.1,
                until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            )));
        }
    };
    Ok(Plan { parts, complete_since, lacks_before })
}

/// Those of the partitions that are asked for, from where that is said.
fn only(parts: &BTreeMap<At, Part>, asked: &[Start]) -> Result<BTreeMap<At, Part>, Failure> {
    let mut only = BTreeMap::new();
    for Start { topic, partition, offset } in asked {
        let is_asked = |at: &At| *at.0 == **topic && partition.is_none_or(|n| n == at.1);
        let found = parts.iter().filter(|(at, _)| is_asked(at));
        let before = only.len();
        only.extend(found.map(|(at, part)| {
            let next = part.next.max(offset.unwrap_or_default()).min(part.end);
            (at.clone(), Part { next, end: part.end })
        }));
        if only.len() == before {
            let place = From::Places(vec![Start {
                topic: topic.clone(),
                partition: *partition,
                offset: None,
            }]);
            return Err(Failure::Refused(format!(
                "{place} is none of the tenant's topics that there are"
            )));
        }
    }
    Ok(only)
}

type Places = (Vec<At>, std::collections::HashMap<At, Span>);

/// The tenant's topics, and those of all collections: they may hold records of any tenant.
fn places(
    broker: &Broker,
    environment: &Environment,
    tenant: &TenantId,
) -> Result<Places, crate::kafka::Error> {
    let own = |topic: &Topic| topic.tenant.as_ref().is_none_or(|id| id == tenant);
    let mut names = broker.topics()?;
    names.retain(|name| environment.parse(name).as_ref().is_some_and(own));
    let places = broker.partitions(&names)?;
    let spans = broker.spans(&places)?;
    Ok((places, spans))
}

/// The place whose log begins latest, where one does not hold everything that was ever written to it:
/// retention has cut it, or it was made anew. Tells from when on it does.
async fn missing(
    work: &Work,
    parts: &BTreeMap<At, Part>,
    now: DateTime<Utc>,
) -> Result<Option<(At, DateTime<Utc>)>, Failure> {
    let mut missing: Vec<(At, DateTime<Utc>)> = Vec::new();
    for (at, part) in parts {
        if part.next == 0 {
            continue;
        }
        let (place, offset) = (at.clone(), part.next);
        let began = work.ask_broker(move |broker| Ok(broker.time_at(&place, offset))).await?;
        missing.push((at.clone(), began.unwrap_or(now)));
    }
    let mut tx = work.begin().await?;
    for gap in incidents::gaps(&mut *tx, &work.tenant.id).await? {
        let at = (Arc::from(gap.topic), gap.partition);
        if parts.contains_key(&at) {
            missing.push((at, gap.until));
        }
    }
    // What was read once and is there no more, or can't be seen: nothing of it can be read again.
    for schema in [&*work.tenant.schema, &Schema::module()] {
        for ((topic, partition), position) in positions::list(&mut *tx, schema).await? {
            let at = (Arc::from(topic), partition);
            if position.next_offset > 0 && !parts.contains_key(&at) {
                missing.push((at, now));
            }
        }
    }
    Ok(missing.into_iter().max_by_key(|(_, until)| *until))
}

/// A fold on its way into the shadow, with how far its parts were read.
type Folded = (Said, BTreeMap<At, Part>);

async fn read_topics(work: &Work, wanted: &Wanted) -> Result<(), Failure> {
    let mut tx = work.begin().await?;
    let reading = shadow::reading(&mut tx, &work.shadow).await?;
    drop(tx);
    let parts: BTreeMap<At, Part> = reading.into_iter().map(part).collect();
    let left = parts.values().map(|part| part.end - part.next).sum::<i64>();
    work.progress.begin("reading topics", u64::try_from(left).unwrap_or_default());
    let cluster = work.ask_broker(|broker| Ok(broker.cluster())).await?;
    let cluster = cluster.ok_or(Failure::Away("no broker tells the cluster's id"))?;
    let (folded, mut folds) = mpsc::channel::<Folded>(1);
    let reading = tokio::task::spawn_blocking({
        let (work, wanted) = (work.clone(), wanted.clone());
        move || fold_topics(&work, parts, &wanted, &cluster, &folded)
    });
    while let Some((said, reached)) = folds.recv().await {
        lay_out(work, said, Noted::Topics(&reached)).await?;
    }
    reading.await.map_err(|_| Failure::Away("reading ended by itself"))?
}

/// Reads and folds, on a thread that may block, until all is read or nobody takes what was folded.
fn fold_topics(
    work: &Work,
    mut parts: BTreeMap<At, Part>,
    wanted: &Wanted,
    cluster: &str,
    folded: &mpsc::Sender<Folded>,
) -> Result<(), Failure> {
    let mut reader = Reader::new(&work.kafka, &parts)?;
    let (mut said, mut since) = (Said::default(), Instant::now());
    let mut topics: BTreeMap<Arc<str>, Option<Topic>> = BTreeMap::new();
    loop {
        let is_end = match reader.read()? {
            Read::Record(record) => {
                let name = &record.place.topic;
                let topic = topics
                    .entry(name.clone())
                    .or_insert_with(|| work.kafka.environment.parse(name));
                if let Some(topic) = topic
                    && let Reading::Event(tenant, event) =
                        crate::event::read(&record, topic, cluster)
                    && tenant == wanted.tenant
                    && wanted.admits(&event.fact)
                {
                    said.hear(&event);
                }
                work.progress.add(1);
                if let Some(part) = parts.get_mut(&(name.clone(), record.place.partition)) {
                    part.next = record.place.offset + 1;
                }
                false
            }
            Read::Nothing => false,
            Read::End => true,
        };
        if is_end {
            // Behind the last records may stand what can't be read.
            parts.values_mut().for_each(|part| part.next = part.end);
        }
        // What is laid out and what waits for that take as much again.
        let is_full = fold::bytes(&said) > work.setting.memory / 3;
        if is_end || is_full || since.elapsed() > LAY_OUT {
            let all = (std::mem::take(&mut said), parts.clone());
            if folded.blocking_send(all).is_err() || is_end {
                return Ok(());
            }
            since = Instant::now();
        }
        if work.stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn read_inbox(work: &Work, after: Option<Uuid>, wanted: &Wanted) -> Result<(), Failure> {
    let mut after = after.unwrap_or(Uuid::nil());
    work.progress.begin("reading the inbox", work.inbox_size().await?);
    let (mut said, mut since) = (Said::default(), Instant::now());
    loop {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        let page = rows::page(&mut tx, &work.tenant.schema, after, PAGE).await?;
        drop(tx);
        for stored in &page {
            if let Some(event) = event(stored)?
                && wanted.admits(&event.fact)
            {
                said.hear(&event);
            }
        }
        work.progress.add(page.len() as u64);
        let last = page.last().map(|stored| stored.key);
        after = last.unwrap_or(after);
        if last.is_none() || fold::bytes(&said) > work.setting.memory || since.elapsed() > LAY_OUT {
            lay_out(work, std::mem::take(&mut said), Noted::Inbox(after)).await?;
            since = Instant::now();
        }
        if last.is_none() {
            return Ok(());
        }
        work.pace.keep(began).await;
    }
}

/// What stands in the inbox. Were it passed over where it can't be read, what it said would be taken for
/// never said.
pub(super) fn event(stored: &Stored) -> Result<Option<Event>, Failure> {
    stored.read().map_err(|reject| {
        let key = stored.key;
        Failure::Refused(format!(
            "event {key} of the inbox can't be read by this version: {reject}"
        ))
    })
}

/// How far reading has come.
enum Noted<'a> {
    Topics(&'a BTreeMap<At, Part>),
    Inbox(Uuid),
}

/// Merges what was folded into the shadow, as any batch is merged.
async fn lay_out(work: &Work, mut said: Said, noted_at: Noted<'_>) -> Result<(), Failure> {
    let mut tx = work.begin().await?;
    while let Some(part) = fold::split(&mut said, STATEMENT_MOST) {
        let began = Instant::now();
        merge::lay_out(&mut tx, &work.shadow, &part).await?;
        work.pace.keep(began).await;
    }
    match noted_at {
        Noted::Topics(parts) => {
            shadow::set_reading(&mut tx, &work.shadow, &noted(parts)).await?;
        }
        Noted::Inbox(key) => shadow::keep_place(&mut tx, &work.shadow, "inbox", key).await?,
    }
    store::commit(tx).await?;
    Ok(())
}
