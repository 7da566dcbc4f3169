//! The placeholders in the message of a condition (docs/contract/insight.md#4-placeholders).

use std::borrow::Cow;

use rust_decimal::Decimal;

use super::{Finding, Limit, Measure, MeasuredValue, Measures};

/// All placeholders.
pub const PLACEHOLDERS: [&str; 5] =
    ["{measured}", "{limit}", "{toReturn}", "{toSettle}", "{overdue}"];

impl Finding<'_> {
    /// Returns whether the block shows how many loans a limit of days requires: in its message, or in its
    /// explanation.
    pub fn shows_recall_days(&self, is_explained: bool) -> bool {
        self.measure() == Some(Measure::RecallOverdueDays)
            && !self.blocked.is_empty()
            && (is_explained || self.condition.message.contains("{toReturn}"))
    }

    /// Returns the message of the condition with the numbers of this finding. Unknown placeholders and other
    /// braces stay as they are, and a number never becomes a placeholder.
    pub fn message(&self, measures: &Measures) -> Cow<'_, str> {
        let template = self.condition.message.as_str();
        // Almost all messages have no placeholder.
        if !template.contains('{') {
            return Cow::Borrowed(template);
        }
        let mut message = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(start) = rest.find('{') {
            let (text, from_brace) = rest.split_at(start);
            message.push_str(text);
            let known = PLACEHOLDERS.into_iter().find(|known| from_brace.starts_with(known));
            match known.and_then(|known| Some((known, self.placeholder_value(known, measures)?))) {
                Some((placeholder, value)) => {
                    message.push_str(&value);
                    rest = &from_brace[placeholder.len()..];
                }
                // The text after this brace may begin with another one.
                None => {
                    message.push('{');
                    rest = &from_brace[1..];
                }
            }
        }
        message.push_str(rest);
        Cow::Owned(message)
    }

    fn placeholder_value(&self, placeholder: &str, measures: &Measures) -> Option<String> {
        let value = match placeholder {
            "{measured}" => match self.measured? {
                MeasuredValue::Count(count) => count.to_string(),
                MeasuredValue::Money(sum) => amount_text(sum),
            },
            "{limit}" => match (self.measured?, self.limit.value?) {
                (MeasuredValue::Money(_), limit) => amount_text(Limit::exact_decimal(limit)?),
                // The shortest decimal of the double.
                (MeasuredValue::Count(_), limit) => limit.to_string(),
            },
            "{toReturn}" => self.loans_to_return(measures).to_string(),
            "{toSettle}" => amount_text(self.amount_to_pay(measures)),
            "{overdue}" => measures.overdue.to_string(),
            _ => return None,
        };
        Some(value)
    }
}

/// Returns the exact amount, with at least two decimals if it has any.
pub(crate) fn amount_text(amount: Decimal) -> String {
    let mut amount = amount.normalize();
    if amount.scale() == 1 {
        amount.rescale(2);
    }
    amount.to_string()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::blocks::{Actions, Condition};

    #[test]
    fn recall_days_are_shown_by_a_block_of_days() {
        let shows = |measure: Measure, blocked: Actions, message: &str, is_explained| {
            let id = measure.condition_id();
            let limit = Limit {
                id: Uuid::nil(),
                patron_group: String::new(),
                condition: Some(id),
                value: Some(1.0),
                created_date: None,
                updated_date: None,
            };
            let condition = Condition { id, blocks: Actions::ALL, message: message.to_owned() };
            let measured = Some(MeasuredValue::Count(2));
            let (limit, condition, reached) = (&limit, &condition, blocked);
            let finding = Finding { limit, condition, measured, reached, blocked };
            finding.shows_recall_days(is_explained)
        };
        let days = Measure::RecallOverdueDays;
        let returns = "Return {toReturn}";
        assert!(shows(days, Actions::ALL, returns, false));
        assert!(shows(days, Actions::ALL, "Return all", true));
        assert!(!shows(days, Actions::ALL, "Return all", false));
        assert!(!shows(days, Actions::NONE, returns, true));
        assert!(!shows(Measure::OverdueRecalls, Actions::ALL, returns, true));
    }
}
