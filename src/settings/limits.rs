//! Limits of what is read, and what each must be against the others; those of what is stored or
//! learned stand in `sapwood_protocol::limits`.

pub use sapwood_protocol::limits::{
    DRAW_BLOCKS_MAX, GENERATIONS_KEPT_MAX, POSITIONS_MAX, RANK_MAX, RESERVOIR_BLOCKS_MAX,
    RESERVOIR_BYTES_MAX, STEP_BLOCKS_MAX,
};

/// Most texts that the base writes to be held to.
pub const ANCHOR_BLOCKS_MAX: usize = 4_096;
/// Largest data file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Longest line of a JSON-lines file, in bytes.
pub const LINE_BYTES_MAX: u64 = 16 << 20;
/// Most files of a data folder.
pub const FILES_MAX: usize = 65_536;
/// Deepest data folder.
pub const FOLDER_DEPTH_MAX: usize = 16;
/// Most text that a split takes away from training, in bytes.
pub const HELD_OUT_BYTES_MAX: usize = 64 << 10;
/// Text that the tokenizer sees at once, in bytes.
pub const SEGMENT_BYTES_MAX: usize = 64 << 10;
/// Longest name of a domain, and longest path that one is known by, in bytes.
pub const DOMAIN_BYTES_MAX: usize = 4_096;
/// Most threads.
pub const THREADS_MAX: usize = 1_024;
/// Most optimiser steps of a job, and most that a count of them may be.
pub const STEPS_MAX: u64 = u32::MAX as u64;
/// Most of slow that may be kept at a step: above, a job moves it by less than it can be told.
pub const RETAIN_MAX: f64 = 0.999_999;
/// Most that `whitening` may be: at 300 all that is to be had is had, and a root in f32 is exact far above.
pub const WHITENING_MAX: f64 = 1e4;

/// How much of a device's own text is left to a new global adapter, in the order in which the gate is
/// asked: a large ridge keeps the own ranks to where the device has text.
pub const REFIT_RIDGES: [f64; 3] = [1.0, 0.1, 0.01];
/// Steps on the reservoir after a fit, rising: after each the gate is asked again.
pub const REHEARSED_STEPS: [u64; 8] = [1, 2, 4, 8, 12, 16, 24, 32];
/// Their rate, in parts of a job's: they bring back what was learned.
pub const REHEARSED_RATE: f64 = 0.5;
/// Blocks of the reservoir that the own ranks are fitted again on.
pub const REFIT_BLOCKS: usize = 16;

const _: () = assert!(REFIT_BLOCKS <= DRAW_BLOCKS_MAX, "they are drawn at once");
const _: () = assert!(LINE_BYTES_MAX < FILE_BYTES_MAX, "a longest line must fit a file");
const _: () = assert!(FILE_BYTES_MAX < u32::MAX as u64, "the bytes of any block must fit its u32");
const _: () = assert!(
    HELD_OUT_BYTES_MAX as u64 <= LINE_BYTES_MAX,
    "what is held out must be far less than what is learned"
);
const _: () = assert!(SEGMENT_BYTES_MAX >= POSITIONS_MAX, "a segment must fill a block");
const _: () = assert!((RETAIN_MAX as f32) < 1.0, "what is kept of slow stays below 1 in f32");

/// The linear layers that LoRA may change, as `--target-modules` names them.
pub const TARGET_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// PEFT's word for all of them.
pub const ALL_LINEAR: &str = "all-linear";
