//! Replay of topics, for one or several rebuilds. A topic that several tenants share is read once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    filter::EventFilter,
    fold::StateAccumulator,
    load::{self, ReadPosition},
};
use crate::{
    config::KafkaConfig,
    event::{self, DecodeOutcome, Event, TenantId, Topic, TopicPartition},
    kafka::replay::{self, BorrowedRecord, OffsetRange, ReplayBatch},
    patron::StateDelta,
    services::{
        metrics::metrics,
        rebuild::{context::RebuildContext, error::RebuildError, progress::Progress},
    },
    store::rebuild::shadow,
};

/// Interval after which all entries are loaded into the shadow, regardless of free memory. After a crash, an
/// instance repeats at most this much of the read.
pub(in crate::services::rebuild) const LOAD_INTERVAL: Duration = Duration::from_secs(20);

/// Approximate number of chunks in which the memory is spilled.
const SPILL_CHUNKS: usize = 6;

/// The part of a replay that one rebuild needs.
pub(in crate::services::rebuild) struct ReplayRequest {
    context: RebuildContext,
    filter: EventFilter,
    ranges: BTreeMap<TopicPartition, OffsetRange>,
}

impl ReplayRequest {
    /// Loads the ranges that the rebuild has not read yet, from its shadow.
    pub(in crate::services::rebuild) async fn load(
        context: &RebuildContext,
        filter: EventFilter,
    ) -> Result<Self, RebuildError> {
        let mut tx = context.begin().await?;
        let positions = shadow::load_replay_positions(&mut tx, &context.shadow).await?;
        drop(tx);
        let ranges: BTreeMap<TopicPartition, OffsetRange> =
            positions.into_iter().map(offset_range).collect();
        let remaining = ranges.values().map(|part| part.end - part.next).sum::<i64>();
        context
            .progress
            .start_stage("reading topics", u64::try_from(remaining).unwrap_or_default());
        Ok(Self { context: context.clone(), filter, ranges })
    }

    /// Returns the request, limited to topics that tenants share.
    pub(in crate::services::rebuild) fn only_shared(mut self) -> Self {
        let environment = self.context.kafka.environment();
        let is_shared = |topic: Topic| topic.tenant.is_none();
        self.ranges.retain(|(name, _), _| environment.parse(name).is_some_and(is_shared));
        self
    }

    /// Returns `true` if at least one range is not empty.
    pub(in crate::services::rebuild) fn has_records(&self) -> bool {
        self.ranges.values().any(|part| part.next < part.end)
    }
}

fn offset_range(position: shadow::ReplayPosition) -> (TopicPartition, OffsetRange) {
    let shadow::ReplayPosition { topic, partition, next_offset, end_offset } = position;
    ((Arc::from(topic), partition), OffsetRange { next: next_offset, end: end_offset })
}

/// Replays the ranges of all requests. Returns an error if the replay fails; otherwise returns, for each
/// request, the error that stopped its load, if any.
pub(in crate::services::rebuild) async fn replay(
    requests: Vec<ReplayRequest>,
) -> Result<Vec<Option<RebuildError>>, RebuildError> {
    let Some(first) = requests.first().map(|request| request.context.clone()) else {
        return Ok(Vec::new());
    };
    let cluster = first.query_broker(|broker| Ok(broker.cluster_id())).await?;
    let cluster = cluster.ok_or(RebuildError::Unavailable("no broker returns the cluster id"))?;
    let contexts: Vec<RebuildContext> =
        requests.iter().map(|request| request.context.clone()).collect();
    let (chunk_sender, mut chunks) = mpsc::channel::<LoadChunk>(1);
    let accumulators = ReplayAccumulators::new(requests, first.config.buffer_bytes);
    let reading = tokio::task::spawn_blocking(move || {
        accumulate(&first.kafka, cluster, accumulators, &chunk_sender)
    });
    let mut failures: Vec<Option<RebuildError>> = contexts.iter().map(|_| None).collect();
    while let Some(LoadChunk { rebuild_index, delta, position }) = chunks.recv().await {
        if contexts[rebuild_index].stop.is_cancelled() {
            continue;
        }
        if failures[rebuild_index].is_none()
            && let Err(failure) = load::load_delta(&contexts[rebuild_index], delta, position).await
        {
            failures[rebuild_index] = Some(failure);
            if failures.iter().all(Option::is_some) {
                break;
            }
        }
    }
    drop(chunks);
    reading
        .await
        .map_err(|end| RebuildError::from_join_error(&end, "the replay of the topics"))??;
    for (context, failure) in contexts.iter().zip(&mut failures) {
        if context.stop.is_cancelled() {
            *failure = Some(RebuildError::Unavailable("reading was stopped"));
        }
    }
    Ok(failures)
}

