//! Rejects: why a record can't become an event.

use std::fmt;

/// The cause of a dead letter. A closed list: operators filter by reason, and metrics have a label for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is not a JSON object.
    MalformedJson,
    /// A required member is absent.
    MissingField,
    /// A member violates its format.
    BadField,
    /// Headers, body and topic name no tenant.
    NoTenant,
    /// Header, body and topic name different tenants, or one of them names an invalid tenant id.
    TenantDisagrees,
    /// Envelope and record have no time.
    NoTime,
    /// The database refuses the record on every attempt.
    RefusedByDatabase,
    /// The record is in a topic of several tenants, and the tables of its tenant are unwritable.
    TenantUnusable,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::MalformedJson,
        Self::MissingField,
        Self::BadField,
        Self::NoTenant,
        Self::TenantDisagrees,
        Self::NoTime,
        Self::RefusedByDatabase,
        Self::TenantUnusable,
    ];

    /// Returns the name stored in `dead_letter.reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::MissingField => "missing_field",
            Self::BadField => "bad_field",
            Self::NoTenant => "no_tenant",
            Self::TenantDisagrees => "tenant_mismatch",
            Self::NoTime => "no_time",
            Self::RefusedByDatabase => "refused_by_database",
            Self::TenantUnusable => "tenant_unusable",
        }
    }
}

/// The reason, the member and the rule that prevent a record from becoming an event. Never quotes the
/// payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The reason.
    pub reason: Reason,
    /// The member, header or part that violates the rule.
    pub field: Option<&'static str>,
    /// The violated rule, in words.
    pub rule: String,
}

impl Reject {
    /// Creates a reject.
    pub fn new(reason: Reason, field: Option<&'static str>, rule: impl Into<String>) -> Self {
        Self { reason, field, rule: rule.into() }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{field} {}", self.rule),
            None => f.write_str(&self.rule),
        }
    }
}
