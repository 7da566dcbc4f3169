//! What may be asked of a rebuild.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

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

/// From where a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// From its beginning.
    Earliest,
    /// From what was written at an instant.
    Time(DateTime<Utc>),
}

/// A rebuild as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What is read.
    pub source: Source,
    /// From where on.
    pub from: From,
    /// Only this patron.
    pub user: Option<Uuid>,
    /// Whether it ends with the differences.
    pub dry_run: bool,
    /// Whether the inbox speaks for what topics don't hold any more.
    pub covered_by_inbox: bool,
    /// Whether all that the topics hold is merged, however little that is, and nothing that is known is
    /// dropped: what a tenant is filled with that was just enabled.
    pub fill: bool,
}

/// What is wrong with a request: the member, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct Refused {
    /// The member.
    pub field: &'static str,
    /// The rule.
    pub rule: &'static str,
}

impl Ask {
    /// Reads a request. Members that are not known are refused: a misspelt one must not apply what was
    /// meant to be a dry run.
    pub fn read(body: &Value) -> Result<Self, Refused> {
        const MEMBERS: [&str; 7] =
            ["source", "from", "scope", "userId", "dryRun", "coveredBy", "fill"];
        let refuse = |field, rule| Err(Refused { field, rule });
        let Some(members) = body.as_object() else {
            return refuse("the body", "has to be a JSON object");
        };
        if members.keys().any(|member| !MEMBERS.contains(&member.as_str())) {
            return refuse(
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
            _ => return refuse("source", "has to be topics, inbox or storage"),
        };
        let from = match text("from").map(|from| from.map(|from| (from, from.parse()))) {
            Ok(None | Some(("earliest", _))) => From::Earliest,
            Ok(Some((_, Ok(time)))) => From::Time(time),
            _ => return refuse("from", "has to be earliest or a date-time"),
        };
        let user = match text("userId").map(|user| user.map(str::parse::<Uuid>)) {
            Ok(None) => None,
            Ok(Some(Ok(user))) => Some(user),
            _ => return refuse("userId", "has to be a UUID"),
        };
        match (text("scope"), user) {
            (Ok(Some("user")), None) => return refuse("userId", "is required for scope user"),
            (Ok(Some("user")), Some(_)) | (Ok(None | Some("tenant")), None) => {}
            (Ok(None | Some("tenant")), Some(_)) => {
                return refuse("userId", "has a meaning for scope user only");
            }
            _ => return refuse("scope", "has to be tenant or user"),
        }
        let covered_by_inbox = match text("coveredBy") {
            Ok(None) => false,
            Ok(Some("inbox")) => true,
            _ => return refuse("coveredBy", "has to be inbox"),
        };
        if source == Source::Storage && from != From::Earliest {
            return refuse("from", "has no meaning for source storage");
        }
        if source != Source::Topics && covered_by_inbox {
            return refuse("coveredBy", "has a meaning for source topics only");
        }
        let flag = |name: &'static str| match members.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Refused { field: name, rule: "has to be true or false" }),
        };
        let (dry_run, fill) = (flag("dryRun")?, flag("fill")?);
        if fill && (source != Source::Topics || covered_by_inbox) {
            return refuse("fill", "has a meaning for source topics alone");
        }
        Ok(Self { source, from, user, dry_run, covered_by_inbox, fill })
    }

    /// What a synchronisation with the storage modules is.
    pub fn synchronization(user: Option<Uuid>) -> Self {
        let (source, from) = (Source::Storage, From::Earliest);
        Self { source, from, user, dry_run: false, covered_by_inbox: false, fill: false }
    }

    /// What fills a tenant that was just enabled.
    pub fn filling() -> Self {
        let (source, from) = (Source::Topics, From::Earliest);
        Self { source, from, user: None, dry_run: false, covered_by_inbox: false, fill: true }
    }

    /// As [`Ask::read`] reads it.
    pub fn told(&self) -> Value {
        let from = match self.from {
            From::Earliest => "earliest".to_owned(),
            From::Time(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        };
        let mut told = serde_json::json!({
            "source": self.source, "from": from, "dryRun": self.dry_run,
            "scope": if self.user.is_some() { "user" } else { "tenant" },
        });
        if let Some(user) = self.user {
            told["userId"] = serde_json::json!(user);
        }
        if self.covered_by_inbox {
            told["coveredBy"] = "inbox".into();
        }
        if self.fill {
            told["fill"] = true.into();
        }
        told
    }
}
