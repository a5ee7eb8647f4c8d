//! A disk in memory that loses power: what was not synced may be lost, torn or reordered at a cut.
//!
//! - A running process reads what it wrote; after a cut stands what was synced, and of the rest
//!   whatever [`Fate`] lets stand. A recording disk keeps every step, so that one run gives the disks
//!   of a cut after any of them ([`History`]).
//! - A sync of a file keeps its bytes; a sync of a folder keeps the names in it. A rename is one
//!   event: it happened or it did not. A kept later write needs no earlier one.
//! - A fault may also be an error instead: one operation, or all from it on.
//! - For tests and for the fault campaign (`tools/faults`) only: no device has it.

mod history;
#[cfg(test)]
mod tests;
mod tree;

pub use history::{Cut, Fate, History};

use super::{EIO, Storage, StorageResult};
use history::Step;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tree::{Change, Node, Tree, refused};

/// What happens at the operation of that number, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Power is lost in the middle of it; nothing works until [`CutDisk::after_cut`].
    Cut(usize),
    /// It alone fails with this error.
    Once(usize, Failure),
    /// It and every later one fails with this error.
    From(usize, Failure),
    /// It and every later one that needs space fails as on a full disk.
    Full(usize),
}

/// The error of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// The medium does not answer.
    Eio,
    /// Another.
    Kind(ErrorKind),
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::Eio => io::Error::from_raw_os_error(EIO),
            Self::Kind(kind) => kind.into(),
        }
    }
}

#[derive(Debug)]
struct Inner {
    seen: Tree,
    now: Cut,
    history: Option<History>,
    next: Node,
    operations: usize,
    fault: Option<Fault>,
    cutting: bool,
    off: bool,
}

/// The disk.
#[derive(Debug)]
pub struct CutDisk(Mutex<Inner>);

impl Default for CutDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl CutDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::of(Tree::new())
    }

    fn of(tree: Tree) -> Self {
        Self(Mutex::new(Inner {
            now: Cut::of(tree.clone()),
            history: None,
            next: 1 + tree.highest(),
            seen: tree,
            operations: 0,
            fault: None,
            cutting: false,
            off: false,
        }))
    }

    /// The same disk, recording from now on; what it holds counts as durable.
    pub fn recording(self) -> Self {
        let disk = self.copy();
        let mut inner = disk.inner();
        inner.history = Some(History { start: inner.seen.clone(), steps: Vec::new() });
        drop(inner);
        disk
    }

    /// What was recorded; nothing without [`Self::recording`].
    pub fn history(&self) -> History {
        let inner = self.inner();
        let nothing = || History { start: inner.seen.clone(), steps: Vec::new() };
        inner.history.clone().unwrap_or_else(nothing)
    }

    /// Steps recorded so far.
    pub fn steps(&self) -> usize {
        self.inner().history.as_ref().map_or(0, History::len)
    }

    /// Counts operations from 0 again and lets `fault` happen.
    pub fn set(&self, fault: Option<Fault>) {
        let mut inner = self.inner();
        (inner.operations, inner.fault) = (0, fault);
    }

    /// Operations since [`Self::set`].
    pub fn operations(&self) -> usize {
        self.inner().operations
    }

    /// Whether power was lost.
    pub fn is_off(&self) -> bool {
        self.inner().off
    }

    /// The disk after power comes back. `luck` 0 keeps nothing unsynced, 1 everything; any other
    /// number seeds a choice per pending change: kept, dropped or torn.
    pub fn after_cut(&self, luck: u64) -> Self {
        let now = &self.inner().now;
        match luck {
            0 => now.disk(&[]),
            1 => now.whole(),
            _ => now.disk(&now.by_chance(luck)),
        }
    }

    /// A disk with the same content, all of it durable.
    pub fn copy(&self) -> Self {
        Self::of(self.inner().seen.clone())
    }

    /// Every file's path, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.inner().seen.reachable().into_keys().collect()
    }

    /// What is on it, as one number: disks with the same number hold the same.
    pub fn digest(&self) -> u128 {
        self.inner().seen.digest()
    }

    /// Changes bytes behind everybody's back, durably; whether there is such a file.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut inner = self.inner();
        let Ok((file, _)) = inner.seen.file(path) else { return false };
        let content = inner.seen.files.entry(file).or_default();
        change(Arc::make_mut(content));
        let content = content.clone();
        inner.now.durable.files.insert(file, content);
        true
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation: counted, faulted if its turn has come, its steps noted.
    fn door<T>(
        &self,
        operation: &'static str,
        path: &str,
        needs_space: bool,
        work: impl FnOnce(&mut Inner) -> io::Result<T>,
    ) -> StorageResult<T> {
        let mut inner = self.inner();
        let now = inner.operations;
        inner.operations += 1;
        let result = match inner.fault {
            _ if inner.off => Err(ErrorKind::BrokenPipe.into()),
            Some(Fault::Once(at, failure)) if at == now => Err(failure.error()),
            Some(Fault::From(at, failure)) if at <= now => Err(failure.error()),
            Some(Fault::Full(at)) if at <= now && needs_space => Err(ErrorKind::StorageFull.into()),
            Some(Fault::Cut(at)) if at == now => {
                inner.cutting = true;
                let _ = work(&mut inner);
                inner.off = true;
                Err(ErrorKind::BrokenPipe.into())
            }
            _ => work(&mut inner),
        };
        result.map_err(|source| refused(operation, path, source))
    }
}

