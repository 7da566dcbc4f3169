//! How certain an evaluation is: the evidence from memory and, only if needed, from the database.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tracing::warn;
use uuid::Uuid;

use super::{AnswerSource, EvaluationRequest, Evaluator, certainty_reads::CertaintyReads};
use crate::{
    blocks::{Certainty, CertaintyPolicy, CertaintyState, Evidence},
    event::stamp::Horizon,
    services::{freshness::TenantFreshness, storage_page::CLOCK_SKEW_MAX, tenants::Tenant},
    store::{
        self, Db,
        ingest::instance_reports::BehindPartition,
        settings::certainty_policy::{self, StoredCertainty},
        state::evidence,
        tenants::Completeness,
    },
};

/// The certainty policy of a tenant, and what may concern its patrons.
#[derive(Debug, Clone, Default)]
pub struct CertaintySettings {
    /// The policy; the last known policy if it could not be read.
    pub policy: CertaintyPolicy,
    /// Whether a record that may be the tenant's is parked; `None` if that could not be read.
    pub has_dead_letters: Option<bool>,
    /// Records from before this instant are lost, as open incidents say.
    pub lost_until: Option<DateTime<Utc>>,
}

impl From<StoredCertainty> for CertaintySettings {
    fn from(stored: StoredCertainty) -> Self {
        Self {
            policy: stored.policy.map(parse_policy).unwrap_or_default(),
            has_dead_letters: Some(stored.has_dead_letters),
            lost_until: stored.lost_until,
        }
    }
}

fn parse_policy(stored: serde_json::Value) -> CertaintyPolicy {
    serde_json::from_value(stored).unwrap_or_else(|error| {
        warn!(%error, "evaluation: could not read the stored certainty policy; evaluations count as known");
        CertaintyPolicy::default()
    })
}

/// The certainty of one patron's evaluation, with what it follows from.
#[derive(Debug, Clone, Copy)]
pub struct AssessedCertainty {
    /// The certainty.
    pub certainty: Certainty,
    /// The evidence.
    pub evidence: Evidence,
}

/// Returns the evidence that concerns all patrons of a tenant.
fn tenant_evidence(
    tenant: &Tenant,
    (freshness, now): (TenantFreshness, DateTime<Utc>),
    settings: &CertaintySettings,
) -> Evidence {
    let incomplete_before = match tenant.completeness() {
        Completeness::Complete => None,
        Completeness::Filling => Some(tenant.enabled_at),
        Completeness::IncompleteBefore(before) => Some(before),
    };
    Evidence {
        as_of: freshness.as_of,
        has_log: freshness.has_log,
        incomplete_before: incomplete_before.max(settings.lost_until),
        has_stopped_partition: freshness.has_stopped_partition,
        ..Evidence::at(now)
    }
}

/// Returns whether the snapshot horizon of a patron may decide about the certainty, and no other read about the patron
/// is necessary.
pub(super) fn needs_only_horizon(
    tenant: &Tenant,
    progress: (TenantFreshness, DateTime<Utc>),
    settings: &CertaintySettings,
) -> bool {
    let evidence = tenant_evidence(tenant, progress, settings);
    let certainty = Certainty::new(&evidence, settings.policy.late_after());
    settings.has_dead_letters == Some(false) && certainty.state != CertaintyState::Certain
}

/// Computes the certainty of an evaluation, with the progress of ingest at a time of the database clock. The horizon is
/// that of the newest snapshot of the patron; `None` if it was not read with the state.
pub(super) async fn assess(
    reads: &CertaintyReads,
    (tenant, user): (&Arc<Tenant>, Uuid),
    progress: (TenantFreshness, DateTime<Utc>),
    settings: &CertaintySettings,
    (source, horizon): (AnswerSource, Option<Option<Horizon>>),
) -> AssessedCertainty {
    let is_group_current = source.is_group_current();
    let tenant_evidence = tenant_evidence(tenant, progress, settings);
    let mut evidence = Evidence { is_group_current, ..tenant_evidence };
    let late_after = settings.policy.late_after();
    let certainty = Certainty::new(&evidence, late_after);
    let may_have_dead_letter = settings.has_dead_letters != Some(false);
    if !may_have_dead_letter && certainty.state == CertaintyState::Certain {
        return AssessedCertainty { certainty, evidence };
    }
    let read_at = |horizon: Horizon| horizon.instant() + CLOCK_SKEW_MAX;
    // A parked record may concern the patron until a query proves the contrary.
    evidence.dead_letter_at = may_have_dead_letter.then_some(evidence.now);
    if let Some(horizon) = horizon
        && !may_have_dead_letter
    {
        evidence.snapshot_at = horizon.map(read_at);
    } else if settings.has_dead_letters.is_some()
        && let Some(found) = Box::pin(reads.evidence(tenant, user)).await
    {
        evidence.snapshot_at = found.snapshot_horizon.map(read_at);
        evidence.dead_letter_at = found.dead_letter_at;
    }
    AssessedCertainty { certainty: Certainty::new(&evidence, late_after), evidence }
}

