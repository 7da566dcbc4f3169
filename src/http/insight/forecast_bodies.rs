//! The body of a forecast. The command line prints the same bodies.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::explanation_bodies::{ActionName, MeasureName};
use crate::{
    blocks::{Action, Actions, Measure},
    clock,
    services::forecast,
};

/// The patrons whom time alone will block, if nothing is returned, renewed or paid.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Forecast {
    /// The start of the forecast; pages with the same start belong together.
    #[serde(serialize_with = "clock::serialize")]
    evaluated_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::serialize")]
    until: DateTime<Utc>,
    counts: ForecastCounts,
    /// A page of patrons, the earliest block first.
    patrons: Vec<ForecastPatron>,
    /// Number of all patrons; pages contain the first 100,000.
    #[schema(value_type = u64)]
    total_records: usize,
}

/// The last line of the command line: a forecast without its patrons.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForecastSummary {
    #[serde(serialize_with = "clock::serialize")]
    evaluated_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::serialize")]
    until: DateTime<Utc>,
    counts: ForecastCounts,
    total_records: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForecastCounts {
    by_measure: MeasureCounts,
    /// The groups with at least one patron.
    by_group: Vec<GroupCount>,
    /// Patrons with an action that is blocked already.
    already_blocked: usize,
    /// Patrons with a loan that may block them and without a stored group; the list omits them.
    unknown_group: usize,
}

/// Patrons by the measure of the limit.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MeasureCounts {
    overdue: usize,
    overdue_recalls: usize,
    recall_overdue_days: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupCount {
    patron_group: String,
    patrons: usize,
}

/// A patron whom time alone will block.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ForecastPatron {
    user_id: Uuid,
    patron_group: String,
    /// The first instant at which the limit is reached.
    #[serde(serialize_with = "clock::serialize")]
    at: DateTime<Utc>,
    patron_block_limit_id: Uuid,
    patron_block_condition_id: Uuid,
    #[schema(value_type = MeasureName)]
    measure: &'static str,
    /// The value of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<f64>,
    /// Actions that the limit blocks from then on.
    #[schema(value_type = Vec<ActionName>)]
    blocks: Vec<&'static str>,
    /// Actions that are blocked from then on and not now.
    #[schema(value_type = Vec<ActionName>)]
    become_blocked: Vec<&'static str>,
    /// Actions that other limits block now.
    #[schema(value_type = Vec<ActionName>)]
    blocked_now: Vec<&'static str>,
}

impl Forecast {
    /// Creates the body of a page.
    pub(super) fn page(found: &forecast::Forecast, limit: usize, offset: usize) -> Self {
        let page = found.patrons.iter().skip(offset).take(limit);
        let ForecastSummary { evaluated_at, until, counts, total_records } = found.into();
        let patrons = page.map(ForecastPatron::from).collect();
        Self { evaluated_at, until, counts, patrons, total_records }
    }
}

impl From<&forecast::Forecast> for ForecastSummary {
    fn from(found: &forecast::Forecast) -> Self {
        Self {
            evaluated_at: found.evaluated_at,
            until: found.until,
            counts: ForecastCounts::from(&found.counts),
            total_records: found.counts.total,
        }
    }
}

impl From<&forecast::ForecastCounts> for ForecastCounts {
    fn from(counts: &forecast::ForecastCounts) -> Self {
        let of = |measure| counts.by_measure.get(&measure).copied().unwrap_or_default();
        let group_count = |(group, patrons): (&std::sync::Arc<str>, &usize)| GroupCount {
            patron_group: group.to_string(),
            patrons: *patrons,
        };
        Self {
            by_measure: MeasureCounts {
                overdue: of(Measure::OverdueItems),
                overdue_recalls: of(Measure::OverdueRecalls),
                recall_overdue_days: of(Measure::RecallOverdueDays),
            },
            by_group: counts.by_group.iter().map(group_count).collect(),
            already_blocked: counts.already_blocked,
            unknown_group: counts.unknown_group,
        }
    }
}

impl From<&forecast::ForecastPatron> for ForecastPatron {
    fn from(patron: &forecast::ForecastPatron) -> Self {
        Self {
            user_id: patron.user,
            patron_group: patron.group.to_string(),
            at: patron.at,
            patron_block_limit_id: patron.limit,
            patron_block_condition_id: patron.measure.condition_id(),
            measure: patron.measure.code(),
            limit: patron.limit_value,
            blocks: names(patron.blocks),
            become_blocked: names(patron.become_blocked),
            blocked_now: names(patron.blocked_now),
        }
    }
}

fn names(actions: Actions) -> Vec<&'static str> {
    actions.iter().map(Action::name).collect()
}
