//! The simulation: the real ingest loop over a model of the database and of the broker. One seed drives
//! crashes at any await, failed and doubtful commits, repeated and unordered records, and tenants that
//! are enabled and disabled. Two instances may both believe that they own a partition, and operators
//! resume stopped partitions.
//!
//! After each history the state equals the pure core's result for the set of events, and counters equal
//! a recount. No offset was ever beyond the durable records. `make test` runs 500 histories, CI runs ten thousand,
//! `make simulate` a million; `dev/simulate 1 SEED` repeats one.

mod batches;
mod instance;
mod log;
mod model;
mod regressions;
mod run;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use model::InjectedFault;

#[expect(clippy::disallowed_methods, reason = "dev/simulate sets the number of histories")]
fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a history, and names the seed if the history fails.
fn check_history(seed: u64, broken: InjectedFault) -> Result<(), String> {
    let ran = std::panic::catch_unwind(|| run::run(seed, broken));
    match ran {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(format!("dev/simulate 1 {seed}: {why}")),
        Err(_) => Err(format!("dev/simulate 1 {seed}: the history panicked")),
    }
}

#[test]
fn every_history_converges_despite_failures_and_crashes() {
    let (number, first) =
        (env_number("SIMULATION_HISTORIES", 500), env_number("SIMULATION_SEED", 0));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // After the first failure, the other threads stop.
    let failed = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (first..first + number).skip(thread as usize).step_by(threads as usize)
                {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(why) = check_history(seed, InjectedFault::None) {
                        failed.store(true, Ordering::Relaxed);
                        panic!("{why}");
                    }
                    if (seed - first) % 100_000 == 0 && seed > first {
                        eprintln!("{} histories after {:?}", seed - first, started.elapsed());
                    }
                }
            });
        }
    });
    eprintln!("{number} histories from seed {first}: 0 divergences in {:?}", started.elapsed());
}

/// Returns the number of histories until the simulation detects a fault.
fn detected_after(broken: InjectedFault) -> Option<u64> {
    (0..2000).find(|seed| check_history(*seed, broken).is_err()).map(|seed| seed + 1)
}

#[test]
fn deliberate_merge_faults_are_detected_soon() {
    for (broken, soon) in [
        (InjectedFault::Tombstone, 200),
        (InjectedFault::LastDueWins, 200),
        (InjectedFault::NoDelta, 200),
        // Few histories reveal these faults.
        (InjectedFault::LastGroupWins, 1000),
        (InjectedFault::NoHorizon, 1000),
    ] {
        let seen = detected_after(broken);
        eprintln!("{broken:?}: seen in history {seen:?}");
        assert!(seen.is_some_and(|seen| seen <= soon), "{broken:?} was seen in history {seen:?}");
    }
}

#[test]
fn merge_without_inbox_is_still_idempotent() {
    assert_eq!((0..300).find_map(|seed| check_history(seed, InjectedFault::NoInbox).err()), None);
}
