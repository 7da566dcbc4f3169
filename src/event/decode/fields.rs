//! Field formats (docs/contract/events.md#6-formats). Each function parses the JSON text of one member. It
//! returns the value, `None` for an absent member, or a [`Reject`] with the member and the rule.

use std::borrow::Cow;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{RawMember, is_object, string_value};
use crate::event::{Grace, GraceUnit, Reason, Reject};

/// Returns the value, or a reject for the missing member.
pub(super) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Reject> {
    value.ok_or_else(|| Reject::new(Reason::MissingField, Some(name), "is required"))
}

fn bad_field(name: &'static str, rule: &'static str) -> Reject {
    Reject::new(Reason::BadField, Some(name), rule)
}

/// Parses a UUID of version 1 to 5 and RFC variant, in lower or upper case
/// (docs/contract/events.md#61-uuid).
pub(crate) fn uuid(name: &'static str, raw: RawMember<'_>) -> Result<Option<Uuid>, Reject> {
    const RULE: &str = "must be a UUID of version 1 to 5";
    let Some(raw) = raw else { return Ok(None) };
    string_value(raw)
        .and_then(|text| parse_uuid(&text))
        .map(Some)
        .ok_or_else(|| bad_field(name, RULE))
}

/// Parses a UUID by the pattern of FOLIO's modules: hyphenated, version 1 to 5, RFC variant
/// (docs/contract/events.md#61-uuid).
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    let rfc = uuid.get_variant() == uuid::Variant::RFC4122;
    (text.len() == 36 && rfc && (1..=5).contains(&uuid.get_version_num())).then_some(uuid)
}

/// Length of a UUID with hyphens.
const UUID_CHARS: usize = 36;

/// Returns the UUIDs in text that may not be valid JSON, in order.
pub fn uuids_in(text: &[u8]) -> impl Iterator<Item = Uuid> {
    let has_hyphens =
        |window: &&[u8]| [8, 13, 18, 23].iter().all(|at| window.get(*at) == Some(&b'-'));
    let windows = text.windows(UUID_CHARS).filter(has_hyphens);
    windows.filter_map(|window| Uuid::try_parse_ascii(window).ok())
}

/// Parses the id of an envelope in any UUID format; the service only compares such ids.
pub(super) fn any_uuid(raw: RawMember<'_>) -> Option<Uuid> {
    raw.and_then(string_value).and_then(|text| Uuid::try_parse(&text).ok())
}

/// Returns non-blank text; `None` for another type.
pub(super) fn lenient_text<'a>(raw: RawMember<'a>) -> Option<Cow<'a, str>> {
    raw.and_then(string_value).filter(|text| !text.trim().is_empty())
}

/// Returns non-blank text; rejects another type.
pub(super) fn non_blank_string<'a>(
    name: &'static str,
    raw: RawMember<'a>,
) -> Result<Option<Cow<'a, str>>, Reject> {
    let Some(raw) = raw else { return Ok(None) };
    let text = string_value(raw).ok_or_else(|| bad_field(name, "must be a string"))?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// Parses a boolean, or a string that Java's mapper accepts as one. An empty string counts as absent.
pub(crate) fn boolean(name: &'static str, raw: RawMember<'_>) -> Result<Option<bool>, Reject> {
    match raw.map(RawValue::get) {
        None | Some("\"\"") => Ok(None),
        Some("true" | "\"true\"") => Ok(Some(true)),
        Some("false" | "\"false\"") => Ok(Some(false)),
        Some(_) => Err(bad_field(name, "must be true or false")),
    }
}

/// Parses a decimal from a number or a numeric string, without trailing zeros
/// (docs/contract/events.md#63-numbers). An empty string counts as absent. Blanks around a number are
/// ignored, as in Java's mapper.
pub(crate) fn decimal(name: &'static str, raw: RawMember<'_>) -> Result<Option<Decimal>, Reject> {
    const RULE: &str = "must be a number of at most 13 digits before the point";
    let Some(raw) = raw else { return Ok(None) };
    let text = match raw.get() {
        "\"\"" => return Ok(None),
        quoted if quoted.starts_with('"') => {
            string_value(raw).ok_or_else(|| bad_field(name, RULE))?
        }
        number => Cow::Borrowed(number),
    };
    parse_decimal(text.trim()).map(Some).ok_or_else(|| bad_field(name, RULE))
}

/// Digits before the point, at most: far above any debt.
const WHOLE_DIGITS_MAX: i64 = 13;

/// Digits after the point, at most. With the digits before the point they fit [`Decimal`], so parsing is
/// the only rounding.
const FRACTION_DIGITS_MAX: i64 = 15;

