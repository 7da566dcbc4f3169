//! The simulation: the real ingest loop (lanes, writers, ingest, assignment, the decision where to
//! begin) over a model of the database and of the broker, driven by one seed through crashes at any
//! await, failing and doubtful commits, repeats, disorder, two instances that both think they own a
//! partition, tenants that come and go, and operators who resume what has stopped.
//!
//! After each history the state is the function of the set of events that the pure core says, counters
//! equal a recount, and no offset ever was beyond what is durable. `make test` runs ten thousand,
//! `make simulate` a million; `dev/simulate 1 SEED` runs one again.

mod batches;
mod instance;
mod kept;
mod log;
mod model;
mod run;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use model::Broken;

#[expect(clippy::disallowed_methods, reason = "how much to simulate, as dev/simulate says")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a history and says which seed it was, if it fails.
fn history(seed: u64, broken: Broken) -> Result<(), String> {
    let ran = std::panic::catch_unwind(|| run::run(seed, broken));
    match ran {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(format!("dev/simulate 1 {seed}: {why}")),
        Err(_) => Err(format!("dev/simulate 1 {seed}: it panicked")),
    }
}

#[test]
fn every_history_converges_whatever_fails_and_whoever_crashes() {
    let (number, first) = (setting("SIMULATION_HISTORIES", 10_000), setting("SIMULATION_SEED", 0));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // One that fails is enough: the other threads need not go on.
    let failed = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (first..first + number).skip(thread as usize).step_by(threads as usize)
                {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(why) = history(seed, Broken::Not) {
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

/// After how many histories a break is seen.
fn seen_after(broken: Broken) -> Option<u64> {
    (0..2000).find(|seed| history(*seed, broken).is_err()).map(|seed| seed + 1)
}

#[test]
fn a_merge_that_is_broken_on_purpose_is_seen_soon() {
    for (broken, soon) in [
        (Broken::Tombstone, 200),
        (Broken::LastDueWins, 200),
        (Broken::NoDelta, 200),
        // Of few histories.
        (Broken::LastGroupWins, 1000),
        (Broken::NoHorizon, 1000),
    ] {
        let seen = seen_after(broken);
        eprintln!("{broken:?}: seen in history {seen:?}");
        assert!(seen.is_some_and(|seen| seen <= soon), "{broken:?} was seen in history {seen:?}");
    }
}

#[test]
fn without_the_inbox_the_merge_still_changes_nothing_twice() {
    assert_eq!((0..300).find_map(|seed| history(seed, Broken::NoInbox).err()), None);
}
