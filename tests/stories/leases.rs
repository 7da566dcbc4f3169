//! Leases on jobs. If another instance has claimed the job before a write, no part of the write may
//! count.

use std::time::Duration;

use patron_blocks::{
    event::TenantId,
    store::{
        self, Db,
        jobs::{self, JobKind, Lease, LeaseState, NewJob, Outcome, Status, claims},
        messages::exports,
        rebuild::rebuilds,
    },
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::{
    database::sql::with_tenant,
    support::{
        payloads::{check_out, in_envelope, minutes_from_now, now},
        world::{TENANT, World, until},
    },
};

const REBUILDS: &str = "/patron-blocks/rebuilds";

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_without_lease_writes_nothing() {
    World::run(async |world| {
        let out = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60));
        world.publish(patron_blocks::event::Kind::ItemCheckedOut, &in_envelope(&out, now())).await;
        world.until_committed().await;
        // The lock prevents the rebuild from reading its source.
        let mut reading = world.db.begin().await.unwrap();
        let lock = format!("lock table {}.inbox in access exclusive mode", world.schema.name());
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *reading).await.unwrap();
        let ask = json!({ "source": "inbox", "dryRun": true });
        let (status, body) = world.post(REBUILDS, &ask).await;
        assert_eq!(status, 201, "{body}");
        let asked: Value = serde_json::from_str(&body).unwrap();
        let id = asked["id"].as_str().unwrap();
        let shadow = format!("{}_r{}", world.schema.name(), &id[..8]);
        let lock_waits = "select count(*) from pg_stat_activity where datname = current_database()
                      and wait_event_type = 'Lock' and query like '%.inbox where event_key > %'";
        world
            .until("the instance waits for the inbox", async |w: &World| {
                w.count(lock_waits).await == 1
            })
            .await;

        // Another instance claims the job, so the writes of the first instance must fail.
        let mut claiming = world.db.begin().await.unwrap();
        let take = format!(
            "update mod_patron_blocks.job
                set lease_holder = gen_random_uuid(), lease_expires_at = null where id = '{id}'"
        );
        sqlx::raw_sql(AssertSqlSafe(take)).execute(&mut *claiming).await.unwrap();
        reading.rollback().await.unwrap();
        let shadow_loans = format!("select count(*) from {shadow}.loan");
        let at_the_lease =
            "select count(*) from pg_stat_activity where datname = current_database()
                             and wait_event_type = 'Lock' and query like '%for share'";
        let is_through = async |world: &World| {
            world.count(&shadow_loans).await > 0 || world.count(at_the_lease).await == 1
        };
        world.until("the instance has written, or waits for the lease", is_through).await;
        assert_eq!(
            world.count(&shadow_loans).await,
            0,
            "the instance writes nothing without a lease"
        );
        claiming.commit().await.unwrap();

        // The lease is free, so an instance claims the job again.
        let path = format!("{REBUILDS}/{id}");
        let is_compared = async |world: &World| world.get_json(&path).await["status"] == "compared";
        world.until("the rebuild is compared", is_compared).await;
        assert_eq!(world.get_json(&path).await["summary"]["patrons"], 0);
        assert_eq!(world.count(&shadow_loans).await, 1);
    })
    .await;
}

