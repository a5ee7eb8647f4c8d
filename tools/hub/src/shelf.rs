//! One model in the cache, laid out as `huggingface_hub` lays it out.
//!
//! - `models--ORG--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT/FILE` is a link to `blobs/HASH`, and
//!   `blobs/HASH.incomplete` is what came of a file so far; `.locks` beside it keeps two programs apart.
//! - Invariant: a blob has its name once it is whole and its hash fits.

use crate::error::HubError;
use crate::hash::Hash;
use crate::listing::{Entry, Listing, is_commit};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Folders within folders that a snapshot may have.
const DEPTH_MAX: usize = 8;

/// The place of a repository.
#[derive(Debug)]
pub(crate) struct Shelf {
    cache: PathBuf,
    folder: String,
}

impl Shelf {
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        Self { cache: cache.to_owned(), folder: format!("models--{}", repo.replace('/', "--")) }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, hash: &Hash) -> PathBuf {
        self.root().join("blobs").join(hash.text())
    }

    pub(crate) fn incomplete(&self, hash: &Hash) -> PathBuf {
        self.root().join("blobs").join(format!("{hash}.incomplete"))
    }

    /// The commit that a revision was when it was asked for last.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.root().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|text| is_commit(text))
    }

    /// Notes which commit a revision is.
    pub(crate) fn note(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root().join("refs").join(revision);
        make_parent(&path)?;
        let partial = path.with_file_name(format!(".{}.partial", std::process::id()));
        let written = fs::write(&partial, commit).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|source| {
            let _gone = fs::remove_file(&partial);
            HubError::Write { path, source }
        })
    }

    /// What the cache has of a commit.
    pub(crate) fn listing(&self, commit: &str) -> Listing {
        let mut files = BTreeMap::new();
        list(&self.snapshot(commit), "", 0, &mut files);
        Listing { commit: commit.to_owned(), files }
    }

    /// Nobody else fetches this file until what is given here is dropped. Says beforehand where that means
    /// waiting.
    pub(crate) fn lock(&self, hash: &Hash, wait: impl FnOnce()) -> Result<File, HubError> {
        let path = self.cache.join(".locks").join(&self.folder).join(format!("{hash}.lock"));
        make_parent(&path)?;
        let failed = |source| HubError::Write { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                wait();
                file.lock().map_err(failed)?;
                Ok(file)
            }
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Gives a whole blob its name in a snapshot, and says where that is.
    pub(crate) fn link(&self, commit: &str, file: &str, hash: &Hash) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(file);
        make_parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{hash}"));
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(path);
        }
        let partial = path.with_file_name(format!(".{}.partial", std::process::id()));
        let _gone = fs::remove_file(&partial);
        let linked =
            symlink(&target, &self.blob(hash), &partial).and_then(|()| fs::rename(&partial, &path));
        linked.map(|()| path.clone()).map_err(|source| {
            let _gone = fs::remove_file(&partial);
            HubError::Write { path, source }
        })
    }

    /// Bytes free where the cache is; none where the system does not tell.
    #[cfg(unix)]
    pub(crate) fn free(&self) -> Option<u64> {
        let there = self.cache.ancestors().find(|folder| folder.is_dir())?;
        let disk = rustix::fs::statvfs(there).ok()?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }

    #[cfg(not(unix))]
    pub(crate) fn free(&self) -> Option<u64> {
        None
    }
}

/// A link that moves with the cache.
#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// A second name, where links need a permission.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

/// The folder of a file, made where it is missing.
pub(crate) fn make_parent(path: &Path) -> Result<(), HubError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let failed = |source| HubError::Write { path: parent.to_owned(), source };
    fs::create_dir_all(parent).map_err(failed)
}

/// Every file below a folder; the target of a link is its hash.
fn list(folder: &Path, before: &str, depth: usize, files: &mut BTreeMap<String, Entry>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{before}{name}"));
        // A link whose blob is gone is no file.
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.is_dir() && depth < DEPTH_MAX {
            list(&path, &format!("{name}/"), depth + 1, files);
        } else if about.is_file() {
            let target = fs::read_link(&path).ok();
            let hash = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            let entry = Entry { size: Some(about.len()), hash: hash.and_then(Hash::read) };
            files.insert(name, entry);
        }
    }
}
