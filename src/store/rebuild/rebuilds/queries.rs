//! Queries for rebuilds by id and by tenant.

use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::Rebuild;
use crate::{
    event::TenantId,
    store::{Error, Tx},
};

/// Returns a rebuild of the tenant.
pub async fn find(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<Option<Rebuild>, Error> {
    const FIND: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.rebuild where id = $1 and tenant = $2"
    );
    let found = sqlx::query_as(FIND).bind(id).bind(tenant.as_str());
    found.fetch_optional(db).await.map_err(Error::at("find a rebuild"))
}

/// Returns the existing rebuilds among `ids`, ordered by tenant.
pub async fn find_all(db: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Rebuild>, Error> {
    const FIND_ALL: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.rebuild where id = any($1) order by tenant"
    );
    let found = sqlx::query_as(FIND_ALL).bind(ids).fetch_all(db).await;
    found.map_err(Error::at("find rebuilds"))
}

/// Returns a page of the tenant's rebuilds, the newest first, and the total number of rebuilds.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Rebuild>, i64), Error> {
    #[derive(FromRow)]
    struct Counted {
        #[sqlx(flatten)]
        rebuild: Rebuild,
        total: i64,
    }
    const LIST: &str = concat!(
        "select ",
        columns!(),
        ", count(*) over () as total from mod_patron_blocks.rebuild
          where tenant = $1 order by requested_at desc, id limit $2 offset $3"
    );
    let found = sqlx::query_as(LIST).bind(tenant.as_str());
    let found: Vec<Counted> =
        found.bind(limit).bind(offset).fetch_all(db).await.map_err(Error::at("list rebuilds"))?;
    let total = found.first().map_or(0, |counted| counted.total);
    Ok((found.into_iter().map(|counted| counted.rebuild).collect(), total))
}

/// Returns the ids of all rebuilds of a tenant.
pub async fn list_ids(tx: &mut Tx, tenant: &TenantId) -> Result<Vec<Uuid>, Error> {
    let all = sqlx::query_scalar("select id from mod_patron_blocks.rebuild where tenant = $1");
    let all = all.bind(tenant.as_str()).fetch_all(&mut **tx).await;
    all.map_err(Error::at("list the rebuilds of a tenant"))
}
