//! The number of patrons with open items per patron group, for the settings check.

use std::collections::HashMap;

use sqlx::PgExecutor;

use super::patrons::newer_group;
use crate::store::{Error, Schema, Statement};

/// Counts the patrons with open loans or fees/fines of some patron groups, whose ids are in lower case. It reads
/// one row per patron and no loan. The newer of both sources determines the group, as in an evaluation.
const COUNT_PATRONS: Statement = Statement::new(concat!(
    "select patron_group, count(*) as patrons
       from {schema}.patron_counter c
       join (select user_id, lower(",
    newer_group!(),
    ") as patron_group
               from {schema}.patron) p using (user_id)
      where patron_group = any($1) and (c.open_loans > 0 or c.open_fees_fines > 0)
      group by patron_group",
));

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&COUNT_PATRONS];

/// Returns the number of patrons with open items by patron group; a group without such patrons is missing. Patrons
/// without a known group count for no group.
pub async fn count_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    groups: &[String],
) -> Result<HashMap<String, i64>, Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(schema.sql(&COUNT_PATRONS))
        .bind(groups)
        .fetch_all(db)
        .await
        .map_err(Error::at("count the patrons of patron groups"))?;
    Ok(rows.into_iter().collect())
}
