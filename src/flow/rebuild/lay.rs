//! Laying out in the shadow what was folded, and putting it together once all of the source was read.

use std::time::Instant;

use uuid::Uuid;

use super::{
    fold,
    work::{Failure, Work},
};
use crate::{
    patron::Said,
    store::{
        laid::{self, Laid},
        shadow,
    },
};

/// Entries in one statement.
const STATEMENT: usize = 10_000;

/// Ids that are looked for at once.
const FOUND: usize = 1_000_000;

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
        Reached::Inbox(key) => {
            shadow::keep_place(&mut tx, &work.shadow, "inbox", Some(key)).await?
        }
    }
    work.commit(tx).await
}

/// Makes one entry of what was laid out in parts, and has complete snapshots end what they don't hold. May be
/// repeated.
pub(super) async fn put_together(work: &Work) -> Result<(), Failure> {
    work.progress.begin("putting together", 0);
    let began = Instant::now();
    let mut tx = work.begin().await?;
    laid::make_findable(&mut tx, &work.shadow).await?;
    work.commit(tx).await?;
    work.pace.keep(began).await;
    join(work, Laid::Loans).await?;
    join(work, Laid::Fees).await?;
    let mut tx = work.begin().await?;
    laid::end(&mut tx, &work.shadow).await?;
    work.commit(tx).await
}

async fn join(work: &Work, of: Laid) -> Result<(), Failure> {
    loop {
        let mut tx = work.begin().await?;
        let found = laid::in_parts(&mut tx, &work.shadow, of, FOUND).await?;
        drop(tx);
        for ids in found.chunks(STATEMENT) {
            let began = Instant::now();
            let mut tx = work.begin().await?;
            laid::join(&mut tx, &work.shadow, of, ids).await?;
            work.commit(tx).await?;
            work.pace.keep(began).await;
        }
        if found.len() < FOUND {
            return Ok(());
        }
    }
}
