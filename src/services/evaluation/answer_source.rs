//! The sources of answers.

/// The origin of the patron group of an evaluation, or why none was used
/// (docs/contract/http-api.md#2-blocks). The list is closed: clients see the name in a header, and
/// metrics use it as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The patron has no open loan, fee or fine.
    NothingOpen,
    /// The tenant has no limits.
    NoLimits,
    /// The topic of users provided the group, and no newer response of mod-users contradicts it. A
    /// stale group is refreshed in the background.
    GroupFromTopic,
    /// The cached group is fresh.
    GroupFromCache,
    /// The cached group is stale but usable, and is refreshed in the background.
    GroupFromStaleCache,
    /// mod-users returned the group during this evaluation.
    GroupFromUsers,
    /// The call of mod-users failed, and the last known group serves.
    GroupFallback,
    /// The breaker of mod-users is open, and the last known group serves.
    GroupFallbackCircuitOpen,
    /// mod-users returned that the patron has no group.
    GroupNone,
    /// The call of mod-users failed, and no group is known, so nothing is blocked.
    GroupUnknown,
    /// The breaker of mod-users is open, and no group is known, so nothing is blocked.
    GroupUnknownCircuitOpen,
    /// The database failed or timed out; a setting determines the response.
    NotEvaluated,
    /// The load limit rejected the request; a setting determines the response.
    Overloaded,
}

impl AnswerSource {
    /// All values, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::NothingOpen,
        Self::NoLimits,
        Self::GroupFromTopic,
        Self::GroupFromCache,
        Self::GroupFromStaleCache,
        Self::GroupFromUsers,
        Self::GroupFallback,
        Self::GroupFallbackCircuitOpen,
        Self::GroupNone,
        Self::GroupUnknown,
        Self::GroupUnknownCircuitOpen,
        Self::NotEvaluated,
        Self::Overloaded,
    ];

    /// Returns whether the group, if one was used, is from a current source.
    pub fn is_group_current(self) -> bool {
        !matches!(
            self,
            Self::GroupFallback
                | Self::GroupFallbackCircuitOpen
                | Self::GroupUnknown
                | Self::GroupUnknownCircuitOpen
        )
    }

    /// Returns the name for the header and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingOpen => "nothing-open",
            Self::NoLimits => "no-limits",
            Self::GroupFromTopic => "told-group",
            Self::GroupFromCache => "group-from-cache",
            Self::GroupFromStaleCache => "group-from-stale-cache",
            Self::GroupFromUsers => "group-from-users",
            Self::GroupFallback => "group-fallback",
            Self::GroupFallbackCircuitOpen => "group-fallback-circuit-open",
            Self::GroupNone => "group-none",
            Self::GroupUnknown => "group-unknown",
            Self::GroupUnknownCircuitOpen => "group-unknown-circuit-open",
            Self::NotEvaluated => "not-evaluated",
            Self::Overloaded => "too-many",
        }
    }
}
