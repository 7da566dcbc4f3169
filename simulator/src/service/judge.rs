//! The judge: requests the state of every patron from the service and compares it with the truth. The state is
//! the summary, the blocks, and the explanation of the blocks.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::compare::{self, Difference, Summary};
use super::explanations::{self, Explanation};
use super::{Service, ensure_success};
use crate::blocks::{self, Block, Condition, Limit, Rules};
use crate::clock::Clock;
use crate::model::{Account, Truth};

/// The maximum number of concurrent requests.
const CONCURRENCY_MAX: usize = 16;

/// The maximum size of the sample that is compared first: the patrons with the newest events.
const SAMPLE_PATRONS_MAX: usize = 48;

/// The maximum number of rechecks of a difference while the truth may change.
const RECHECKS_MAX: usize = 4;

/// The greatest distance between the clocks of the judge and of the service.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// The time between two comparisons.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The number of compared patrons.
    pub patrons: usize,
    /// The number of their open loans.
    pub loans: usize,
    /// The number of their open fees/fines.
    pub fees_fines: usize,
    /// The number of those fees/fines for a loan that is claimed returned; they do not count.
    pub claimed_fees_fines: usize,
    /// The number of compared explanations.
    pub explanations: usize,
    /// The differences, sorted by patron.
    pub differences: Vec<Difference>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { patrons, loans, fees_fines, claimed_fees_fines, explanations, differences } =
            self;
        let differences = differences.len();
        write!(
            f,
            "{patrons} patrons, {loans} loans, {fees_fines} fees/fines ({claimed_fees_fines} of claimed \
             loans), {explanations} explanations compared, {differences} differences"
        )
    }
}

/// A judge of one tenant of a service.
#[derive(Debug, Clone)]
pub struct Judge {
    service: Service,
    clock: Clock,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    patron_block_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    patron_block_limits: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Blocks {
    automated_patron_blocks: Vec<Value>,
}

/// The dates of a block's limit, by which screens sort blocks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockMetadata {
    #[serde(rename = "createdDate")]
    _created_date: Option<DateTime<Utc>>,
    #[serde(rename = "updatedDate")]
    _updated_date: Option<DateTime<Utc>>,
}

impl Judge {
    /// Returns a judge of this tenant; `clock` must agree with the service's clock.
    pub fn new(service: Service, clock: Clock) -> Self {
        Self { service, clock }
    }

    /// Returns the service's conditions and limits, the limits in the order of their creation.
    pub async fn rules(&self) -> anyhow::Result<Rules> {
        let conditions: Conditions =
            self.service.get("/patron-block-conditions?limit=1000").await?;
        let limits: Limits = self.service.get("/patron-block-limits?limit=1000000").await?;
        let mut limits = limits.patron_block_limits;
        limits.sort_by_key(created_at);
        let limits = limits
            .into_iter()
            .map(serde_json::from_value::<Limit>)
            .collect::<Result<_, _>>()
            .context("a limit of the service cannot be read")?;
        Ok(Rules { conditions: conditions.patron_block_conditions, limits })
    }

    /// Returns the blocks of a patron in the service's response.
    pub async fn blocks(&self, patron: Uuid) -> anyhow::Result<Vec<Block>> {
        let blocks: Blocks =
            self.service.get(&format!("/automated-patron-blocks/{patron}")).await?;
        blocks.automated_patron_blocks.into_iter().map(read_block).collect()
    }

    /// Compares all patrons.
    pub async fn compare(&self, truth: &Arc<Truth>) -> anyhow::Result<Verdict> {
        self.compare_some(truth, truth.accounts().map(|account| account.patron.id).collect()).await
    }

