//! The fuzzer's checks, on the fuzzer's corpus, on the recorded payloads and on values from proptest.
//! `make fuzz` finds more inputs.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use patron_blocks::event::Kind;
use proptest::{collection::vec, prelude::*};

#[path = "../../fuzz/check.rs"]
mod check;

use check::check;

/// One input per line.
const CORPUS: &str = include_str!("../../fuzz/corpus.txt");

#[test]
fn fuzz_corpus_satisfies_all_invariants() {
    for line in CORPUS.lines() {
        check(&BASE64_STANDARD.decode(line).unwrap());
    }
    assert!(CORPUS.lines().count() > 100, "the corpus exists");
}

/// Every recorded payload, whole or damaged, as a record of every kind.
fn recorded() -> impl Strategy<Value = Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
    let payloads: Vec<Vec<u8>> = Kind::ALL
        .iter()
        .flat_map(|kind| fs::read_dir(folder.join(kind.name())).unwrap())
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (prop::sample::select(payloads), damage).prop_map(|(mut payload, damage)| {
        for (at, byte) in damage {
            *at.get_mut(&mut payload) = byte;
        }
        payload
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_records_satisfy_all_invariants(
        kind in 0..10_u8,
        form in 0..16_u8,
        at in prop_oneof![Just(1_788_300_000_123), any::<i64>()],
        payload in recorded(),
    ) {
        check(&[&[kind, form][..], &at.to_be_bytes(), &payload].concat());
    }

    #[test]
    fn arbitrary_bytes_satisfy_all_invariants(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }
}
