//! Field formats (events contract 6). Each reader takes a member's JSON text and gives the value,
//! `None` where the member is absent, or a [`Reject`] that names the member and the rule.

use std::borrow::Cow;

use chrono::{DateTime, Days, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    decode::{Reason, Reject},
    wire::is_object,
};
use crate::patron::{Grace, GraceUnit};

type Raw<'a> = Option<&'a RawValue>;

/// The value, or the reject that says it is missing.
pub(super) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Reject> {
    value.ok_or_else(|| Reject::new(Reason::MissingField, Some(name), "is required"))
}

fn bad(name: &'static str, rule: &'static str) -> Reject {
    Reject::new(Reason::BadField, Some(name), rule)
}

fn string<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'a>>(raw.get()).ok().map(|text| text.0)
}

/// A UUID of version 1 to 5 and RFC variant, in either case (6.1).
pub(super) fn uuid(name: &'static str, raw: Raw<'_>) -> Result<Option<Uuid>, Reject> {
    const RULE: &str = "must be a UUID of version 1 to 5";
    let Some(raw) = raw else { return Ok(None) };
    string(raw).and_then(|text| parse_uuid(&text)).map(Some).ok_or_else(|| bad(name, RULE))
}

/// The UUID in `text`, if it is one that FOLIO's own modules accept: hyphenated, of version 1 to 5 and
/// RFC variant (6.1).
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    let rfc = uuid.get_variant() == uuid::Variant::RFC4122;
    (text.len() == 36 && rfc && (1..=5).contains(&uuid.get_version_num())).then_some(uuid)
}

/// An id that need not follow FOLIO's pattern, because it is only compared: an envelope's.
pub(super) fn any_uuid(raw: Raw<'_>) -> Option<Uuid> {
    raw.and_then(string).and_then(|text| Uuid::try_parse(&text).ok())
}

/// Text that is not blank.
pub(super) fn text<'a>(raw: Raw<'a>) -> Option<Cow<'a, str>> {
    raw.and_then(string).filter(|text| !text.trim().is_empty())
}

/// A boolean, also as the strings that Java's mapper takes for one.
pub(super) fn boolean(name: &'static str, raw: Raw<'_>) -> Result<Option<bool>, Reject> {
    match raw.map(RawValue::get) {
        None => Ok(None),
        Some("true" | "\"true\"") => Ok(Some(true)),
        Some("false" | "\"false\"") => Ok(Some(false)),
        Some(_) => Err(bad(name, "must be true or false")),
    }
}

/// An exact decimal, from a number or a numeric string, without trailing zeros (6.3).
pub(super) fn decimal(name: &'static str, raw: Raw<'_>) -> Result<Option<Decimal>, Reject> {
    const RULE: &str = "must be a number of at most 28 digits, below 1000000000000000";
    let Some(raw) = raw else { return Ok(None) };
    let text = match raw.get() {
        quoted if quoted.starts_with('"') => string(raw).ok_or_else(|| bad(name, RULE))?,
        number => Cow::Borrowed(number),
    };
    // Far above any debt, and far below where a sum of many could not be held.
    let sane = |decimal: &Decimal| decimal.abs() < Decimal::from(1_000_000_000_000_000_i64);
    parse_decimal(&text).filter(sane).map(Some).ok_or_else(|| bad(name, RULE))
}

fn parse_decimal(text: &str) -> Option<Decimal> {
    let parsed = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text)
    } else {
        Decimal::from_str_exact(text)
    };
    parsed.ok().map(|decimal| decimal.normalize())
}

/// Epoch milliseconds, as a number or a numeric string; `None` also where they make no sense.
pub(super) fn epoch_milliseconds(raw: Raw<'_>) -> Option<DateTime<Utc>> {
    let text = raw?.get().trim_matches('"');
    text.parse().ok().and_then(DateTime::from_timestamp_millis).filter(in_calendar)
}

