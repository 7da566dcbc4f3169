//! What may be asked of a rebuild.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    event::{TenantId, in_calendar, parse_uuid},
    patron::Scope,
};

/// What a rebuild reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The tenant's topics.
    Topics,
    /// The inbox: our own store of events.
    Inbox,
    /// The storage modules, as they are now.
    Storage,
}

/// Characters in a topic's name at most.
const TOPIC_NAME_CHARS_MAX: usize = 249;

/// From where a source is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// From its beginning.
    Earliest,
    /// From what was written at an instant.
    Time(DateTime<Utc>),
    /// Only these topics. What they hold is merged: what they don't hold may be in others.
    Topics(Vec<TopicStart>),
}

/// Where a topic is read, written as `topic`, `topic/partition` or `topic/partition@offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStart {
    /// The topic.
    pub topic: String,
    /// The partition; all of them where it isn't said.
    pub partition: Option<i32>,
    /// The first offset; the first there is where it isn't said.
    pub offset: Option<i64>,
}

impl FromStr for ReadFrom {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "earliest" {
            return Ok(Self::Earliest);
        }
        if let Ok(time) = text.parse() {
            return if in_calendar(&time) { Ok(Self::Time(time)) } else { Err(()) };
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self::Topics)
    }
}

impl FromStr for TopicStart {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (topic, rest) = match text.trim().split_once('/') {
            Some((topic, rest)) => (topic, Some(rest)),
            None => (text.trim(), None),
        };
        let number = |text: &str| text.parse::<u32>().ok().and_then(|n| i32::try_from(n).ok());
        let (partition, offset) = match rest.map(|rest| rest.split_once('@')) {
            None => (None, None),
            Some(None) => (Some(rest.and_then(number).ok_or(())?), None),
            Some(Some((partition, offset))) => {
                let offset = offset.parse::<u64>().ok().and_then(|n| i64::try_from(n).ok());
                (Some(number(partition).ok_or(())?), Some(offset.ok_or(())?))
            }
        };
        // A topic's name has a dot between its parts; a misspelt word does not. The rest is Kafka's rule.
        let is_topic_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !topic.contains('.')
            || topic.len() > TOPIC_NAME_CHARS_MAX
            || !topic.chars().all(is_topic_char)
        {
            return Err(());
        }
        Ok(Self { topic: topic.to_owned(), partition, offset })
    }
}

impl fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            Self::Topics(starts) => {
                for (n, TopicStart { topic, partition, offset }) in starts.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma}{topic}")?;
                    partition.map_or(Ok(()), |partition| write!(f, "/{partition}"))?;
                    offset.map_or(Ok(()), |offset| write!(f, "@{offset}"))?;
                }
                Ok(())
            }
        }
    }
}

/// A rebuild as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildRequest {
    /// What is read.
    pub source: Source,
    /// From where on.
    pub from: ReadFrom,
    /// Of whom.
    pub scope: Scope,
    /// Whether it ends with the differences.
    pub dry_run: bool,
    /// Whether the inbox speaks for what topics don't hold any more.
    pub covered_by_inbox: bool,
    /// Whether all that the topics hold is merged, however little that is, and nothing that is known is
    /// dropped: what a tenant is filled with that was just enabled.
    pub fill: bool,
}

/// What was asked for at once.
pub struct RequestedRebuilds {
    /// Whose, and its id.
    pub rebuilds: Vec<(TenantId, Uuid)>,
    /// What they have in common, where they are worked on together.
    pub read_group: Option<String>,
}

/// What is wrong with a request: the member, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct InvalidRequest {
    /// The member.
    pub field: &'static str,
    /// The rule.
    pub rule: &'static str,
}

