//! Seeds of histories that failed once, each with its fault.

use super::{check_history, model::InjectedFault};

/// A seed and the fault that it revealed.
const SEEDS: [(u64, &str); 1] =
    [(126, "a tenant enabled in the middle of a batch made the group forget what was passed by")];

#[test]
fn regression_seeds_pass() {
    for (seed, showed) in SEEDS {
        assert_eq!(check_history(seed, InjectedFault::None), Ok(()), "{showed}");
    }
}
