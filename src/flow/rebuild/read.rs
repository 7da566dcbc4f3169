//! Reading a source into the shadow. How far it has come is noted in the same transactions, so whoever
//! takes a rebuild over goes on from there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    ask::{From, Source},
    fold::Fold,
    lay::{self, Reached},
    plan::{self, Plan},
    storage,
    topics::{self, LAY_OUT, Share},
    wanted::Wanted,
    work::{Failure, Work},
};
use crate::{
    event::{Event, stamp::Horizon, stored::Stored},
    flow::outcome::At,
    kafka::reader::Part,
    patron::Coverage,
    store::{self, positions, rebuilds, rows, shadow, tail},
};

/// Events of the inbox that are read at once.
const PAGE: i64 = 5000;

/// How far back the inbox is looked at for what came in while reading began: the database's clock may be set back.
pub(super) const MARGIN: TimeDelta = TimeDelta::minutes(2);

/// How often it is looked how far ingest is, and how long it may be nowhere nearer.
const LOOK: Duration = Duration::from_millis(250);
const STUCK: Duration = Duration::from_secs(3);

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
        if work.ask.source == Source::Topics {
            read_topics(work).await?;
        }
        if work.ask.source == Source::Inbox || work.ask.covered_by_inbox {
            read_inbox(work, begun.read_up_to).await?;
        }
    }
    lay::put_together(work).await?;
    if work.ask.fill {
        let_ingest_catch_up(work).await?;
    }
    let covered = covered(work, begun.covered.log).await?;
    let mut tx = work.begin().await?;
    shadow::set_whole(&mut tx, &work.shadow, &covered).await?;
    work.commit(tx).await
}

/// Since when the source holds everything, now that it was read: `log` is what was found when that began. What has
/// gone from the inbox meanwhile is noted by then.
async fn covered(work: &Work, log: Option<Horizon>) -> Result<Coverage, Failure> {
    let mut tx = work.begin().await?;
    let since = work.inbox_extent(&mut tx).await?.complete_since();
    let inbox = Some(plan::complete_from(since));
    let asked = match work.ask.from {
        From::Time(time) => Some(plan::complete_from(time)),
        From::Earliest | From::Places(_) => None,
    };
    let inbox = if work.ask.source == Source::Inbox { inbox.max(asked) } else { inbox };
    Ok(match work.ask.source {
        Source::Storage => Coverage::NONE,
        Source::Topics if work.ask.fill => Coverage::NONE,
        Source::Inbox => Coverage { log: log.max(inbox), http: log.max(inbox) },
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
    // By the database's clock: what other instances write down is compared with it.
    let read_from = match work.ask.source {
        Source::Storage => store::now(work.db()).await?,
        Source::Topics | Source::Inbox => tail::begin(work.db()).await? - MARGIN,
    };
    let Plan { parts, complete_since, lacks_before, problem } = plan::plan(work).await?;
    let mut tx = work.begin().await?;
    shadow::make(&mut tx, &work.shadow, complete_since, read_from, lacks_before).await?;
    shadow::set_reading(&mut tx, &work.shadow, &noted(&parts)).await?;
    rebuilds::forget_read(&mut tx, work.id).await?;
    if let Some(problem) = problem {
        rebuilds::note_problem(&mut tx, work.id, &problem).await?;
    }
    work.commit(tx).await?;
    state(work).await?.ok_or(Failure::Lost)
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

/// Ingest reads the topics of a tenant that was just enabled as well, and merges faster than differences can be
/// put right. So what it is about to come to is left to it, as long as it comes nearer.
async fn let_ingest_catch_up(work: &Work) -> Result<(), Failure> {
    let mut tx = work.begin().await?;
    let reading = shadow::reading(&mut tx, &work.shadow).await?;
    drop(tx);
    let is_own = |of: &shadow::Reading| {
        work.kafka.environment.parse(&of.topic).is_some_and(|topic| topic.tenant.is_some())
    };
    let ends: Vec<_> = reading.into_iter().filter(is_own).collect();
    work.turn.leave();
    let (mut least, mut since) = (i64::MAX, Instant::now());
    loop {
        let live = positions::list(work.db(), &work.tenant.schema).await?;
        let left = |of: &shadow::Reading| {
            let at = live.get(&(of.topic.clone(), of.partition));
            (of.end_offset - at.map_or(0, |position| position.next_offset)).max(0)
        };
        let left = ends.iter().map(left).sum::<i64>();
        if left < least {
            if least == i64::MAX {
                let total = u64::try_from(left).unwrap_or_default();
                work.progress.begin("letting ingest catch up", total);
            } else {
                work.progress.add((least - left).unsigned_abs());
            }
            (least, since) = (left, Instant::now());
        }
        if left == 0 || since.elapsed() > STUCK {
            work.turn.take().await;
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

async fn read_topics(work: &Work) -> Result<(), Failure> {
    if let Some(member) = &work.member {
        let share = Share::of(work, Wanted::of(work).await?).await?;
        member.read(share.shared(), &work.turn).await;
    }
    let share = Share::of(work, Wanted::of(work).await?).await?;
    if !share.is_left() {
        return Ok(());
    }
    let failures = topics::read(vec![share]).await?;
    failures.into_iter().flatten().next().map_or(Ok(()), Err)
}

async fn read_inbox(work: &Work, after: Option<Uuid>) -> Result<(), Failure> {
    let wanted = Wanted::of(work).await?;
    let mut after = after.unwrap_or(Uuid::nil());
    work.progress.begin("reading the inbox", work.inbox_size().await?);
    let (mut fold, mut since) = (Fold::default(), Instant::now());
    loop {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        let page = rows::page(&mut tx, &work.tenant.schema, after, PAGE).await?;
        drop(tx);
        for stored in &page {
            if let Some(event) = event(stored)?
                && wanted.admits(&event.fact)
            {
                fold.hear(&event);
            }
        }
        work.progress.add(page.len() as u64);
        let last = page.last().map(|stored| stored.key);
        after = last.unwrap_or(after);
        if last.is_none() || fold.bytes() > work.setting.memory || since.elapsed() > LAY_OUT {
            lay::lay_out(work, fold.take_all(), Reached::Inbox(after)).await?;
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
