//! Tests of the written records, with a reader that is independent of the model.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::payload::double;
use super::*;
use crate::model::{Charge, GracePeriod, Interval, Settings, Truth};
use crate::service::Summary;

fn end() -> DateTime<Utc> {
    "2026-09-15T00:00:00Z".parse().expect("the text is a time")
}

fn settings(seed: u64) -> Settings {
    Settings { patrons: 300, ..Settings::new(seed, end()) }
}

fn wire(shape: Shape) -> Wire {
    Wire { shape, ..Wire::new("folio", "northlib") }
}

fn json_of(record: &Record) -> Value {
    serde_json::from_slice(&record.payload).expect("a value is JSON")
}

fn event(what: Fact) -> Event {
    let staff = Uuid::from_u128(7);
    Event { at: "2026-09-01T10:20:30.123Z".parse().expect("the text is a time"), staff, fact: what }
}

fn written(shape: Shape, what: Fact) -> (Record, Value) {
    let record = RecordWriter::new(&wire(shape), rng_for(1, 1)).record(&event(what));
    let record = record.expect("the event is a business event");
    let value = json_of(&record);
    (record, value)
}

fn check_out() -> Fact {
    Fact::CheckedOut {
        loan: Uuid::from_u128(1),
        patron: Uuid::from_u128(2),
        item: Uuid::from_u128(3),
        due: "2026-09-14T21:59:59Z".parse().expect("the text is a time"),
        grace: Some(GracePeriod::new(2, Interval::Days)),
    }
}

#[test]
fn a_check_out_in_every_shape() {
    let flat = json!({
        "userId": "00000000-0000-0000-0000-000000000002",
        "loanId": "00000000-0000-0000-0000-000000000001",
        "dueDate": "2026-09-14T21:59:59.000Z",
        "gracePeriod": { "duration": 2, "intervalId": "Days" },
    });
    let (record, value) = written(Shape::Flat, check_out());
    assert_eq!(value, flat);
    assert_eq!(&*record.topic, "folio.northlib.circulation.ITEM_CHECKED_OUT");
    assert_eq!(record.timestamp_ms, 1_788_258_030_123);
    assert_eq!(record.key.parse::<Uuid>().map(|key| key.get_version_num()), Ok(4));

    for (shape, data) in [
        (Shape::Real, flat.clone()),
        (Shape::Enveloped, flat.clone()),
        (Shape::Wrapped, json!({ "map": flat, "empty": false })),
    ] {
        let (_, mut value) = written(shape, check_out());
        let id = value["id"].take().as_str().and_then(|id| id.parse::<Uuid>().ok());
        assert_eq!(id.map(|id| id.get_version_num()), Some(4));
        let envelope = json!({
            "id": null,
            "type": "CREATED",
            "tenant": "northlib",
            "timestamp": 1_788_258_030_123_i64,
            "data": data,
        });
        assert_eq!(value, envelope);
    }
}

#[test]
fn a_fee_is_flat_and_its_key_is_its_event() {
    let charge = Charge {
        patron: Uuid::from_u128(2),
        fee_type: Uuid::from_u128(5),
        loan: Some(Uuid::from_u128(1)),
    };
    let (fee, balance) = (Uuid::from_u128(4), Decimal::new(1255, 2));
    let write_balance =
        |balance, about| written(Shape::Real, Fact::BalanceChanged { fee, balance, charge: about });
    let (record, value) = write_balance(balance, Some(charge));
    assert_eq!(record.key, "FEE_FINE_BALANCE_CHANGED");
    assert_eq!(&*record.topic, "folio.northlib.feesfines.FEE_FINE_BALANCE_CHANGED");
    assert_eq!(
        value.to_string(),
        json!({
            "userId": "00000000-0000-0000-0000-000000000002",
            "feeFineId": "00000000-0000-0000-0000-000000000004",
            "feeFineTypeId": "00000000-0000-0000-0000-000000000005",
            "loanId": "00000000-0000-0000-0000-000000000001",
            "balance": 12.55,
        })
        .to_string()
    );
    let (record, _) = write_balance(Decimal::ZERO, None);
    let deleted = r#"{"feeFineId":"00000000-0000-0000-0000-000000000004","balance":0.0}"#;
    assert_eq!(record.payload, deleted.as_bytes());
}

#[test]
fn headers_have_the_spelling_of_real_senders() {
    let (record, _) = written(Shape::Real, check_out());
    let names: Vec<_> = record.headers.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "folio.tenantId",
            "x-okapi-tenant",
            "x-okapi-url",
            "x-okapi-token",
            "x-okapi-request-id",
            "x-okapi-user-id"
        ]
    );
    assert_eq!(&*record.headers[0].1, "northlib");
}

