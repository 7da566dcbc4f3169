//! A random log: events of few patrons, in the shapes of real producers, in a few partitions; and a
//! group with its offsets.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use patron_blocks::{
    event::{Environment, Kind, Record, RecordPosition, Topic, TopicPartition},
    kafka::offsets::{CommittedOffset, Watermarks},
};
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::history::noon;

pub(super) const CLUSTER: &str = "simulated";

/// The tenant that is always enabled, and the tenant that is enabled and disabled repeatedly.
pub(super) const NORTH: &str = "north";
pub(super) const SOUTH: &str = "south";

/// The partitions with their records, and the offsets and owners of the group.
pub(super) struct Log {
    pub(super) partitions: BTreeMap<TopicPartition, Vec<Record>>,
    pub(super) topics: BTreeMap<Arc<str>, Arc<Topic>>,
    /// The instance that owns each partition in the group's view.
    pub(super) owners: BTreeMap<TopicPartition, usize>,
    pub(super) committed: BTreeMap<TopicPartition, CommittedOffset>,
}

fn id(kind: u128, n: u32) -> Uuid {
    uuid::Builder::from_random_bytes((kind << 64 | u128::from(n)).to_be_bytes()).into_uuid()
}

fn instant(chance: &mut ChaCha8Rng) -> DateTime<Utc> {
    // Few distinct instants make ties common.
    noon() + chrono::TimeDelta::milliseconds(chance.random_range(0..12))
}

fn date(chance: &mut ChaCha8Rng) -> String {
    let day = chance.random_range(10..28);
    format!("2026-09-{day}T21:59:59.000Z")
}

fn payload(kind: Kind, chance: &mut ChaCha8Rng) -> Value {
    let (loan, user) = (id(1, chance.random_range(0..4)), id(2, chance.random_range(0..3)));
    match kind {
        Kind::ItemCheckedOut => json!({ "loanId": loan, "userId": user, "dueDate": date(chance) }),
        Kind::LoanDueDateChanged => json!({
            "loanId": loan, "userId": user, "dueDate": date(chance),
            "dueDateChangedByRecall": chance.random::<bool>(),
        }),
        Kind::FeeFineBalanceChanged => {
            let balance = [0.0, 0.0, 5.0, 12.55].choose(chance).unwrap();
            let mut fee =
                json!({ "feeFineId": id(3, chance.random_range(0..3)), "balance": balance });
            if chance.random_bool(0.8) {
                fee["userId"] = json!(user);
            }
            fee
        }
        Kind::StoredLoan => {
            let item = ["Checked out", "Declared lost", "Claimed returned"].choose(chance).unwrap();
            let status = ["Open", "Open", "Closed"].choose(chance).unwrap();
            json!({
                "id": loan, "userId": user, "status": { "name": status }, "itemStatus": item,
                "dueDate": date(chance), "dueDateChangedByRecall": chance.random::<bool>(),
            })
        }
        Kind::StoredUser => {
            let mut stored = json!({ "id": user });
            if chance.random_bool(0.8) {
                stored["patronGroup"] = json!(["students", "staff"].choose(chance).unwrap());
            }
            stored
        }
        _ => json!({ "loanId": loan, "userId": user }),
    }
}

/// Returns the change of a loan or a user as storage modules publish it.
fn change(kind: Kind, tenant: &str, chance: &mut ChaCha8Rng) -> Value {
    let entity = payload(kind, chance);
    let (done, data) = match chance.random_range(0..20) {
        0..4 => ("CREATED", json!({ "new": entity })),
        4..14 => ("UPDATED", json!({ "old": entity, "new": entity })),
        14..17 => ("DELETED", json!({ "old": entity })),
        17..19 if kind == Kind::StoredLoan => ("ALL_DELETED", json!({})),
        _ => ("REINDEX", json!({ "new": entity })),
    };
    let mut change = json!({ "type": done, "tenant": tenant, "data": data });
    if chance.random_bool(0.8) {
        change["id"] = json!(Uuid::from_u128(chance.random()));
    }
    if chance.random_bool(0.8) {
        change["timestamp"] = json!(instant(chance).timestamp_millis());
    }
    change
}

