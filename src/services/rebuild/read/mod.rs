//! Read of a source into the shadow. The read position is committed with the entries, so the next instance
//! resumes there.

mod filter;
mod fold;
mod load;
pub(super) mod plan;
pub(super) mod shared_topics;
pub(super) mod storage_modules;
mod topics;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use tokio::time::sleep;
use uuid::Uuid;

use self::{
    filter::EventFilter,
    fold::StateAccumulator,
    load::ReadPosition,
    plan::Plan,
    shared_topics::GroupMember,
    topics::{LOAD_INTERVAL, ReplayRequest},
};
use super::{
    context::RebuildContext,
    error::RebuildError,
    request::{ReadFrom, Source},
};
use crate::{
    event::{Event, TopicPartition, decode::inbox_row::InboxRow, stamp::Horizon},
    kafka::replay::OffsetRange,
    patron::Coverage,
    store::{
        self,
        ingest::{inbox, inbox_tail, positions},
        rebuild::{rebuilds, shadow},
    },
};

/// Inbox events per page.
const INBOX_PAGE_ROWS: i64 = 5000;

/// Time before the start of the read from which inbox events count too: the database clock may be set back.
pub(super) const INBOX_LOOKBACK: TimeDelta = TimeDelta::minutes(2);

/// Interval between checks of the positions of ingest.
const INGEST_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Time without progress of ingest after which the rebuild continues.
const INGEST_STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads the rest of the source and marks the shadow as complete.
pub(super) async fn read(
    context: &RebuildContext,
    group_member: Option<&GroupMember>,
) -> Result<(), RebuildError> {
    let shadow_state = match load_shadow_state(context).await? {
        Some(found) => found,
        None => create_shadow(context).await?,
    };
    if shadow_state.is_complete {
        return Ok(());
    }
    match context.request.source {
        Source::Storage => storage_modules::read(context, &shadow_state).await?,
        Source::Topics => {
            read_topics(context, group_member).await?;
            if context.request.covered_by_inbox {
                read_inbox(context, shadow_state.scanned_up_to).await?;
            }
        }
        Source::Inbox => read_inbox(context, shadow_state.scanned_up_to).await?,
    }
    load::merge_parts(context).await?;
    if context.request.fill {
        wait_for_ingest(context).await?;
    }
    let covered = coverage(context, shadow_state.coverage.log).await?;
    let mut tx = context.begin().await?;
    shadow::set_complete(&mut tx, &context.shadow, &covered).await?;
    context.commit(tx).await
}

/// Returns the coverage of the source after the read; `log` is the coverage at the start of the read. The
/// result includes removals from the inbox during the read.
async fn coverage(
    context: &RebuildContext,
    log: Option<Horizon>,
) -> Result<Coverage, RebuildError> {
    let mut tx = context.begin().await?;
    let since = context.inbox_extent(&mut tx).await?.complete_since();
    let inbox = Some(plan::complete_from(since));
    let requested = match context.request.from {
        ReadFrom::Time(time) => Some(plan::complete_from(time)),
        ReadFrom::Earliest | ReadFrom::Topics(_) => None,
    };
    Ok(match context.request.source {
        Source::Storage => Coverage::NONE,
        Source::Topics if context.request.fill => Coverage::NONE,
        Source::Inbox => {
            let since = log.max(inbox).max(requested);
            Coverage { log: since, http: since }
        }
        Source::Topics if context.request.covered_by_inbox => {
            Coverage { log: log.max(inbox), http: inbox }
        }
        Source::Topics => Coverage { log, http: inbox },
    })
}

async fn load_shadow_state(
    context: &RebuildContext,
) -> Result<Option<shadow::ShadowState>, RebuildError> {
    let mut tx = context.begin().await?;
    Ok(shadow::load_state(&mut tx, &context.shadow).await?)
}

/// Creates the shadow and stores the ranges to read.
async fn create_shadow(context: &RebuildContext) -> Result<shadow::ShadowState, RebuildError> {
    // The time is from the database clock, because it is compared with times that other instances stored.
    let read_from = match context.request.source {
        Source::Storage => store::now(context.db()).await?,
        Source::Topics | Source::Inbox => {
            inbox_tail::oldest_transaction_start(context.db()).await? - INBOX_LOOKBACK
        }
    };
    let Plan { ranges, complete_since, incomplete_before, problem } = plan::plan(context).await?;
    let mut tx = context.begin().await?;
    shadow::create(&mut tx, &context.shadow, complete_since, read_from, incomplete_before).await?;
    shadow::save_replay_positions(&mut tx, &context.shadow, &replay_positions(&ranges)).await?;
    rebuilds::reset_read(&mut tx, context.id).await?;
    if let Some(problem) = problem {
        rebuilds::record_problem(&mut tx, context.id, &problem).await?;
    }
    context.commit(tx).await?;
    load_shadow_state(context).await?.ok_or(RebuildError::ShadowLost)
}

