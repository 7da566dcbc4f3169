//! Starts ingest: connects the consumer with the writers, the partition starter and the watchdog.

use std::sync::{Arc, mpsc as std_mpsc};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Ingest, ingest_store::IngestStore, partition_starter::PartitionStarter,
    start_offset::StartOffsetResolver, watchdog::Watchdog, writer::Writer,
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    kafka::{
        self, BrokerClient, Consumer, ConsumerParts, ConsumerStatus,
        delivery::{Channels, PollerCommand},
    },
    services::tenants::{TenantChange, TenantRegistry},
};

/// Running ingest: the consumer and the tasks around it.
pub struct RunningIngest {
    consumer: Consumer,
    tasks: Vec<JoinHandle<()>>,
    parts: ConsumerParts,
}

impl RunningIngest {
    /// Returns the state of the connection to Kafka.
    pub fn status(&self) -> Arc<ConsumerStatus> {
        self.parts.status.clone()
    }

    /// Returns the parts of the consumer that tasks around it share.
    pub fn parts(&self) -> ConsumerParts {
        self.parts.clone()
    }

    /// Returns the client for requests to brokers.
    pub fn broker(&self) -> Arc<BrokerClient> {
        self.parts.broker.clone()
    }

    /// Waits until all tasks have ended and the consumer has left the group, after the caller cancelled
    /// the token given to [`start`]. librdkafka may hang while no broker answers, so the caller sets a
    /// deadline.
    pub async fn join(self) {
        for task in self.tasks {
            let _ = task.await;
        }
        self.consumer.join().await;
    }
}

/// Joins the consumer group and ingests records until `stop`.
pub fn start<S: IngestStore + 'static>(
    config: &KafkaConfig,
    ingest: &Arc<Ingest<S>>,
    start_offsets: StartOffsetResolver,
    tenants: &TenantRegistry,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<RunningIngest, kafka::Error> {
    let parts = ConsumerParts::new(config, clock)?;
    let start_offsets = Arc::new(start_offsets);
    let (report_sender, reports) = std_mpsc::channel();
    let (commands, command_receiver) = std_mpsc::channel();
    let (start_sender, start_requests) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    let mut lanes = Vec::new();
    for _ in 0..config.writers {
        // The next batch fills while the writer commits the current batch.
        let (sender, lane) = mpsc::channel(config.batch_records_max);
        let writer = Writer::new(
            lane,
            ingest.clone(),
            parts.assignment.clone(),
            report_sender.clone(),
            config.batch_records_max,
        );
        lanes.push(sender);
        tasks.push(tokio::spawn(writer.run(stop.clone())));
    }
    // The reports end with the last writer.
    drop(report_sender);
    let channels =
        Channels { lanes, reports, start_requests: start_sender, commands: command_receiver };
    let consumer = kafka::start(config, &parts, channels, stop.clone())?;
    let starter = PartitionStarter {
        requests: start_requests,
        environment: config.environment(),
        broker: parts.broker.clone(),
        start_offsets: start_offsets.clone(),
        ingest: ingest.clone(),
        assignment: parts.assignment.clone(),
        commands: commands.clone(),
    };
    tasks.push(tokio::spawn(starter.run(stop.clone())));
    let watchdog = Watchdog::new(&parts, config.environment(), start_offsets, commands.clone());
    tasks.push(tokio::spawn(watchdog.run(config.metadata_max_age, stop.clone())));
    tenants.subscribe(move |change| {
        // The poller drops its receiver only when the service stops.
        let _ = commands.send(match change {
            TenantChange::Enabled(tenant) => PollerCommand::TenantEnabled(tenant),
            TenantChange::Any => PollerCommand::RestartStopped,
        });
    });
    Ok(RunningIngest { consumer, tasks, parts })
}