#[test]
fn topic_names_have_environment_and_tenant_or_collection() {
    let names = |wire: Wire| wire.topics()[7].name.clone();
    let wire = Wire::new("prod1", "northlib");
    assert_eq!(names(wire.clone()), "prod1.northlib.feesfines.FEE_FINE_BALANCE_CHANGED");
    let shared = Wire { collection: Some("ALL".to_owned()), ..wire };
    assert_eq!(names(shared), "prod1.ALL.feesfines.FEE_FINE_BALANCE_CHANGED");
    let with_storage = Wire { storage: true, ..Wire::new("prod1", "northlib") };
    let stored: Vec<_> =
        with_storage.topics().into_iter().skip(8).map(|topic| topic.name).collect();
    assert_eq!(stored, ["prod1.northlib.circulation.loan", "prod1.northlib.users.users"]);
    let bare = Wire::new("", "northlib");
    assert_eq!(names(bare.clone()), "northlib.feesfines.FEE_FINE_BALANCE_CHANGED");
    let partitions: Vec<_> = bare.topics().iter().map(|topic| topic.partitions).collect();
    assert_eq!(partitions, [10, 10, 10, 10, 10, 10, 10, 1]);
}

#[test]
fn balances_look_like_doubles() {
    for (cents, text) in [
        (0, "0.0"),
        (1250, "12.5"),
        (1255, "12.55"),
        (1000, "10.0"),
        (999_999_999, "9999999.99"),
        (1_000_000_000, "1.0E7"),
        (1_250_000_000, "1.25E7"),
        (1_234_567_890, "1.23456789E7"),
        (-550, "-5.5"),
    ] {
        assert_eq!(double(Decimal::new(cents, 2)), text);
    }
}

#[test]
fn the_same_seed_writes_the_same_records() {
    let faults = Faults { lose: 0.05, repeat: 0.1, delay: 0.1, delay_by: 300, reorder: 50 };
    let play = || Play::in_memory(&settings(8), &wire(Shape::Mixed), faults);
    assert_eq!(play(), play());
}

#[test]
fn faults_touch_neither_the_truth_nor_a_record() {
    let calm = Play::in_memory(&settings(6), &wire(Shape::Mixed), Faults::NONE);
    let faults = Faults { repeat: 0.2, delay: 0.1, delay_by: 800, reorder: 60, lose: 0.0 };
    let rough = Play::in_memory(&settings(6), &wire(Shape::Mixed), faults);
    assert_eq!(calm.1, rough.1);
    assert!(calm.0.is_sorted_by_key(|record| record.timestamp_ms));
    assert!(!rough.0.is_sorted_by_key(|record| record.timestamp_ms));
    assert!(rough.0.len() > calm.0.len() * 11 / 10);
    let set = |records: Vec<Record>| records.into_iter().map(|one| one.payload).collect();
    let (calm, rough): (BTreeSet<_>, BTreeSet<_>) = (set(calm.0), set(rough.0));
    assert_eq!(calm, rough);

    let lossy = Faults { lose: 0.3, ..Faults::NONE };
    let (left, _) = Play::in_memory(&settings(6), &wire(Shape::Mixed), lossy);
    assert!(left.len() < calm.len() * 8 / 10);
}

#[test]
fn closed_play_publishes_its_delayed_records() {
    let faults = Faults { delay: 1.0, delay_by: 100_000, ..Faults::NONE };
    let mut play = Play::new(&settings(3), &wire(Shape::Real), faults);
    assert!(play.next().is_some(), "the record leaves the queue at the end of the library");
    let mut play = Play::new(&settings(3), &wire(Shape::Real), Faults::MODEST);
    let published = play.by_ref().take(500).count();
    play.close();
    let delayed = play.count();
    assert!((1..1500).contains(&delayed), "{published} before, {delayed} delayed");
}

/// The state that a plain reader derives from the records in time order.
#[derive(Default)]
struct Reader {
    loans: BTreeMap<String, Value>,
    fees: BTreeMap<String, Value>,
}

impl Reader {
    fn read(&mut self, record: &Record) {
        let value = json_of(record);
        let data = if value.get("data").is_some() { &value["data"] } else { &value };
        let data = if data.get("map").is_some() { &data["map"] } else { data };
        let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        let event = record.topic.rsplit('.').next().unwrap_or_default();
        if event == "FEE_FINE_BALANCE_CHANGED" {
            self.read_fee(text("feeFineId"), data);
            return;
        }
        let id = text("loanId");
        if event == "ITEM_CHECKED_OUT" {
            let grace = data.get("gracePeriod").filter(|grace| grace["duration"] != json!(0));
            let loan = json!({
                "user": data["userId"], "due": data["dueDate"], "grace": grace,
                "recall": false, "lost": false, "claimed": false,
            });
            self.loans.insert(id, loan);
            return;
        }
        let Some(loan) = self.loans.get_mut(&id) else { return };
        match event {
            "ITEM_DECLARED_LOST" | "ITEM_AGED_TO_LOST" => {
                loan["lost"] = json!(true);
                loan["claimed"] = json!(false);
            }
            "ITEM_CLAIMED_RETURNED" => {
                loan["lost"] = json!(false);
                loan["claimed"] = json!(true);
            }
            "LOAN_DUE_DATE_CHANGED" => {
                loan["due"] = data["dueDate"].clone();
                loan["recall"] = data["dueDateChangedByRecall"].clone();
                if loan["recall"] == json!(false) {
                    loan["lost"] = json!(false);
                }
            }
            _ => drop(self.loans.remove(&id)),
        }
    }

