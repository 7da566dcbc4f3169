//! How long the topics hold what was written: nothing younger may be forgotten, because it may be read
//! again.

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

use super::consumer;
use crate::{config::KafkaConfig, event::Kind};

/// How long the broker may take for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Topics in one request.
const REQUEST_TOPICS_MAX: usize = 500;

/// What is held for longer is held for ever.
const RETENTION_MAX: TimeDelta = TimeDelta::days(100 * 365);

/// For how long topics hold a record at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRetention {
    /// This long.
    Limited(TimeDelta),
    /// This topic never lets go of one.
    Unlimited {
        /// Its name.
        topic: String,
    },
}

/// Why it can't be told how long topics hold a record.
#[derive(Debug, thiserror::Error)]
pub enum RetentionUnknown {
    /// The broker was not reached, or refuses to answer.
    #[error("could not ask the broker for its topics' retention")]
    Request(#[source] KafkaError),
    /// It refuses to answer for a topic.
    #[error("could not read the settings of topic {topic}")]
    Topic {
        /// The topic.
        topic: String,
        /// What the broker says.
        #[source]
        code: RDKafkaErrorCode,
    },
    /// It answers something else.
    #[error("the broker does not tell {setting} of topic {topic}")]
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        setting: &'static str,
    },
    /// The asking thread ended.
    #[error("could not wait for the broker's answer")]
    Join(#[source] tokio::task::JoinError),
}

/// Asks the broker for the longest time that any of the environment's topics holds a record, but those of
/// users.
pub async fn longest_retention(config: &KafkaConfig) -> Result<TopicRetention, RetentionUnknown> {
    let (config, runtime) = (config.clone(), Handle::current());
    // Listing topics blocks, and so does dropping the client.
    spawn_blocking(move || query(&config, &runtime)).await.map_err(RetentionUnknown::Join)?
}

fn query(config: &KafkaConfig, runtime: &Handle) -> Result<TopicRetention, RetentionUnknown> {
    let client = consumer::connection(config);
    let admin: AdminClient<SilentContext> =
        client.create_with_context(SilentContext).map_err(RetentionUnknown::Request)?;
    let all =
        admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(RetentionUnknown::Request)?;
    let topics: Vec<_> = all
        .topics()
        .iter()
        .filter(|topic| config.environment.parse(topic.name()).is_some_and(|t| is_replayed(t.kind)))
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

/// Whether something is forgotten that has to be known while a topic holds its records. What was told of users
/// is never forgotten, so a topic of theirs may hold for ever, as a compacted one does.
fn is_replayed(kind: Kind) -> bool {
    kind != Kind::StoredUser
}

/// A segment goes when its newest record is too old, so its oldest may be older by a segment's span.
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

/// Trouble is told by the answer; the consumer has a client that says when the broker is away.
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
