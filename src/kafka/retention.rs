//! The longest retention of the topics. Housekeeping must not delete younger rows, because their
//! records may be read again.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::try_join_all;
use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier},
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tracing::debug;

use super::client;
use crate::{config::KafkaConfig, event::Kind};

/// Time limit of one broker request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest number of topics in one request.
const REQUEST_TOPICS_MAX: usize = 500;

/// A longer retention counts as unlimited.
const RETENTION_MAX: TimeDelta = TimeDelta::days(100 * 365);

/// The longest retention of a record in any topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRetention {
    /// Every topic deletes records after at most this time.
    Limited(TimeDelta),
    /// This topic never deletes records.
    Unlimited {
        /// Full name of the topic.
        topic: String,
    },
}

/// The reason why the longest retention is unknown.
#[derive(Debug, thiserror::Error)]
pub enum RetentionUnknown {
    /// The broker is unreachable or refused the request.
    #[error("could not read the retention of the topics from the broker")]
    Request(#[source] KafkaError),
    /// The broker refused the settings of one topic.
    #[error("could not read the settings of topic {topic}")]
    Topic {
        /// Full name of the topic.
        topic: String,
        /// The broker's error code.
        #[source]
        code: RDKafkaErrorCode,
    },
    /// The broker's response lacks a setting, or the setting does not parse.
    #[error("the broker does not return {setting} of topic {topic}")]
    Setting {
        /// Full name of the topic.
        topic: String,
        /// Name of the setting.
        setting: &'static str,
    },
    /// The querying thread failed.
    #[error("the thread of the broker request failed")]
    Join(#[source] tokio::task::JoinError),
}

/// Returns the longest retention of the environment's topics, except topics of users.
pub async fn longest_retention(config: &KafkaConfig) -> Result<TopicRetention, RetentionUnknown> {
    let (config, runtime) = (config.clone(), Handle::current());
    // Listing topics and dropping the client both block.
    spawn_blocking(move || query(&config, &runtime)).await.map_err(RetentionUnknown::Join)?
}

fn query(config: &KafkaConfig, runtime: &Handle) -> Result<TopicRetention, RetentionUnknown> {
    let client = client::connection(config);
    let admin: AdminClient<SilentContext> =
        client.create_with_context(SilentContext).map_err(RetentionUnknown::Request)?;
    let all =
        admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(RetentionUnknown::Request)?;
    let environment = config.environment();
    let topics: Vec<_> = all
        .topics()
        .iter()
        .filter(|topic| environment.parse(topic.name()).is_some_and(|t| is_replayed(t.kind)))
        .map(|topic| ResourceSpecifier::Topic(topic.name()))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let requests =
        topics.chunks(REQUEST_TOPICS_MAX).map(|chunk| admin.describe_configs(chunk, &options));
    let responses = runtime.block_on(try_join_all(requests)).map_err(RetentionUnknown::Request)?;
    let mut longest = TimeDelta::zero();
    for (resource, response) in topics.iter().zip(responses.into_iter().flatten()) {
        let ResourceSpecifier::Topic(topic) = resource else { continue };
        let topic = (*topic).to_owned();
        match response {
            Ok(settings) => match topic_retention(&topic, &settings)? {
                TopicRetention::Limited(time) => longest = longest.max(time),
                unlimited => return Ok(unlimited),
            },
            Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {} // deleted meanwhile
            Err(code) => return Err(RetentionUnknown::Topic { topic, code }),
        }
    }
    Ok(TopicRetention::Limited(longest))
}

/// Returns whether housekeeping deletes state that a record of this kind could contradict on a second
/// read. Patron groups are never deleted, so a topic of users may retain records for ever, for
/// example by compaction.
fn is_replayed(kind: Kind) -> bool {
    kind != Kind::StoredUser
}

/// Returns `retention.ms` plus `segment.ms`. The broker deletes a segment when its newest record
/// expires, so its oldest record may be older by the span of a segment.
fn topic_retention(
    topic: &str,
    settings: &ConfigResource,
) -> Result<TopicRetention, RetentionUnknown> {
    let text = |setting| {
        let entry = settings.get(setting).and_then(|entry| entry.value.as_deref());
        entry.ok_or_else(|| RetentionUnknown::Setting { topic: topic.to_owned(), setting })
    };
    let milliseconds = |setting| {
        let parsed = text(setting)?.parse().ok();
        parsed.ok_or_else(|| RetentionUnknown::Setting { topic: topic.to_owned(), setting })
    };
    let unlimited = || TopicRetention::Unlimited { topic: topic.to_owned() };
    let deletes = text("cleanup.policy")?.split(',').any(|policy| policy.trim() == "delete");
    let (retention, segment): (i64, i64) =
        (milliseconds("retention.ms")?, milliseconds("segment.ms")?);
    if !deletes || retention < 0 {
        return Ok(unlimited());
    }
    let longest = TimeDelta::try_milliseconds(retention.saturating_add(segment));
    Ok(longest
        .filter(|longest| *longest < RETENTION_MAX)
        .map_or_else(unlimited, TopicRetention::Limited))
}

/// A context that logs at debug level. Requests return the errors, and the consumer's client reports
/// an unavailable broker.
pub(super) struct SilentContext;

impl ConsumerContext for SilentContext {}

impl ClientContext for SilentContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(kafka.facility = facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "topic retention: client reported an error; the request returns it, too");
    }
}
