//! The log of acts: each act of an operator is entered before it is done, with its reason, and its end afterwards.
//!
//! If an instance stops in the middle of an act, the entry stays `started`. The end of such an act is unknown.

use std::{borrow::Cow, fmt::Display, future::Future, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use crate::{
    event::TenantId,
    logging::ErrorChain,
    store::{
        self, Db, Schema,
        operator_actions::{self, ActionOutcome, NewAction},
    },
};

/// Time limit of the entry of an act, and of the entry of its end.
const ENTRY_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Number of characters of a reason.
pub const REASON_CHARS: std::ops::RangeInclusive<usize> = 3..=500;

/// What an operator does. The names are stored, so they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Applies a parked record again.
    RetryRecord,
    /// Applies all parked records again that match a query.
    RetryRecords,
    /// Discards a parked record.
    DiscardRecord,
    /// Discards all parked records that match a query.
    DiscardRecords,
    /// Parks a discarded record again.
    RestoreRecord,
    /// Parks all discarded records again.
    RestoreRecords,
    /// Resolves an incident.
    ResolveIncident,
    /// Requests a rebuild.
    RequestRebuild,
    /// Applies the differences of a rebuild.
    ApplyRebuild,
    /// Cancels a rebuild.
    CancelRebuild,
    /// Requests a synchronization with the storage modules.
    RequestSynchronization,
    /// Requests an export of summaries.
    RequestExport,
    /// Cancels an export of summaries.
    CancelExport,
    /// Replaces the certainty policy.
    ReplaceCertaintyPolicy,
    /// Changes a condition.
    ChangeCondition,
    /// Creates a limit.
    CreateLimit,
    /// Changes a limit.
    ChangeLimit,
    /// Deletes a limit.
    DeleteLimit,
    /// Repairs wrong counters; only on the command line.
    RepairCounters,
    /// Enables or upgrades a tenant; only on the command line, because a gateway enables tenants otherwise.
    EnableTenant,
    /// Returns the tables of a tenant to the Java module; only on the command line.
    GiveBackTenant,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 21] = [
        Self::RetryRecord,
        Self::RetryRecords,
        Self::DiscardRecord,
        Self::DiscardRecords,
        Self::RestoreRecord,
        Self::RestoreRecords,
        Self::ResolveIncident,
        Self::RequestRebuild,
        Self::ApplyRebuild,
        Self::CancelRebuild,
        Self::RequestSynchronization,
        Self::RequestExport,
        Self::CancelExport,
        Self::ReplaceCertaintyPolicy,
        Self::ChangeCondition,
        Self::CreateLimit,
        Self::ChangeLimit,
        Self::DeleteLimit,
        Self::RepairCounters,
        Self::EnableTenant,
        Self::GiveBackTenant,
    ];

    /// Returns the stored name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RetryRecord => "retry-record",
            Self::RetryRecords => "retry-records",
            Self::DiscardRecord => "discard-record",
            Self::DiscardRecords => "discard-records",
            Self::RestoreRecord => "restore-record",
            Self::RestoreRecords => "restore-records",
            Self::ResolveIncident => "resolve-incident",
            Self::RequestRebuild => "request-rebuild",
            Self::ApplyRebuild => "apply-rebuild",
            Self::CancelRebuild => "cancel-rebuild",
            Self::RequestSynchronization => "request-synchronization",
            Self::RequestExport => "request-export",
            Self::CancelExport => "cancel-export",
            Self::ReplaceCertaintyPolicy => "replace-certainty-policy",
            Self::ChangeCondition => "change-condition",
            Self::CreateLimit => "create-limit",
            Self::ChangeLimit => "change-limit",
            Self::DeleteLimit => "delete-limit",
            Self::RepairCounters => "repair-counters",
            Self::EnableTenant => "enable-tenant",
            Self::GiveBackTenant => "give-back-tenant",
        }
    }

    /// Returns the action with a stored name; `None` for an action of a newer version.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// Where an act comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A page of the console.
    Console,
    /// The HTTP interface.
    Http,
    /// The command line.
    CommandLine,
}

impl Door {
    fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Http => "http",
            Self::CommandLine => "command-line",
        }
    }
}

/// Who acts, and why.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The id of the staff user, or another name.
    pub name: Cow<'static, str>,
    /// Where the act comes from.
    pub door: Door,
    /// The reason of the act. The console requires a reason; the other doors accept one.
    pub reason: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
}

/// An act that begins.
#[derive(Debug, Clone)]
pub struct Act {
    /// What the operator does.
    pub action: Action,
    /// Id or query of the records that the act concerns.
    pub subject: Option<String>,
    /// What the act is to change, as a JSON object.
    pub detail: Value,
}

impl Act {
    /// Returns an act on the records with this id or query.
    pub fn on(action: Action, subject: impl Display) -> Self {
        Self { action, subject: Some(subject.to_string()), detail: json!({}) }
    }

