//! One table per field format of docs/contract/events.md#6-formats, and one for the grace period of
//! docs/contract/events.md#71-item_checked_out. Each row is one form that the contract names.

use std::{cmp::Ordering, fmt::Debug};

use proptest::prelude::*;

use super::*;

/// The expected result of parsing a member.
enum Expected {
    /// A value with this display text.
    Is(&'static str),
    /// The same result as an absent member.
    Missing,
    /// A reject that names the member.
    Bad,
}

use Expected::{Bad, Is, Missing};

/// Parses each row of a table. Callers pass neither `null` nor an absent member to these functions.
fn assert_reads<T: Debug>(
    name: &'static str,
    read: impl Fn(&'static str, RawMember<'_>) -> Result<Option<T>, Reject>,
    print: impl Fn(T) -> String,
    table: &[(&str, Expected)],
) {
    for (json, expected) in table {
        let raw = RawValue::from_string((*json).to_owned()).unwrap();
        match (read(name, Some(&raw)), expected) {
            (Ok(Some(value)), Is(text)) => assert_eq!(print(value), *text, "{json}"),
            (Ok(None), Missing) => {}
            (Err(Reject { reason: Reason::BadField, field, rule }), Bad) => {
                assert_eq!(field, Some(name), "{json}");
                assert!(rule.starts_with("must be "), "{json}: {rule}");
            }
            (read, _) => panic!("{name} {json}: {read:?}"),
        }
    }
    assert!(matches!(read(name, None), Ok(None)), "{name} is absent");
}

#[test]
fn uuid_formats_are_read_or_rejected() {
    const LOAN: Expected = Is("0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11");
    let table = [
        (r#""0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11""#, LOAN),
        // Upper case is the same id.
        (r#""0C9A4D7E-51B2-4C3F-9A10-6D2E8B7F4A11""#, LOAN),
        (r#""0c9A4d7E-51b2-4C3f-9a10-6D2e8b7F4a11""#, LOAN),
        (r#""\u0030c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11""#, LOAN),
        // Versions 1 to 5, variants 8, 9, a and b.
        (r#""0c9a4d7e-51b2-1c3f-8a10-6d2e8b7f4a11""#, Is("0c9a4d7e-51b2-1c3f-8a10-6d2e8b7f4a11")),
        (r#""0c9a4d7e-51b2-2c3f-9a10-6d2e8b7f4a11""#, Is("0c9a4d7e-51b2-2c3f-9a10-6d2e8b7f4a11")),
        (r#""0c9a4d7e-51b2-3c3f-aa10-6d2e8b7f4a11""#, Is("0c9a4d7e-51b2-3c3f-aa10-6d2e8b7f4a11")),
        (r#""0c9a4d7e-51b2-5c3f-ba10-6d2e8b7f4a11""#, Is("0c9a4d7e-51b2-5c3f-ba10-6d2e8b7f4a11")),
        (r#""0C9A4D7E-51B2-4C3F-BA10-6D2E8B7F4A11""#, Is("0c9a4d7e-51b2-4c3f-ba10-6d2e8b7f4a11")),
        // Nil, versions 0, 6, 7 and 8, other variants.
        (r#""00000000-0000-0000-0000-000000000000""#, Bad),
        (r#""ffffffff-ffff-ffff-ffff-ffffffffffff""#, Bad),
        (r#""0c9a4d7e-51b2-0c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-6c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-7c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-8c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-4c3f-7a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-4c3f-ca10-6d2e8b7f4a11""#, Bad),
        // Other spellings.
        (r#""0c9a4d7e51b24c3f9a106d2e8b7f4a11""#, Bad),
        (r#""{0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11}""#, Bad),
        (r#""urn:uuid:0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#"" 0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11""#, Bad),
        (r#""0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a1""#, Bad),
        (r#""0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11f""#, Bad),
        (r#""0c9a4d7g-51b2-4c3f-9a10-6d2e8b7f4a11""#, Bad),
        // The value of manual charges without a loan, and values that are not strings. Empty text matches
        // no pattern, as in Java.
        (r#""0""#, Bad),
        (r#""""#, Bad),
        ("7", Bad),
        ("true", Bad),
        ("[]", Bad),
    ];
    assert_reads("loanId", uuid, |id| id.to_string(), &table);
}

#[test]
fn date_formats_are_read_or_rejected() {
    const AT: Expected = Is("2026-09-14T21:59:59.000");
    let table = [
        // Formats of mod-circulation and of Jackson.
        (r#""2026-09-14T21:59:59.000Z""#, AT),
        (r#""2026-09-14T21:59:59.000+00:00""#, AT),
        // Offsets: Z, +hh:mm, +hhmm, +hh, none.
        (r#""2026-09-14T21:59:59Z""#, AT),
        (r#""2026-09-14T23:59:59+02:00""#, AT),
        (r#""2026-09-14T23:59:59+0200""#, AT),
        (r#""2026-09-14T23:59:59+02""#, AT),
        (r#""2026-09-14T18:29:59-03:30""#, AT),
        (r#""2026-09-14T18:29:59-0330""#, AT),
        (r#""2026-09-14T18:59:59-03""#, AT),
        (r#""2026-09-15T05:59:59.000+08:00""#, AT),
        (r#""2026-09-14T21:59:59""#, AT),
        (r#""2026-09-14T21:59:59.000""#, AT),
        // 0 to 9 fraction digits, cut to milliseconds, never rounded.
        (r#""2026-09-14T21:59:59.1Z""#, Is("2026-09-14T21:59:59.100")),
        (r#""2026-09-14T21:59:59.12Z""#, Is("2026-09-14T21:59:59.120")),
        (r#""2026-09-14T21:59:59.123Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.1239Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.12345Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.123456Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.1234567Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.12345678Z""#, Is("2026-09-14T21:59:59.123")),
        (r#""2026-09-14T21:59:59.999999999Z""#, Is("2026-09-14T21:59:59.999")),
        (r#""1969-12-31T23:59:59.9999Z""#, Is("1969-12-31T23:59:59.999")),
        // No seconds; a date alone.
        (r#""2026-09-14T21:59Z""#, Is("2026-09-14T21:59:00.000")),
        (r#""2026-09-14T21:59""#, Is("2026-09-14T21:59:00.000")),
        (r#""2026-09-14T23:59+02:00""#, Is("2026-09-14T21:59:00.000")),
        (r#""2026-09-14""#, Is("2026-09-14T00:00:00.000")),
        (r#""2028-02-29""#, Is("2028-02-29T00:00:00.000")),
        // Epoch milliseconds.
        ("1789423199000", AT),
        (r#""1789423199000""#, AT),
        ("0", Is("1970-01-01T00:00:00.000")),
        ("-1", Is("1969-12-31T23:59:59.999")),
        // The calendar's first and last instants.
        (r#""0001-01-01T00:00:00Z""#, Is("0001-01-01T00:00:00.000")),
        (r#""9999-12-31T23:59:59.999Z""#, Is("9999-12-31T23:59:59.999")),
        // The year of the text counts, whatever the year in UTC is.
        (r#""9999-12-31T23:59:59.000-05:00""#, Is("+10000-01-01T04:59:59.000")),
        (r#""9999-12-31T23:59:59.999-23:59""#, Is("+10000-01-01T23:58:59.999")),
        (r#""0001-01-01T00:00:00+01:00""#, Is("0000-12-31T23:00:00.000")),
        (r#""0000-01-01T00:00:00Z""#, Bad),
        (r#""0000-12-31T23:59:59-01:00""#, Bad),
        (r#""10000-01-01T00:00:00Z""#, Bad),
        ("253402300800000", Bad),
        ("9223372036854775807", Bad),
        // Empty text counts as absent.
        (r#""""#, Missing),
        // A blank between date and time, free text, dates outside the calendar.
        (r#""2026-09-14 21:59:59Z""#, Bad),
        (r#"" ""#, Bad),
        (r#""tomorrow""#, Bad),
        (r#""14.09.2026""#, Bad),
        (r#""2026-13-14T21:59:59Z""#, Bad),
        (r#""2026-02-29T21:59:59Z""#, Bad),
        (r#""2026-09-14T25:59:59Z""#, Bad),
        (r#""2026-09-14T21:60:59Z""#, Bad),
        (r#""2026-09-14T21:59:61Z""#, Bad),
        (r#""2026-09-14T21""#, Bad),
        (r#""2026-09-14T""#, Bad),
        (r#""2026-09-14T:Z""#, Bad),
        (r#""2026-09-14T21:59:59:00Z""#, Bad),
        (r#""2026-09-14T21:59:59.1234567890Z""#, Bad),
        (r#""2026-09-14T21:59:59.Z""#, Bad),
        (r#""2026-09-14T21:59:59+2:00""#, Bad),
        (r#""2026-09-14T21:59:59+02:0""#, Bad),
        (r#""2026-09-14T21:59:59+25:00""#, Bad),
        (r#""2026-09-14T21:59:59ZZ""#, Bad),
        (r#""2026-09-14T21:59:59+ä:0""#, Bad),
        (r#""2026-09-14T21:59:59+é0000""#, Bad),
        (r#""+2026-09-14T21:59:59Z""#, Bad),
        (r#""26-09-14T21:59:59Z""#, Bad),
        ("1e300", Bad),
        ("1.5", Bad),
        ("true", Bad),
        ("{}", Bad),
        ("[2026,9,14]", Bad),
    ];
    let print = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    assert_reads("dueDate", date_time, print, &table);
}

#[test]
fn decimal_formats_are_read_or_rejected() {
    let table = [
        // Formats of mod-feesfines.
        ("0.0", Is("0")),
        ("12.5", Is("12.5")),
        ("12.55", Is("12.55")),
        ("1.23456789E7", Is("12345678.9")),
        // Other sources: integers, more decimals, a sign, trailing zeros.
        ("12", Is("12")),
        ("-3", Is("-3")),
        ("-3.50", Is("-3.5")),
        ("0.00", Is("0")),
        ("-0.0", Is("0")),
        ("7.250", Is("7.25")),
        ("100", Is("100")),
        ("1e2", Is("100")),
        ("1E+2", Is("100")),
        ("125e-2", Is("1.25")),
        ("0e-50", Is("0")),
        ("0E+50", Is("0")),
        ("1.2345e1", Is("12.345")),
        // Exact digits: parsing uses no binary float.
        ("0.1", Is("0.1")),
        ("0.123456789012345", Is("0.123456789012345")),
        ("9999999999999.999999999999999", Is("9999999999999.999999999999999")),
        ("-9999999999999.999999999999999", Is("-9999999999999.999999999999999")),
        // 15 decimals remain; the rest is rounded half to even.
        ("4.996003610813204e-16", Is("0")),
        ("-4.996003610813204e-16", Is("0")),
        ("0.0000000000000004996003610813204", Is("0")),
        ("5e-16", Is("0")),
        ("5.000000000000000000000000000000001e-16", Is("0.000000000000001")),
        ("15e-16", Is("0.000000000000002")),
        ("25e-16", Is("0.000000000000002")),
        ("0.30000000000000004", Is("0.3")),
        ("0.1000000000000000055511151231257827", Is("0.1")),
        ("12.550000000000000710542735760100186", Is("12.550000000000001")),
        ("12.5500000000000005", Is("12.55")),
        ("12.5500000000000015", Is("12.550000000000002")),
        ("9999999999999.9999999999999996", Is("10000000000000")),
        ("1.2345678901234567890123456789e-5", Is("0.000012345678901")),
        ("1.00000000000000000000000000000001e1", Is("10")),
        ("1e-99", Is("0")),
        ("1e-99999999999999999999", Is("0")),
        ("0e99999999999999999999", Is("0")),
        ("0.0000000000000000000000000000000000000001e40", Is("1")),
        ("1000000000000000000000000000000000000000e-39", Is("1")),
        // Numbers as text.
        (r#""7.250""#, Is("7.25")),
        (r#""1.5E1""#, Is("15")),
        (r#""+7.""#, Is("7")),
        (r#"".5""#, Is("0.5")),
        (r#""4.996003610813204e-16""#, Is("0")),
        // Java's mapper ignores blanks around a number.
        (r#"" 7.25\t""#, Is("7.25")),
        (r#""""#, Missing),
        (r#""ten""#, Bad),
        (r#"" ""#, Bad),
        (r#""1_000""#, Bad),
        (r#""1,5""#, Bad),
        (r#""0x10""#, Bad),
        (r#""NaN""#, Bad),
        (r#""Infinity""#, Bad),
        (r#""1e""#, Bad),
        (r#""e5""#, Bad),
        (r#"".""#, Bad),
        (r#""+""#, Bad),
        (r#""--1""#, Bad),
        (r#""1.2.3""#, Bad),
        (r#""1e5.0""#, Bad),
        (r#""1e+-5""#, Bad),
        (r#""1 000""#, Bad),
        (r#""\u0661""#, Bad),
        // More than any debt: more than 13 digits before the point.
        ("9999999999999", Is("9999999999999")),
        (r#""0000000000000000""#, Is("0")),
        ("10000000000000", Bad),
        ("-10000000000000", Bad),
        ("9.9e12", Is("9900000000000")),
        ("1e13", Bad),
        ("1e99", Bad),
        ("1e99999999999", Bad),
        ("1e99999999999999999999", Bad),
        ("123456789012345678901234567890123", Bad),
        ("true", Bad),
        ("[]", Bad),
        ("{}", Bad),
    ];
    assert_reads("balance", decimal, |balance| balance.to_string(), &table);
}

proptest! {
    /// A decimal has the same value in every notation: its first 15 decimals, of which the last is rounded
    /// by the rest.
    #[test]
    fn decimal_value_is_independent_of_its_notation(
        whole in 0..10_000_000_000_000_i128,
        decimals in 0..1_000_000_000_000_000_i128,
        rest in "[0-9]{0,25}",
        negative in any::<bool>(),
        moved in -60_i64..60,
    ) {
        let cut = whole * 1_000_000_000_000_000 + decimals;
        let half = format!("5{}", "0".repeat(rest.len().saturating_sub(1)));
        let up = match rest.as_str().cmp(half.as_str()) {
            _ if rest.is_empty() => 0,
            Ordering::Less => 0,
            Ordering::Equal => cut % 2,
            Ordering::Greater => 1,
        };
        let sign = if negative { -1 } else { 1 };
        let expected = Decimal::from_i128_with_scale(sign * (cut + up), 15).normalize();
        let expected = if expected.is_zero() { Decimal::ZERO } else { expected };
        let minus = if negative { "-" } else { "" };
        let digits = format!("{whole}{decimals:015}{rest}");
        // A shifted point, and the exponent that shifts it back.
        let point = whole.to_string().len() as i64 + moved;
        let shifted = match usize::try_from(point) {
            Ok(0) => format!("0.{digits}"),
            Ok(point) if point < digits.len() => {
                format!("{}.{}", &digits[..point], &digits[point..])
            }
            Ok(point) => format!("{digits}{}", "0".repeat(point - digits.len())),
            Err(_) => format!("0.{}{digits}", "0".repeat(usize::try_from(-point).unwrap())),
        };
        for text in [
            format!("{minus}{whole}.{decimals:015}{rest}"),
            format!("{minus}{shifted}e{}", -moved),
            format!("{minus}{shifted}E{:+04}", -moved),
        ] {
            let read = |json: &str| {
                let raw = RawValue::from_string(json.to_owned()).unwrap();
                decimal("balance", Some(&raw)).unwrap()
            };
            prop_assert_eq!(read(&format!("\"{text}\"")), Some(expected), "{}", &text);
            if serde_json::from_str::<&RawValue>(&text).is_ok() {
                prop_assert_eq!(read(&text), Some(expected), "{}", &text);
            }
        }
    }

    #[test]
    fn no_text_panics_number_and_date_readers(text in "\\PC{0,40}|[-+.eE0-9T:Z]{0,60}") {
        let raw = serde_json::value::to_raw_value(&text).unwrap();
        let _ = decimal("balance", Some(&raw));
        let _ = date_time("dueDate", Some(&raw));
    }
}

#[test]
fn one_tenth_plus_two_tenths_is_three_tenths() {
    let read = |json: &str| {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        decimal("balance", Some(&raw)).unwrap().unwrap()
    };
    assert_eq!(read("0.1") + read("0.2"), read("0.3"));
}

#[test]
fn boolean_formats_are_read_or_rejected() {
    let table = [
        ("true", Is("true")),
        ("false", Is("false")),
        (r#""true""#, Is("true")),
        (r#""false""#, Is("false")),
        (r#""""#, Missing),
        ("0", Bad),
        ("1", Bad),
        (r#""yes""#, Bad),
        (r#""TRUE""#, Bad),
        ("{}", Bad),
        ("[]", Bad),
    ];
    assert_reads("dueDateChangedByRecall", boolean, |flag| flag.to_string(), &table);
}

#[test]
fn invalid_grace_period_is_none() {
    let table = [
        (r#"{"duration":1,"intervalId":"Minutes"}"#, Is("1 Minutes")),
        (r#"{"duration":36,"intervalId":"Hours"}"#, Is("36 Hours")),
        (r#"{"duration":2,"intervalId":"Days"}"#, Is("2 Days")),
        (r#"{"duration":3,"intervalId":"Weeks"}"#, Is("3 Weeks")),
        (r#"{"duration":2147483647,"intervalId":"Months"}"#, Is("2147483647 Months")),
        (r#"{"intervalId":"Days","duration":2,"more":[]}"#, Is("2 Days")),
        // A loan policy may contain 0.
        (r#"{"duration":0,"intervalId":"Days"}"#, Missing),
        (r#"{"duration":-1,"intervalId":"Days"}"#, Missing),
        (r#"{"duration":2,"intervalId":"Fortnights"}"#, Missing),
        (r#"{"duration":2,"intervalId":"days"}"#, Missing),
        (r#"{"duration":2,"intervalId":""}"#, Missing),
        (r#"{"duration":2,"intervalId":7}"#, Missing),
        (r#"{"duration":2,"intervalId":null}"#, Missing),
        (r#"{"duration":2}"#, Missing),
        (r#"{"duration":null,"intervalId":"Days"}"#, Missing),
        (r#"{"duration":"two","intervalId":"Days"}"#, Missing),
        (r#"{"duration":1.5,"intervalId":"Days"}"#, Missing),
        (r#"{"duration":99999999999,"intervalId":"Days"}"#, Missing),
        (r#"{"intervalId":"Days"}"#, Missing),
        ("{}", Missing),
        ("7", Missing),
        ("true", Missing),
        (r#""2 days""#, Missing),
        (r#""""#, Missing),
        (r#"[2,"Days"]"#, Missing),
    ];
    let print = |grace: Grace| format!("{} {}", grace.duration, grace.unit.name());
    assert_reads("gracePeriod", |_, raw| Ok(grace(raw)), print, &table);
}

#[test]
fn envelope_times_are_read_or_ignored() {
    let table = [
        ("1788300000123", Is("1788300000123")),
        (r#""1788300000123""#, Is("1788300000123")),
        ("0", Is("0")),
        // An invalid time counts as absent; the record has a time.
        (r#""2026-09-01T22:00:00Z""#, Missing),
        (r#""""#, Missing),
        ("1.5", Missing),
        ("99999999999999999", Missing),
        ("99999999999999999999", Missing),
        ("{}", Missing),
    ];
    let print = |at: DateTime<Utc>| at.timestamp_millis().to_string();
    assert_reads("timestamp", |_, raw| Ok(epoch_milliseconds(raw)), print, &table);
}

/// The text of a dead letter may be anything.
#[test]
fn uuids_are_found_in_any_text() {
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(u128::MAX));
    let upper = two.to_string().to_uppercase();
    for (text, found) in [
        (format!("{{\"userId\":\"{one}\",\"loanId\":\"{upper}\"}}"), vec![one, two]),
        (format!("{one}{two}{one}"), vec![one, two, one]),
        (format!("\u{fffd}{one}"), vec![one]),
        (one.simple().to_string(), vec![]),
        (one.to_string().replace('1', "g"), vec![]),
        (one.to_string()[..35].to_owned(), vec![]),
        (String::new(), vec![]),
    ] {
        assert_eq!(uuids_in(text.as_bytes()).collect::<Vec<_>>(), found, "{text}");
    }
}
