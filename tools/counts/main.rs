//! The hot paths of learner and fleet, one at a time, for callgrind to count their instructions.
//!
//! - In: the name of a path. Out: nothing; the path has run twice, the second time within [`measured`],
//!   which is what counts: neither what its inputs cost nor what is made only once.
//! - Without a name: by what the kernels were chosen, and the names.
//! - Kernels and merge are taken by path, as the sanitizer's crate takes them: no engine is built.
//! - Never here: a clock, a second thread, a disk, chance without a seed.
#![deny(unsafe_code)]
#![allow(dead_code, unused_imports, reason = "a path does not use all of its modules")]
#![allow(clippy::unwrap_used, reason = "it may stop at the first surprise")]

#[path = "../fleet-server/src/aggregate/mod.rs"]
mod aggregate;
#[path = "../sanitize/base.rs"]
mod base;
#[path = "../sanitize/decoder.rs"]
mod decoder;
#[path = "../../src/products/mod.rs"]
mod products;
#[path = "../sanitize/settings.rs"]
mod settings;

mod kernels;
mod stages;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rayon::ThreadPoolBuilder;
use std::hint::black_box;
use std::process::ExitCode;

/// A path with what it works on.
type Work = Box<dyn FnMut()>;

/// A path's name, and what makes it.
type Path = (&'static str, fn() -> Work);

/// Runs a path; `run` tells callgrind to count within this function alone.
#[inline(never)]
fn measured(work: &mut Work) {
    work();
    // Not a jump into the path: this function must still be there when it ends.
    black_box(work);
}

/// A seeded source of noise.
fn chance() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

/// Random numbers in -1 to 1.
fn noise(chance: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| chance.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}

fn main() -> ExitCode {
    let mut paths = kernels::PATHS.iter().chain(stages::PATHS);
    let Some(wanted) = std::env::args().nth(1) else {
        println!("{}", products::kernels());
        paths.for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, make)) = paths.find(|(name, _)| *name == wanted) else {
        eprintln!("there is no path {wanted}");
        return ExitCode::FAILURE;
    };
    // The caller is the only thread: another one's waiting would count too.
    ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
    let mut work = make();
    work();
    measured(&mut work);
    ExitCode::SUCCESS
}
