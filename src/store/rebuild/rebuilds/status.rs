//! The stages of a rebuild.

/// The stage of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No instance has started the rebuild.
    Waiting,
    /// The worker reads the source.
    Reading,
    /// The worker compares the source with the stored state.
    Comparing,
    /// The differences are stored and may be applied.
    Compared,
    /// The worker applies the differences.
    Applying,
    /// Every difference is applied.
    Done,
    /// The rebuild failed. Every change up to the failure is correct.
    Failed,
    /// A user or the service cancelled the rebuild.
    Cancelled,
}

impl Status {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Reading,
        Self::Comparing,
        Self::Compared,
        Self::Applying,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns the stored name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Reading => "reading",
            Self::Comparing => "comparing",
            Self::Compared => "compared",
            Self::Applying => "applying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the status is final.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.name() == name);
        known.ok_or_else(|| format!("{name} is not a status of a rebuild"))
    }
}