impl Inner {
    fn note(&mut self, step: Step) {
        let syncs = matches!(step, Step::SyncFile(_) | Step::SyncFolder(_));
        // A sync that was cut has promised nothing; a write that was cut is pending.
        if self.cutting && syncs {
            return;
        }
        self.now.advance(&step);
        if let Some(history) = &mut self.history {
            history.steps.push(step);
        }
    }

    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.note(Step::Change(change));
    }

    fn names(&mut self, changes: Vec<(Node, String, Option<Node>)>) {
        self.change(Change::Names { changes: changes.into() });
    }

    fn new_node(&mut self, path: &str, folder: bool) -> io::Result<Node> {
        let (parent, name) = self.seen.place(path)?;
        let node = self.next;
        self.next += 1;
        self.seen.make(node, folder);
        self.note(Step::Made { node, folder });
        self.names(vec![(parent, name, Some(node))]);
        Ok(node)
    }

    fn create(&mut self, path: &str) -> io::Result<Node> {
        let found = self.seen.file(path).map(|(file, bytes)| (file, bytes.len()));
        match found {
            Ok((file, 0)) => Ok(file),
            Ok((file, _)) => {
                self.change(Change::Length { file, length: 0 });
                Ok(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.new_node(path, false),
            Err(error) => Err(error),
        }
    }

    fn remove_all(&mut self, path: &str, folder: Node) -> io::Result<()> {
        for (name, node) in self.seen.names(folder)?.clone() {
            let inside = format!("{path}/{name}");
            if self.seen.folders.contains_key(&node) {
                self.remove_all(&inside, node)?;
            } else {
                self.names(vec![(folder, name, None)]);
            }
        }
        let (above, name) = self.seen.place(path)?;
        self.names(vec![(above, name, None)]);
        Ok(())
    }
}

impl Storage for CutDisk {
    fn create_dir_all(&self, path: &str) -> StorageResult<()> {
        self.door("create folder", path, true, |inner| {
            let mut at = String::new();
            for part in path.split('/').filter(|part| !part.is_empty()) {
                at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
                match inner.seen.find(&at) {
                    Ok(node) => inner.seen.names(node).map(drop)?,
                    Err(_) => inner.new_node(&at, true).map(drop)?,
                }
            }
            Ok(())
        })
    }

    fn read(&self, path: &str) -> StorageResult<Vec<u8>> {
        self.door("read", path, false, |inner| Ok(inner.seen.file(path)?.1.clone()))
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()> {
        self.door("read", path, false, |inner| {
            let (_, content) = inner.seen.file(path)?;
            let found = usize::try_from(offset).ok().and_then(|at| {
                let end = at.checked_add(into.len())?;
                content.get(at..end)
            });
            into.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()> {
        self.door("write", path, true, |inner| {
            let file = inner.create(path)?;
            inner.change(Change::Bytes { file, at: 0, bytes: bytes.into() });
            Ok(())
        })
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.door("write", path, true, |inner| {
            let (file, _) = inner.seen.file(path)?;
            inner.change(Change::Bytes { file, at: offset as usize, bytes: bytes.into() });
            Ok(())
        })
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        self.door("reserve space for", path, true, |inner| {
            let file = inner.create(path)?;
            inner.change(Change::Length { file, length: length as usize });
            Ok(())
        })
    }

    fn sync(&self, path: &str) -> StorageResult<()> {
        self.door("sync", path, false, |inner| {
            let (file, _) = inner.seen.file(path)?;
            inner.note(Step::SyncFile(file));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &str) -> StorageResult<()> {
        self.door("sync folder", path, false, |inner| {
            let folder = inner.seen.find(path)?;
            inner.note(Step::SyncFolder(folder));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        self.door("rename", from, false, |inner| {
            let node = inner.seen.find(from)?;
            let ((old, old_name), (new, new_name)) =
                (inner.seen.place(from)?, inner.seen.place(to)?);
            let taken = inner.seen.find(to).ok().and_then(|there| inner.seen.folders.get(&there));
            if taken.is_some_and(|names| !names.is_empty()) {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            inner.names(vec![(old, old_name, None), (new, new_name, Some(node))]);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> StorageResult<()> {
        self.door("remove", path, false, |inner| {
            inner.seen.file(path)?;
            let (folder, name) = inner.seen.place(path)?;
            inner.names(vec![(folder, name, None)]);
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &str) -> StorageResult<()> {
        self.door("remove folder", path, false, |inner| {
            let folder = inner.seen.find(path)?;
            inner.remove_all(path, folder)
        })
    }

    fn list(&self, path: &str) -> StorageResult<Vec<String>> {
        self.door("list", path, false, |inner| match inner.seen.find(path) {
            Ok(node) => Ok(inner.seen.names(node)?.keys().cloned().collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
    }

    fn len(&self, path: &str) -> StorageResult<Option<u64>> {
        self.door("look at", path, false, |inner| {
            Ok(inner.seen.file(path).ok().map(|(_, bytes)| bytes.len() as u64))
        })
    }
}
