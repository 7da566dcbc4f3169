//! The stages of jobs.

/// The stage of a job. `Reading` to `Applying` are stages of rebuilds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No instance has started the job.
    Waiting,
    /// The worker reads the source.
    Reading,
    /// The worker compares the source with the stored state.
    Comparing,
    /// The differences are stored and may be applied.
    Compared,
    /// The worker applies the differences.
    Applying,
    /// A summary export publishes summaries.
    Publishing,
    /// A tenant job enables its tenant.
    Enabling,
    /// The job did all of its work.
    Done,
    /// The job failed. Every change up to the failure is correct.
    Failed,
    /// A user or the service cancelled the job.
    Cancelled,
}

impl Status {
    const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Reading,
        Self::Comparing,
        Self::Compared,
        Self::Applying,
        Self::Publishing,
        Self::Enabling,
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
            Self::Publishing => "publishing",
            Self::Enabling => "enabling",
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
        known.ok_or_else(|| format!("{name} is not a status of a job"))
    }
}
