//! Validated tenant ids.

use std::{fmt, sync::Arc};

/// A validated tenant id: `[a-z][a-z0-9_]{0,30}` (docs/contract/events.md#23-tenants). It is safe in the
/// name of a schema.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The rule, in words for error messages.
    pub const RULE: &'static str = "starts with a lower-case letter and has up to 31 lower-case letters, digits and underscores";

    /// Returns the id if `text` is valid.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let first = bytes.next()?;
        let valid = first.is_ascii_lowercase()
            && text.len() <= 31
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        valid.then(|| Self(text.into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TenantId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no tenant id, which {}", Self::RULE))
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_schema_names_are_tenant_ids() {
        for good in ["a", "northlib", "t0_1", &"a".repeat(31)] {
            assert_eq!(TenantId::parse(good).map(|t| t.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "A", "0a", "_a", "a-b", "a.b", "a\"b", "ä", &"a".repeat(32), "a b"] {
            assert_eq!(TenantId::parse(bad), None, "{bad:?}");
            let error = TenantId::try_from(bad.to_owned()).unwrap_err();
            assert_eq!(error, format!("{bad:?} is no tenant id, which {}", TenantId::RULE));
        }
    }
}
