//! What root leaves in another account's folder becomes that account's.
//!
//! - In: a folder, and whose its files are to be. Out: files and folders of root's in it are theirs.
//! - Invariant: nothing outside the folder changes hands, whatever its owner does meanwhile: names are
//!   looked up in folders that are open, no link is followed, and a file of several names is left alone.

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fchown, fstat, open, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Folders in folders that are looked into: a state folder has three.
const DEPTH: usize = 8;

/// An account and its group.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    user: Uid,
    group: Gid,
}

impl Owner {
    /// Whose a folder is, for root, where it is another's; none for anybody else, who leaves files of no
    /// other account's.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let found = fs::metadata(folder).ok().filter(|_| geteuid().is_root())?;
        let (user, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        (!user.is_root()).then_some(Self { user, group })
    }
}

/// Gives `owner` a folder and what is in it as far as it is root's and, by its name there, `ours`.
///
/// # Errors
/// What the system says of a file that is there and cannot be given.
pub(crate) fn hand_over(
    folder: &Path,
    owner: Owner,
    ours: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let opened = open(folder, OFlags::DIRECTORY | flags(), Mode::empty())?;
    Ok(give(&opened, owner, DEPTH, &ours)?)
}

/// To look at a name without following it, waiting for it or becoming its terminal's owner.
fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

fn give(
    opened: &OwnedFd,
    owner: Owner,
    depth: usize,
    ours: &dyn Fn(&str) -> bool,
) -> rustix::io::Result<()> {
    let found = fstat(opened)?;
    let is_folder = kind(&found) == FileType::Directory;
    // Another name of a file may lie in a folder of somebody else's.
    let is_alone = kind(&found) == FileType::RegularFile && found.st_nlink == 1;
    if found.st_uid == Uid::ROOT.as_raw() && (is_folder || is_alone) {
        fchown(opened, Some(owner.user), Some(owner.group))?;
    }
    if !is_folder || depth == 0 {
        return Ok(());
    }
    for entry in Dir::read_from(opened)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_ok_and(|name| ![".", ".."].contains(&name) && ours(name));
        if !is_ours {
            continue;
        }
        match openat(opened, name, flags(), Mode::empty()) {
            Ok(inner) => give(&inner, owner, depth - 1, &|_| true)?,
            // A link, a socket, or what is gone by now.
            Err(Errno::LOOP | Errno::NXIO | Errno::OPNOTSUPP | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}