/// Parses a number to [`FRACTION_DIGITS_MAX`] decimals, rounded half to even. Parsing uses no binary float.
/// Any exponent and any number of digits is valid if the result is within the bounds.
fn parse_decimal(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if whole.len() + fraction.len() == 0 || !digits().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let zeros = i64::try_from(digits().take_while(|b| *b == b'0').count()).ok()?;
    // Position of the point among the significant digits, the first of which is not 0.
    let point = i64::try_from(whole.len()).ok()?.saturating_add(exponent).saturating_sub(zeros);
    let mut rest = digits().skip(usize::try_from(zeros).ok()?).peekable();
    if rest.peek().is_none() {
        return Some(Decimal::ZERO);
    }
    if point > WHOLE_DIGITS_MAX {
        return None;
    }
    // At most 28 digits, so the number fits `i128`.
    let digit_count = point + FRACTION_DIGITS_MAX;
    if digit_count < 0 {
        return Some(Decimal::ZERO);
    }
    let (mut number, mut digits_read) = (0_i128, 0);
    for digit in rest.by_ref().take(usize::try_from(digit_count).ok()?) {
        number = number * 10 + i128::from(digit - b'0');
        digits_read += 1;
    }
    // Missing digits before the point are 0.
    while digits_read < point {
        number *= 10;
        digits_read += 1;
    }
    number += i128::from(rounds_up(rest, number % 2 == 1));
    let scale = u32::try_from(digits_read - point).ok()?;
    let number = if negative { -number } else { number };
    let number = Decimal::try_from_i128_with_scale(number, scale).ok()?.normalize();
    Some(if number.is_zero() { Decimal::ZERO } else { number })
}

/// Returns whether the dropped digits round the last remaining digit up: half to even.
fn rounds_up(mut dropped: impl Iterator<Item = u8>, is_odd: bool) -> bool {
    match dropped.next() {
        None | Some(b'0'..=b'4') => false,
        Some(b'5') => is_odd || dropped.any(|digit| digit != b'0'),
        Some(_) => true,
    }
}

/// Parses an exponent; a larger one becomes the end of the range.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // An overflow is larger than the length of any text.
    let size = digits.parse::<i64>().unwrap_or(i64::MAX);
    Some(if negative { -size } else { size })
}

/// Parses epoch milliseconds from a number or a numeric string; `None` for an invalid value.
pub(super) fn epoch_milliseconds(raw: RawMember<'_>) -> Option<DateTime<Utc>> {
    let text = raw?.get().trim_matches('"');
    text.parse().ok().and_then(DateTime::from_timestamp_millis).filter(in_calendar)
}

/// Parses a date and time in any form that Java's mapper accepts, cut to milliseconds
/// (docs/contract/events.md#62-dates). An empty string counts as absent.
pub(crate) fn date_time(
    name: &'static str,
    raw: RawMember<'_>,
) -> Result<Option<DateTime<Utc>>, Reject> {
    const RULE: &str = "must be an ISO 8601 date and time, or epoch milliseconds";
    let Some(raw) = raw else { return Ok(None) };
    if !raw.get().starts_with('"') {
        return epoch_milliseconds(Some(raw)).map(Some).ok_or_else(|| bad_field(name, RULE));
    }
    let text = string_value(raw).ok_or_else(|| bad_field(name, RULE))?;
    if text.is_empty() {
        return Ok(None);
    }
    parse_date_time(&text)
        .or_else(|| epoch_milliseconds(Some(raw)))
        .map(Some)
        .ok_or_else(|| bad_field(name, RULE))
}

/// Returns whether the instant is in the years 1 to 9999 in UTC.
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

/// Parses a local date in the years 1 to 9999; the date in UTC may be a day earlier or later.
fn parse_date(text: &str) -> Option<NaiveDate> {
    let number = |at: std::ops::Range<usize>| {
        let digits = text.get(at)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?
    };
    let is_whole = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
    let year = i32::try_from(number(0..4)?).ok().filter(|year| *year > 0)?;
    is_whole.then(|| NaiveDate::from_ymd_opt(year, number(5..7)?, number(8..10)?))?
}

fn parse_time(text: &str) -> Option<NaiveTime> {
    let digits = |text: &str, max: usize| {
        (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
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

/// Parses `Z`, `+hh:mm`, `+hhmm` or `+hh`.
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

/// Parses a grace period. An invalid one (duration of 0 or less, unknown interval, missing member, wrong
/// type) counts as none and never rejects the loan (docs/contract/events.md#71-item_checked_out).
pub(crate) fn grace(raw: RawMember<'_>) -> Option<Grace> {
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
