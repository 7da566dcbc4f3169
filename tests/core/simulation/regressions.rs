//! Seeds of histories that failed once, each with its fault.

use super::{check_history, model::InjectedFault};

/// A seed and the fault that it revealed.
const SEEDS: [(u64, &str); 1] = [(
    126,
    "after the enabling of a tenant during a batch, the group offset lacked the skipped records",
)];

#[test]
fn regression_seeds_pass() {
    for (seed, showed) in SEEDS {
        assert_eq!(check_history(seed, InjectedFault::None), Ok(()), "{showed}");
    }
}
