//! Whether a job of these settings can end, before anything of it begins.
//!
//! - In: the base's configuration, settings in range. Out: nothing, or what does not fit what.
//! - Invariant: a job that was let through here meets no bound of a file later, however it goes.

use super::heritage::{HELD_OUT_BYTES_MAX, NAMES_MAX};
use super::{LearnError, geometry, spec};
use crate::base::Config;
use crate::settings::{DOMAIN_BYTES_MAX, Settings};
use sapwood_protocol::limits::{ADAPTER_FILE_BYTES_MAX, LEARNER_BYTES_MAX, LEDGER_SLOT_BYTES};

/// Numbers of a checkpoint for each that is learned: fast, slow, two moments, and the best slow so far.
const VECTORS: u64 = 5;
/// What a record holds beside numbers, held-out text and ledger: domains, settings, shapes.
const NAMES_BYTES: u64 = 10 << 20;

const _: () = assert!(
    (NAMES_MAX * 2 * DOMAIN_BYTES_MAX) as u64 <= NAMES_BYTES - (1 << 20),
    "the names of all domains leave room for settings and shapes"
);
const _: () = assert!(
    NAMES_BYTES + 2 * HELD_OUT_BYTES_MAX < LEARNER_BYTES_MAX / 2,
    "half of a record is for what is learned"
);

/// Whether the sizes that follow from `settings`, beside `ranks` of a global adapter, fit the model, the
/// files and each other.
///
/// # Errors
/// [`LearnError`] names what does not fit; nothing was started.
pub(super) fn check(config: &Config, settings: &Settings, ranks: usize) -> Result<(), LearnError> {
    config.check_length(settings.max_seq_length)?;
    let numbers = spec(config, settings)?.over(ranks).len() as u64;
    let bytes = size_of::<f32>() as u64 * numbers;
    let ledger = match settings.replay_batch_size {
        0 => 0,
        _ => u64::from(geometry(config, settings)?.capacity) * LEDGER_SLOT_BYTES,
    };
    let record = VECTORS * bytes + ledger + 2 * HELD_OUT_BYTES_MAX + NAMES_BYTES;
    let files = [
        ("a checkpoint", record, LEARNER_BYTES_MAX),
        ("its adapter", bytes + NAMES_BYTES, ADAPTER_FILE_BYTES_MAX),
    ];
    match files.into_iter().find(|(_, got, most)| got > most) {
        Some((what, got, most)) => Err(LearnError::Large { what, got, most }),
        None => Ok(()),
    }
}
