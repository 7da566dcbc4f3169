//! Checks the next block that time alone causes.

use chrono::{DateTime, TimeDelta, Utc};

use super::body::Next;
use super::expected::{Situation, measure_name};
use super::rehearsal::Rehearsal;
use super::report::Report;

/// The time in which nothing changes without a next block.
const HORIZON: TimeDelta = TimeDelta::days(365);

/// Checks that nothing changes before the next block, and that its limit blocks at its instant.
pub(super) fn check(
    situation: &Situation<'_>,
    rehearsal: &Rehearsal<'_>,
    got: Option<&Next>,
    report: &mut Report<'_>,
) {
    let now = situation.now;
    let Some(next) = got else {
        if let Some(change) = first_change(rehearsal, now) {
            report.add("next", format!("a block at {}", text(change)), "none");
        }
        return;
    };
    let what = format!("next at {}", text(next.at));
    if next.at <= now {
        return report.add(what, format!("an instant after {}", text(now)), "an earlier one");
    }
    let blocks = rehearsal.blocks_at(now);
    if rehearsal.blocks_at(next.at - TimeDelta::milliseconds(1)) != blocks {
        let change = first_change(rehearsal, now).map_or("earlier".to_owned(), text);
        report.add(&what, format!("the first change, at {change}"), "a later one");
    }
    let at_next = rehearsal.blocks_at(next.at);
    if blocks.contains_key(&next.limit) || !at_next.contains_key(&next.limit) {
        let new = at_next.keys().filter(|limit| !blocks.contains_key(limit));
        let new: Vec<_> = new.map(ToString::to_string).collect();
        report.add(&what, format!("a new block of one of {new:?}"), next.limit);
    }
    let mut limits = situation.rules.limits.iter();
    let limit = limits.find(|limit| limit.id == next.limit);
    let measure = limit.and_then(|limit| measure_name(limit.condition_id));
    report.compare(&what, &measure, &Some(&next.what));
}

/// Returns the first instant within a year with other blocks than now. Time only adds blocks, so bisection
/// finds the instant.
pub(super) fn first_change(rehearsal: &Rehearsal<'_>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let blocks = rehearsal.blocks_at(now);
    let is_changed = |at| rehearsal.blocks_at(at) != blocks;
    let (mut before, mut after) = (now, now + HORIZON);
    if !is_changed(after) {
        return None;
    }
    while after - before > TimeDelta::milliseconds(1) {
        let middle = before + TimeDelta::milliseconds((after - before).num_milliseconds() / 2);
        if is_changed(middle) { after = middle } else { before = middle }
    }
    Some(after)
}

fn text(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
