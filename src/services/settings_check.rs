//! The check of a tenant's settings. It reads limits and conditions, asks mod-users for the patron groups, and
//! counts the patrons of the concerned groups.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use tracing::warn;

use crate::{
    blocks::{PatronGroup, Settings, SettingsFinding, Severity, check_settings},
    clock::Clock,
    event::TenantId,
    logging::ErrorChain,
    okapi::{CallError, Caller, GroupsError, Users},
    services::{evaluation::policy::Policy, tenants::Tenant},
    store::{
        self, Db,
        settings::{conditions, limits, records},
        state::group_sizes,
    },
};

/// Why the patron groups are unknown. The list is closed: clients see the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UncheckedCause {
    /// The command line calls no other module.
    CommandLine,
    /// The breaker of mod-users is open.
    CircuitOpen,
    /// mod-users did not respond in time.
    NoResponse,
    /// mod-users responded with an error status.
    ErrorStatus,
    /// The response of mod-users is not the expected JSON, or it is too large.
    InvalidBody,
    /// The list lacks groups that mod-users reports.
    Incomplete,
    /// The tenant has more groups than the service reads.
    TooMany,
}

impl UncheckedCause {
    /// Returns the name in responses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommandLine => "command-line",
            Self::CircuitOpen => "circuit-open",
            Self::NoResponse => "no-response",
            Self::ErrorStatus => "error-status",
            Self::InvalidBody => "invalid-body",
            Self::Incomplete => "incomplete",
            Self::TooMany => "too-many",
        }
    }

    fn of(error: &GroupsError) -> Self {
        match error {
            GroupsError::Call(CallError::CircuitOpen) => Self::CircuitOpen,
            GroupsError::Call(CallError::Status(_)) => Self::ErrorStatus,
            GroupsError::Call(CallError::TooLarge(_) | CallError::Unreadable(_)) => {
                Self::InvalidBody
            }
            GroupsError::Call(CallError::Failed(_)) | GroupsError::TooSlow => Self::NoResponse,
            GroupsError::Incomplete { .. } => Self::Incomplete,
            GroupsError::TooMany => Self::TooMany,
        }
    }
}

/// The result of a settings check.
#[derive(Debug)]
pub struct CheckedSettings {
    /// The instant of the check.
    pub checked_at: DateTime<Utc>,
    /// Number of stored limits, including unreadable ones.
    pub limits: usize,
    /// Number of stored conditions, including unreadable ones.
    pub conditions: usize,
    /// All patron groups, or the cause for which they are unknown.
    pub groups: Result<Vec<PatronGroup>, UncheckedCause>,
    /// The findings, ordered by severity and kind.
    pub findings: Vec<SettingsFinding>,
    /// Number of patrons with open items by patron group in lower case, for groups in findings; `None` if the
    /// database did not count them in time.
    patrons: Option<HashMap<String, i64>>,
}

impl CheckedSettings {
    /// Returns whether a finding is an error.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.severity() == Severity::Error)
    }

    /// Returns the name of a patron group, if it is known.
    pub fn group_name(&self, id: &str) -> Option<&str> {
        let mut groups = self.groups.iter().flatten();
        let group = groups.find(|group| group.id.eq_ignore_ascii_case(id))?;
        Some(&*group.name).filter(|name| !name.is_empty())
    }

    /// Returns the number of patrons with open items in the groups of a finding; `None` if the finding concerns no
    /// group, or if the number is unknown.
    pub fn patrons_of(&self, finding: &SettingsFinding) -> Option<i64> {
        let patrons = self.patrons.as_ref().filter(|_| !finding.groups.is_empty())?;
        let keys: BTreeSet<String> =
            finding.groups.iter().map(|group| group.to_ascii_lowercase()).collect();
        Some(keys.iter().filter_map(|key| patrons.get(key)).sum())
    }
}

/// Checks the settings of tenants.
#[derive(Debug, Clone)]
pub struct SettingsChecker {
    clock: Clock,
    users: Option<Users>,
}

impl SettingsChecker {
    /// Creates a checker that asks mod-users for patron groups.
    pub fn new(clock: Clock, users: Users) -> Self {
        Self { clock, users: Some(users) }
    }

    /// Creates a checker that calls no other module.
    pub fn without_calls(clock: Clock) -> Self {
        Self { clock, users: None }
    }

    /// Checks the settings of a tenant. Only a failure of the first read is an error: without mod-users the result
    /// lacks the findings about patron groups, and without the last read it lacks the numbers of patrons.
    pub async fn check(
        &self,
        db: &Db,
        tenant: &Tenant,
        caller: Option<&Caller>,
    ) -> Result<CheckedSettings, store::Error> {
        let checked_at = self.clock.now();
        let (limits, conditions) = store::read(db, async |connection| {
            let mut snapshot = store::begin_snapshot(connection).await?;
            let limits = records::all(&mut *snapshot, &tenant.schema, &limits::RECORDS).await?;
            let conditions =
                records::all(&mut *snapshot, &tenant.schema, &conditions::RECORDS).await?;
            Ok((limits, conditions))
        })
        .await?;
        let groups = self.groups(&tenant.id, caller).await;
        let (limit_count, condition_count) = (limits.len(), conditions.len());
        let policy = Policy::parse(limits, conditions);
        let findings = check_settings(&Settings {
            limits: &policy.limits,
            unreadable_limits: limit_count - policy.limits.len(),
            conditions: &policy.conditions,
            unreadable_conditions: condition_count - policy.conditions.len(),
            groups: groups.as_deref().ok(),
        });
        let patrons = count_patrons(db, tenant, &findings).await;
        Ok(CheckedSettings {
            checked_at,
            limits: limit_count,
            conditions: condition_count,
            groups,
            findings,
            patrons,
        })
    }

    /// Returns all patron groups, or the cause for which they are unknown. Logs a failure.
    async fn groups(
        &self,
        tenant: &TenantId,
        caller: Option<&Caller>,
    ) -> Result<Vec<PatronGroup>, UncheckedCause> {
        let (Some(users), Some(caller)) = (&self.users, caller) else {
            return Err(UncheckedCause::CommandLine);
        };
        users.fetch_patron_groups(caller).await.map_err(|error| {
            let cause = UncheckedCause::of(&error);
            // The log already has a message about the open breaker.
            if cause != UncheckedCause::CircuitOpen {
                warn!(%tenant, error = %ErrorChain(&error),
                    "settings check: could not get the patron groups from mod-users");
            }
            cause
        })
    }
}

/// Counts the patrons of all groups in findings. A failure is logged and costs only the numbers.
async fn count_patrons(
    db: &Db,
    tenant: &Tenant,
    findings: &[SettingsFinding],
) -> Option<HashMap<String, i64>> {
    let concerned = findings.iter().flat_map(|finding| &finding.groups);
    let keys: BTreeSet<String> = concerned.map(|group| group.to_ascii_lowercase()).collect();
    if keys.is_empty() {
        return Some(HashMap::new());
    }
    let groups: Vec<String> = keys.into_iter().collect();
    let counted = store::read(db, async |connection| {
        group_sizes::count_patrons(connection, &tenant.schema, &groups).await
    });
    counted
        .await
        .inspect_err(|error| {
            warn!(tenant = %tenant.id, error = %ErrorChain(error),
                "settings check: could not count the patrons of patron groups");
        })
        .ok()
}
