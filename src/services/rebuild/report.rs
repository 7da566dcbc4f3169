//! The findings of a rebuild as text.

use std::fmt;

use serde_json::Value;
use uuid::Uuid;

use crate::store::rebuild::differences::{Difference, INSIGNIFICANT_KIND, PatronDifferences};

/// A significant difference of one patron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatronDifference<'a> {
    /// The numbers of open loans differ.
    LoanCounts {
        /// The number of open loans here.
        current: i32,
        /// The number of open loans in the source.
        target: i32,
    },
    /// A loan or a fee/fine differs.
    Item {
        /// Whether the item is a loan.
        is_loan: bool,
        /// The id of the loan or fee/fine.
        id: Uuid,
        /// How the item differs.
        kind: ItemDifference<'a>,
    },
    /// The counters differ from a recount.
    Counters,
}

/// How a loan or a fee/fine differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemDifference<'a> {
    /// Open here, and closed in the source at this time.
    ClosedAt(String),
    /// Open here, and closed in the source.
    Closed,
    /// Open here, and absent from the source.
    Absent,
    /// Absent here, and open in the source.
    Missing,
    /// Open in both, with these registers different.
    Registers(&'a [String]),
}

/// Returns the significant differences of a patron.
pub fn differences_of_patron<'a>(
    patron: &PatronDifferences,
    differences: &'a [Difference],
) -> Vec<PatronDifference<'a>> {
    let mut found = Vec::new();
    if let (Some(current), Some(target)) = (patron.current_loans, patron.target_loans)
        && current != target
    {
        found.push(PatronDifference::LoanCounts { current, target });
    }
    let of_patron = differences.iter().filter(|d| d.user_id == Some(patron.user_id));
    let significant = of_patron.filter(|d| d.kind != INSIGNIFICANT_KIND);
    found.extend(significant.map(|d| PatronDifference::Item {
        is_loan: d.is_loan,
        id: d.subject,
        kind: ItemDifference::of(d),
    }));
    if patron.counters {
        found.push(PatronDifference::Counters);
    }
    found
}

/// Returns the differences of a patron as text, one line per significant difference; `source` is the name of
/// the source.
pub fn describe_patron(
    patron: &PatronDifferences,
    differences: &[Difference],
    source: &str,
) -> Vec<String> {
    let found = differences_of_patron(patron, differences);
    found.iter().map(|difference| Line { difference, source }.to_string()).collect()
}

impl<'a> ItemDifference<'a> {
    fn of(difference: &'a Difference) -> Self {
        let target = &difference.target_state;
        let closed_at = match target.as_ref().map(|target| &target["closedAt"]) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        match (difference.kind.as_str(), closed_at) {
            ("only_current", Some(at)) => Self::ClosedAt(at),
            ("only_current", None) if target.is_some() => Self::Closed,
            ("only_current", None) => Self::Absent,
            ("only_target", _) => Self::Missing,
            _ => Self::Registers(&difference.registers),
        }
    }
}

/// A line of the report.
struct Line<'a> {
    difference: &'a PatronDifference<'a>,
    source: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source;
        let (is_loan, id, kind) = match self.difference {
            PatronDifference::LoanCounts { current, target } => {
                let s = if *current == 1 { "" } else { "s" };
                return write!(f, "has {current} loan{s} here and {target} in {source}");
            }
            PatronDifference::Counters => return f.write_str("the counters differ from a recount"),
            PatronDifference::Item { is_loan, id, kind } => (is_loan, id, kind),
        };
        write!(f, "{} {id} ", if *is_loan { "loan" } else { "fee/fine" })?;
        match kind {
            ItemDifference::ClosedAt(at) => write!(f, "is open here but was closed at {at}"),
            ItemDifference::Closed => f.write_str("is open here but closed in the source"),
            ItemDifference::Absent => write!(f, "is open here but absent from {source}"),
            ItemDifference::Missing => f.write_str("is missing here but open in the source"),
            ItemDifference::Registers(registers) => {
                write!(f, "is open but differs here in {}", registers.join(", "))
            }
        }
    }
}