/// A claim that a stopping instance interrupts must leave no lease, because no instance would renew it.
#[tokio::test(flavor = "multi_thread")]
async fn instance_stopped_during_claim_leaves_no_lease() {
    World::run(async |world| {
        world
            .execute_sql(
                "create function public.slow_commit() returns trigger language plpgsql as $$
                 begin perform pg_sleep(1); return null; end $$;
                 create constraint trigger slow after update of lease_holder on mod_patron_blocks.job
                   deferrable initially deferred for each row
                   when (old.lease_holder is null and new.lease_holder is not null) execute function public.slow_commit()",
            )
            .await;
        let (status, body) = world.post(REBUILDS, &json!({ "dryRun": true })).await;
        assert_eq!(status, 201, "{body}");
        let commits = "select count(*) from pg_stat_activity where datname = current_database()
                        and state = 'active' and query ilike 'commit%'";
        world.until("the claim is being committed", async |w: &World| w.count(commits).await == 1).await;
        world.stop().await;
        until("the claim is committed", async || world.count(commits).await == 0).await;
        let leases = "select count(*) from mod_patron_blocks.job
                       where lease_holder is not null and ended_at is null and lease_expires_at > now()";
        assert_eq!(world.count(leases).await, 0, "no stopped instance has a lease");
        world.execute_sql("drop function public.slow_commit() cascade").await;
        world.start().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_tenant_job_enables_nothing() {
    World::run(async |world| {
        let disable = json!({ "module_from": "mod-patron-blocks-2.0.0" });
        assert_eq!(world.post("/_/tenant", &disable).await.0, 204);
        // Another session has the exclusive tenant lock while the job waits for it.
        let mut exclusive_session = world.db.begin().await.unwrap();
        let lock = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
        let name = format!("mod_patron_blocks/{TENANT}");
        sqlx::query(lock).bind(name).execute(&mut *exclusive_session).await.unwrap();
        let enable = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let (status, job) = world.post("/_/tenant", &enable).await;
        assert_eq!(status, 201, "{job}");
        let lock_waits = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
                      where l.locktype = 'advisory' and not l.granted and l.mode = 'ExclusiveLock'
                        and a.datname = current_database()";
        world.until("the job waits", async |w: &World| w.count(lock_waits).await == 1).await;
        // Another instance has finished the job, and the job was deleted.
        sqlx::raw_sql("delete from mod_patron_blocks.job where kind = 'tenant'")
            .execute(&mut *exclusive_session)
            .await
            .unwrap();
        exclusive_session.commit().await.unwrap();
        until("the job ends", async || world.count(lock_waits).await == 0).await;
        let works = "select count(*) from pg_stat_activity
                      where datname = current_database() and state <> 'idle' and xact_start is not null
                        and pid <> pg_backend_pid()";
        world.until("no transaction is open", async |w: &World| w.count(works).await == 0).await;
        let enabled = "select count(*) from mod_patron_blocks.tenant where enabled";
        assert_eq!(world.count(enabled).await, 0, "a deleted job enables no tenant");
        assert_eq!(world.enable().await["complete"], true);
    })
    .await;
}

const LEASE_TIME: Duration = Duration::from_secs(3600);

async fn insert(db: &Db, kind: JobKind, request: &Value, started: Option<(Status, Lease)>) -> Uuid {
    let tenant = &TenantId::parse(TENANT).unwrap();
    let job = NewJob { kind, tenant, request, requested_by: "story", read_group: None, started };
    jobs::insert(db, Uuid::new_v4(), job).await.unwrap().id
}

async fn is_lease_valid(db: &Db, id: Uuid, lease: Lease) -> bool {
    let mut tx = store::begin(db).await.unwrap();
    jobs::is_lease_valid(&mut tx, id, lease).await.unwrap()
}

#[tokio::test]
async fn tenant_job_lease_is_exclusive_until_it_expires() {
    with_tenant(async |db, _| {
        let [first, second] = [(); 2].map(|()| Lease::new(LEASE_TIME));
        let started = Some((Status::Enabling, first));
        let id = insert(db, JobKind::Tenant, &json!({}), started).await;
        let claims = async || claims::claim_tenant_job(db, second).await.unwrap();
        let tenant = TenantId::parse(TENANT).unwrap();
        let status =
            async || jobs::find(db, JobKind::Tenant, &tenant, id).await.unwrap().unwrap().status;
        assert_eq!(
            claims().await,
            None,
            "the lease belongs to the first instance, whatever its clock"
        );
        db.execute("update mod_patron_blocks.job set lease_expires_at = now() - interval '1 s'")
            .await
            .unwrap();
        assert_eq!(claims().await.unwrap().id, id);
        // The first instance was only frozen.
        assert_eq!(jobs::renew(db, id, first, None).await.unwrap(), LeaseState::TakenOver);
        assert!(jobs::renew(db, id, second, None).await.unwrap().is_active());
        assert!(!is_lease_valid(db, id, first).await && is_lease_valid(db, id, second).await);
        let late = Outcome { error: Some("late"), ..Outcome::default() };
        jobs::set_status(db, id, first, Status::Failed, late).await.unwrap();
        assert_eq!(status().await, Status::Enabling);
        jobs::set_status(db, id, second, Status::Done, Outcome::default()).await.unwrap();
        assert_eq!(status().await, Status::Done);
        assert!(!is_lease_valid(db, id, second).await, "an ended job has no lease");
    })
    .await;
}

#[tokio::test]
async fn summary_export_lease_is_exclusive_until_it_expires() {
    with_tenant(async |db, _| {
        let request = json!({ "topic": "t", "eventType": "e" });
        let id = insert(db, JobKind::SummaryExport, &request, None).await;
        let [first, second] = [(); 2].map(|()| Lease::new(LEASE_TIME));
        let claims = async |lease| exports::claim(db, lease).await.unwrap().is_some();
        assert!(claims(first).await && !claims(second).await);
        assert!(is_lease_valid(db, id, first).await);
        db.execute("update mod_patron_blocks.job set lease_expires_at = now() - interval '1 s'")
            .await
            .unwrap();
        assert!(claims(second).await);
        assert!(is_lease_valid(db, id, second).await && !is_lease_valid(db, id, first).await);
    })
    .await;
}

#[tokio::test]
async fn kinds_of_jobs_share_no_row() {
    with_tenant(async |db, _| {
        let tenant = TenantId::parse(TENANT).unwrap();
        // The initial fill of the tenant.
        db.execute("delete from mod_patron_blocks.job").await.unwrap();
        let lease = || Lease::new(LEASE_TIME);
        let request = json!({ "source": "inbox" });
        let id = insert(db, JobKind::Rebuild, &request, None).await;
        assert!(claims::claim_tenant_job(db, lease()).await.unwrap().is_none());
        assert!(claims::claim_summary_export(db, lease()).await.unwrap().is_none());
        assert!(!exports::cancel(db, &tenant, id).await.unwrap());
        for kind in [JobKind::SummaryExport, JobKind::Tenant] {
            assert_eq!(jobs::find(db, kind, &tenant, id).await.unwrap(), None);
            assert_eq!(jobs::list(db, kind, &tenant, 9, 0).await.unwrap().1, 0);
            assert!(!jobs::delete(db, kind, &tenant, id).await.unwrap());
        }
        assert_eq!(claims::claim_rebuild(db, None, lease()).await.unwrap().unwrap().id, id);
        let id = insert(db, JobKind::Tenant, &request, None).await;
        assert!(claims::claim_rebuild(db, None, lease()).await.unwrap().is_none());
        assert!(!rebuilds::cancel(db, &tenant, id).await.unwrap());
        assert_eq!(claims::claim_tenant_job(db, lease()).await.unwrap().unwrap().id, id);
    })
    .await;
}

/// The inner query of a claim must run once, or a claim would exceed its limit.
#[tokio::test]
async fn claim_returns_oldest_jobs_within_its_limit() {
    with_tenant(async |db, _| {
        db.execute("delete from mod_patron_blocks.job").await.unwrap();
        let (tenant, request) = (&TenantId::parse(TENANT).unwrap(), &json!({ "source": "topics" }));
        let (kind, read_group) = (JobKind::Rebuild, Some("group"));
        let mut ids = Vec::new();
        for _ in 0..5 {
            let requested_by = "story";
            let job = NewJob { kind, tenant, request, requested_by, read_group, started: None };
            ids.push(jobs::insert(db, Uuid::new_v4(), job).await.unwrap().id);
        }
        let first = claims::claim_rebuild(db, None, Lease::new(LEASE_TIME)).await.unwrap();
        assert_eq!(first.unwrap().id, ids[0]);
        let lease = Lease::new(LEASE_TIME);
        let claimed = claims::claim_read_group(db, "group", 2, lease).await.unwrap();
        let mut claimed: Vec<Uuid> = claimed.iter().map(|job| job.id).collect();
        claimed.sort_by_key(|id| ids.iter().position(|other| other == id));
        assert_eq!(claimed, ids[1..3]);
    })
    .await;
}

#[tokio::test]
async fn cancelled_rebuild_stays_cancelled() {
    with_tenant(async |db, _| {
        let tenant = TenantId::parse(TENANT).unwrap();
        let lease = Lease::new(LEASE_TIME);
        for is_released in [true, false] {
            let id = insert(db, JobKind::Rebuild, &json!({ "source": "inbox" }), None).await;
            assert!(claims::claim_rebuild(db, Some(id), lease).await.unwrap().is_some());
            assert!(rebuilds::cancel(db, &tenant, id).await.unwrap());
            if is_released {
                rebuilds::release(db, id, lease, None).await.unwrap();
            } else {
                jobs::set_status(db, id, lease, Status::Reading, Outcome::default()).await.unwrap();
            }
            let found = jobs::find(db, JobKind::Rebuild, &tenant, id).await.unwrap().unwrap();
            assert!(found.ended_at.is_some(), "{is_released}: {found:?}");
            assert_eq!(found.status, Status::Cancelled);
            let mut tx = store::begin(db).await.unwrap();
            assert!(jobs::is_lease_lost(&mut tx, id, lease).await.unwrap(), "the job has an end");
        }
    })
    .await;
}
