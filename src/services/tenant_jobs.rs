//! Installing and upgrading tenants as jobs: begun by one instance, answered for by any, and taken over
//! where that one has died.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{block_events::BlockEvents, tenants::TenantRegistry};
use crate::{
    event::TenantId,
    logging::ErrorChain,
    okapi::{Caller, PubSub},
    store::{
        self, Db, migrate,
        tenant_jobs::{self, JobLease, TenantJob},
    },
};

/// How long a job stays its instance's without a word from it.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How often that word is given, and jobs are looked for whose instance is silent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How often a request that waits for a job reads it: most jobs end within the first second.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);
const FAST_POLL_TIME: Duration = Duration::from_secs(1);

/// Works on tenants.
pub struct TenantJobs {
    db: Db,
    tenants: Arc<TenantRegistry>,
    /// None where nobody is to be told.
    pubsub: Option<PubSub>,
    block_events: Arc<BlockEvents>,
    /// Whether the module's own tables are known to be there.
    module: OnceCell<()>,
    /// One works at a time: each takes a connection that ingest needs as well, and all migrations of a database
    /// wait for each other anyway.
    permit: Semaphore,
}

/// The module that a request enables, if it enables one.
pub fn module_to(attributes: &Value) -> &str {
    attributes.get("module_to").and_then(Value::as_str).unwrap_or_default()
}

impl TenantJobs {
    /// `db` is the writers' pool.
    pub fn new(
        db: Db,
        tenants: Arc<TenantRegistry>,
        pubsub: Option<PubSub>,
        block_events: Arc<BlockEvents>,
    ) -> Self {
        let (module, permit) = (OnceCell::new(), Semaphore::new(1));
        Self { db, tenants, pubsub, block_events, module, permit }
    }

    /// Begins to install or upgrade. The work goes on when the client goes away.
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

    /// A job, once it has ended or after `wait` at the latest.
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

    /// Takes over jobs whose instance is silent, until `stop`.
    pub async fn adopt_abandoned(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        while stop.run_until_cancelled(sleep(HEARTBEAT_INTERVAL)).await.is_some() {
            let holder = Uuid::new_v4();
            match tenant_jobs::claim_abandoned(&self.db, holder, LEASE_DURATION).await {
                Ok(None) => {}
                Ok(Some(job)) => {
                    warn!(tenant = %job.tenant, tenant.job = %job.id,
                        "tenant job: the lease of another instance expired; resuming its job");
                    // Its client's token went with that instance, so nobody can be told.
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
            // Taken over when it is held no more: all steps may be repeated.
            warn!(%tenant, error = %ErrorChain(&error), "tenant job: could not store the final status");
        }
    }

    /// Says again and again that a job is worked on, until it is another's or gone. It may have to wait for a connection that the work has:
    /// so the work has to go on meanwhile.
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

    /// The work itself: why it failed, if it did, and what else there is to say.
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
            messages.push(format!("topics of its own are made when they are needed: {error}"));
        }
        let Some(pubsub) = &self.pubsub else { return (None, messages) };
        let registration = match caller {
            Some(caller) => pubsub.register(caller, module).await.map_err(|error| {
                format!("mod-pubsub was not told of the subscription: {}", ErrorChain(&error))
            }),
            None => {
                Err("mod-pubsub was not told of the subscription: another instance had to go on \
                         with this job; repeat it if events come by mod-pubsub"
                    .to_owned())
            }
        };
        messages.push(match registration {
            Ok(()) => "mod-pubsub was told of the subscription".to_owned(),
            Err(message) => message,
        });
        (None, messages)
    }
}
