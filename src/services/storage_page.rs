//! Pages of the storage modules as a snapshot (docs/contract/http-api.md#83-mapping).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    event::{Stamp, decode::storage_record},
    okapi::storage::StorageResource,
    patron::StateDelta,
};

/// Maximum difference between clocks. A snapshot counts from this time before the start of the read: a page may or
/// may not contain later changes (docs/contract/events.md#10-hazards). Later events apply as if the snapshot did not
/// exist.
pub(in crate::services) const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(5);

/// The decoded records of one page.
#[derive(Default)]
pub(in crate::services) struct StoragePage {
    /// The readable records.
    pub(in crate::services) delta: StateDelta,
    /// Ids of open records that lack required members; their stored state stays unchanged.
    pub(in crate::services) unread: Vec<Uuid>,
    /// Descriptions of the unreadable records.
    pub(in crate::services) problems: Vec<String>,
}

impl StoragePage {
    /// Decodes the records of a page into a snapshot of this instant.
    pub(in crate::services) fn decode(
        resource: StorageResource,
        page: &[Box<RawValue>],
        snapshot_at: DateTime<Utc>,
    ) -> Self {
        let mut decoded = Self::default();
        for record in page {
            let (kind, fact) = match resource {
                StorageResource::Loans => ("loan", storage_record::decode_loan(record.get())),
                StorageResource::Accounts => {
                    ("account", storage_record::decode_account(record.get()))
                }
            };
            let id = storage_record::record_id(record.get());
            match fact {
                Ok(fact) => {
                    let stamp =
                        fact.subject().map(|subject| Stamp::from_snapshot(snapshot_at, subject));
                    stamp.into_iter().for_each(|stamp| decoded.delta.apply_fact(stamp, &fact));
                }
                Err(reject) => {
                    decoded.unread.extend(id);
                    let id = id.map_or("without an id".to_owned(), |id| id.to_string());
                    decoded.problems.push(format!("{kind} {id} was skipped: {reject}"));
                }
            }
        }
        decoded
    }
}
