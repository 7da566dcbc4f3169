//! The limits that a library sets for patron groups.

use rust_decimal::Decimal;
use uuid::Uuid;

/// The limit of one condition for one patron group. Several limits may exist for one pair, and each counts
/// (docs/contract/http-api.md#5-limits).
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Its id.
    pub id: Uuid,
    /// The patron group's id; comparison ignores case.
    pub patron_group: String,
    /// The condition; `None` if a stored limit names none.
    pub condition: Option<Uuid>,
    /// The value, a double as in FOLIO; `None` if a stored limit has none.
    pub value: Option<f64>,
    /// When the limit was created, as text of its record; `None` if the record has none.
    pub created_date: Option<String>,
    /// When the limit was last changed, as text of its record; `None` if the record has none.
    pub updated_date: Option<String>,
}

impl Limit {
    /// Returns the shortest decimal of the double for comparisons of money, so 10.4 is exactly 10.4
    /// (docs/contract/evaluation.md#5-money).
    pub fn exact_decimal(value: f64) -> Option<Decimal> {
        value.to_string().parse().ok()
    }
}
