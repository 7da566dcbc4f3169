//! The dry run of a retry: which parked records could be applied now, and for which patrons that changes what they may
//! do. The records are merged in a transaction that is never committed, so the preview follows the rules of ingest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    evaluation::{known_blocks::known_blocks, policy::Policy},
    tenants::Tenant,
};
use crate::{
    blocks::Actions,
    cql::{Condition, Query},
    event::{DecodeOutcome, Environment, Event, Record, decode_record},
    patron::StateDelta,
    store::{
        self, Connection, Db, Savepoint, Schema, Tx, Verdict,
        ingest::{
            dead_letters::{self, StoredDeadLetter},
            inbox::{self, ClaimHint},
        },
        state::{merge, subjects},
        tenants,
    },
};

/// Largest number of records that a preview reads.
pub const RECORDS_MAX: usize = 1_000;

/// Time after which a preview reads no further record.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Time after which a preview merges no further record one by one. Other writers wait meanwhile.
const MERGE_TIMEOUT: Duration = Duration::from_millis(500);

/// Records per page of the list.
const PAGE_RECORDS: i64 = 100;

/// The rule of a record that the database refuses.
const REFUSED: &str = "the database refuses to store the record";

/// What a retry would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryPreview {
    /// Number of records that the preview read.
    pub read: usize,
    /// Whether further records match.
    pub has_more: bool,
    /// Number of records that would be applied, including those without an effect.
    pub applicable: usize,
    /// Number of records that would stay parked, by the rule that they break.
    pub rejected: BTreeMap<String, usize>,
    /// Number of records that delete all loans. The preview does not try them, because it would lock the tenant.
    pub deleting_all_loans: usize,
    /// Number of records for which no time was left.
    pub untried: usize,
    /// The patrons whose loans, fees or group the records name, by id.
    pub patrons: BTreeMap<Uuid, PatronChange>,
}

/// What a patron may not do before and after the retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatronChange {
    /// The blocked actions now.
    pub before: Actions,
    /// The blocked actions after the retry.
    pub after: Actions,
    /// Whether the patron group is known. Without it, no limit can be compared.
    pub has_group: bool,
}

impl RetryPreview {
    /// Returns the number of patrons who could do more after the retry.
    pub fn unblocked(&self) -> usize {
        self.count(|change| !change.before.difference(change.after).is_empty())
    }

    /// Returns the number of patrons who could do less after the retry.
    pub fn newly_blocked(&self) -> usize {
        self.count(|change| !change.after.difference(change.before).is_empty())
    }

    /// Returns the number of patrons whose blocks are unknown, because no event named their group.
    pub fn without_group(&self) -> usize {
        self.count(|change| !change.has_group)
    }

    fn count(&self, is_counted: impl Fn(&PatronChange) -> bool) -> usize {
        self.patrons.values().filter(|change| is_counted(change)).count()
    }

    fn reject(&mut self, rule: impl Into<String>) {
        *self.rejected.entry(rule.into()).or_default() += 1;
    }
}

/// A record that can be decoded, without its bytes.
type Decoded = (Record, Event);

/// What parked records mean for patrons if they are discarded: those whom they name, and what these may not do now.
pub type NamedPatrons = BTreeMap<Uuid, Actions>;

/// Returns the patrons whom the records of `tenant` that match `condition` name, of at most [`RECORDS_MAX`] records, and
/// whether further records match. A patron without a known group has no blocked action.
pub async fn named_patrons(
    db: &Db,
    tenant: &Tenant,
    condition: Condition,
    now: DateTime<Utc>,
) -> Result<(NamedPatrons, bool), store::Error> {
    let (schema, query) = (&tenant.schema, Query::from(condition));
    let limit = i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX);
    store::read(db, async |db| {
        let heads = dead_letters::list(&mut *db, schema, &query, None, (0, limit + 1)).await?;
        let has_more = heads.len() > RECORDS_MAX;
        let ids: Vec<Uuid> = heads.iter().take(RECORDS_MAX).map(|head| head.id).collect();
        let pairs = subjects::patrons_of_dead_letters(&mut *db, schema, &ids).await?;
        let users: BTreeSet<Uuid> = pairs.into_iter().map(|(_, user)| user).collect();
        let users: Vec<Uuid> = users.into_iter().collect();
        let policy = Policy::load(&mut *db, schema).await?;
        let blocks = known_blocks(db, schema, &policy, &users, now).await?;
        let named = users.into_iter().map(|user| (user, blocks.get(&user).copied()));
        Ok((named.map(|(user, known)| (user, known.unwrap_or(Actions::NONE))).collect(), has_more))
    })
    .await
}

