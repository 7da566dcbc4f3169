//! Rebuilds as jobs: any instance claims a requested rebuild, and another instance resumes the rebuild after
//! a crash.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    connections::SharedConnections,
    context::{RebuildContext, RebuildServices},
    error::RebuildError,
    finish::RebuildOutcome,
    lease::{HEARTBEAT_INTERVAL, LEASE_DURATION, StopReason},
    read::shared_topics::{self, GroupMember},
    request::{RebuildRequest, RequestedRebuilds},
    run_slot::RunSlot,
    tokens::Tokens,
};
use crate::{
    clock::Clock,
    config::{KafkaConfig, Login, RebuildConfig},
    event::TenantId,
    kafka::BrokerClient,
    logging::ErrorChain,
    okapi::{Caller, Storage},
    services::{
        tenants::{Tenant, TenantRegistry},
        throttle::Throttle,
    },
    store::{
        self, Db, Schema, Tx,
        jobs::{self, JobKind, Lease, NewJob, claims},
        rebuild::{
            differences,
            rebuilds::{self, Rebuild, Status},
            shadow,
        },
    },
};

/// Maximum number of rebuilds that one claim of a read group returns.
pub(super) const GROUP_CLAIMS_MAX: i64 = 99;

/// Base of the delay before a retry after a transient error; each retry doubles the delay.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum delay before a retry.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Maximum number of retries per claim; an initial fill has no maximum.
const RETRIES_MAX: u32 = 60;

/// The service that requests, claims and runs rebuilds.
pub struct Rebuilds {
    pub(super) db: Db,
    connections: SharedConnections,
    pub(super) tenants: Arc<TenantRegistry>,
    clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) broker: Arc<BrokerClient>,
    storage: Storage,
    pub(super) config: RebuildConfig,
    pub(super) tokens: Tokens,
}

/// One or several rebuilds that this instance claimed together, with their lease and permits.
pub(super) struct ClaimedRebuilds {
    pub(super) rebuilds: Vec<Rebuild>,
    pub(super) lease: Lease,
    pub(super) caller: Option<Caller>,
    pub(super) run_slots: Arc<Semaphore>,
    pub(super) first_permit: Option<OwnedSemaphorePermit>,
    /// The permit of `Slots::claimed` or `Slots::claimed_with_token`.
    pub(super) claim_permit: Option<OwnedSemaphorePermit>,
}

/// The result of one instance's work on a rebuild.
enum RunResult {
    /// The rebuild ended, or waits for an operator.
    Finished(RebuildOutcome),
    /// Any instance may claim the rebuild again. The text is the problem to record, such as a rejected token.
    Released(Option<String>),
}

impl Rebuilds {
    /// Creates the service. `db` is the writers' pool; the pools of the rebuilds connect with `login`.
    pub fn new(
        (db, login): (Db, Login),
        tenants: Arc<TenantRegistry>,
        clock: Clock,
        (kafka, broker, storage): (KafkaConfig, Arc<BrokerClient>, Storage),
        config: RebuildConfig,
    ) -> Self {
        let (kafka, tokens) = (Arc::new(kafka), Tokens::default());
        let connections = SharedConnections::new(login, config.concurrency.saturating_add(1));
        Self { db, connections, tenants, clock, kafka, broker, storage, config, tokens }
    }

    /// Inserts a rebuild that any instance may claim.
    pub async fn request(
        &self,
        db: &Db,
        tenant: &Tenant,
        request: &RebuildRequest,
        requested_by: &str,
    ) -> Result<Uuid, store::Error> {
        let mut tx = store::begin(db).await?;
        let id = self.insert(&mut tx, &tenant.id, request, requested_by, None).await?;
        store::commit(tx).await?;
        self.wake_workers();
        Ok(id)
    }

