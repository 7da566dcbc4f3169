//! Field formats (events contract 6). Each reader takes a member's JSON text and gives the value,
//! `None` where the member is absent, or a [`Reject`] that names the member and the rule.

use std::borrow::Cow;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    decode::{Reason, Reject},
    wire::{Raw, is_object},
};
use crate::patron::{Grace, GraceUnit};

/// The value, or the reject that says it is missing.
pub(super) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Reject> {
    value.ok_or_else(|| Reject::new(Reason::MissingField, Some(name), "is required"))
}

fn bad(name: &'static str, rule: &'static str) -> Reject {
    Reject::new(Reason::BadField, Some(name), rule)
}

/// The text of a JSON string; `None` where it is none, or holds what is no Unicode character.
pub(super) fn string<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
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

/// Text that is not blank, where a member is a string at all.
pub(super) fn word<'a>(name: &'static str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, Reject> {
    let Some(raw) = raw else { return Ok(None) };
    let text = string(raw).ok_or_else(|| bad(name, "must be a string"))?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// A boolean, also as the strings that Java's mapper takes for one. An empty string counts as absent.
pub(super) fn boolean(name: &'static str, raw: Raw<'_>) -> Result<Option<bool>, Reject> {
    match raw.map(RawValue::get) {
        None | Some("\"\"") => Ok(None),
        Some("true" | "\"true\"") => Ok(Some(true)),
        Some("false" | "\"false\"") => Ok(Some(false)),
        Some(_) => Err(bad(name, "must be true or false")),
    }
}

/// An exact decimal, from a number or a numeric string, without trailing zeros (6.3). An empty string
/// counts as absent.
pub(super) fn decimal(name: &'static str, raw: Raw<'_>) -> Result<Option<Decimal>, Reject> {
    const RULE: &str = "must be a number of at most 28 digits, below 1000000000000000";
    let Some(raw) = raw else { return Ok(None) };
    let text = match raw.get() {
        "\"\"" => return Ok(None),
        quoted if quoted.starts_with('"') => string(raw).ok_or_else(|| bad(name, RULE))?,
        number => Cow::Borrowed(number),
    };
    // Far above any debt, and far below where a sum of many could not be held.
    let sane = |decimal: &Decimal| decimal.abs() < Decimal::from(1_000_000_000_000_000_i64);
    parse_decimal(&text).filter(sane).map(Some).ok_or_else(|| bad(name, RULE))
}

/// Digit for digit, or not at all: `Decimal`'s own reader of exponents would round what is too long.
fn parse_decimal(text: &str) -> Option<Decimal> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    // Nor does a number have underscores.
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    let number = digits.bytes().all(plain).then(|| Decimal::from_str_exact(digits).ok())??;
    let mut number = number.normalize();
    if number.is_zero() {
        return Some(Decimal::ZERO);
    }
    let scale = i32::try_from(number.scale()).ok()?.checked_sub(exponent)?;
    if let Ok(scale) = u32::try_from(scale) {
        number.set_scale(scale).ok()?;
    } else {
        let power = 10_i128.checked_pow(scale.unsigned_abs())?;
        number.set_scale(0).ok()?;
        number = number.checked_mul(Decimal::try_from_i128_with_scale(power, 0).ok()?)?;
    }
    Some(number.normalize())
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
pub fn in_calendar(instant: &DateTime<Utc>) -> bool {
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
    let number = |at: std::ops::Range<usize>| {
        let digits = text.get(at)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?
    };
    let is_whole = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
    let year = i32::try_from(number(0..4)?).ok()?;
    is_whole.then(|| NaiveDate::from_ymd_opt(year, number(5..7)?, number(8..10)?))?
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
    let three = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    let millisecond = three.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
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
#[path = "fields_tests.rs"]
mod tests;
