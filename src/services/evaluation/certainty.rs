//! How certain an evaluation is: the evidence from memory and, only if needed, from the database.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{AnswerSource, EvaluationRequest, Evaluator};
use crate::{
    blocks::{Certainty, CertaintyPolicy, CertaintyState, Evidence},
    logging::ErrorChain,
    services::{freshness::TenantFreshness, storage_page::CLOCK_SKEW_MAX, tenants::Tenant},
    store::{
        self, Db,
        ingest::instance_reports::BehindPartition,
        settings::certainty_policy::{self, StoredCertainty},
        state::evidence::{self, PatronEvidence},
        tenants::Completeness,
    },
};

/// Time limit of the queries about certainty. A lock of an operator on the dead letters must delay no evaluation.
const QUERY_TIMEOUT: Duration = Duration::from_millis(50);

/// The certainty policy of a tenant, and whether dead letters may concern its patrons.
#[derive(Debug, Clone, Default)]
pub struct CertaintySettings {
    /// The policy; the default policy if it could not be read.
    pub policy: CertaintyPolicy,
    /// Whether a record of the tenant is parked; `None` if that could not be read.
    pub has_dead_letters: Option<bool>,
}

impl CertaintySettings {
    /// Loads the settings. A failure counts as unknown, because an evaluation needs no settings.
    pub(super) async fn load(db: &Db, tenant: &Tenant) -> Self {
        let load = store::read_within(db, QUERY_TIMEOUT, async |db| {
            certainty_policy::load(db, &tenant.schema, &tenant.id).await
        });
        match load.await {
            Ok(stored) => Self::from(stored),
            Err(error) => {
                debug!(tenant = %tenant.id, error = %ErrorChain(&error),
                    "evaluation: could not read the certainty policy; evaluations count as known");
                Self::default()
            }
        }
    }
}

impl From<StoredCertainty> for CertaintySettings {
    fn from(stored: StoredCertainty) -> Self {
        Self {
            policy: stored.policy.map(parse_policy).unwrap_or_default(),
            has_dead_letters: Some(stored.has_dead_letters),
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
fn tenant_evidence(tenant: &Tenant, freshness: TenantFreshness) -> Evidence {
    Evidence {
        now: DateTime::UNIX_EPOCH,
        as_of: freshness.as_of,
        has_log: freshness.has_log,
        incomplete_before: match tenant.completeness() {
            Completeness::Complete => None,
            Completeness::Filling => Some(tenant.enabled_at),
            Completeness::IncompleteBefore(before) => Some(before),
        },
        has_stopped_partition: freshness.has_stopped_partition,
        is_group_current: true,
        dead_letter_at: None,
        snapshot_at: None,
    }
}

/// Computes the certainty of an evaluation at `now`, a time of the database clock.
pub(super) async fn assess(
    db: &Db,
    (tenant, user): (&Tenant, Uuid),
    (freshness, now): (TenantFreshness, DateTime<Utc>),
    settings: &CertaintySettings,
    source: AnswerSource,
) -> AssessedCertainty {
    let is_group_current = source.is_group_current();
    let mut evidence = Evidence { now, is_group_current, ..tenant_evidence(tenant, freshness) };
    let late_after = settings.policy.late_after();
    let certainty = Certainty::new(&evidence, late_after);
    let may_have_dead_letter = settings.has_dead_letters != Some(false);
    let needs_query = may_have_dead_letter || certainty.state != CertaintyState::Certain;
    if !needs_query {
        return AssessedCertainty { certainty, evidence };
    }
    // A parked record may concern the patron until a query proves the contrary.
    evidence.dead_letter_at = may_have_dead_letter.then_some(now);
    if settings.has_dead_letters.is_some() {
        let load = store::read_within(db, QUERY_TIMEOUT, async |db| {
            evidence::load(db, &tenant.schema, &tenant.id, user).await
        });
        match load.await {
            Ok(PatronEvidence { snapshot_horizon, dead_letter_at }) => {
                evidence.snapshot_at =
                    snapshot_horizon.map(|horizon| horizon.instant() + CLOCK_SKEW_MAX);
                evidence.dead_letter_at = dead_letter_at;
            }
            Err(error) => debug!(tenant = %tenant.id, user.id = %user, error = %ErrorChain(&error),
                "evaluation: could not read what may be missing of a patron"),
        }
    }
    AssessedCertainty { certainty: Certainty::new(&evidence, late_after), evidence }
}

/// Largest number of dead letters, and of partitions, in a report.
const REPORT_ENTRIES_MAX: usize = 100;

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
        let evidence = Evidence {
            now: view.now().unwrap_or_else(|| self.clock.now()),
            ..tenant_evidence(tenant, view.of(&tenant.id))
        };
        let certainty = Certainty::new(&evidence, settings.policy.late_after());
        Ok(self.report(tenant, certainty, settings.has_dead_letters))
    }

    /// Reports how certain the evaluation of a patron is. It asks no storage module.
    pub async fn patron_certainty(
        self: &Arc<Self>,
        request: &EvaluationRequest,
    ) -> Result<CertaintyReport, Arc<store::Error>> {
        let evaluation = self.evaluate_known(request, false).await?;
        let EvaluationRequest { db, tenant, user, .. } = request;
        let (dead_letters, waiting_loans) = store::read(db, async |db| {
            let limit = REPORT_ENTRIES_MAX as i64;
            evidence::details(db, &tenant.schema, &tenant.id, *user, limit).await
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
        behind.truncate(REPORT_ENTRIES_MAX);
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
