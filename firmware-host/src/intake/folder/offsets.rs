//! How far files of lines are taken in, on disk: a program that starts again goes on where the last ended.
//!
//! - A file is the same when device, inode and the digest of its beginning are: an inode is given again.
//! - Written after the samples are durable. What a cut leaves unsaid is offered once more, and the inbox
//!   drops what it has.
//! - Bounded: [`FILES_MAX`] files, those that are there and those that are followed.
//! - Invariant: what cannot be read here costs a second reading of the files, never a sample.

use super::follow::Lines;
use super::{Inode, shelf};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use sapwood::ports::{Storage, StorageResult};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The file in the state folder.
pub const FILE: &str = "watched.json";
const NEW: &str = "watched.json.new";
/// Files that are known at most.
const FILES_MAX: usize = 8_192;
/// Bytes of a file's beginning that tell it from another with its inode.
const HEAD_BYTES: u64 = 1_024;
const VERSION: u32 = 1;

/// How far one file is taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    device: u64,
    inode: u64,
    /// Bytes of its beginning whose digest `head` is.
    head_bytes: u64,
    head: String,
    /// Whether it has been put away.
    moved: bool,
    lines: Lines,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    files: Vec<Entry>,
}

/// What is known of files of lines from one start to the next.
pub(super) struct Offsets {
    storage: Arc<dyn Storage>,
    /// As last written.
    entries: Vec<Entry>,
    failed: bool,
}

impl Offsets {
    /// What the last start has left; nothing where that cannot be read.
    pub(super) fn read(storage: Arc<dyn Storage>) -> Self {
        let bytes = storage.read(FILE).unwrap_or_default();
        let written: Written = serde_json::from_slice(&bytes).unwrap_or_default();
        let entries = if written.version == VERSION { written.files } else { Vec::new() };
        Self { storage, entries, failed: false }
    }

    /// How far this file is taken in, if it is one that is known.
    pub(super) fn of(&self, inode: Inode, file: &File) -> Option<Lines> {
        let entry = self.entries.iter().find(|entry| (entry.device, entry.inode) == inode)?;
        let head = digest(file, entry.head_bytes).ok()?;
        (head == entry.head).then(|| entry.lines.clone())
    }

    /// The files that were put away and may still be written, found again on their shelf.
    pub(super) fn moved(&self, folder: &OwnedFd) -> Vec<(OsString, File, Lines)> {
        if self.entries.iter().all(|entry| !entry.moved) {
            return Vec::new();
        }
        let shelves = [shelf::TAKEN, shelf::REFUSED];
        let found = shelves.map(|name| shelf::look(folder, name).and_then(|place| self.on(&place)));
        let files = found.into_iter().zip(shelves).flat_map(|(found, shelf)| match found {
            Ok(files) => files,
            // A shelf that nothing was put on yet is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(shelf, %error, "cannot look for files that were put away");
                Vec::new()
            }
        });
        files.collect()
    }

    fn on(&self, place: &OwnedFd) -> io::Result<Vec<(OsString, File, Lines)>> {
        let mut found = Vec::new();
        for name in Dir::read_from(place)? {
            let name = OsStr::from_bytes(name?.file_name().to_bytes()).to_owned();
            let Ok(stat) = statat(place, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let inode = (stat.st_dev, stat.st_ino);
            let is_moved = |entry: &Entry| entry.moved && (entry.device, entry.inode) == inode;
            if !self.entries.iter().any(is_moved) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = openat(place, &name, flags, Mode::empty()) else { continue };
            let file = File::from(file);
            found.extend(self.of(inode, &file).map(|lines| (name, file, lines)));
        }
        Ok(found)
    }

    /// Makes durable how far the files are taken in now, where that has changed; what was known of those
    /// that were not looked into yet stays.
    pub(super) fn keep<'f>(
        &mut self,
        files: impl Iterator<Item = (Inode, &'f File, &'f Lines, bool)>,
        is_open: impl Fn(Inode) -> bool,
    ) {
        let still = |entry: &&Entry| is_open((entry.device, entry.inode));
        let mut entries: Vec<Entry> = self.entries.iter().filter(still).cloned().collect();
        for (inode, file, lines, moved) in files.take(FILES_MAX.saturating_sub(entries.len())) {
            let known = self.entries.iter().find(|entry| (entry.device, entry.inode) == inode);
            if let Some(known) = known.filter(|known| known.lines == *lines && known.moved == moved)
            {
                entries.push(known.clone());
                continue;
            }
            let head_bytes = lines.offset().min(HEAD_BYTES);
            let Ok(head) = digest(file, head_bytes) else { continue };
            let ((device, inode), lines) = (inode, lines.clone());
            entries.push(Entry { device, inode, head_bytes, head, moved, lines });
        }
        if entries == self.entries {
            return;
        }
        match self.write(&entries) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "how far files are taken in is not kept");
            }
            Err(_) => {}
        }
        self.entries = entries;
    }

    fn write(&self, entries: &[Entry]) -> StorageResult<()> {
        let written = Written { version: VERSION, files: entries.to_vec() };
        // What it holds is always JSON; nothing is written in the case that cannot be.
        let Ok(bytes) = serde_json::to_vec(&written) else { return Ok(()) };
        self.storage.write(NEW, &bytes)?;
        self.storage.sync(NEW)?;
        self.storage.rename(NEW, FILE)?;
        self.storage.sync_dir("")
    }
}

/// The digest of a file's first bytes.
fn digest(file: &File, bytes: u64) -> io::Result<String> {
    let mut head = vec![0; bytes.min(HEAD_BYTES) as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(blake3::hash(&head).to_hex()[..16].to_owned())
}
