//! The time of an event (docs/contract/events.md#64-clocks). Stamps decide ties and have their own
//! tests.

use chrono::DateTime;
use patron_blocks::event::{Kind, Record};

use super::{LOAN, RECORDED_AT, event, outcome, record};

const MINUTE: i64 = 60_000;
/// A time with a year beyond four digits, as from a producer that sends microseconds as milliseconds.
const BEYOND_THE_CALENDAR: i64 = RECORDED_AT * 1000;

fn sent(envelope_time: Option<i64>, recorded: Option<i64>) -> Record {
    let envelope_time = envelope_time.map_or("null".to_owned(), |ms| ms.to_string());
    let value =
        format!(r#"{{"type":"CREATED","timestamp":{envelope_time},"data":{{"loanId":"{LOAN}"}}}}"#);
    let mut record = record(Kind::ItemCheckedIn, "northlib", value.as_bytes());
    record.timestamp = recorded.map(|ms| DateTime::from_timestamp_millis(ms).unwrap());
    record
}

#[test]
fn envelope_time_counts_unless_ahead_of_its_record() {
    let limit = RECORDED_AT + 5 * MINUTE;
    let recorded = Some(RECORDED_AT);
    for (envelope_time, recorded, at, rule) in [
        (Some(RECORDED_AT - 1), recorded, RECORDED_AT - 1, "envelope"),
        (Some(limit), recorded, limit, "envelope"),
        (Some(limit + 1), recorded, RECORDED_AT, "record_envelope_ahead"),
        (Some(i64::MAX / 1_000_000), recorded, RECORDED_AT, "record_envelope_ahead"),
        // The delay of the record does not matter.
        (Some(0), recorded, 0, "envelope"),
        (None, recorded, RECORDED_AT, "record"),
        (Some(limit + 1), None, limit + 1, "envelope"),
        // A time outside the calendar counts as absent.
        (Some(BEYOND_THE_CALENDAR), recorded, RECORDED_AT, "record"),
        (Some(i64::MAX), recorded, RECORDED_AT, "record"),
        (Some(RECORDED_AT), Some(BEYOND_THE_CALENDAR), RECORDED_AT, "envelope"),
    ] {
        let event = event(&sent(envelope_time, recorded));
        let read = (event.occurred_at.timestamp_millis(), event.timed_by.name());
        assert_eq!(read, (at, rule), "{envelope_time:?} {recorded:?}");
    }
}

#[test]
fn event_without_valid_time_is_rejected() {
    for (envelope_time, recorded) in
        [(None, None), (None, Some(BEYOND_THE_CALENDAR)), (Some(BEYOND_THE_CALENDAR), None)]
    {
        assert_eq!(outcome(&sent(envelope_time, recorded)), "northlib: no_time timestamp");
    }
}
