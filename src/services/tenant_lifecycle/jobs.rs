//! Tenant jobs, which install or upgrade a tenant. One instance starts a job, any instance returns
//! its status, and another instance resumes it if the lease expires.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    event::TenantId,
    logging::ErrorChain,
    okapi::{Caller, PubSub},
    services::{block_events::BlockEvents, tenants::TenantRegistry},
    store::{
        self, Db, migrate,
        tenants::tenant_jobs::{self, JobLease, TenantJob},
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
        let lease = JobLease { job: Uuid::new_v4(), holder: Uuid::new_v4() };
        tenant_jobs::insert(&self.db, lease, tenant, attributes, LEASE_DURATION).await?;
        let (jobs, tenant, attributes) = (self.clone(), tenant.clone(), attributes.clone());
        tokio::spawn(async move { jobs.run(lease, &tenant, &attributes, Some(&caller)).await });
        Ok(lease.job)
    }

    /// Returns a job once it has ended, or after `wait` at the latest.
    pub async fn find(
        &self,
        db: &Db,
        tenant: &TenantId,
        id: Uuid,
        wait: Duration,
    ) -> Result<Option<TenantJob>, store::Error> {
        let started = Instant::now();
        loop {
            let job = store::read(db, async |db| tenant_jobs::find(db, tenant, id).await).await?;
            let waited = started.elapsed();
            if job.as_ref().is_none_or(|job| job.complete) || waited >= wait {
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
            let holder = Uuid::new_v4();
            match tenant_jobs::claim_abandoned(&self.db, holder, LEASE_DURATION).await {
                Ok(None) => {}
                Ok(Some(job)) => {
                    warn!(tenant = %job.tenant, tenant.job = %job.id,
                        "tenant job: the lease of another instance expired; resuming its job");
                    // The client's token is lost with the other instance, so this run cannot register
                    // at mod-pubsub.
                    let lease = JobLease { job: job.id, holder };
                    let work = self.run(lease, &job.tenant, &job.tenant_attributes, None);
                    stop.run_until_cancelled(work).await;
                }
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "tenant job: could not look for abandoned jobs; retrying")
                }
            }
        }
    }

    async fn run(
        &self,
        lease: JobLease,
        tenant: &TenantId,
        attributes: &Value,
        caller: Option<&Caller>,
    ) {
        let id = lease.job;
        let (problem, messages) = tokio::select! {
            result = self.enable(lease, tenant, module_to(attributes), caller) => result,
            () = self.renew_lease(lease, tenant) => {
                warn!(%tenant, tenant.job = %id, "tenant job: lost the lease; another instance resumes it, or the job was deleted");
                return;
            }
        };
        match &problem {
            Some(problem) => {
                error!(%tenant, tenant.job = %id, problem, "tenant job: failed; the tenant is not enabled")
            }
            None => info!(%tenant, tenant.job = %id, ?messages, "tenant job: finished"),
        }
        if let Err(error) =
            tenant_jobs::finish(&self.db, lease, problem.as_deref(), &messages).await
        {
            // After the lease has expired, an instance resumes the job; all steps are idempotent.
            warn!(%tenant, error = %ErrorChain(&error), "tenant job: could not store the final status");
        }
    }

    /// Renews the lease until it is lost. The renewal may wait for a connection that the job uses, so
    /// the job has to run concurrently.
    async fn renew_lease(&self, lease: JobLease, tenant: &TenantId) {
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            heartbeat.tick().await;
            match tenant_jobs::renew(&self.db, lease, LEASE_DURATION).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(%tenant, error = %ErrorChain(&error), "tenant job: could not renew the lease");
                }
            }
        }
    }

    /// Runs the job. Returns why it failed, if it failed, and messages for the operator.
    async fn enable(
        &self,
        lease: JobLease,
        tenant: &TenantId,
        module: &str,
        caller: Option<&Caller>,
    ) -> (Option<String>, Vec<String>) {
        let permit = self.permit.acquire().await;
        let mut messages = match self.tenants.enable_for(tenant, module, Some(lease)).await {
            Ok(messages) => messages,
            Err(error) => return (Some(ErrorChain(&error).to_string()), Vec::new()),
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
        let Some(pubsub) = &self.pubsub else { return (None, messages) };
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
        (None, messages)
    }
}