    /// Compares until there is no difference or `timeout` has passed. Meanwhile the truth may change and
    /// the service may be unavailable. To limit the requests, the judge compares the sample first, then all
    /// patrons, then the differing patrons. The verdict covers all patrons.
    pub async fn compare_until(
        &self,
        timeout: Duration,
        truth: impl AsyncFn() -> anyhow::Result<Arc<Truth>>,
    ) -> anyhow::Result<Verdict> {
        let deadline = Instant::now() + timeout;
        let mut candidates = last_changed_patrons(&*truth().await?);
        loop {
            while !candidates.is_empty() && Instant::now() < deadline {
                candidates = self.recheck_patrons(candidates, &truth).await?;
            }
            match self.compare(&truth().await?).await {
                Ok(mut verdict) => {
                    if !timeout.is_zero() {
                        self.recheck_differences(&mut verdict, &truth).await?;
                    }
                    if verdict.differences.is_empty() || Instant::now() >= deadline {
                        return Ok(verdict);
                    }
                    candidates = verdict.differing_patrons();
                    candidates.truncate(SAMPLE_PATRONS_MAX);
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(RETRY_DELAY).await,
            }
        }
    }

    /// Removes the differences that disappear at a recheck. A patron may have a new event between the truth
    /// and the response.
    async fn recheck_differences(
        &self,
        verdict: &mut Verdict,
        truth: &impl AsyncFn() -> anyhow::Result<Arc<Truth>>,
    ) -> anyhow::Result<()> {
        for _ in 0..RECHECKS_MAX {
            let differing = verdict.differing_patrons();
            if differing.is_empty() {
                break;
            }
            sleep(RETRY_DELAY).await;
            if let Ok(rechecked) = self.compare_some(&truth().await?, differing).await {
                verdict.differences = rechecked.differences;
            }
        }
        Ok(())
    }

    /// Returns the patrons with a difference or with a failed request.
    async fn recheck_patrons(
        &self,
        patrons: Vec<Uuid>,
        truth: &impl AsyncFn() -> anyhow::Result<Arc<Truth>>,
    ) -> anyhow::Result<Vec<Uuid>> {
        let truth = truth().await?;
        let remaining = match self.compare_some(&truth, patrons.clone()).await {
            Ok(verdict) => verdict.differing_patrons(),
            Err(_) => patrons,
        };
        if !remaining.is_empty() {
            sleep(RETRY_DELAY).await;
        }
        Ok(remaining)
    }

    async fn compare_some(
        &self,
        truth: &Arc<Truth>,
        patrons: Vec<Uuid>,
    ) -> anyhow::Result<Verdict> {
        let rules = Arc::new(self.rules().await?);
        let (patrons, next) = (Arc::new(patrons), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY_MAX.min(patrons.len()) {
            let (judge, truth, rules) = (self.clone(), Arc::clone(truth), Arc::clone(&rules));
            let (patrons, next) = (Arc::clone(&patrons), Arc::clone(&next));
            workers.spawn(async move {
                let mut verdict = Verdict::default();
                while let Some(patron) = patrons.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(account) = truth.account(*patron) {
                        verdict.add(account);
                        judge.compare_patron(account, &rules, &mut verdict).await;
                    }
                }
                verdict
            });
        }
        let mut all = Verdict::default();
        for part in workers.join_all().await {
            all.patrons += part.patrons;
            all.loans += part.loans;
            all.fees_fines += part.fees_fines;
            all.claimed_fees_fines += part.claimed_fees_fines;
            all.explanations += part.explanations;
            all.differences.extend(part.differences);
        }
        all.differences.sort_by_key(|difference| difference.patron);
        Ok(all)
    }

    /// Adds all differences of one patron to the verdict.
    async fn compare_patron(&self, account: &Account, rules: &Rules, verdict: &mut Verdict) {
        let patron = &account.patron;
        let unreadable = |what: &str, error: anyhow::Error| {
            Difference::new(patron, what, "a response", format!("{error:#}"))
        };
        match self.summary(patron.id).await {
            Ok(summary) => {
                verdict.differences.extend(compare::compare_summaries(account, summary.as_ref()));
            }
            Err(error) => verdict.differences.push(unreadable("summary", error)),
        }
        // A loan may become overdue between the two clocks, so a difference is checked again.
        let mut blocks = self.compare_patron_blocks(account, rules).await;
        if matches!(blocks, Ok(Some(_))) {
            blocks = self.compare_patron_blocks(account, rules).await;
        }
        match blocks {
            Ok(difference) => verdict.differences.extend(difference),
            Err(error) => verdict.differences.push(unreadable("blocks", error)),
        }
        match self.compare_explanation(account, rules).await {
            Ok(differences) => {
                verdict.explanations += 1;
                verdict.differences.extend(differences);
            }
            Err(error) => verdict.differences.push(unreadable("explanation", error)),
        }
    }

    /// Returns the differences of a patron's explanation. The explanation has the instant of the evaluation, so
    /// clocks cause no difference unless they disagree.
    async fn compare_explanation(
        &self,
        account: &Account,
        rules: &Rules,
    ) -> anyhow::Result<Vec<Difference>> {
        let patron = &account.patron;
        let before = self.clock.now();
        let explanation: Explanation =
            self.service.get(&format!("/patron-blocks/explanations/{}", patron.id)).await?;
        let after = self.clock.now();
        let mut differences = explanations::check(account, rules, &explanation);
        let at = explanation.evaluated_at;
        if at < before - CLOCK_TOLERANCE || at > after + CLOCK_TOLERANCE {
            let expected = format!("an instant from {before} to {after}");
            let what = "explanation, evaluatedAt";
            differences.push(Difference::new(patron, what, expected, at.to_string()));
        }
        Ok(differences)
    }

    async fn compare_patron_blocks(
        &self,
        account: &Account,
        rules: &Rules,
    ) -> anyhow::Result<Option<Difference>> {
        let expected = |now| -> Vec<Block> {
            let findings = blocks::for_account(account, rules, now);
            findings.into_iter().map(|finding| finding.block).collect()
        };
        let before = expected(self.clock.now());
        let got = self.blocks(account.patron.id).await?;
        let after = expected(self.clock.now());
        Ok(compare::compare_blocks(&account.patron, [&before, &after], &got))
    }

    /// Returns the service's summary of a patron, or `None` at status 404.
    async fn summary(&self, patron: Uuid) -> anyhow::Result<Option<Summary>> {
        let path = format!("/user-summary/{patron}");
        let answer = self.service.request(Method::GET, &path).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(ensure_success(answer, "GET", &path).await?.json().await?))
    }
}

