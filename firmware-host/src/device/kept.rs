//! Adapters that lie in folders: of a generation that a state keeps, of PEFT, of mlx-lm.
//!
//! - In: a state's disk, which another thread may change meanwhile, or a folder. Out: what texts are written
//!   with.
//! - Nothing is changed, and no file is believed before it is what was committed.

use super::served::Current;
use sapwood::adapter::peft::{CONFIG_FILE, Files, META_FILE};
use sapwood::adapter::{Adapter, AdapterError, layout};
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::ports::{Disk, Storage, StorageError};
use sapwood::state::{HeldOutBlock, State, StateError};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

/// Why there is no adapter; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The adapter's files.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A file of the folder.
    #[error("cannot read {name} of the adapter: {source}")]
    File {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A state before its first commit, or on the bare base.
    #[error("the state folder has no adapter in use: expected one that `sapwood adapt` has kept")]
    Bare,
}

/// The adapter of a generation that a state keeps.
///
/// # Errors
/// [`KeptError::State`] with [`StateError::Unknown`] for one that is not kept.
pub fn generation(disk: Arc<dyn Storage>, number: u64, base: &Base) -> Result<Current, KeptError> {
    let state = State::look(disk)?;
    let files = state.adapter(number)?;
    let file = |name: &str| files.iter().find(|(own, _)| own == name).map(|(_, bytes)| &bytes[..]);
    let config = file(CONFIG_FILE).unwrap_or_default();
    let tensors = file(layout::tensors_file(config)).unwrap_or_default();
    let files = Files { config, tensors, meta: file(META_FILE) };
    let (adapter, _) = layout::read(files, base.config(), Some(base.hash()))?;
    Ok(Current { generation: Some(number), adapter: Some(adapter), ..Current::default() })
}

/// A state folder that is not in use by this program, to look into.
///
/// # Errors
/// [`KeptError::Storage`].
pub fn folder(state: &Path) -> Result<Arc<dyn Storage>, KeptError> {
    Ok(Arc::new(Disk::look(state)?))
}

/// The generation that a state stands on, and those that it keeps.
///
/// # Errors
/// [`KeptError::Bare`] where it stands on none.
pub fn numbers(disk: Arc<dyn Storage>) -> Result<(u64, Vec<u64>), KeptError> {
    let state = State::look(disk)?;
    let current = state.current().ok_or(KeptError::Bare)?.number;
    Ok((current, state.generations().iter().map(|generation| generation.number).collect()))
}

/// Text of earlier domains that nobody learned, which a state keeps to judge by.
///
/// # Errors
/// [`KeptError::State`].
pub fn held_out(disk: Arc<dyn Storage>) -> Result<Vec<Block>, KeptError> {
    let record = State::look(disk)?.learner()?;
    let blocks = record.map(|record| record.held_out).unwrap_or_default();
    Ok(blocks.iter().map(HeldOutBlock::block).collect())
}

/// An adapter folder in PEFT's layout or in mlx-lm's.
///
/// # Errors
/// [`KeptError::File`], [`KeptError::Adapter`].
pub fn adapter(folder: &Path, base: &Base) -> Result<Adapter, KeptError> {
    let file = |name: &str| {
        let read = fs::read(folder.join(name));
        read.map_err(|source| KeptError::File { name: name.to_owned(), source })
    };
    let config = file(CONFIG_FILE)?;
    let tensors = file(layout::tensors_file(&config))?;
    let meta = folder.join(META_FILE).exists().then(|| file(META_FILE)).transpose()?;
    let files = Files { config: &config, tensors: &tensors, meta: meta.as_deref() };
    Ok(layout::read(files, base.config(), Some(base.hash()))?.0)
}
