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
use std::collections::BTreeMap;
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
    /// As of the last look.
    entries: BTreeMap<Inode, Entry>,
    /// Whether they could not be written, and are to be tried again.
    failed: bool,
}

impl Offsets {
    /// What the last start has left; nothing where that cannot be read.
    pub(super) fn read(storage: Arc<dyn Storage>) -> Self {
        let bytes = storage.read(FILE).unwrap_or_default();
        let written: Written = serde_json::from_slice(&bytes).unwrap_or_default();
        let files = if written.version == VERSION { written.files } else { Vec::new() };
        let entries = files.into_iter().map(|entry| ((entry.device, entry.inode), entry)).collect();
        Self { storage, entries, failed: false }
    }

    /// How far this file is taken in, if it is one that is known.
    pub(super) fn of(&self, inode: Inode, file: &File) -> Option<Lines> {
        let entry = self.entries.get(&inode)?;
        let head = digest(file, entry.head_bytes).ok()?;
        (head == entry.head).then(|| entry.lines.clone())
    }

    /// The files that were put away and may still be written, found again on their shelf.
    pub(super) fn moved(&self, folder: &OwnedFd) -> Vec<(OsString, File, Lines)> {
        if self.entries.values().all(|entry| !entry.moved) {
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
            if !self.entries.get(&inode).is_some_and(|entry| entry.moved) {
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
    ///
    /// - `files`: inode, how far, and whether the file was put away.
    /// - `open`: one of them, to read its beginning; only those that got further are opened.
    pub(super) fn keep<'f>(
        &mut self,
        files: impl Iterator<Item = (Inode, &'f Lines, bool)>,
        open: impl Fn(Inode) -> Option<File>,
        is_open: impl Fn(Inode) -> bool,
    ) {
        let still = self.entries.iter().filter(|(inode, _)| is_open(**inode));
        let mut entries: BTreeMap<Inode, Entry> =
            still.map(|(inode, entry)| (*inode, entry.clone())).collect();
        for (inode, lines, moved) in files.take(FILES_MAX.saturating_sub(entries.len())) {
            let known = self.entries.get(&inode).filter(|known| known.lines == *lines);
            let entry = match known {
                Some(known) => Some(Entry { moved, ..known.clone() }),
                None => open(inode).and_then(|file| Entry::of(inode, &file, lines, moved)),
            };
            entries.extend(entry.map(|entry| (inode, entry)));
        }
        if entries == self.entries && !self.failed {
            return;
        }
        let written = self.write(&entries);
        if let Err(error) = &written
            && !self.failed
        {
            tracing::warn!(%error, "how far files are taken in is not kept");
        }
        (self.failed, self.entries) = (written.is_err(), entries);
    }

    fn write(&self, entries: &BTreeMap<Inode, Entry>) -> StorageResult<()> {
        let written = Written { version: VERSION, files: entries.values().cloned().collect() };
        // What it holds is always JSON; nothing is written in the case that cannot be.
        let Ok(bytes) = serde_json::to_vec(&written) else { return Ok(()) };
        self.storage.write(NEW, &bytes)?;
        self.storage.sync(NEW)?;
        self.storage.rename(NEW, FILE)?;
        self.storage.sync_dir("")
    }
}

impl Entry {
    /// Of a file as far as it is taken in; none when its beginning cannot be read.
    fn of(inode: Inode, file: &File, lines: &Lines, moved: bool) -> Option<Self> {
        let head_bytes = lines.offset().min(HEAD_BYTES);
        let head = digest(file, head_bytes).ok()?;
        let ((device, inode), lines) = (inode, lines.clone());
        Some(Self { device, inode, head_bytes, head, moved, lines })
    }
}

/// The digest of a file's first bytes.
fn digest(file: &File, bytes: u64) -> io::Result<String> {
    let mut head = vec![0; bytes.min(HEAD_BYTES) as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(blake3::hash(&head).to_hex()[..16].to_owned())
}
