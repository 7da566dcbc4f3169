//! Seeds that failed once, each with what was wrong.

use super::{history, model::Broken};

/// Seed, and what it showed.
const KEPT: [(u64, &str); 1] =
    [(126, "a tenant enabled in the middle of a batch made the group forget what was passed by")];

#[test]
fn what_failed_once_fails_no_more() {
    for (seed, showed) in KEPT {
        assert_eq!(history(seed, Broken::Not), Ok(()), "{showed}");
    }
}