    /// Returns an act on the tenant.
    pub fn on_tenant(action: Action) -> Self {
        Self { action, subject: None, detail: json!({}) }
    }

    /// Returns this act with the tenant that it concerns, for the log of the module.
    pub fn with_tenant(mut self, tenant: &TenantId) -> Self {
        self.detail["tenant"] = tenant.as_str().into();
        self
    }

    /// Returns this act with members about its change.
    pub fn with_detail(self, detail: Value) -> Self {
        Self { detail, ..self }
    }
}

/// How an act ended, with members about its change.
#[derive(Debug, Clone)]
pub struct ActEnd(ActionOutcome, Value);

impl ActEnd {
    /// The act is done.
    pub fn done(detail: Value) -> Self {
        Self(ActionOutcome::Done, detail)
    }

    /// The act was rejected, for a reason.
    pub fn rejected(why: impl Display) -> Self {
        Self(ActionOutcome::Failed, json!({ "why": why.to_string() }))
    }
}

/// The error of an act.
pub trait ActError: From<store::Error> + Display {
    /// Returns whether the act may be done nevertheless, because the connection was lost or too slow.
    fn hides_the_end(&self) -> bool;
}

impl ActError for store::Error {
    fn hides_the_end(&self) -> bool {
        self.is_timeout() || self.is_connection_lost()
    }
}

/// Returns JSON that PostgreSQL can store: the type `jsonb` cannot contain a NUL character.
fn storable(detail: &Value) -> Value {
    match detail {
        Value::String(text) => text.replace('\0', "\u{fffd}").into(),
        Value::Array(items) => items.iter().map(storable).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), storable(value)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

/// A log of acts: that of a tenant, or that of the module for acts that concern no single tenant.
#[derive(Debug, Clone, Copy)]
pub struct ActionLog<'a> {
    /// The pool of the caller.
    pub db: &'a Db,
    /// The schema with the log.
    pub schema: &'a Schema,
}

impl ActionLog<'_> {
    /// Enters an act, then runs `work`, then enters its end, which `end_of` derives from the result of `work`. If the
    /// act cannot be entered in time, `work` does not run. Returns the number of the act and the result.
    pub async fn record<T, E: ActError>(
        &self,
        operator: &Operator,
        act: &Act,
        work: impl Future<Output = Result<T, E>>,
        end_of: impl FnOnce(&T) -> ActEnd,
    ) -> Result<(i64, T), E> {
        let entry = NewAction {
            actor: &operator.name,
            door: operator.door.name(),
            action: act.action.name(),
            subject: act.subject.as_deref(),
            reason: operator.reason.as_deref(),
            request_id: operator.request_id.as_deref(),
            detail: &storable(&act.detail),
        };
        let begin = operator_actions::begin(self.db, self.schema, &entry);
        let number = store::with_timeout(ENTRY_TIMEOUT, begin).await?;
        let result = work.await;
        let ActEnd(outcome, detail) = match &result {
            Ok(value) => end_of(value),
            Err(error) if error.hides_the_end() => {
                ActEnd(ActionOutcome::Unknown, json!({ "why": error.to_string() }))
            }
            Err(error) => ActEnd::rejected(error),
        };
        let end = operator_actions::end(self.db, self.schema, number, outcome, &detail);
        let ended: Result<(), store::Error> = store::with_timeout(ENTRY_TIMEOUT, end).await;
        if let Err(error) = ended {
            // The act is done, and its entry exists. Only its end is unknown.
            warn!(number, error = %ErrorChain(&error), "operator actions: could not record the end of an act");
        }
        Ok((number, result?))
    }
}

/// Returns a reason without blanks at its ends, or the rule that it violates.
pub fn parse_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    // Line breaks are those of a form.
    let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    let letters = text.chars().filter(|c| c.is_alphanumeric()).count();
    let has_length =
        REASON_CHARS.contains(&text.chars().count()) && letters >= *REASON_CHARS.start();
    if has_length && !text.contains(is_control) {
        Ok(text.to_owned())
    } else {
        let (min, max) = (REASON_CHARS.start(), REASON_CHARS.end());
        Err(format!(
            "must have {min} to {max} characters, at least {min} of them letters or digits"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_actions_are_unique() {
        for action in Action::ALL {
            assert_eq!(Action::from_name(action.name()), Some(action));
        }
    }

    #[test]
    fn reason_has_letters_and_a_bounded_length() {
        assert_eq!(parse_reason("  ticket 12\n").as_deref(), Ok("ticket 12"));
        assert_eq!(parse_reason("gr\u{fc}n").as_deref(), Ok("gr\u{fc}n"));
        assert_eq!(parse_reason(&"a".repeat(500)).map(|reason| reason.len()), Ok(500));
        for text in ["", "ab", " . . . ", "a\0bcd", &"a".repeat(501)] {
            assert!(parse_reason(text).is_err(), "{text:?}");
        }
    }
}