fn replay_positions(ranges: &BTreeMap<TopicPartition, OffsetRange>) -> Vec<shadow::ReplayPosition> {
    let position =
        |((topic, partition), part): (&TopicPartition, &OffsetRange)| shadow::ReplayPosition {
            topic: topic.to_string(),
            partition: *partition,
            next_offset: part.next,
            end_offset: part.end,
        };
    ranges.iter().map(position).collect()
}

/// Waits until ingest reaches the end of the tenant's own topics, as long as ingest makes progress. Ingest
/// also reads the topics of a newly enabled tenant, and merges faster than `apply` writes differences.
async fn wait_for_ingest(context: &RebuildContext) -> Result<(), RebuildError> {
    let mut tx = context.begin().await?;
    let positions = shadow::load_replay_positions(&mut tx, &context.shadow).await?;
    drop(tx);
    let environment = context.kafka.environment();
    let is_own = |position: &shadow::ReplayPosition| {
        environment.parse(&position.topic).is_some_and(|topic| topic.tenant.is_some())
    };
    let ends: Vec<_> = positions.into_iter().filter(is_own).collect();
    context.run_slot.release();
    let (mut remaining_min, mut last_progress_at) = (i64::MAX, Instant::now());
    loop {
        let ingested = positions::list(context.db(), &context.tenant.schema).await?;
        let remaining_of = |end: &shadow::ReplayPosition| {
            let position = ingested.get(&(end.topic.clone(), end.partition));
            (end.end_offset - position.map_or(0, |position| position.next_offset)).max(0)
        };
        let remaining = ends.iter().map(remaining_of).sum::<i64>();
        if remaining < remaining_min {
            if remaining_min == i64::MAX {
                let total = u64::try_from(remaining).unwrap_or_default();
                context.progress.start_stage("waiting for ingest", total);
            } else {
                context.progress.add((remaining_min - remaining).unsigned_abs());
            }
            (remaining_min, last_progress_at) = (remaining, Instant::now());
        }
        if remaining == 0 || last_progress_at.elapsed() > INGEST_STALL_TIMEOUT {
            context.run_slot.acquire().await;
            return Ok(());
        }
        sleep(INGEST_POLL_INTERVAL).await;
    }
}

async fn read_topics(
    context: &RebuildContext,
    group_member: Option<&GroupMember>,
) -> Result<(), RebuildError> {
    if let Some(member) = group_member {
        let request = ReplayRequest::load(context, EventFilter::load(context).await?).await?;
        member.replay_shared(request.only_shared(), &context.run_slot).await;
    }
    let request = ReplayRequest::load(context, EventFilter::load(context).await?).await?;
    if !request.has_records() {
        return Ok(());
    }
    let failures = topics::replay(vec![request]).await?;
    failures.into_iter().flatten().next().map_or(Ok(()), Err)
}

async fn read_inbox(context: &RebuildContext, after: Option<Uuid>) -> Result<(), RebuildError> {
    let filter = EventFilter::load(context).await?;
    let mut after = after.unwrap_or(Uuid::nil());
    context.progress.start_stage("reading the inbox", context.inbox_size().await?);
    let (mut accumulator, mut since) = (StateAccumulator::default(), Instant::now());
    loop {
        let began = Instant::now();
        let mut tx = context.begin().await?;
        let page = inbox::page(&mut tx, &context.tenant.schema, after, INBOX_PAGE_ROWS).await?;
        drop(tx);
        for stored in &page {
            if let Some(event) = decode_inbox_event(stored)?
                && filter.matches(&event.fact)
            {
                accumulator.apply(&event);
            }
        }
        context.progress.add(page.len() as u64);
        let last = page.last().map(|stored| stored.key);
        after = last.unwrap_or(after);
        if last.is_none()
            || accumulator.size_bytes() > context.config.buffer_bytes
            || since.elapsed() > LOAD_INTERVAL
        {
            load::load_delta(context, accumulator.take_all(), ReadPosition::Inbox(after)).await?;
            since = Instant::now();
        }
        if last.is_none() {
            return Ok(());
        }
        context.throttle.rest_after(began).await;
    }
}

/// Decodes an inbox row. An unreadable row is fatal: if the rebuild skipped the row, the comparison would
/// treat the event as absent.
pub(super) fn decode_inbox_event(stored: &InboxRow) -> Result<Option<Event>, RebuildError> {
    stored.decode().map_err(|reject| {
        let key = stored.key;
        RebuildError::Fatal(format!(
            "this version cannot decode event {key} of the inbox: {reject}"
        ))
    })
}