    fn read_fee(&mut self, id: String, data: &Value) {
        let balance = Decimal::from_scientific(&data["balance"].to_string())
            .or_else(|_| data["balance"].to_string().parse())
            .expect("a balance is a number");
        if balance.is_zero() {
            self.fees.remove(&id);
            return;
        }
        let fee = json!({
            "user": data["userId"], "loan": data.get("loanId"), "type": data["feeFineTypeId"],
            "balance": balance.normalize().to_string(),
        });
        self.fees.insert(id, fee);
    }
}

/// Returns the truth in the form of a [`Reader`].
fn expected_reader(truth: &Truth) -> Reader {
    let mut reader = Reader::default();
    for account in truth.accounts() {
        let Some(summary) = Summary::from_account(account) else { continue };
        for loan in summary.open_loans {
            let due = loan.due_date.map(|due| due.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
            let value = json!({
                "user": summary.user_id, "due": due, "grace": loan.grace_period,
                "recall": loan.recall, "lost": loan.item_lost,
                "claimed": loan.item_claimed_returned,
            });
            reader.loans.insert(loan.loan_id.to_string(), value);
        }
        for fee in summary.open_fees_fines {
            let value = json!({
                "user": summary.user_id, "loan": fee.loan_id, "type": fee.fee_fine_type_id,
                "balance": fee.balance.normalize().to_string(),
            });
            reader.fees.insert(fee.fee_fine_id.to_string(), value);
        }
    }
    reader
}

/// Storage publishes every loan and every group, also the changes without a business event.
#[test]
fn storage_events_yield_open_loans_and_groups() {
    let wire = Wire { storage: true, ..wire(Shape::Real) };
    // With so many patrons, the users module has deleted some.
    let settings = Settings { patrons: 1500, ..settings(4) };
    let (mut records, truth) = Play::in_memory(&settings, &wire, Faults::MODEST);
    records.sort_by_key(|record| record.timestamp_ms);
    let (mut loans, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let mut done = BTreeSet::new();
    for record in &records {
        let value = json_of(record);
        let is_loan = record.topic.ends_with(".circulation.loan");
        if !is_loan && !record.topic.ends_with(".users.users") {
            continue;
        }
        let what = value["type"].as_str().expect("the envelope has a type").to_owned();
        let entity = &value["data"][if what == "DELETED" { "old" } else { "new" }];
        assert_eq!(entity["id"], json!(record.key));
        let is_closed = what == "DELETED" || is_loan && entity["status"]["name"] != "Open";
        let open = if is_loan { &mut loans } else { &mut groups };
        if is_closed {
            open.remove(&record.key);
        } else {
            let members = ["userId", "dueDate", "itemStatus", "patronGroup"];
            open.insert(record.key.clone(), members.map(|member| entity[member].clone()));
        }
        done.insert((is_loan, what));
    }
    assert_eq!(done.len(), 6, "{done:?}");
    let known = truth.accounts().map(|account| &account.patron).filter(|patron| patron.known);
    let expected = known.map(|patron| (patron.id.to_string(), json!(patron.patron_group)));
    let actual_groups = groups.into_iter().map(|(id, [.., group])| (id, group));
    assert_eq!(actual_groups.collect::<BTreeMap<_, _>>(), expected.collect());
    let expected: BTreeMap<_, _> = truth
        .loans_after(None)
        .map(|(id, patron, loan)| (id.to_string(), (json!(patron), json!(loan.item_status))))
        .collect();
    let actual_loans = loans.into_iter().map(|(id, [user, _, item, _])| (id, (user, item)));
    assert_eq!(actual_loans.collect::<BTreeMap<_, _>>(), expected);
    assert!(expected.len() > 300);
}

#[test]
fn records_in_order_yield_the_truth() {
    for (seed, shape) in [(1, Shape::Real), (2, Shape::Mixed), (3, Shape::Flat)] {
        let (mut records, truth) = Play::in_memory(&settings(seed), &wire(shape), Faults::MODEST);
        records.sort_by_key(|record| record.timestamp_ms);
        let mut reader = Reader::default();
        records.iter().for_each(|record| reader.read(record));
        let truth = expected_reader(&truth);
        assert!(truth.loans.len() > 300 && truth.fees.len() > 20);
        assert_eq!(reader.loans, truth.loans);
        assert_eq!(reader.fees, truth.fees);
    }
}