/// A date and time in any of the forms that Java's mapper reads, to the millisecond (6.2). An empty
/// string counts as absent.
pub(super) fn date_time(name: &'static str, raw: Raw<'_>) -> Result<Option<DateTime<Utc>>, Reject> {
    const RULE: &str = "must be an ISO 8601 date and time, or epoch milliseconds";
    let Some(raw) = raw else { return Ok(None) };
    if !raw.get().starts_with('"') {
        return epoch_milliseconds(Some(raw)).map(Some).ok_or_else(|| bad(name, RULE));
    }
    let text = string(raw).ok_or_else(|| bad(name, RULE))?;
    if text.is_empty() {
        return Ok(None);
    }
    parse_date_time(&text)
        .filter(in_calendar)
        .or_else(|| epoch_milliseconds(Some(raw)))
        .map(Some)
        .ok_or_else(|| bad(name, RULE))
}

/// Years that four digits can write: what we store, compare and print again without loss.
pub(super) fn in_calendar(instant: &DateTime<Utc>) -> bool {
    use chrono::Datelike;
    (1..=9999).contains(&instant.year())
}

fn parse_date_time(text: &str) -> Option<DateTime<Utc>> {
    let Some((date, time)) = text.split_once('T') else {
        return Some(parse_date(text)?.and_time(NaiveTime::MIN).and_utc());
    };
    let (time, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], parse_offset(&time[at..])?),
        None => (time, FixedOffset::east_opt(0)?),
    };
    let local = NaiveDateTime::new(parse_date(date)?, parse_time(time)?);
    let instant = local.and_local_timezone(offset).single()?.to_utc();
    DateTime::from_timestamp_millis(instant.timestamp_millis())
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    let plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    // Near the ends of the calendar an offset would leave chrono's range.
    let inside = |date: &NaiveDate| date.checked_add_days(Days::new(2)).is_some();
    plain.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()).flatten().filter(inside)
}

fn parse_time(text: &str) -> Option<NaiveTime> {
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) => (clock, digits(fraction, 9).then_some(fraction)?),
        None => (text, "0"),
    };
    let mut parts = clock.split(':').map(|part| digits(part, 2).then(|| part.parse().ok())?);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let millisecond: u32 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let complete = parts.next().is_none();
    complete.then(|| NaiveTime::from_hms_milli_opt(hour, minute, second, millisecond)).flatten()
}