fn value(kind: Kind, tenant: &str, chance: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let flat = payload(kind, chance);
    let value = match chance.random_range(0..20) {
        0 => return None,
        1 => return Some(b"{\"loanId\":1}".to_vec()),
        _ if !Kind::BUSINESS.contains(&kind) => change(kind, tenant, chance),
        2..10 => flat,
        10..13 => {
            json!({ "id": Uuid::from_u128(chance.random()), "type": "CREATED", "data": flat })
        }
        _ => json!({
            "id": Uuid::from_u128(chance.random()), "type": "CREATED", "tenant": tenant,
            "timestamp": instant(chance).timestamp_millis(), "data": flat,
        }),
    };
    Some(value.to_string().into_bytes())
}

impl Log {
    /// Returns a log of at most `most` records of some of these kinds.
    pub(super) fn random(chance: &mut ChaCha8Rng, of: &[Kind], records_max: usize) -> Self {
        let environment = Environment::new(Some("sim"));
        let mut log = Self {
            partitions: BTreeMap::new(),
            topics: BTreeMap::new(),
            owners: BTreeMap::new(),
            committed: BTreeMap::new(),
        };
        let kinds: Vec<Kind> = of.choose_multiple(chance, 4).copied().collect();
        let mut names = Vec::new();
        for kind in kinds {
            for (owner, share) in [(NORTH, 1.0), (SOUTH, 0.5), ("ALL", 0.5)] {
                if chance.random_bool(share) {
                    let name = format!("sim.{owner}.{}.{}", kind.producer(), kind.name());
                    names.push((Arc::<str>::from(name), kind, owner));
                }
            }
        }
        for (name, ..) in &names {
            let topic = environment.parse(name).expect("the name is a topic name");
            log.topics.insert(name.clone(), Arc::new(topic));
            for partition in 0..chance.random_range(1..3) {
                log.partitions.insert((name.clone(), partition), Vec::new());
            }
        }
        for _ in 0..chance.random_range(1..=records_max) {
            let (name, kind, owner) = names.choose(chance).unwrap();
            log.append(name, *kind, owner, chance);
        }
        log
    }

    fn append(&mut self, name: &Arc<str>, kind: Kind, owner: &str, chance: &mut ChaCha8Rng) {
        let partitions = self.partitions.keys().filter(|(topic, _)| topic == name).count() as i32;
        let partition = chance.random_range(0..partitions);
        let tenant = match owner {
            // `SOUTH` has topics of its own.
            "ALL" => NORTH,
            tenant => tenant,
        };
        let mut headers = Vec::new();
        if owner == "ALL" || chance.random() {
            // Sometimes the header names another tenant than the topic.
            let named = if chance.random_bool(0.05) { "other" } else { tenant };
            headers.push(("folio.tenantId".to_owned(), named.as_bytes().to_vec()));
        }
        let log = self.partitions.get_mut(&(name.clone(), partition)).unwrap();
        // Sometimes an earlier record is published again, at another time.
        let copied = log.choose(chance).filter(|_| chance.random_bool(0.15)).cloned();
        let position = RecordPosition { topic: name.clone(), partition, offset: log.len() as i64 };
        let timestamp = Some(instant(chance));
        log.push(match copied {
            Some(before) => Record { position, timestamp, ..before },
            None => {
                let payload = value(kind, tenant, chance);
                Record { position, timestamp, key: None, headers, payload }
            }
        });
    }

    pub(super) fn span(&self, at: &TopicPartition) -> Watermarks {
        Watermarks { low: 0, high: self.partitions[at].len() as i64 }
    }

    /// Commits an offset, if the group considers the instance the owner of the partition.
    pub(super) fn commit(
        &mut self,
        instance: usize,
        at: &TopicPartition,
        committed: CommittedOffset,
    ) {
        if self.owners.get(at) == Some(&instance) {
            self.committed.insert(at.clone(), committed);
        }
    }
}