    /// Inserts one rebuild per tenant, all with the same read group.
    pub async fn request_all(
        &self,
        db: &Db,
        tenants: &[TenantId],
        request: &RebuildRequest,
        requested_by: &str,
    ) -> Result<RequestedRebuilds, store::Error> {
        let read_group = Uuid::new_v4().to_string();
        let mut rebuilds = Vec::with_capacity(tenants.len());
        let mut tx = store::begin(db).await?;
        for tenant in tenants {
            let id = self.insert(&mut tx, tenant, request, requested_by, Some(&read_group)).await?;
            rebuilds.push((tenant.clone(), id));
        }
        store::commit(tx).await?;
        self.wake_workers();
        Ok(RequestedRebuilds { rebuilds, read_group: Some(read_group) })
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        tenant: &TenantId,
        request: &RebuildRequest,
        requested_by: &str,
        read_group: Option<&str>,
    ) -> Result<Uuid, store::Error> {
        let id = Uuid::new_v4();
        let (kind, body) = (JobKind::Rebuild, request.to_json());
        let job = NewJob { kind, tenant, request: &body, requested_by, read_group, started: None };
        jobs::insert(&mut **tx, id, job).await?;
        info!(%tenant, rebuild.id = %id, requested_by = requested_by, "rebuild: requested");
        Ok(id)
    }

    /// Wakes the workers of this instance.
    pub fn wake_workers(&self) {
        self.tenants.rebuild_requested.notify_one();
        self.tokens.available.notify_one();
    }

    /// Adds a token for requests to the storage modules. Without `rebuild`, the token serves the tenant's
    /// longest waiting rebuild, if there is one (docs/contract/http-api.md#82-jobs).
    pub fn add_token(&self, tenant: TenantId, rebuild: Option<Uuid>, caller: Caller) {
        if self.config.concurrency == 0 {
            warn!(%tenant, "rebuild: discarded a token, because REBUILD_CONCURRENCY is 0 on this instance");
            return;
        }
        if caller.is_foreign_gateway {
            let url = &caller.okapi_url;
            warn!(%tenant, okapi.url = url, "rebuild: discarded a token of a gateway other than OKAPI_URL; storage modules are read through OKAPI_URL only");
            return;
        }
        self.tokens.insert((tenant, rebuild), caller);
        self.wake_workers();
    }

