//! The outcomes of questions to the storage modules.

/// The outcome of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskOutcome {
    /// The response is merged.
    Answered,
    /// The storage modules or the database did not respond within the deadline.
    Timeout,
    /// A call failed, or the response could not be merged.
    Failed,
    /// A storage module rejected the token of the request.
    Rejected,
    /// Recent calls failed, so no call was made.
    CircuitOpen,
    /// Too many questions of the tenant wait for a response.
    Busy,
    /// The response contradicts the known state too much, so it is not merged.
    Implausible,
    /// The response has a record that cannot be read, so it is not merged.
    Unreadable,
    /// The request names another gateway, or none is configured, so responses serve no other request.
    OtherGateway,
}

impl AskOutcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Timeout,
        Self::Failed,
        Self::Rejected,
        Self::CircuitOpen,
        Self::Busy,
        Self::Implausible,
        Self::Unreadable,
        Self::OtherGateway,
    ];

    /// Returns the name in headers and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::CircuitOpen => "circuit-open",
            Self::Busy => "busy",
            Self::Implausible => "implausible",
            Self::Unreadable => "unreadable",
            Self::OtherGateway => "other-gateway",
        }
    }
}
