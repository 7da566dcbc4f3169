//! The offset ranges that a rebuild reads, and the check that the source still contains the requested
//! history.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::{
    event::{Environment, TenantId, Topic, TopicPartition, stamp::Horizon},
    kafka::{BrokerClient, ProbeResults, RecordProbe, offsets::Watermarks, replay::OffsetRange},
    services::rebuild::{
        context::RebuildContext,
        error::RebuildError,
        request::{ReadFrom, Source, TopicStart},
    },
    store::{
        self, Schema,
        ingest::{incidents, positions},
    },
};

/// Maximum by which the time of an event may be later than the time of its record
/// (docs/contract/events.md#64-clocks).
const EVENT_CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(5);

/// Returns the event time since which a source is complete that contains all records since `time`.
pub(in crate::services::rebuild) fn complete_from(time: DateTime<Utc>) -> Horizon {
    Horizon::at(time.checked_add_signed(EVENT_CLOCK_SKEW_MAX).unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// The ranges to read, and the completeness of the source.
pub(in crate::services::rebuild) struct Plan {
    pub(in crate::services::rebuild) ranges: BTreeMap<TopicPartition, OffsetRange>,
    pub(in crate::services::rebuild) complete_since: Option<Horizon>,
    pub(in crate::services::rebuild) incomplete_before: Option<DateTime<Utc>>,
    /// A limitation that the requester has to know.
    pub(in crate::services::rebuild) problem: Option<String>,
}

impl Plan {
    fn without_topics(complete_since: Horizon, problem: Option<String>) -> Self {
        let complete_since = Some(complete_since);
        Self { ranges: BTreeMap::new(), complete_since, incomplete_before: None, problem }
    }
}

/// Determines the ranges and the completeness of the requested source.
pub(in crate::services::rebuild) async fn plan(
    context: &RebuildContext,
) -> Result<Plan, RebuildError> {
    match context.request.source {
        Source::Inbox => return plan_inbox(context).await,
        // The storage modules contain no history; the rebuild merges their records with the stored state.
        Source::Storage => return Ok(Plan::without_topics(Horizon::NEVER, None)),
        Source::Topics => {}
    }
    let now = store::now(context.db()).await?;
    let (environment, id) = (context.kafka.environment(), context.tenant.id.clone());
    let asked = context.query_broker(move |broker| list_partitions(&broker, &environment, &id));
    let (partitions, watermarks) = asked.await?;
    let mut ranges = BTreeMap::new();
    for partition in &partitions {
        let Some(Watermarks { low: start, high: end }) = watermarks.get(partition) else {
            return Err(RebuildError::Unavailable("a partition has no leader"));
        };
        ranges.insert(partition.clone(), OffsetRange { next: *start, end: *end });
    }
    let mut incomplete_before = None;
    let missing = find_missing(context, &ranges, now).await?;
    let from_time = match &context.request.from {
        ReadFrom::Earliest => None,
        ReadFrom::Time(time) => {
            let time = *time;
            let first = context
                .query_broker(move |broker| broker.offsets_for_time(&partitions, time))
                .await?;
            for (partition, range) in &mut ranges {
                *range = range.starting_at(first.get(partition).copied());
            }
            Some(time)
        }
        ReadFrom::Topics(starts) => {
            ranges = select_ranges(&ranges, starts)?;
            None
        }
    };
    let missing = missing.filter(|(_, until)| from_time.is_none_or(|from_time| *until > from_time));
    let complete_since = match missing {
        missing if context.request.fill => {
            incomplete_before = missing.map(|(_, until)| until);
            Some(Horizon::NEVER)
        }
        None => from_time.map(complete_from),
        Some((partition, until)) if context.request.covered_by_inbox => {
            let since = inbox_complete_since(context, &partition, until).await?;
            Some(complete_from(from_time.map_or(since, |from_time| since.max(from_time))))
        }
        Some(((topic, partition), until)) => {
            return Err(RebuildError::Fatal(format!(
                "topic {topic}, partition {partition}, lacks the records from before {}; set coveredBy to \
                 inbox, or set from to a later time",
                until.to_rfc3339_opts(SecondsFormat::Secs, true),
            )));
        }
    };
    Ok(Plan { ranges, complete_since, incomplete_before, problem: None })
}

/// Plans a rebuild from the inbox. The inbox is no evidence for times before its first complete instant.
async fn plan_inbox(context: &RebuildContext) -> Result<Plan, RebuildError> {
    let mut tx = context.begin().await?;
    let since = context.inbox_extent(&mut tx).await?.complete_since();
    let since_text = since.to_rfc3339_opts(SecondsFormat::Secs, true);
    match context.request.from {
        ReadFrom::Time(time) if time < since => Err(RebuildError::Fatal(format!(
            "the inbox is complete only since {since_text}; set from to this time or later, or use source \
             storage"
        ))),
        ReadFrom::Time(time) => Ok(Plan::without_topics(complete_from(time), None)),
        ReadFrom::Earliest | ReadFrom::Topics(_) => {
            let problem = format!(
                "the inbox is complete only since {since_text}; the rebuild leaves the earlier state \
                 unchanged"
            );
            Ok(Plan::without_topics(complete_from(since), Some(problem)))
        }
    }
}

/// Returns the time since which the inbox is complete. Fails if this time is later than `until`, the end of
/// the topic's gap.
async fn inbox_complete_since(
    context: &RebuildContext,
    (topic, partition): &TopicPartition,
    until: DateTime<Utc>,
) -> Result<DateTime<Utc>, RebuildError> {
    let mut tx = context.begin().await?;
    let since = context.inbox_extent(&mut tx).await?.complete_since();
    if since <= until {
        return Ok(since);
    }
    let format_time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    Err(RebuildError::Fatal(format!(
        "topic {topic}, partition {partition}, lacks the records from before {}, and the inbox is complete \
         only since {}; set from to a later time, or use source storage",
        format_time(until),
        format_time(since),
    )))
}

/// Returns the requested partitions, each from its requested offset.
fn select_ranges(
    ranges: &BTreeMap<TopicPartition, OffsetRange>,
    starts: &[TopicStart],
) -> Result<BTreeMap<TopicPartition, OffsetRange>, RebuildError> {
    let mut selected = BTreeMap::new();
    for TopicStart { topic, partition, offset } in starts {
        let is_requested = |(name, number): &TopicPartition| {
            **name == **topic && partition.is_none_or(|requested| requested == *number)
        };
        let found = ranges.iter().filter(|(topic_partition, _)| is_requested(topic_partition));
        let before = selected.len();
        selected.extend(found.map(|(topic_partition, range)| {
            let next = range.next.max(offset.unwrap_or_default()).min(range.end);
            (topic_partition.clone(), OffsetRange { next, end: range.end })
        }));
        if selected.len() == before {
            let start = ReadFrom::Topics(vec![TopicStart {
                topic: topic.clone(),
                partition: *partition,
                offset: None,
            }]);
            return Err(RebuildError::Fatal(format!(
                "{start} is not an existing topic of the tenant"
            )));
        }
    }
    Ok(selected)
}

type PartitionWatermarks =
    (Vec<TopicPartition>, std::collections::HashMap<TopicPartition, Watermarks>);

/// Returns the partitions of the tenant's topics and of shared topics, with their watermarks. Shared topics
/// may contain records of any tenant.
fn list_partitions(
    broker: &BrokerClient,
    environment: &Environment,
    tenant: &TenantId,
) -> Result<PartitionWatermarks, crate::kafka::Error> {
    let is_own = |topic: &Topic| topic.tenant.as_ref().is_none_or(|id| id == tenant);
    let mut names = broker.topic_names()?;
    names.retain(|name| environment.parse(name).as_ref().is_some_and(is_own));
    let partitions = broker.partitions(&names)?;
    let watermarks = broker.watermarks(&partitions)?;
    Ok((partitions, watermarks))
}

/// Returns the time of a partition's first record, or `now` if the partition is empty. If the partition was
/// not read in time, returns a transient error: an assumed empty partition would fail the rebuild
/// permanently.
fn first_record_time(
    results: &ProbeResults,
    partition: &TopicPartition,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, RebuildError> {
    let records = results
        .get(partition)
        .ok_or(RebuildError::Unavailable("a partition was not read in time"))?;
    Ok(records.first().map_or(now, |record| record.timestamp))
}

/// Returns the partition with the latest end of missing records, and that end. Records are missing if
/// retention deleted them, if the topic was recreated, or if an incident recorded a gap.
async fn find_missing(
    context: &RebuildContext,
    ranges: &BTreeMap<TopicPartition, OffsetRange>,
    now: DateTime<Utc>,
) -> Result<Option<(TopicPartition, DateTime<Utc>)>, RebuildError> {
    let truncated_ranges = ranges.iter().filter(|(_, range)| range.next > 0);
    let to_probe = |(topic_partition, range): (&TopicPartition, &OffsetRange)| RecordProbe {
        topic_partition: topic_partition.clone(),
        offset: range.next,
        records_max: 1,
    };
    let probes: Vec<RecordProbe> = truncated_ranges.map(to_probe).collect();
    let truncated: Vec<TopicPartition> =
        probes.iter().map(|probe| probe.topic_partition.clone()).collect();
    let results = context.query_broker(move |broker| Ok(broker.probe(&probes))).await?;
    let mut missing = Vec::with_capacity(truncated.len());
    for topic_partition in truncated {
        let first_record_at = first_record_time(&results, &topic_partition, now)?;
        missing.push((topic_partition, first_record_at));
    }
    let mut tx = context.begin().await?;
    for gap in incidents::list_gaps(&mut *tx, &context.tenant.id).await? {
        let topic_partition = (Arc::from(gap.topic), gap.partition);
        if ranges.contains_key(&topic_partition) {
            missing.push((topic_partition, gap.until));
        }
    }
    // If a partition has a position but is absent or invisible now, all of its records are missing.
    for schema in [&*context.tenant.schema, &Schema::module()] {
        for ((topic, partition), position) in positions::list(&mut *tx, schema).await? {
            let topic_partition = (Arc::from(topic), partition);
            if position.next_offset > 0 && !ranges.contains_key(&topic_partition) {
                missing.push((topic_partition, now));
            }
        }
    }
    Ok(missing.into_iter().max_by_key(|(_, until)| *until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unresponsive_partition_is_not_treated_as_empty() {
        let [slow, empty] = [0, 1].map(|partition| (Arc::from("topic"), partition));
        let looked = ProbeResults::from([(empty.clone(), Vec::new())]);
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(first_record_time(&looked, &empty, now).unwrap(), now);
        let failure = first_record_time(&looked, &slow, now).unwrap_err();
        assert!(failure.is_transient(), "{failure}");
    }
}
