//! The request for a rebuild: its members, their rules and their JSON form.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    event::{TenantId, in_calendar, parse_uuid},
    patron::Scope,
};

/// The origin of the data that a rebuild reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The tenant's topics, and the topics that tenants share.
    Topics,
    /// The inbox: the tenant's table of applied events.
    Inbox,
    /// The storage modules, which contain the current state only.
    Storage,
}

/// Maximum length of a topic name, in characters.
const TOPIC_NAME_CHARS_MAX: usize = 249;

/// The start of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// The beginning of the source.
    Earliest,
    /// The first record that was written at this time or later.
    Time(DateTime<Utc>),
    /// Only these topics. The rebuild merges their records and drops no stored state, because other topics
    /// may contain the rest.
    Topics(Vec<TopicStart>),
}

/// The start of one topic, written as `topic`, `topic/partition` or `topic/partition@offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStart {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition; `None` selects all partitions.
    pub partition: Option<i32>,
    /// First offset to read; `None` selects the first offset of the log.
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
        // The parts of a topic name have dots between them; a misspelt keyword has no dot. The other rules
        // are Kafka's.
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

/// A valid request for one rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Origin of the data.
    pub source: Source,
    /// Start of the read.
    pub from: ReadFrom,
    /// The tenant, or one patron.
    pub scope: Scope,
    /// If `true`, the rebuild reports the differences without applying them.
    pub dry_run: bool,
    /// If `true`, the inbox covers the records that the topics no longer contain.
    pub covered_by_inbox: bool,
    /// If `true`, the rebuild merges all records of the topics, even if records are missing, and drops no
    /// stored state. The initial fill of a tenant sets this member.
    pub fill: bool,
}

/// The rebuilds that one request inserted.
pub struct RequestedRebuilds {
    /// Tenant and id of each rebuild.
    pub rebuilds: Vec<(TenantId, Uuid)>,
    /// The read group, if an instance may read shared topics once for all of the rebuilds.
    pub read_group: Option<String>,
}

/// An invalid member of a request, and the violated rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct InvalidRequest {
    /// Name of the member, or `the body`.
    pub field: &'static str,
    /// The rule, as the predicate of a sentence about `field`.
    pub rule: &'static str,
}

impl RebuildRequest {
    /// Parses a request. Rejects unknown members: a request with a misspelt `dryRun` must not apply
    /// differences.
    pub fn from_json(body: &Value) -> Result<Self, InvalidRequest> {
        const MEMBERS: [&str; 7] =
            ["source", "from", "scope", "userId", "dryRun", "coveredBy", "fill"];
        let Some(members) = body.as_object() else {
            return invalid("the body", "must be a JSON object");
        };
        if members.keys().any(|member| !MEMBERS.contains(&member.as_str())) {
            return invalid(
                "the body",
                "may contain only the members source, from, scope, userId, dryRun, coveredBy and fill",
            );
        }
        let source = parse_source(members)?;
        let from = parse_from(members, source)?;
        let scope = parse_scope(members)?;
        let covered_by_inbox = match text_member(members, "coveredBy") {
            Ok(None) => false,
            Ok(Some("inbox")) => true,
            _ => return invalid("coveredBy", "must be inbox"),
        };
        if source != Source::Topics && covered_by_inbox {
            return invalid("coveredBy", "is allowed only for source topics");
        }
        let dry_run = flag_member(members, "dryRun")?;
        let fill = flag_member(members, "fill")? || matches!(from, ReadFrom::Topics(_));
        if fill && (source != Source::Topics || covered_by_inbox) {
            return invalid("fill", "is allowed only for source topics");
        }
        Ok(Self { source, from, scope, dry_run, covered_by_inbox, fill })
    }

    /// Returns the request for a synchronisation with the storage modules.
    pub fn synchronization(scope: Scope) -> Self {
        let (source, from) = (Source::Storage, ReadFrom::Earliest);
        Self { source, from, scope, dry_run: false, covered_by_inbox: false, fill: false }
    }

    /// Returns the request for the initial fill of a tenant.
    pub fn initial_fill() -> Self {
        let (source, from) = (Source::Topics, ReadFrom::Earliest);
        let scope = Scope::Tenant;
        Self { source, from, scope, dry_run: false, covered_by_inbox: false, fill: true }
    }

    /// Returns the JSON form that [`RebuildRequest::from_json`] parses.
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

type Members = serde_json::Map<String, Value>;

fn invalid<T>(field: &'static str, rule: &'static str) -> Result<T, InvalidRequest> {
    Err(InvalidRequest { field, rule })
}

/// Returns a text member; `Err` if the member is not a text.
fn text_member<'a>(members: &'a Members, name: &str) -> Result<Option<&'a str>, ()> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

fn flag_member(members: &Members, field: &'static str) -> Result<bool, InvalidRequest> {
    match members.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => invalid(field, "must be true or false"),
    }
}

fn parse_source(members: &Members) -> Result<Source, InvalidRequest> {
    match text_member(members, "source") {
        Ok(None | Some("topics")) => Ok(Source::Topics),
        Ok(Some("inbox")) => Ok(Source::Inbox),
        Ok(Some("storage")) => Ok(Source::Storage),
        _ => invalid("source", "must be topics, inbox or storage"),
    }
}

fn parse_from(members: &Members, source: Source) -> Result<ReadFrom, InvalidRequest> {
    let from = match text_member(members, "from").map(|from| from.map(str::parse)) {
        Ok(None) => ReadFrom::Earliest,
        Ok(Some(Ok(from))) => from,
        _ => {
            let rule = "must be earliest, a date-time, or topics: topic/partition@offset,…";
            return invalid("from", rule);
        }
    };
    match (source, &from) {
        (Source::Topics, _) | (_, ReadFrom::Earliest) => Ok(from),
        (_, ReadFrom::Topics(_)) => invalid("from", "may name topics only for source topics"),
        (Source::Storage, _) => invalid("from", "is not allowed for source storage"),
        (Source::Inbox, _) => Ok(from),
    }
}

fn parse_scope(members: &Members) -> Result<Scope, InvalidRequest> {
    let user = match text_member(members, "userId").map(|user| user.map(parse_uuid)) {
        Ok(None) => None,
        Ok(Some(Some(user))) => Some(user),
        _ => return invalid("userId", "must be a UUID of version 1 to 5"),
    };
    match (text_member(members, "scope"), user) {
        (Ok(Some("user")), None) => invalid("userId", "is required for scope user"),
        (Ok(Some("user")), Some(user)) => Ok(Scope::Patron(user)),
        (Ok(None | Some("tenant")), None) => Ok(Scope::Tenant),
        (Ok(None | Some("tenant")), Some(_)) => invalid("userId", "is allowed only for scope user"),
        _ => invalid("scope", "must be tenant or user"),
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
