//! Tenant jobs, which install or upgrade a tenant. One instance starts a job, any instance returns
//! its status, and another instance resumes it if the lease expires.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    event::TenantId,
    logging::ErrorChain,
    okapi::{Caller, PubSub},
    services::{block_events::BlockEvents, jobs::run_with_lease, tenants::TenantRegistry},
    store::{
        self, Db,
        jobs::{self, Job, JobKind, Lease, NewJob, Outcome, Status, claims},
        migrate,
    },
};

/// Duration of a lease; without renewal another instance resumes the job.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Interval between renewals of a lease, and between searches for expired leases.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Intervals at which a waiting request reads its job: short during the first second, because most
/// jobs end within it.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);
const FAST_POLL_TIME: Duration = Duration::from_secs(1);

/// The queue of tenant jobs, and the worker that runs them.
pub struct TenantJobs {
    db: Db,
    tenants: Arc<TenantRegistry>,
    /// `None` if registration at mod-pubsub is switched off.
    pubsub: Option<PubSub>,
    block_events: Arc<BlockEvents>,
    /// Set once the module's own tables are known to exist.
    module: OnceCell<()>,
    /// Permit of the only running job. A job uses a connection that ingest needs as well, and the
    /// migrations of one database wait for each other anyway.
    permit: Semaphore,
}

/// Returns the module id that a request enables; empty if the request enables none.
pub fn module_to(attributes: &Value) -> &str {
    attributes.get("module_to").and_then(Value::as_str).unwrap_or_default()
}

impl TenantJobs {
    /// Creates the jobs; `db` is the writers' pool.
    pub fn new(
        db: Db,
        tenants: Arc<TenantRegistry>,
        pubsub: Option<PubSub>,
        block_events: Arc<BlockEvents>,
    ) -> Self {
        let (module, permit) = (OnceCell::new(), Semaphore::new(1));
        Self { db, tenants, pubsub, block_events, module, permit }
    }

    /// Starts an installation or upgrade. The job continues if the client disconnects.
    pub async fn start(
        self: &Arc<Self>,
        tenant: &TenantId,
        attributes: &Value,
        caller: Caller,
    ) -> Result<Uuid, store::Error> {
        self.module.get_or_try_init(|| migrate::module(&self.db)).await?;
        let lease = Lease::new(LEASE_DURATION);
        let job = NewJob {
            kind: JobKind::Tenant,
            tenant,
            request: attributes,
            requested_by: "_tenant",
            read_group: None,
            started: Some((Status::Enabling, lease)),
        };
        let job = jobs::insert(&self.db, Uuid::new_v4(), job).await?;
        let (jobs, id) = (self.clone(), job.id);
        tokio::spawn(async move { jobs.run(&job, lease, Some(&caller)).await });
        Ok(id)
    }

    /// Returns a job once it has ended, or after `wait` at the latest.
    pub async fn find(
        &self,
        db: &Db,
        tenant: &TenantId,
        id: Uuid,
        wait: Duration,
    ) -> Result<Option<Job>, store::Error> {
        let started = Instant::now();
        loop {
            let job = store::read(db, async |db| jobs::find(db, JobKind::Tenant, tenant, id).await);
            let (job, waited) = (job.await?, started.elapsed());
            if job.as_ref().is_none_or(|job| job.status.has_ended()) || waited >= wait {
                return Ok(job);
            }
            let pause = if waited < FAST_POLL_TIME { POLL_INTERVAL_MIN } else { POLL_INTERVAL_MAX };
            sleep(pause.min(wait.saturating_sub(waited))).await;
        }
    }

    /// Resumes jobs with an expired lease, until `stop`.
    pub async fn adopt_abandoned(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        while stop.run_until_cancelled(sleep(HEARTBEAT_INTERVAL)).await.is_some() {
            let lease = Lease::new(LEASE_DURATION);
            match claims::claim_tenant_job(&self.db, lease).await {
                Ok(None) => {}
                Ok(Some(job)) => {
                    warn!(tenant = %job.tenant, tenant.job = %job.id,
                        "tenant job: the lease of another instance expired; resuming its job");
                    // The client's token is lost with the other instance, so this run cannot register
                    // at mod-pubsub.
                    stop.run_until_cancelled(self.run(&job, lease, None)).await;
                }
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "tenant job: could not look for abandoned jobs; retrying")
                }
            }
        }
    }

    async fn run(&self, job: &Job, lease: Lease, caller: Option<&Caller>) {
        let Job { id, tenant, request, .. } = job;
        let warn = |error: &store::Error| {
            warn!(%tenant, error = %ErrorChain(error), "tenant job: could not renew the lease");
        };
        let work = self.enable((*id, lease), tenant, module_to(request), caller);
        let result = run_with_lease(&self.db, (*id, lease), HEARTBEAT_INTERVAL, warn, work).await;
        let Some((problem, messages)) = result.flatten() else {
            warn!(%tenant, tenant.job = %id, "tenant job: lost the lease; another instance resumes it, or the job was deleted");
            return;
        };
        let status = match &problem {
            Some(problem) => {
                error!(%tenant, tenant.job = %id, problem, "tenant job: failed; the tenant is not enabled");
                Status::Failed
            }
            None => {
                info!(%tenant, tenant.job = %id, ?messages, "tenant job: finished");
                Status::Done
            }
        };
        let outcome = Outcome { summary: None, error: problem.as_deref(), messages: &messages };
        if let Err(error) = jobs::set_status(&self.db, *id, lease, status, outcome).await {
            // After the lease has expired, an instance resumes the job; all steps are idempotent.
            warn!(%tenant, error = %ErrorChain(&error), "tenant job: could not store the final status");
        }
    }

    /// Runs the job. Returns why it failed, if it failed, and messages for the operator; `None` if the lease
    /// was lost.
    async fn enable(
        &self,
        job: (Uuid, Lease),
        tenant: &TenantId,
        module: &str,
        caller: Option<&Caller>,
    ) -> Option<(Option<String>, Vec<String>)> {
        let permit = self.permit.acquire().await;
        let mut messages = match self.tenants.enable_for(tenant, module, Some(job)).await {
            Ok(messages) => messages,
            Err(store::Error::LeaseLost) => return None,
            Err(error) => return Some((Some(ErrorChain(&error).to_string()), Vec::new())),
        };
        if let Err(error) = self.block_events.enable_tenant(tenant).await {
            warn!(%tenant, error = %ErrorChain(&error), "tenant job: could not switch block events on; the block event worker retries");
        }
        drop(permit);
        if let Err(error) = self.block_events.create_topics(tenant).await {
            let error = ErrorChain(&error);
            messages.push(format!(
                "the topics of the tenant were not created, and the service creates each \
                 topic before its first message: {error}"
            ));
        }
        let Some(pubsub) = &self.pubsub else { return Some((None, messages)) };
        let registration = match caller {
            Some(caller) => pubsub.register(caller, module).await.map_err(|error| {
                format!("mod-pubsub did not accept the subscription: {}", ErrorChain(&error))
            }),
            None => {
                Err("the subscription was not sent to mod-pubsub, because another instance resumed this \
                     job; if mod-pubsub delivers the events, repeat the job"
                    .to_owned())
            }
        };
        messages.push(match registration {
            Ok(()) => "mod-pubsub accepted the subscription".to_owned(),
            Err(message) => message,
        });
        Some((None, messages))
    }
}
