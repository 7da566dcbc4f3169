//! A limit that a library has set for a patron group.

use rust_decimal::Decimal;
use uuid::Uuid;

/// The limit of one condition for one patron group. There may be several for the same pair; each
/// counts for itself (docs/contract/http-api.md#5-limits).
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Its id.
    pub id: Uuid,
    /// The patron group's id. It is compared without regard to case.
    pub patron_group: String,
    /// The condition; `None` where a stored limit names none.
    pub condition: Option<Uuid>,
    /// The value, a double as FOLIO keeps it; `None` where a stored limit has none.
    pub value: Option<f64>,
}

impl Limit {
    /// The value for comparing money: the shortest decimal that the double stands for, so 10.4 is
    /// exactly 10.4 (docs/contract/evaluation.md#5-money).
    pub fn exact_decimal(value: f64) -> Option<Decimal> {
        value.to_string().parse().ok()
    }
}
