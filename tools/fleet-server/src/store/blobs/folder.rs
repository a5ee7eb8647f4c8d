//! Blobs in a folder of this machine.
//!
//! ```text
//! ab/<hash>
//! ```
//! - A file is linked to its place once it is synced; that it is there already is success, for it is the
//!   same.
//! - Never here: what nobody needs any more, `mod.rs`.

use super::content::Content;
use super::draft::{Drafts, sync, written_ms};
use super::error::{BlobError, disk};
use crate::store::give_path;
use sapwood_protocol::fleet::id::Hash;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What became of a blob that is to go.
#[derive(Debug)]
pub(super) enum Taken {
    /// It was not there.
    Absent,
    /// It is gone.
    Surely,
    /// It may be gone now, or soon.
    Perhaps(BlobError),
}

/// A folder of blobs.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether two creations of one name conflict here: some look-alikes of a disk do not see to it.
    pub(super) fn probe(&self, drafts: &Drafts) -> Result<(), BlobError> {
        let (first, second) = (drafts.new_draft()?, drafts.new_draft()?);
        let place = first.path.with_extension("linked");
        let linked = fs::hard_link(&first.path, &place).map_err(disk(&place));
        let again = fs::hard_link(&second.path, &place);
        let _ = fs::remove_file(&place);
        linked?;
        match again {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(BlobError::Lax { place: self.root.display().to_string() }),
        }
    }

    /// Keeps a file that is whole under its hash, durably.
    pub(super) fn keep(&self, file: &Path, hash: Hash) -> Result<(), BlobError> {
        sync(file)?;
        let place = self.place(hash);
        let folder = place.parent().unwrap_or(&self.root);
        let is_new = !folder.is_dir();
        fs::create_dir_all(folder).map_err(disk(folder))?;
        if is_new {
            give_path(folder, &self.root).map_err(disk(folder))?;
        }
        match fs::hard_link(file, &place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(disk(&place)(error)),
        }
        sync(folder)?;
        if is_new { sync(&self.root) } else { Ok(()) }
    }

    pub(super) fn has(&self, hash: Hash) -> Result<bool, BlobError> {
        let place = self.place(hash);
        place.try_exists().map_err(disk(&place))
    }

    pub(super) fn open(&self, hash: Hash) -> Result<Option<Content>, BlobError> {
        let place = self.place(hash);
        match File::open(&place) {
            Ok(file) => Content::of_file(file).map(Some).map_err(disk(&place)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk(&place)(error)),
        }
    }

    pub(super) fn remove(&self, hash: Hash) -> Result<(), BlobError> {
        let place = self.place(hash);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(&place)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn older(&self, first: u8, until_ms: u64) -> Result<Vec<Hash>, BlobError> {
        let folder = self.root.join(format!("{first:02x}"));
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(disk(&folder))?,
        };
        let mut older = Vec::new();
        for entry in entries {
            let entry = entry.map_err(disk(&folder))?;
            // What is no blob is somebody else's, and one that is gone is nobody's.
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let (Some(hash), Ok(found)) = (name, entry.metadata()) else { continue };
            if written_ms(&found).map_err(disk(&folder))? < until_ms {
                older.push(hash);
            }
        }
        Ok(older)
    }

    /// Takes a blob from its place and has it lie aside.
    pub(super) fn set_aside(&self, hash: Hash, aside: &Path) -> Result<Taken, BlobError> {
        let place = self.place(hash);
        match fs::rename(&place, aside) {
            Ok(()) => Ok(Taken::Surely),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken::Absent),
            Err(error) => Err(disk(&place)(error)),
        }
    }

    fn place(&self, hash: Hash) -> PathBuf {
        self.root.join(super::name(hash))
    }
}
