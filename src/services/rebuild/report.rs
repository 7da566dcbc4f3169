//! The findings of a rebuild as text.

use serde_json::Value;

use crate::store::rebuild::differences::{Difference, INSIGNIFICANT_KIND, PatronDifferences};

/// Returns the differences of a patron as text, one line per significant difference; `source` is the name of
/// the source.
pub fn describe_patron(
    patron: &PatronDifferences,
    differences: &[Difference],
    source: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(current), Some(target)) = (patron.current_loans, patron.target_loans)
        && current != target
    {
        let s = if current == 1 { "" } else { "s" };
        lines.push(format!("has {current} loan{s} here and {target} in {source}"));
    }
    let patron_differences = differences.iter().filter(|d| d.user_id == Some(patron.user_id));
    for d in patron_differences.filter(|d| d.kind != INSIGNIFICANT_KIND) {
        let what = if d.is_loan { "loan" } else { "fee/fine" };
        let member_text =
            |side: &Option<Value>, name: &str| match side.as_ref().map(|side| &side[name]) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(other) => Some(other.to_string()),
            };
        let how = match d.kind.as_str() {
            "only_current" => match member_text(&d.target_state, "closedAt") {
                Some(at) => format!("is open here but was closed at {at}"),
                None if d.target_state.is_some() => {
                    "is open here but closed in the source".to_owned()
                }
                None => format!("is open here but absent from {source}"),
            },
            "only_target" => "is missing here but open in the source".to_owned(),
            _ => format!("is open but differs here in {}", d.registers.join(", ")),
        };
        lines.push(format!("{what} {} {how}", d.subject));
    }
    if patron.counters {
        lines.push("the counters differ from a recount".to_owned());
    }
    lines
}
