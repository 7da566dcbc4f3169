//! The progress and the result of a rebuild, as stored.

use serde::{Deserialize, Serialize};

use crate::store::{Error, jobs::Job};

/// The progress of the current stage; empty before the first stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// The name of the stage.
    pub stage: Option<String>,
    /// The number of completed steps.
    pub done: Option<u64>,
    /// The number of steps.
    pub total: Option<u64>,
    /// The number of steps per second.
    pub rate: Option<f64>,
    /// The estimated time until the end of the stage, in seconds.
    pub seconds_left: Option<f64>,
}

impl Progress {
    /// Returns the progress of a rebuild.
    pub fn from_job(rebuild: &Job) -> Result<Self, Error> {
        rebuild.decode(&rebuild.progress)
    }
}

/// The numbers of patrons and differences that a rebuild found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// The number of patrons with differences.
    pub patrons: i64,
    /// The number of these patrons with counters that differ from a recount.
    pub wrong_counters: i64,
    /// The number of these patrons with applied differences.
    pub applied: i64,
    /// The number of patrons that gain a block.
    pub blocks_imposed: i64,
    /// The number of patrons that lose a block.
    pub blocks_lifted: i64,
    /// The numbers of loans with differences.
    pub loans: DifferenceCounts,
    /// The numbers of fees/fines with differences.
    pub fees_fines: DifferenceCounts,
    /// The number of patrons with a group in the source that the service did not have.
    pub patron_groups: i64,
    /// The number of unreadable records in the source.
    pub skipped_records: i32,
}

impl Summary {
    /// Returns the summary of a rebuild, if the rebuild has one.
    pub fn from_job(rebuild: &Job) -> Result<Option<Self>, Error> {
        rebuild.summary.as_ref().map(|summary| rebuild.decode(summary)).transpose()
    }
}

/// The numbers of loans, or fees/fines, by kind of difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DifferenceCounts {
    /// Open in the stored state only.
    pub only_current: i64,
    /// Open in the source only.
    pub only_in_source: i64,
    /// Open in both, with different values.
    pub different: i64,
    /// Different without an effect on a count or a block.
    pub insignificant: i64,
}
