//! Incidents about a rebuild, as opposed to incidents about a topic.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Rebuild;
use crate::store::{Error, Tx, ingest::incidents::IncidentKind};

/// Raises an incident about a rebuild, or reopens the resolved incident. An open incident remains
/// unchanged.
pub async fn raise(
    tx: &mut Tx,
    kind: IncidentKind,
    of: &Rebuild,
    detail: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let name = format!("{}/{}", kind.name(), of.id);
    sqlx::query(
        "insert into mod_patron_blocks.incident as t (
           incident_id, kind, tenant, topic, partition, from_offset, to_offset, detail, raised_at, rebuild_id)
         values ($1, $2, $3, '', -1, 0, 0, $4, $5, $6)
         on conflict (incident_id) do update set
           detail = excluded.detail, raised_at = excluded.raised_at, resolved_at = null, resolved_by = null
           where t.resolved_at is not null",
    )
    .bind(Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()))
    .bind(kind.name())
    .bind(of.tenant.as_str())
    .bind(detail)
    .bind(now)
    .bind(of.id)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("raise an incident about a rebuild"))?;
    Ok(())
}

/// Resolves all incidents about a rebuild that has ended.
pub async fn resolve(tx: &mut Tx, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let set = "update mod_patron_blocks.incident set resolved_at = $2, resolved_by = $3
                where rebuild_id = $1 and resolved_at is null";
    let done = sqlx::query(set).bind(id).bind(now).bind(by).execute(&mut **tx).await;
    done.map(|_| ()).map_err(Error::at("resolve the incidents about a rebuild"))
}

/// Resolves the incidents of earlier incomplete repairs, as far as this rebuild covers the same patrons.
pub async fn resolve_incomplete_repairs(
    tx: &mut Tx,
    by: &Rebuild,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let user = by.request.get("userId").and_then(serde_json::Value::as_str);
    sqlx::query(
        "update mod_patron_blocks.incident i set resolved_at = $4, resolved_by = 'rebuild ' || $5::text
          where i.tenant = $1 and i.kind = $2 and i.resolved_at is null
            and ($3::text is null
                 or exists (select from mod_patron_blocks.job r
                             where r.id = i.rebuild_id and r.request ->> 'userId' = $3))",
    )
    .bind(by.tenant.as_str())
    .bind(IncidentKind::RepairIncomplete.name())
    .bind(user)
    .bind(now)
    .bind(by.id.to_string())
    .execute(&mut **tx)
    .await
    .map_err(Error::at("resolve the incidents of earlier repairs"))?;
    Ok(())
}
