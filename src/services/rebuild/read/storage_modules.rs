//! Read of the storage modules into the shadow, page by page (docs/contract/http-api.md#82-jobs,
//! docs/contract/http-api.md#83-mapping).
//!
//! The snapshot time is before the start of the read by [`CLOCK_SKEW_MAX`].

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use crate::{
    event::{decode::storage_record, stamp::Horizon},
    logging::ErrorChain,
    okapi::{
        Caller,
        storage::{PAGE_RECORDS_MAX, StorageResource},
    },
    services::{
        rebuild::{context::RebuildContext, error::RebuildError},
        storage_page::{CLOCK_SKEW_MAX, StoragePage},
    },
    store::rebuild::{rebuilds, shadow, shadow_load},
};

/// Delay before the first retry of a page; each retry doubles the delay.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Number of timed-out attempts that fit into the page timeout.
const PAGE_ATTEMPTS: u32 = 3;

/// Reads the remaining pages. The recorded horizon closes every record in scope that the pages do not
/// contain.
pub(in crate::services::rebuild) async fn read(
    context: &RebuildContext,
    state: &shadow::ShadowState,
) -> Result<(), RebuildError> {
    let Some(caller) = &context.caller else {
        return Err(RebuildError::TokenRejected("no token is available".to_owned()));
    };
    let snapshot_at = state.read_started_at - CLOCK_SKEW_MAX;
    let mut tx = context.begin().await?;
    shadow::record_horizon(
        &mut tx,
        &context.shadow,
        context.request.scope,
        Horizon::at(snapshot_at),
    )
    .await?;
    context.commit(tx).await?;
    // The loans are read first.
    let scanned = |resource: StorageResource| {
        let is_scanned = state.scanned_source.as_deref() == Some(resource.name());
        is_scanned.then_some(state.scanned_up_to)
    };
    let accounts_scanned = scanned(StorageResource::Accounts);
    if accounts_scanned.is_none() {
        let after = scanned(StorageResource::Loans).flatten();
        read_resource(context, caller, StorageResource::Loans, after, snapshot_at).await?;
    }
    let after = accounts_scanned.flatten();
    read_resource(context, caller, StorageResource::Accounts, after, snapshot_at).await
}

async fn read_resource(
    context: &RebuildContext,
    caller: &Caller,
    resource: StorageResource,
    mut after: Option<Uuid>,
    snapshot_at: DateTime<Utc>,
) -> Result<(), RebuildError> {
    let stage_name = match resource {
        StorageResource::Loans => "reading loans",
        StorageResource::Accounts => "reading fees/fines",
    };
    context.progress.start_stage(stage_name, 0);
    loop {
        // Other rebuilds use the slot during the request.
        context.run_slot.release();
        let page = fetch_page(context, caller, resource, after).await?;
        context.run_slot.acquire().await;
        let began = Instant::now();
        let last = page.last().and_then(|record| storage_record::record_id(record.get()));
        let is_last = page.len() < PAGE_RECORDS_MAX;
        if !is_last && last <= after {
            let name = resource.name();
            return Err(RebuildError::Fatal(format!(
                "the pages of {name} are not in the order of ids"
            )));
        }
        let StoragePage { delta, unread, problems } =
            StoragePage::decode(resource, &page, snapshot_at);
        let mut tx = context.begin().await?;
        shadow::record_unreadable(&mut tx, &context.shadow, &unread).await?;
        shadow_load::append(&mut tx, &context.shadow, &delta).await?;
        shadow::record_scan_position(&mut tx, &context.shadow, resource.name(), last.or(after))
            .await?;
        rebuilds::record_read(
            &mut tx,
            context.id,
            (delta.loans.len(), delta.fees.len()),
            &problems,
        )
        .await?;
        context.commit(tx).await?;
        context.progress.add(page.len() as u64);
        if is_last {
            return Ok(());
        }
        after = last;
        context.throttle.rest_after(began).await;
    }
}

/// Requests a page, with retries until the page timeout.
async fn fetch_page(
    context: &RebuildContext,
    caller: &Caller,
    resource: StorageResource,
    after: Option<Uuid>,
) -> Result<Vec<Box<RawValue>>, RebuildError> {
    let (began, page_timeout) = (Instant::now(), context.config.page_timeout);
    let mut pause = RETRY_DELAY;
    loop {
        let timeout =
            (page_timeout / PAGE_ATTEMPTS).min(page_timeout.saturating_sub(began.elapsed()));
        let error = match context
            .storage
            .fetch_page(caller, resource, context.request.scope, after, timeout)
            .await
        {
            Ok(page) => return Ok(page),
            Err(error) if error.is_token_rejected() => {
                return Err(RebuildError::TokenRejected(format!("{} {error}", resource.name())));
            }
            Err(error) if error.is_permanent() => {
                return Err(RebuildError::Fatal(format!("{} {error}", resource.name())));
            }
            Err(error) => error,
        };
        let (name, problem) = (resource.name(), ErrorChain(&error).to_string());
        if began.elapsed() + pause >= page_timeout {
            let seconds = page_timeout.as_secs();
            let problem =
                format!("a page of {name} could not be read within {seconds} s: {problem}");
            return Err(RebuildError::Fatal(problem));
        }
        warn!(tenant = %context.tenant.id, rebuild.id = %context.id, problem, "rebuild: could not read a page of {name} from storage; retrying");
        sleep(pause).await;
        pause *= 2;
    }
}