/// Entries on the way into a shadow.
struct LoadChunk {
    /// Index of the rebuild in the order of the requests.
    rebuild_index: usize,
    delta: StateDelta,
    position: ReadPosition,
}

/// The event of a replayed record, if any, and the position of the record.
struct DecodedRecord {
    partition_index: usize,
    offset: i64,
    event: Option<(TenantId, Box<Event>)>,
}

/// Returns a decoder for records of `topics`; the decoder's first argument is an index into `topics`.
fn record_decoder(
    topics: Vec<Option<Topic>>,
    cluster: Arc<str>,
) -> impl Fn(usize, &BorrowedRecord<'_>) -> DecodedRecord + Send + 'static {
    move |partition_index, record| {
        let topic = topics.get(partition_index).and_then(Option::as_ref);
        let event = match topic.map(|topic| event::decode_record(record, topic, &cluster)) {
            Some(DecodeOutcome::Event(tenant, event)) => Some((tenant, event)),
            _ => None,
        };
        DecodedRecord { partition_index, offset: record.position.offset, event }
    }
}

/// Accumulates the replayed records on a blocking thread, until all ranges are read or the receiver drops the
/// channel.
fn accumulate(
    kafka: &KafkaConfig,
    cluster: Arc<str>,
    mut accumulators: ReplayAccumulators,
    chunk_sender: &mpsc::Sender<LoadChunk>,
) -> Result<(), RebuildError> {
    let ranges: Vec<_> = accumulators
        .partitions
        .iter()
        .map(|partition| (partition.topic_partition.clone(), partition.range))
        .collect();
    let environment = kafka.environment();
    let topics = ranges.iter().map(|((name, _), _)| environment.parse(name)).collect();
    let batches = replay::replay(kafka, &ranges, record_decoder(topics, cluster))?;
    let mut since = Instant::now();
    // After the batch with `is_end` the reader sends no batch.
    while let Ok(batch) = batches.recv() {
        let ReplayBatch { records, is_end } = batch?;
        metrics().replayed.increment(records.len() as u64);
        records.into_iter().for_each(|record| accumulators.apply(record));
        let mut chunks = Vec::new();
        if is_end {
            accumulators.finish_partitions();
        } else if accumulators.should_spill() {
            chunks = accumulators.spill();
        }
        if is_end || since.elapsed() > LOAD_INTERVAL {
            chunks.extend(accumulators.take_all());
            since = Instant::now();
        }
        for chunk in chunks {
            if chunk_sender.blocking_send(chunk).is_err() {
                return Ok(());
            }
        }
        if is_end || accumulators.drop_cancelled() {
            return Ok(());
        }
    }
    Err(RebuildError::Unavailable("reading stopped before the end of the topics"))
}

/// Accumulators of all rebuilds, and the progress of the replay.
struct ReplayAccumulators {
    partitions: Vec<ReplayedPartition>,
    rebuilds: Vec<RebuildAccumulator>,
    /// Limit of the accumulated entries, in bytes.
    memory_bytes: usize,
    /// Size of the accumulated entries after the last spill, in bytes.
    bytes_after_spill: usize,
}

/// A partition in the replay, for all rebuilds.
struct ReplayedPartition {
    topic_partition: TopicPartition,
    /// The smallest range that contains all requested ranges; `next` advances with each record.
    range: OffsetRange,
    /// Index and requested range of each rebuild.
    requests: Vec<(usize, OffsetRange)>,
}

/// The accumulator of one rebuild, with its filter and progress.
struct RebuildAccumulator {
    filter: EventFilter,
    accumulator: StateAccumulator,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl ReplayAccumulators {
    fn new(requests: Vec<ReplayRequest>, memory: usize) -> Self {
        let mut partitions: BTreeMap<TopicPartition, ReplayedPartition> = BTreeMap::new();
        for (rebuild_index, request) in requests.iter().enumerate() {
            for (topic_partition, requested) in &request.ranges {
                let replayed = partitions.entry(topic_partition.clone()).or_insert_with(|| {
                    ReplayedPartition {
                        topic_partition: topic_partition.clone(),
                        range: *requested,
                        requests: Vec::new(),
                    }
                });
                replayed.range.next = replayed.range.next.min(requested.next);
                replayed.range.end = replayed.range.end.max(requested.end);
                replayed.requests.push((rebuild_index, *requested));
            }
        }
        let rebuilds = requests.into_iter().map(|ReplayRequest { context, filter, .. }| {
            let (progress, stop) = (context.progress.clone(), context.stop.clone());
            RebuildAccumulator { filter, accumulator: StateAccumulator::default(), progress, stop }
        });
        // In addition to the accumulated entries, one chunk is being loaded, one chunk is queued, and one
        // batch is being read.
        Self {
            partitions: partitions.into_values().collect(),
            rebuilds: rebuilds.collect(),
            memory_bytes: memory * SPILL_CHUNKS / (SPILL_CHUNKS + 3),
            bytes_after_spill: 0,
        }
    }

    fn apply(&mut self, DecodedRecord { partition_index, offset, event: decoded }: DecodedRecord) {
        let Some(partition) = self.partitions.get_mut(partition_index) else { return };
        partition.range.next = offset + 1;
        for (rebuild_index, requested) in &partition.requests {
            if offset < requested.next || offset >= requested.end {
                continue;
            }
            let rebuild = &mut self.rebuilds[*rebuild_index];
            rebuild.progress.add(1);
            if let Some((tenant, event)) = &decoded
                && *tenant == rebuild.filter.tenant
                && rebuild.filter.matches(&event.fact)
            {
                rebuild.accumulator.apply(event);
            }
        }
    }

    /// Advances every partition to the end of its range: the last offsets may have no readable record.
    fn finish_partitions(&mut self) {
        self.partitions.iter_mut().for_each(|partition| partition.range.next = partition.range.end);
    }

    fn size_bytes(&self) -> usize {
        self.rebuilds.iter().map(|rebuild| rebuild.accumulator.size_bytes()).sum()
    }

    /// Returns `true` if the new entries fill one chunk. Reading continues while the chunk is loaded.
    fn should_spill(&self) -> bool {
        self.size_bytes() > self.bytes_after_spill + self.memory_bytes / SPILL_CHUNKS
    }

    /// Spills closed entries first, then the entries with the lowest ids until enough memory is free. Each
    /// spill starts at the lowest id, so entries with high ids stay in memory. `merge_parts` combines the
    /// spilled rows.
    fn spill(&mut self) -> Vec<LoadChunk> {
        let chunk = |rebuild_index, delta| LoadChunk {
            rebuild_index,
            delta,
            position: ReadPosition::Unchanged,
        };
        let rebuilds = self.rebuilds.iter_mut().enumerate();
        let mut chunks: Vec<_> = rebuilds
            .map(|(index, rebuild)| chunk(index, rebuild.accumulator.take_ended()))
            .collect();
        let chunk_bytes = self.memory_bytes / SPILL_CHUNKS;
        while self.size_bytes() > self.memory_bytes - chunk_bytes {
            let rebuilds = self.rebuilds.iter_mut().enumerate();
            let largest = rebuilds.max_by_key(|(_, rebuild)| rebuild.accumulator.size_bytes());
            let Some((index, rebuild)) = largest else { break };
            chunks.push(chunk(index, rebuild.accumulator.take_first(chunk_bytes)));
        }
        chunks.retain(|chunk| chunk.delta != StateDelta::default());
        self.bytes_after_spill = self.size_bytes();
        chunks
    }

    fn take_all(&mut self) -> Vec<LoadChunk> {
        let mut chunks = Vec::with_capacity(self.rebuilds.len());
        for rebuild_index in 0..self.rebuilds.len() {
            let position = ReadPosition::Topics(self.positions(rebuild_index));
            chunks.push(LoadChunk {
                rebuild_index,
                delta: self.rebuilds[rebuild_index].accumulator.take_all(),
                position,
            });
        }
        self.bytes_after_spill = 0;
        chunks
    }

    /// Returns the positions of one rebuild, limited to its requested ranges.
    fn positions(&self, rebuild_index: usize) -> Vec<shadow::ReplayPosition> {
        let mut positions = Vec::new();
        for ReplayedPartition { topic_partition: (topic, partition), range, requests, .. } in
            &self.partitions
        {
            for (_, requested) in requests.iter().filter(|(index, _)| *index == rebuild_index) {
                positions.push(shadow::ReplayPosition {
                    topic: topic.to_string(),
                    partition: *partition,
                    next_offset: range.next.clamp(requested.next, requested.end),
                    end_offset: requested.end,
                });
            }
        }
        positions
    }

    /// Drops the entries of cancelled rebuilds. Returns `true` if no rebuild is active.
    fn drop_cancelled(&mut self) -> bool {
        let mut active = 0;
        for rebuild in &mut self.rebuilds {
            if rebuild.stop.is_cancelled() {
                rebuild.accumulator = StateAccumulator::default();
            } else {
                active += 1;
            }
        }
        active == 0
    }
}