    /// Claims and runs the requested rebuilds that no other instance runs, until `stop`. Requests to the
    /// storage modules use the token of `caller`.
    pub async fn run_requested(
        self: Arc<Self>,
        requested: RequestedRebuilds,
        caller: Caller,
        stop: CancellationToken,
    ) {
        let run_slots = Arc::new(Semaphore::new(1));
        while !stop.is_cancelled() {
            match self.claim_requested(&requested, &run_slots).await {
                Ok(Some(claimed)) => {
                    let claimed = ClaimedRebuilds { caller: Some(caller.clone()), ..claimed };
                    self.run_claimed(claimed, &stop).await;
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "rebuild: could not claim waiting rebuilds; retrying")
                }
            }
            stop.run_until_cancelled(sleep(HEARTBEAT_INTERVAL)).await;
        }
    }

    async fn claim_requested(
        &self,
        requested: &RequestedRebuilds,
        run_slots: &Arc<Semaphore>,
    ) -> Result<Option<ClaimedRebuilds>, store::Error> {
        let lease = Lease::new(LEASE_DURATION);
        let run_slots = run_slots.clone();
        let claimed = |rebuilds| {
            Some(ClaimedRebuilds {
                rebuilds,
                lease,
                caller: None,
                run_slots,
                first_permit: None,
                claim_permit: None,
            })
        };
        if let Some(read_group) = &requested.read_group {
            let rebuilds =
                claims::claim_read_group(&self.db, read_group, GROUP_CLAIMS_MAX, lease).await?;
            if !rebuilds.is_empty() {
                return Ok(claimed(rebuilds));
            }
        }
        for (tenant, id) in &requested.rebuilds {
            let claim = match claims::claim_rebuild(&self.db, Some(*id), lease).await? {
                None => {
                    claims::claim_rebuild_with_token(&self.db, tenant, Some(*id), lease).await?
                }
                rebuild => rebuild,
            };
            if let Some(rebuild) = claim {
                return Ok(claimed(vec![rebuild]));
            }
        }
        Ok(None)
    }

    /// Runs the claimed rebuilds until each has ended, waits for an operator, or is released. Several
    /// rebuilds share the run slots.
    pub(super) async fn run_claimed(&self, claimed: ClaimedRebuilds, stop: &CancellationToken) {
        let ClaimedRebuilds {
            mut rebuilds,
            lease,
            caller,
            run_slots,
            mut first_permit,
            claim_permit,
        } = claimed;
        let connections = self.connections.get();
        let mut services = || RebuildServices {
            caller: caller.clone(),
            run_slot: RunSlot::new(&run_slots, first_permit.take()),
            connections: connections.clone(),
        };
        if rebuilds.len() == 1
            && let Some(rebuild) = rebuilds.pop()
        {
            self.run_rebuild(rebuild, lease, (services(), None), stop).await;
        } else {
            let (members, join_requests) = shared_topics::read_group(rebuilds.len());
            let runs = rebuilds.into_iter().zip(members);
            let runs = runs
                .map(|(rebuild, member)| {
                    self.run_rebuild(rebuild, lease, (services(), Some(member)), stop)
                })
                .collect::<Vec<_>>();
            tokio::join!(join_all(runs), shared_topics::replay_for_group(join_requests));
        }
        drop(claim_permit);
    }

    async fn run_rebuild(
        &self,
        rebuild: Rebuild,
        lease: Lease,
        (services, group_member): (RebuildServices, Option<GroupMember>),
        stop: &CancellationToken,
    ) {
        let (id, tenant) = (rebuild.id, rebuild.tenant.clone());
        let connections = services.connections.clone();
        info!(%tenant, rebuild.id = %id, status = rebuild.status.name(), "rebuild: claimed; starting or resuming it");
        // A panic fails the rebuild: a retry would panic again, without end.
        let running = self.run_until_released(&rebuild, lease, (services, group_member), stop);
        let caught = AssertUnwindSafe(running).catch_unwind().await;
        let result = caught.unwrap_or_else(|_| {
            let problem = "the rebuild failed because of a defect of this version; the service's log has \
                 the details";
            Ok(RunResult::Finished(RebuildOutcome::failed(problem.to_owned(), false)))
        });
        let stored = match result {
            Ok(RunResult::Finished(outcome)) => {
                let (status, problem) = (outcome.status.name(), outcome.problem.as_deref());
                info!(%tenant, rebuild.id = %id, status, problem, "rebuild: ended");
                outcome.save(&connections.main, &rebuild, lease, &self.clock).await
            }
            Ok(RunResult::Released(problem)) => {
                rebuilds::release(&self.db, id, lease, problem.as_deref()).await
            }
            Err(error) => {
                error!(%tenant, rebuild.id = %id, error = %ErrorChain(&error), "rebuild: interrupted by an error; released for another try");
                rebuilds::release(&self.db, id, lease, None).await
            }
        };
        if let Err(error) = stored {
            // If this write fails, an instance claims the rebuild after the lease expires; every stage is
            // repeatable.
            warn!(%tenant, rebuild.id = %id, error = %ErrorChain(&error), "rebuild: could not store the final status");
        }
    }

    async fn run_until_released(
        &self,
        rebuild: &Rebuild,
        lease: Lease,
        (services, group_member): (RebuildServices, Option<GroupMember>),
        stop: &CancellationToken,
    ) -> Result<RunResult, RebuildError> {
        let (tenant, request) = match self.prepare(rebuild).await? {
            Ok(prepared) => prepared,
            Err(problem) => {
                return Ok(RunResult::Finished(RebuildOutcome::failed(problem, false)));
            }
        };
        let context =
            self.build_context(rebuild, request, (tenant, services), lease, stop.child_token());
        if rebuild.cancel_requested {
            return Self::cancel(&context).await;
        }
        let mut tries = 0;
        loop {
            let done = tokio::select! {
                done = context.run(group_member.as_ref()) => done,
                why = context.renew_lease() => {
                    // Stops the replay of shared topics for this rebuild.
                    context.stop.cancel();
                    match why {
                        StopReason::Cancelled => return Self::cancel(&context).await,
                        StopReason::TenantPurged => {
                            shadow::remove(context.db(), &context.shadow).await?;
                            return Ok(RunResult::Released(None));
                        }
                        StopReason::LeaseLost | StopReason::Shutdown => return Ok(RunResult::Released(None)),
                    }
                }
            };
            let failure = match done {
                Ok(outcome) => return Ok(RunResult::Finished(outcome)),
                Err(failure) => failure,
            };
            // An initial fill has unlimited retries, because no user would request the fill again.
            let has_tries = tries < RETRIES_MAX || context.request.fill;
            if !failure.is_transient() || !has_tries {
                return Ok(end_after_failure(&context, failure));
            }
            tries += 1;
            // Other rebuilds continue during the pause.
            context.run_slot.release();
            if let Some(member) = &group_member {
                member.leave();
            }
            warn!(tenant = %context.tenant.id, rebuild.id = %context.id, error = %ErrorChain(&failure),
                "rebuild: interrupted by an error; retrying");
            if matches!(failure, RebuildError::ShadowLost) {
                context.set_status(Status::Reading);
            }
            let pause = RETRY_DELAY.saturating_mul(1 << tries.min(10)).min(RETRY_DELAY_MAX);
            stop.run_until_cancelled(sleep(pause)).await;
        }
    }

    /// Returns the tenant and the request of a rebuild, or the reason why the rebuild cannot run.
    async fn prepare(
        &self,
        rebuild: &Rebuild,
    ) -> Result<Result<(Arc<Tenant>, RebuildRequest), String>, RebuildError> {
        let Some(tenant) = self.tenants.find(&rebuild.tenant).await? else {
            return Ok(Err("the tenant is not enabled".to_owned()));
        };
        let request = RebuildRequest::from_json(&rebuild.request);
        Ok(request.map(|request| (tenant, request)).map_err(|invalid| invalid.to_string()))
    }

    /// Ends the rebuild at its current stage. Applied differences stay applied, and their report stays
    /// stored.
    async fn cancel(context: &RebuildContext) -> Result<RunResult, RebuildError> {
        context.stop.cancel();
        let summary =
            differences::summarize(context.db(), &context.tenant.schema, context.id).await?;
        Ok(RunResult::Finished(RebuildOutcome::cancelled(summary.applied == 0)))
    }

    fn build_context(
        &self,
        rebuild: &Rebuild,
        request: RebuildRequest,
        (tenant, RebuildServices { caller, run_slot, connections }): (Arc<Tenant>, RebuildServices),
        lease: Lease,
        stop: CancellationToken,
    ) -> RebuildContext {
        let shadow = Arc::new(Schema::shadow(&tenant.id, rebuild.id));
        RebuildContext {
            id: rebuild.id,
            lease,
            request,
            tenant,
            shadow,
            clock: self.clock.clone(),
            kafka: self.kafka.clone(),
            config: self.config,
            throttle: Throttle::from_percent(self.config.db_share_percent),
            progress: Arc::default(),
            status: Arc::new(Mutex::new(rebuild.status)),
            approval_reason: Arc::default(),
            stop,
            broker: self.broker.clone(),
            storage: self.storage.clone(),
            caller,
            connections,
            run_slot: Arc::new(run_slot),
        }
    }
}

/// Returns the result of a run after a failure that no retry mends.
fn end_after_failure(context: &RebuildContext, failure: RebuildError) -> RunResult {
    let (tenant, rebuild) = (&context.tenant.id, context.id);
    match failure {
        RebuildError::LeaseLost => {
            warn!(%tenant, rebuild.id = %rebuild, "rebuild: lost the lease; another instance resumes it");
            context.stop.cancel();
            RunResult::Released(None)
        }
        RebuildError::TokenRejected(problem) => {
            warn!(%tenant, rebuild.id = %rebuild, problem,
                "rebuild: the token was rejected; waiting for the token of the next timer call");
            RunResult::Released(Some(RebuildError::TokenRejected(problem).to_string()))
        }
        failure => {
            let discards_differences = context.status() != Status::Applying;
            let problem = ErrorChain(&failure).to_string();
            RunResult::Finished(RebuildOutcome::failed(problem, discards_differences))
        }
    }
}