impl RebuildRequest {
    /// Reads a request. Members that are not known are refused: a misspelt one must not apply what was
    /// meant to be a dry run.
    pub fn from_json(body: &Value) -> Result<Self, InvalidRequest> {
        const MEMBERS: [&str; 7] =
            ["source", "from", "scope", "userId", "dryRun", "coveredBy", "fill"];
        let invalid = |field, rule| Err(InvalidRequest { field, rule });
        let Some(members) = body.as_object() else {
            return invalid("the body", "has to be a JSON object");
        };
        if members.keys().any(|member| !MEMBERS.contains(&member.as_str())) {
            return invalid(
                "the body",
                "may have the members source, from, scope, userId, dryRun, coveredBy and fill only",
            );
        }
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(()),
        };
        let source = match text("source") {
            Ok(None | Some("topics")) => Source::Topics,
            Ok(Some("inbox")) => Source::Inbox,
            Ok(Some("storage")) => Source::Storage,
            _ => return invalid("source", "has to be topics, inbox or storage"),
        };
        let from = match text("from").map(|from| from.map(str::parse)) {
            Ok(None) => ReadFrom::Earliest,
            Ok(Some(Ok(from))) => from,
            _ => {
                let rule = "has to be earliest, a date-time, or topics: topic/partition@offset,…";
                return invalid("from", rule);
            }
        };
        let names_topics = matches!(from, ReadFrom::Topics(_));
        if names_topics && source != Source::Topics {
            return invalid("from", "names topics, and so has a meaning for source topics alone");
        }
        let user = match text("userId").map(|user| user.map(parse_uuid)) {
            Ok(None) => None,
            Ok(Some(Some(user))) => Some(user),
            _ => return invalid("userId", "has to be a UUID of version 1 to 5"),
        };
        let scope = match (text("scope"), user) {
            (Ok(Some("user")), None) => return invalid("userId", "is required for scope user"),
            (Ok(Some("user")), Some(user)) => Scope::Patron(user),
            (Ok(None | Some("tenant")), None) => Scope::Tenant,
            (Ok(None | Some("tenant")), Some(_)) => {
                return invalid("userId", "has a meaning for scope user only");
            }
            _ => return invalid("scope", "has to be tenant or user"),
        };
        let covered_by_inbox = match text("coveredBy") {
            Ok(None) => false,
            Ok(Some("inbox")) => true,
            _ => return invalid("coveredBy", "has to be inbox"),
        };
        if source == Source::Storage && from != ReadFrom::Earliest {
            return invalid("from", "has no meaning for source storage");
        }
        if source != Source::Topics && covered_by_inbox {
            return invalid("coveredBy", "has a meaning for source topics only");
        }
        let flag = |name: &'static str| match members.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(InvalidRequest { field: name, rule: "has to be true or false" }),
        };
        let (dry_run, fill) = (flag("dryRun")?, flag("fill")? || names_topics);
        if fill && (source != Source::Topics || covered_by_inbox) {
            return invalid("fill", "has a meaning for source topics alone");
        }
        Ok(Self { source, from, scope, dry_run, covered_by_inbox, fill })
    }

    /// What a synchronisation with the storage modules is.
    pub fn synchronization(scope: Scope) -> Self {
        let (source, from) = (Source::Storage, ReadFrom::Earliest);
        Self { source, from, scope, dry_run: false, covered_by_inbox: false, fill: false }
    }

    /// What fills a tenant that was just enabled.
    pub fn initial_fill() -> Self {
        let (source, from) = (Source::Topics, ReadFrom::Earliest);
        let scope = Scope::Tenant;
        Self { source, from, scope, dry_run: false, covered_by_inbox: false, fill: true }
    }

    /// As [`Ask::read`] reads it.
    pub fn to_json(&self) -> Value {
        let mut body = serde_json::json!({
            "source": self.source, "from": self.from.to_string(), "dryRun": self.dry_run,
            "scope": if self.scope == Scope::Tenant { "tenant" } else { "user" },
        });
        if let Scope::Patron(user) = self.scope {
            body["userId"] = serde_json::json!(user);
        }
        if self.covered_by_inbox {
            body["coveredBy"] = "inbox".into();
        }
        if self.fill {
            body["fill"] = true.into();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_parse_with_partition_and_offset() {
        for text in [
            "earliest",
            "2026-11-20T09:12:44.120Z",
            "folio.north.circulation.LOAN_CLOSED",
            "folio.north.circulation.LOAN_CLOSED/3",
            "folio.north.circulation.LOAN_CLOSED/3@120,folio.ALL.circulation.LOAN_CLOSED",
        ] {
            assert_eq!(text.parse::<ReadFrom>().map(|from| from.to_string()).as_deref(), Ok(text));
        }
        let long = format!("a.{}", "b".repeat(248));
        for text in [
            "a.b\0",
            "a.b\u{e9}",
            "a.b:c",
            &*long,
            "+262142-12-31T23:59:59Z",
            "+10000-01-01T00:00:00.5Z",
        ] {
            assert_eq!(text.parse::<ReadFrom>(), Err(()), "{text}");
        }
        for text in ["", "yesterday", "a.b/x", "a.b/1@", "a.b/-1", "a.b/1@-5", "a.b,", "a b.c"] {
            assert_eq!(text.parse::<ReadFrom>(), Err(()), "{text}");
        }
    }
}