impl Verdict {
    /// Returns the patrons with differences.
    fn differing_patrons(&self) -> Vec<Uuid> {
        let mut patrons: Vec<Uuid> = self.differences.iter().map(|one| one.patron).collect();
        // The differences are sorted by patron.
        patrons.dedup();
        patrons
    }

    fn add(&mut self, account: &Account) {
        self.patrons += 1;
        self.loans += account.open_loans.len();
        self.fees_fines += account.open_fees_fines.len();
        self.claimed_fees_fines += account.claimed_fees_fines().count();
    }
}

/// Reads a block of a response. Its metadata may have only dates.
fn read_block(mut block: Value) -> anyhow::Result<Block> {
    if let Some(metadata) = block.as_object_mut().and_then(|block| block.remove("metadata")) {
        serde_json::from_value::<BlockMetadata>(metadata).context("the metadata of a block")?;
    }
    serde_json::from_value(block).context("a block of the service cannot be read")
}

/// Returns the creation time of a limit, if the service reports one.
fn created_at(limit: &Value) -> Option<DateTime<Utc>> {
    limit["metadata"]["createdDate"].as_str()?.parse().ok()
}

/// Returns the patrons with the newest events.
fn last_changed_patrons(truth: &Truth) -> Vec<Uuid> {
    let mut accounts: Vec<&Account> = truth.accounts().collect();
    accounts.sort_by_key(|account| Reverse(account.changed));
    accounts.truncate(SAMPLE_PATRONS_MAX);
    accounts.iter().map(|account| account.patron.id).collect()
}
