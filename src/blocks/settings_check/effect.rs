//! The sentences that describe the effects of findings on patrons and staff.

use crate::blocks::{Action, Actions, Measure, SettingsFindingKind};

/// The effect of a limit with an unknown condition.
pub(super) const UNKNOWN_CONDITION: &str =
    "The limit names none of the six conditions, so it blocks no patron of the group.";

/// The effect of a limit without a value.
pub(super) const LIMIT_WITHOUT_VALUE: &str =
    "The limit has no number as its value, so it blocks no patron of the group.";

/// The effect of a message whose condition blocks nothing.
pub(super) const MESSAGE_WITHOUT_ACTION: &str =
    "The condition blocks no action, so no patron and no member of staff ever sees its message.";

/// The effect of a message behind three other messages.
pub(super) const MESSAGE_HIDDEN: &str = "A patron who reaches this limit also reaches three limits that come \
    first, so no block window shows this message.";

/// The effect of a message that may be behind three other messages.
pub(super) const MESSAGE_SOMETIMES_HIDDEN: &str = "A block window shows three messages, so it omits this message \
    for a patron who also reaches three limits that come first.";

/// Returns a number with a noun in singular or plural.
fn count_of(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns the actions as a list in words; the list is not empty.
fn list_of(actions: Actions) -> String {
    let names: Vec<&str> = actions.iter().map(Action::name).collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// Returns a number of counted items or days.
fn quantity(measure: Measure, count: f64) -> String {
    let (one, several) = match measure {
        Measure::ChargedOut => ("item", "items"),
        Measure::LostItems => ("lost item", "lost items"),
        Measure::OverdueItems => ("overdue item", "overdue items"),
        Measure::OverdueRecalls => ("overdue recall", "overdue recalls"),
        Measure::RecallOverdueDays => ("day", "days"),
        Measure::FeeFineBalance => ("", ""),
    };
    format!("{count} {}", if count == 1.0 { one } else { several })
}

pub(super) fn unreadable_records(kind: SettingsFindingKind, count: usize) -> String {
    let (record, rule) = match kind {
        SettingsFindingKind::UnreadableCondition => {
            ("condition", "an id; its limits block no patron")
        }
        _ => ("limit", "an id and a patron group; an ignored limit blocks no patron"),
    };
    format!("The service ignores {}, because a {record} needs {rule}.", count_of(count, record))
}

pub(super) fn unknown_group(limits: usize) -> String {
    let limits = match limits {
        1 => "its limit blocks".to_owned(),
        _ => format!("its {limits} limits block"),
    };
    format!("The users module has no such patron group, so {limits} no patron.")
}

pub(super) fn groups_not_listed(groups: usize) -> String {
    format!(
        "The settings pages list 200 patron groups, so staff cannot see or change the limits of {} there.",
        match groups {
            1 => "this group".to_owned(),
            _ => format!("these {groups} groups"),
        }
    )
}

pub(super) fn negative_value(measure: Measure, value: f64, blocks: Actions) -> String {
    if blocks.is_empty() {
        return format!("The limit {value} has no meaning, and its condition blocks no action.");
    }
    let blocks = list_of(blocks);
    match measure {
        // The limit is never reached without an overdue recall.
        Measure::RecallOverdueDays => {
            format!(
                "The limit {value} works as 0: it blocks {blocks} for a patron of the group with any overdue recall."
            )
        }
        _ => format!(
            "The limit {value} blocks {blocks} for every patron of the group with an open loan or fee/fine."
        ),
    }
}

pub(super) fn fractional_value(measure: Measure, value: f64, blocks: Actions) -> String {
    if blocks.is_empty() {
        return format!("The limit {value} has no effect, because its condition blocks no action.");
    }
    // A whole number cannot equal the limit, so check-outs stop at the same number as other actions.
    let reached_at = quantity(measure, value.ceil());
    let blocks = list_of(blocks);
    format!("The limit {value} blocks {blocks} from {reached_at} for patrons of the group.")
}

pub(super) fn charged_out_zero(blocks: Actions) -> String {
    let others = blocks.difference(Actions { borrowing: true, ..Actions::NONE });
    let everyone = "every patron of the group with an open loan or fee/fine";
    match (blocks.borrowing, others.is_empty()) {
        (true, true) => format!("The limit 0 blocks borrowing for {everyone}."),
        (true, false) => {
            let others = list_of(others);
            format!(
                "The limit 0 blocks borrowing for {everyone}, and {others} from the first item."
            )
        }
        (false, _) => {
            let others = list_of(others);
            format!(
                "The limit 0 blocks {others} for every patron of the group with an item charged out."
            )
        }
    }
}

pub(super) fn recall_days_zero(blocks: Actions) -> String {
    let blocks = list_of(blocks);
    format!(
        "The limit 0 blocks {blocks} for a patron of the group from the first overdue minute of a recalled item."
    )
}

pub(super) fn duplicate_limits(values: impl Iterator<Item = Option<f64>>) -> String {
    let values: Vec<Option<f64>> = values.collect();
    let known = || values.iter().flatten().copied();
    let count = values.len();
    match (known().reduce(f64::min), known().reduce(f64::max)) {
        (Some(lowest), Some(highest)) if lowest < highest => format!(
            "Each of the {count} limits counts: {lowest} blocks first, and a patron above several has a block \
             for each."
        ),
        (Some(value), _) if known().count() > 1 => format!(
            "Each of the {count} limits counts: a patron of the group above {value} has several blocks with one \
             message."
        ),
        (Some(value), _) => format!("Only {value} counts, because the other limits have no value."),
        (None, _) => {
            format!("The {count} limits have no value, so they block no patron of the group.")
        }
    }
}

pub(super) fn condition_blocks_nothing(limits: usize) -> String {
    let limits = match limits {
        1 => "its limit blocks".to_owned(),
        _ => format!("its {limits} limits block"),
    };
    format!("The condition blocks no action, so {limits} no patron.")
}

/// Returns the effect for `unlimited` patron groups without and `limited` patron groups with a limit.
pub(super) fn groups_without_limit(blocks: Actions, unlimited: usize, limited: usize) -> String {
    let blocks = list_of(blocks);
    match (unlimited, limited) {
        (_, 0) => format!(
            "The condition blocks {blocks}, and no patron group has a limit of it, so it blocks no patron."
        ),
        (1, _) => format!(
            "The condition blocks {blocks}, and this patron group has no limit of it, so it never blocks its \
             patrons."
        ),
        _ => format!(
            "The condition blocks {blocks}, and these {unlimited} patron groups have no limit of it, so it never \
             blocks their patrons."
        ),
    }
}

/// Returns the effect of an unknown placeholder, with the known one that was probably meant.
pub(super) fn unknown_placeholder(
    placeholder: &str,
    similar: Option<&str>,
    known: &[&str],
) -> String {
    match similar {
        Some(similar) => format!(
            "Patrons and staff see the text {placeholder} instead of a number; the known placeholder is {similar}."
        ),
        None => format!(
            "Patrons and staff see the text {placeholder} as it is; the known placeholders are {}.",
            known.join(", ")
        ),
    }
}
