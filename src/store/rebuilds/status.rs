//! How far a rebuild is.

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has begun.
    Waiting,
    /// The source is being read.
    Reading,
    /// What it says is being compared with what is known.
    Comparing,
    /// The differences are known; nothing is applied, and may be.
    Compared,
    /// What differs is being put right.
    Applying,
    /// All is put right.
    Done,
    /// It could not be done; nothing was changed that isn't right.
    Failed,
    /// Somebody ended it.
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

    /// As stored.
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

    /// Whether nothing more will come of it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.name() == name);
        known.ok_or_else(|| format!("{name} is no status of a rebuild"))
    }
}