/// `Z`, `+hh:mm`, `+hhmm` or `+hh`.
fn parse_offset(text: &str) -> Option<FixedOffset> {
    if text == "Z" {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = text.split_at_checked(1)?;
    let (hours, minutes) = match (digits.len(), digits.as_bytes().get(2)) {
        (2, _) => (digits, "00"),
        (4, _) => digits.split_at_checked(2)?,
        (5, Some(b':')) => (digits.get(..2)?, digits.get(3..)?),
        _ => return None,
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i32>());
    let seconds = number(hours)?.ok()? * 3600 + number(minutes)?.ok()? * 60;
    FixedOffset::east_opt(if sign == "-" { -seconds } else { seconds })
}

/// The grace period, if it makes sense. Whatever does not (a duration of 0 or less, an unknown
/// interval, a missing member, a wrong type) is no grace period and never a reason to lose the loan
/// (7.1).
pub(super) fn grace(raw: Raw<'_>) -> Option<Grace> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Period<'a> {
        duration: i32,
        #[serde(borrow)]
        interval_id: Cow<'a, str>,
    }
    let period: Period<'_> = serde_json::from_str(raw.filter(|raw| is_object(raw))?.get()).ok()?;
    let unit = GraceUnit::parse(&period.interval_id)?;
    (period.duration > 0).then_some(Grace { duration: period.duration, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn date(json: &str) -> Result<Option<String>, Reject> {
        date_time("dueDate", Some(&raw(json)))
            .map(|date| date.map(|d| d.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()))
    }

    #[test]
    fn dates_are_read_in_every_form_of_the_contract() {
        for (text, expected) in [
            ("\"2026-09-14T21:59:59.000Z\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T21:59:59.000+00:00\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T21:59:59.123456789Z\"", "2026-09-14T21:59:59.123"),
            ("\"2026-09-14T21:59:59.1Z\"", "2026-09-14T21:59:59.100"),
            ("\"2026-09-14T21:59:59Z\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T21:59Z\"", "2026-09-14T21:59:00.000"),
            ("\"2026-09-14T21:59:59\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T23:59:59+02:00\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T23:59:59+0200\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T23:59:59+02\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14T18:29:59-0330\"", "2026-09-14T21:59:59.000"),
            ("\"2026-09-14\"", "2026-09-14T00:00:00.000"),
            ("1789423199000", "2026-09-14T21:59:59.000"),
        ] {
            assert_eq!(date(text).unwrap().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_rejected_by_name() {
        for text in [
            "\"2026-09-14 21:59:59Z\"",
            "\"tomorrow\"",
            "\"2026-13-14T21:59:59Z\"",
            "\"2026-09-14T25:59:59Z\"",
            "\"2026-09-14T21:59:59.1234567890Z\"",
            "\"2026-09-14T21:59:59.Z\"",
            "\"2026-09-14T21:59:59+2:00\"",
            "\"2026-09-14T21:59:59+ä:0\"",
            "\"2026-09-14T21:59:59+é0000\"",
            "\"+2026-09-14T21:59:59Z\"",
            "\"2026-09-14T:Z\"",
            "true",
            "{}",
            "1e300",
            "9223372036854775807",
        ] {
            let reject = date(text).expect_err(text);
            assert_eq!((reject.reason, reject.field), (Reason::BadField, Some("dueDate")));
        }
        assert_eq!(date("\"\"").unwrap(), None);
    }

    #[test]
    fn uuids_are_those_that_folio_accepts() {
        let read = |json: &str| uuid("loanId", Some(&raw(json)));
        let lower = read("\"0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11\"").unwrap();
        assert_eq!(read("\"0C9A4D7E-51B2-4C3F-9A10-6D2E8B7F4A11\"").unwrap(), lower);
        for bad in [
            "\"00000000-0000-0000-0000-000000000000\"",
            "\"0c9a4d7e-51b2-7c3f-9a10-6d2e8b7f4a11\"",
            "\"0c9a4d7e-51b2-4c3f-ca10-6d2e8b7f4a11\"",
            "\"0c9a4d7e51b24c3f9a106d2e8b7f4a11\"",
            "\"{0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11}\"",
            "\"0\"",
            "\"\"",
            "7",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn balances_stay_exact_decimals() {
        let read = |json: &str| decimal("balance", Some(&raw(json)));
        for (json, expected) in [
            ("12.55", "12.55"),
            ("0.0", "0"),
            ("0.00", "0"),
            ("1.23456789E7", "12345678.9"),
            ("\"7.250\"", "7.25"),
            ("-3", "-3"),
            ("0.1234567890123456789", "0.1234567890123456789"),
        ] {
            assert_eq!(read(json).unwrap().unwrap().to_string(), expected, "{json}");
        }
        for bad in [
            "\"ten\"",
            "true",
            "1e99",
            "1000000000000000",
            "123456789012345678901234567890123",
            "\"\"",
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grace_period_that_makes_no_sense_is_none() {
        let read = |json: &str| grace(Some(&raw(json)));
        let two_days = Grace { duration: 2, unit: GraceUnit::Days };
        assert_eq!(read(r#"{"duration":2,"intervalId":"Days"}"#), Some(two_days));
        for none in [
            r#"{"duration":0,"intervalId":"Days"}"#,
            r#"{"duration":-1,"intervalId":"Days"}"#,
            r#"{"duration":2,"intervalId":"Fortnights"}"#,
            r#"{"duration":2}"#,
            r#"{"intervalId":"Days"}"#,
            r#"{"duration":"two","intervalId":"Days"}"#,
            r#"{"duration":99999999999,"intervalId":"Days"}"#,
            "7",
            r#"[2,"Days"]"#,
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
