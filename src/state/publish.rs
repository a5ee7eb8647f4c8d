//! How bytes become durable under a name, all at once: new name, sync, rename, sync the folder.
//!
//! - Invariant: a name without `.new` stands for bytes that were synced before they had it.

use super::StateError;
use crate::ports::Storage;

/// The ending of a name whose bytes are not complete.
pub(crate) const NEW: &str = ".new";

/// Publishes one file; an older one of that name stays until the new one is durable.
pub(crate) fn file(
    storage: &dyn Storage,
    folder: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), StateError> {
    let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let new = format!("{path}{NEW}");
    let written = storage.write(&new, bytes).map_err(StateError::from);
    let named = written
        .and_then(|()| storage.sync(&new).map_err(StateError::Sync))
        .and_then(|()| Ok(storage.rename(&new, &path)?));
    if let Err(error) = named {
        // What a full disk took of it only stands in the way; the next start removes it otherwise.
        let _ = storage.remove(&new);
        return Err(error);
    }
    storage.sync_dir(folder).map_err(StateError::Sync)
}

/// Publishes a folder of files inside `parent`.
pub(crate) fn folder(
    storage: &dyn Storage,
    parent: &str,
    name: &str,
    files: &[(&str, &[u8])],
) -> Result<(), StateError> {
    let (path, new) = (format!("{parent}/{name}"), format!("{parent}/{name}{NEW}"));
    for left in storage.list(parent)? {
        if left == name || left == format!("{name}{NEW}") {
            storage.remove_dir_all(&format!("{parent}/{left}"))?;
        }
    }
    storage.create_dir_all(&new)?;
    for (name, bytes) in files {
        let file = format!("{new}/{name}");
        storage.write(&file, bytes)?;
        storage.sync(&file).map_err(StateError::Sync)?;
    }
    storage.sync_dir(&new).map_err(StateError::Sync)?;
    storage.rename(&new, &path)?;
    storage.sync_dir(parent).map_err(StateError::Sync)
}

/// Makes the folders of a state folder, if they are missing.
pub(crate) fn layout(storage: &dyn Storage) -> Result<(), StateError> {
    let there = storage.list("")?;
    let missing: Vec<&str> = ["adapters", "learner"]
        .into_iter()
        .filter(|folder| !there.iter().any(|name| name == folder))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.iter().try_for_each(|folder| storage.create_dir_all(folder))?;
    storage.sync_dir("").map_err(StateError::Sync)
}

pub(crate) fn damaged(path: String, what: &'static str) -> StateError {
    StateError::Damaged { path, what }
}
