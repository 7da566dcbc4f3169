//! Parsers of single settings. A parser trims the text, and returns the violated rule of an invalid text.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use chrono::TimeDelta;
use clap::builder::TypedValueParser;

/// An `Option` that the parser itself returns: clap recognizes only the name `Option`.
pub(super) type Optional<T> = Option<T>;

/// A number that a setting may have.
pub(super) trait Number:
    FromStr + PartialOrd + Display + Clone + Send + Sync + 'static
{
}

impl<T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static> Number for T {}

/// Parses a text by `read`.
pub(super) fn valid<T: Clone + Send + Sync + 'static>(
    rule: &'static str,
    read: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    move |text: &str| read(text.trim()).ok_or(rule)
}

/// Parses a text by `read`, or an empty text as `None`.
pub(super) fn optional<T: Clone + Send + Sync + 'static>(
    rule: &'static str,
    read: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = Optional<T>> {
    move |text: &str| match text.trim() {
        "" => Ok(None),
        text => read(text).map(Some).ok_or(rule),
    }
}

pub(super) fn non_empty() -> impl TypedValueParser<Value = String> {
    valid("must not be empty", |text| (!text.is_empty()).then(|| text.to_owned()))
}

/// Parses one of these names.
pub(super) fn choice<T: Clone + Send + Sync + 'static, const N: usize>(
    choices: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let names = choices.each_ref().map(|(name, _)| *name);
    let (last, others) = names.split_last().expect("a setting has several choices");
    let rule = format!("must be {} or {last}", others.join(", "));
    move |text: &str| {
        let chosen = choices.iter().find(|(name, _)| *name == text.trim());
        chosen.map(|(_, value)| value.clone()).ok_or_else(|| rule.clone())
    }
}

pub(super) fn flag() -> impl TypedValueParser<Value = bool> {
    choice([("true", true), ("false", false)])
}

/// Parses a number in a range. The rule consists of `what`, the range and `note`.
pub(super) fn bounded<T: Number>(
    what: &str,
    range: RangeInclusive<T>,
    note: &str,
) -> impl TypedValueParser<Value = T> + use<T> {
    let rule = format!("must be a {what} from {} to {}{note}", range.start(), range.end());
    move |text: &str| {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| rule.clone())
    }
}

pub(super) fn number<T: Number>(range: RangeInclusive<T>) -> impl TypedValueParser<Value = T> {
    bounded("number", range, "")
}

pub(super) fn port() -> impl TypedValueParser<Value = u16> {
    bounded("port", 1..=u16::MAX, "")
}

pub(super) fn mib<T: Number>(range: RangeInclusive<T>) -> impl TypedValueParser<Value = T> {
    bounded("number of MiB", range, "")
}

pub(super) fn kib() -> impl TypedValueParser<Value = u32> {
    bounded("number of KiB", 64..=1_048_576, "")
}

pub(super) fn milliseconds(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = Duration> {
    bounded("number of milliseconds", range, "").map(Duration::from_millis)
}

/// Parses the time of a call, a statement or a pause: up to an hour.
pub(super) fn wait() -> impl TypedValueParser<Value = Duration> {
    milliseconds(10..=3_600_000)
}

pub(super) fn seconds(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = Duration> {
    bounded("number of seconds", range, "").map(Duration::from_secs)
}

/// Parses an age in seconds: up to a year.
pub(super) fn age() -> impl TypedValueParser<Value = TimeDelta> {
    bounded("number of seconds", 0..=31_536_000, "").map(TimeDelta::seconds)
}

pub(super) fn days() -> impl TypedValueParser<Value = TimeDelta> {
    bounded("number of days", 1..=3650, "").map(TimeDelta::days)
}