/// Returns what a retry of the records of `tenant` that match `condition` would change, of at most [`RECORDS_MAX`]
/// records. `environment` determines the names of topics.
pub async fn preview_retry(
    db: &Db,
    environment: &Environment,
    tenant: &Tenant,
    condition: Condition,
    now: DateTime<Utc>,
) -> Result<RetryPreview, store::Error> {
    let (mut preview, schema) = (RetryPreview::default(), &tenant.schema);
    let decoded = read(db, environment, schema, condition, &mut preview).await?;
    let policy = store::read(db, async |db| Policy::load(db, schema).await).await?;
    // From here on, other writers may wait.
    let mut tx = store::begin_trial(db).await?;
    tenants::lock_shared(&mut tx, &tenant.id).await?;
    let ids: Vec<Uuid> = decoded.iter().filter_map(|(_, event)| event.fact.subject()).collect();
    let mut users: BTreeSet<Uuid> =
        decoded.iter().filter_map(|(_, event)| event.fact.user()).collect();
    // A record may name a loan and no patron, and it may give a loan to another patron.
    users.extend(subjects::owners(&mut *tx, schema, &ids).await?);
    merge_all(&mut tx, schema, &decoded, &mut preview).await?;
    users.extend(subjects::owners(&mut *tx, schema, &ids).await?);
    let users: Vec<Uuid> = users.into_iter().collect();
    let after = known_blocks(&mut tx, schema, &policy, &users, now).await?;
    store::roll_back(tx).await?;
    let read = async |db: &mut Connection| known_blocks(db, schema, &policy, &users, now).await;
    let before = store::read(db, read).await?;
    preview.patrons = users
        .into_iter()
        .map(|user| {
            let of = |side: &HashMap<Uuid, Actions>| side.get(&user).copied();
            let (before, after) = (of(&before), of(&after));
            let has_group = after.is_some();
            let (before, after) = (before.unwrap_or(Actions::NONE), after.unwrap_or(Actions::NONE));
            (user, PatronChange { before, after, has_group })
        })
        .collect();
    Ok(preview)
}

/// Reads and decodes the matching records until the deadline.
async fn read(
    db: &Db,
    environment: &Environment,
    schema: &Schema,
    condition: Condition,
    preview: &mut RetryPreview,
) -> Result<Vec<Decoded>, store::Error> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let query = Query::from(condition);
    let (mut decoded, mut after) = (Vec::new(), None);
    loop {
        let heads = store::read(db, async |db| {
            dead_letters::list(db, schema, &query, after, (0, PAGE_RECORDS)).await
        })
        .await?;
        if heads.is_empty() {
            return Ok(decoded);
        }
        for head in heads {
            if preview.read == RECORDS_MAX || Instant::now() > deadline {
                preview.has_more = true;
                return Ok(decoded);
            }
            after = Some(head.id);
            // One record at a time, because each may have megabytes.
            let found =
                store::read(db, async |db| dead_letters::find(db, schema, head.id).await).await?;
            let Some(letter) = found else { continue };
            preview.read += 1;
            match decode_letter(environment, letter) {
                Ok(Some((_, event))) if event.fact.subject().is_none() => {
                    preview.deleting_all_loans += 1;
                }
                Ok(Some(event)) => decoded.push(event),
                Ok(None) => preview.applicable += 1,
                Err(rule) => preview.reject(rule),
            }
        }
    }
}

/// Decodes a parked record; `None` if the record has no effect by now, and the broken rule if it stays parked.
fn decode_letter(
    environment: &Environment,
    letter: StoredDeadLetter,
) -> Result<Option<Decoded>, String> {
    let StoredDeadLetter { mut record, cluster, .. } = letter;
    let Some(topic) = environment.parse(&record.position.topic) else {
        return Err("the current settings exclude the topic of the record".to_owned());
    };
    match decode_record(&record, &topic, &cluster) {
        DecodeOutcome::Event(_, event) => {
            record.payload = Some(Vec::new());
            record.headers = Vec::new();
            Ok(Some((record, *event)))
        }
        DecodeOutcome::Skipped(_) | DecodeOutcome::Tombstone => Ok(None),
        DecodeOutcome::Rejected(_, reject) => Err(reject.to_string()),
    }
}

/// Merges the records. If the database refuses one of them, merges them one by one.
async fn merge_all(
    tx: &mut Tx,
    schema: &Schema,
    decoded: &[Decoded],
    preview: &mut RetryPreview,
) -> Result<(), store::Error> {
    let deadline = Instant::now() + MERGE_TIMEOUT;
    if try_merge(tx, schema, decoded).await? {
        preview.applicable += decoded.len();
        return Ok(());
    }
    for (index, one) in decoded.iter().enumerate() {
        if Instant::now() > deadline {
            preview.untried = decoded.len() - index;
            return Ok(());
        }
        if try_merge(tx, schema, std::slice::from_ref(one)).await? {
            preview.applicable += 1;
        } else {
            preview.reject(REFUSED);
        }
    }
    Ok(())
}

/// Merges records as ingest does; returns `false` and undoes it if the database refuses one of them.
async fn try_merge(
    tx: &mut Tx,
    schema: &Schema,
    decoded: &[Decoded],
) -> Result<bool, store::Error> {
    if decoded.is_empty() {
        return Ok(true);
    }
    store::savepoint(tx, Savepoint::Set).await?;
    let merged = async {
        let events: Vec<(&Record, &Event)> =
            decoded.iter().map(|(record, event)| (record, event)).collect();
        let mut new_keys = inbox::claim(tx, schema, &events, ClaimHint::New).await?;
        let new = events.iter().map(|(_, event)| *event);
        let delta = StateDelta::from_events(new.filter(|event| new_keys.remove(&event.key)));
        merge::apply(tx, schema, &delta).await
    };
    match merged.await {
        Ok(()) => Ok(true),
        Err(error) if error.verdict() == Verdict::Refused => {
            store::savepoint(tx, Savepoint::RollBack).await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