impl AssessedCertainty {
    /// The certainty without any knowledge about missing events.
    pub(super) fn unknown(now: DateTime<Utc>) -> Self {
        Self { certainty: Certainty::UNKNOWN, evidence: Evidence::at(now) }
    }

    /// Returns whether a complete snapshot of the patron would improve the certainty.
    pub(super) fn improves_by_snapshot(&self, late_after: TimeDelta) -> bool {
        let evidence = Evidence { snapshot_at: Some(self.evidence.now), ..self.evidence };
        Certainty::new(&evidence, late_after).state < self.certainty.state
    }
}

/// Largest number of dead letters in a report.
const DEAD_LETTERS_MAX: i64 = 100;

/// Largest number of partitions in a report.
pub const BEHIND_MAX: usize = 100;

/// What a report contains about one patron.
#[derive(Debug, Clone)]
pub struct PatronReport {
    /// The patron.
    pub user: Uuid,
    /// Dead letters that name the patron or an open item of the patron, newest first.
    pub dead_letters: Vec<Uuid>,
    /// Number of loans that wait for their check-out and name the patron.
    pub waiting_loans: i64,
    /// When the patron's open items were last read from the storage modules.
    pub snapshot_at: Option<DateTime<Utc>>,
    /// Whether the patron group is from a current source.
    pub is_group_current: bool,
}

/// How certain evaluations are, and what that follows from.
#[derive(Debug, Clone)]
pub struct CertaintyReport {
    /// The certainty.
    pub certainty: Certainty,
    /// What is known about the events of the tenant.
    pub freshness: TenantFreshness,
    /// Partitions that are behind or stopped, the oldest first.
    pub behind: Vec<BehindPartition>,
    /// The completeness of the tenant's history.
    pub completeness: Completeness,
    /// Whether a record of the tenant is parked; `None` if that could not be read.
    pub has_dead_letters: Option<bool>,
    /// The patron, if the report is about one.
    pub patron: Option<PatronReport>,
}

impl Evaluator {
    /// Reports how certain an evaluation of a patron without dead letters is.
    pub async fn tenant_certainty(
        &self,
        db: &Db,
        tenant: &Tenant,
    ) -> Result<CertaintyReport, store::Error> {
        let load = async |db: &mut store::Connection| {
            certainty_policy::load(db, &tenant.schema, &tenant.id).await
        };
        let settings = CertaintySettings::from(store::read(db, load).await?);
        let view = self.freshness.view();
        let now = view.now().unwrap_or_else(|| self.clock.now());
        let evidence = tenant_evidence(tenant, (view.of(&tenant.id), now), &settings);
        let certainty = Certainty::new(&evidence, settings.policy.late_after());
        Ok(self.report(tenant, certainty, settings.has_dead_letters))
    }

    /// Reports how certain the evaluation of a patron is. It asks no storage module.
    pub async fn patron_certainty(
        self: &Arc<Self>,
        request: &EvaluationRequest,
    ) -> Result<CertaintyReport, Arc<store::Error>> {
        let evaluation = self.evaluate_known(request, false, None).await?;
        let EvaluationRequest { db, tenant, user, .. } = request;
        let (dead_letters, waiting_loans) = store::read(db, async |db| {
            evidence::details(db, &tenant.schema, &tenant.id, *user, DEAD_LETTERS_MAX).await
        })
        .await?;
        let AssessedCertainty { certainty, evidence } = evaluation.assessed;
        let patron = PatronReport {
            user: *user,
            dead_letters,
            waiting_loans,
            snapshot_at: evidence.snapshot_at,
            is_group_current: evidence.is_group_current,
        };
        let report = self.report(tenant, certainty, evaluation.settings.has_dead_letters);
        Ok(CertaintyReport { patron: Some(patron), ..report })
    }

    fn report(
        &self,
        tenant: &Tenant,
        certainty: Certainty,
        has_dead_letters: Option<bool>,
    ) -> CertaintyReport {
        let view = self.freshness.view();
        let mut behind: Vec<BehindPartition> = view.behind(&tenant.id).cloned().collect();
        behind.sort_by(|a, b| {
            (a.as_of, &a.topic, a.partition).cmp(&(b.as_of, &b.topic, b.partition))
        });
        behind.truncate(BEHIND_MAX);
        CertaintyReport {
            certainty,
            freshness: view.of(&tenant.id),
            behind,
            completeness: tenant.completeness(),
            has_dead_letters,
            patron: None,
        }
    }
}
