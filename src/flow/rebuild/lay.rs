//! Laying out in the shadow what was folded, and putting it together once all of the source was read.

use std::time::Instant;

use uuid::Uuid;

use super::{
    fold,
    work::{Failure, Work},
};
use crate::{
    patron::Said,
    store::{self, laid, shadow},
};

/// Entries in one statement.
const STATEMENT: usize = 2000;

/// Loans or fees/fines that are joined at once.
const PAGE: i64 = 2000;

/// How far reading has come with what is laid out.
pub(super) enum Reached {
    /// There is more up to there that is still held back.
    Nowhere,
    Topics(Vec<shadow::Reading>),
    Inbox(Uuid),
}

/// Adds what was folded to the shadow.
pub(super) async fn lay_out(work: &Work, mut said: Said, reached: Reached) -> Result<(), Failure> {
    let mut tx = work.begin().await?;
    while let Some(part) = fold::split(&mut said, STATEMENT) {
        let began = Instant::now();
        laid::add(&mut tx, &work.shadow, &part).await?;
        work.pace.keep(began).await;
    }
    match reached {
        Reached::Nowhere => {}
        Reached::Topics(parts) => shadow::set_reading(&mut tx, &work.shadow, &parts).await?,
        Reached::Inbox(key) => shadow::keep_place(&mut tx, &work.shadow, "inbox", key).await?,
    }
    Ok(store::commit(tx).await?)
}

/// Makes one entry of what was laid out in parts, and has complete snapshots end what they don't hold. May be
/// repeated.
pub(super) async fn put_together(work: &Work) -> Result<(), Failure> {
    work.progress.begin("putting together", 0);
    let began = Instant::now();
    let mut tx = work.begin().await?;
    laid::make_findable(&mut tx, &work.shadow).await?;
    store::commit(tx).await?;
    work.pace.keep(began).await;
    join(work, true).await?;
    join(work, false).await?;
    let mut tx = work.begin().await?;
    laid::end(&mut tx, &work.shadow).await?;
    Ok(store::commit(tx).await?)
}

/// Joins page by page, in the order of ids.
async fn join(work: &Work, is_loans: bool) -> Result<(), Failure> {
    let mut after = Uuid::nil();
    loop {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        let last = if is_loans {
            laid::join_loans(&mut tx, &work.shadow, after, PAGE).await?
        } else {
            laid::join_fees(&mut tx, &work.shadow, after, PAGE).await?
        };
        store::commit(tx).await?;
        work.pace.keep(began).await;
        match last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}
