//! Whose layout an adapter folder has, PEFT's or mlx-lm's: both call their configuration alike.
//!
//! - In: the bytes of `adapter_config.json`, then those of the tensors' file that it goes with. Out: the
//!   adapter.
//! - Never here: the disk.

use super::peft::{self, Files, Meta};
use super::{Adapter, AdapterError, mlx};
use crate::base::Config;

/// The file of the tensors that go with a configuration.
pub fn tensors_file(config: &[u8]) -> &'static str {
    if mlx::is_config(config) { mlx::TENSORS_FILE } else { peft::TENSORS_FILE }
}

/// Reads an adapter folder of either layout; one of mlx-lm has no record of ours beside it.
///
/// - `config`, `base_hash`: as of [`peft::read`]. An adapter of mlx-lm names no hash, and passes.
/// # Errors
/// An [`AdapterError`] that names the file and the field or tensor.
pub fn read(
    files: Files<'_>,
    config: &Config,
    base_hash: Option<[u8; 32]>,
) -> Result<(Adapter, Option<Meta>), AdapterError> {
    match mlx::is_config(files.config) {
        true => Ok((mlx::read(files.config, files.tensors, config)?, None)),
        false => peft::read(files, config, base_hash),
    }
}
