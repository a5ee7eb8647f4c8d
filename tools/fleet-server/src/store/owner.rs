//! Whose the files of a fleet's folder are: its owner's, also where root makes them.
//!
//! - In: what was just made, and the folder. Out: the same, given to the folder's owner.
//! - Never here: what lay there before, which somebody may have put in its place.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown, lchown};
use std::path::Path;

/// Gives a new file to the owner of a folder.
///
/// # Errors
/// What the system said.
pub(crate) fn give_file(file: &File, folder: &Path) -> io::Result<()> {
    match heir(&file.metadata()?, folder)? {
        Some((user, group)) => fchown(file, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Gives what was just made at a path to the owner of a folder; a link is not followed.
///
/// # Errors
/// What the system said.
pub(crate) fn give_path(path: &Path, folder: &Path) -> io::Result<()> {
    match heir(&fs::symlink_metadata(path)?, folder)? {
        Some((user, group)) => lchown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Whose it should be; none where it is, for only root gives anything away.
fn heir(made: &Metadata, folder: &Path) -> io::Result<Option<(u32, u32)>> {
    let owner = fs::metadata(folder)?;
    let is_others = made.uid() == 0 && owner.uid() != 0;
    Ok(is_others.then(|| (owner.uid(), owner.gid())))
}
