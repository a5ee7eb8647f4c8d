//! Every committed seed, and many inputs near it, keep every promise: what a fuzzer does, in short.
//!
//! `cargo test -p sapwood-fuzz-checks -- --ignored` writes the sound seeds again; what a fuzzer found
//! lies beside them under a name that says what it was.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood_fuzz_checks::TARGETS;
use sapwood_fuzz_checks::cursor::{Cursor, edit};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a target's seeds: they are read by people and kept for good.
const SEED_BYTES_MAX: u64 = 32 << 10;
/// Changed copies of each seed.
const NEIGHBOURS: usize = 300;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target)
}

fn seeds(target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(target)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths
}

#[test]
fn every_seed_keeps_every_promise() {
    for (target, check, _) in TARGETS {
        let paths = seeds(target);
        paths.iter().for_each(|path| check(&fs::read(path).unwrap()));
        let bytes: u64 = paths.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes <= SEED_BYTES_MAX, "the seeds of {target} are {bytes} bytes");
    }
}

/// Chance of seed 9, the same in every run.
#[test]
fn every_input_near_a_seed_keeps_every_promise() {
    let mut chance = ChaCha8Rng::seed_from_u64(9);
    for (target, check, _) in TARGETS {
        for path in seeds(target) {
            let seed = fs::read(path).unwrap();
            for _ in 0..NEIGHBOURS {
                let mut choices = vec![0; 1 + chance.next_u32() as usize % 24];
                chance.fill_bytes(&mut choices);
                let mut near = seed.clone();
                edit(&mut near, &mut Cursor(&choices), seed.len() + 64);
                check(&near);
            }
        }
    }
}

#[test]
#[ignore = "writes fuzz/seeds"]
fn write_the_seeds() {
    for (target, _, sound) in TARGETS {
        fs::create_dir_all(folder(target)).unwrap();
        for (name, bytes) in sound() {
            fs::write(folder(target).join(name), bytes).unwrap();
        }
    }
}
