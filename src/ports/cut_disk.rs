//! A disk in memory that loses power: what was not synced may be lost, torn or reordered at a cut.
//!
//! - Two views: `seen`, what a running process reads, and `durable`, what survives without luck.
//!   Between them lie the pending writes, each of them kept, dropped or torn at a cut by a seed.
//! - A sync of a file keeps its bytes; a sync of a folder keeps the names in it. A rename is one
//!   event: it happened or it did not. A kept later write needs no earlier one.
//! - A fault may also be an error instead: one operation, or all from it on, as on a full disk.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::{Storage, StorageError, StorageResult};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Mutex;

type Node = usize;
const ROOT: Node = 0;

/// What happens at the operation of that number, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Power is lost in the middle of it; nothing works until [`CutDisk::after_cut`].
    Cut(usize),
    /// It alone fails with this error.
    Once(usize, ErrorKind),
    /// It and every later one that needs space fails as on a full disk.
    Full(usize),
}

#[derive(Clone, Debug, Default)]
struct Tree {
    files: BTreeMap<Node, Vec<u8>>,
    folders: BTreeMap<Node, BTreeMap<String, Node>>,
}

#[derive(Clone, Debug)]
enum Pending {
    Bytes { file: Node, at: usize, bytes: Vec<u8> },
    Length { file: Node, length: usize },
    Names { changes: Vec<(Node, String, Option<Node>)> },
}

#[derive(Debug)]
struct Inner {
    seen: Tree,
    durable: Tree,
    pending: Vec<Pending>,
    next: Node,
    operations: usize,
    fault: Option<Fault>,
    off: bool,
}

/// The disk.
#[derive(Debug)]
pub(crate) struct CutDisk(Mutex<Inner>);

impl CutDisk {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        let mut tree = Tree::default();
        tree.folders.insert(ROOT, BTreeMap::new());
        Self::of(tree)
    }

    fn of(tree: Tree) -> Self {
        let next =
            1 + tree.files.keys().chain(tree.folders.keys()).copied().max().unwrap_or_default();
        Self(Mutex::new(Inner {
            durable: tree.clone(),
            seen: tree,
            pending: Vec::new(),
            next,
            operations: 0,
            fault: None,
            off: false,
        }))
    }

    /// Counts operations from 0 again and lets `fault` happen.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        let mut inner = self.0.lock().unwrap();
        (inner.operations, inner.fault) = (0, fault);
    }

    /// Operations since [`Self::set`].
    pub(crate) fn operations(&self) -> usize {
        self.0.lock().unwrap().operations
    }

    /// Whether power was lost.
    pub(crate) fn is_off(&self) -> bool {
        self.0.lock().unwrap().off
    }

    /// The disk after power comes back. `luck` 0 keeps nothing unsynced, 1 everything; any other
    /// number seeds a choice per pending write: kept, dropped or torn.
    pub(crate) fn after_cut(&self, luck: u64) -> Self {
        let inner = self.0.lock().unwrap();
        let mut chance = ChaCha8Rng::seed_from_u64(luck);
        let mut tree = inner.durable.clone();
        for pending in &inner.pending {
            match luck {
                0 => {}
                1 => tree.apply(pending),
                _ => match (chance.next_u32() % 3, pending) {
                    (0, _) => {}
                    (1, Pending::Bytes { file, at, bytes }) => {
                        let kept = bytes[..chance.next_u32() as usize % (bytes.len() + 1)].to_vec();
                        tree.apply(&Pending::Bytes { file: *file, at: *at, bytes: kept });
                    }
                    _ => tree.apply(pending),
                },
            }
        }
        Self::of(tree)
    }

    /// A disk with the same content, all of it durable.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.0.lock().unwrap().seen.clone())
    }

    /// Every file's path, sorted.
    pub(crate) fn paths(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        let (mut paths, mut folders) = (Vec::new(), vec![(String::new(), ROOT)]);
        while let Some((prefix, folder)) = folders.pop() {
            for (name, node) in &inner.seen.folders[&folder] {
                let path = format!("{prefix}{name}");
                if inner.seen.files.contains_key(node) {
                    paths.push(path);
                } else {
                    folders.push((format!("{path}/"), *node));
                }
            }
        }
        paths.sort();
        paths
    }

    /// Changes bytes behind everybody's back, durably.
    pub(crate) fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.0.lock().unwrap();
        let file = inner.seen.find(path).unwrap();
        change(inner.seen.files.get_mut(&file).unwrap());
        let bytes = inner.seen.files[&file].clone();
        inner.durable.files.insert(file, bytes);
    }

    /// One operation: counted, faulted if its turn has come, its pending writes recorded.
    fn door<T>(
        &self,
        path: &str,
        needs_space: bool,
        work: impl FnOnce(&mut Inner) -> io::Result<T>,
    ) -> StorageResult<T> {
        let mut inner = self.0.lock().unwrap();
        let now = inner.operations;
        inner.operations += 1;
        let refused: Option<io::Error> = match inner.fault {
            _ if inner.off => Some(ErrorKind::BrokenPipe.into()),
            Some(Fault::Once(at, kind)) if at == now => Some(kind.into()),
            Some(Fault::Full(at)) if at <= now && needs_space => {
                Some(ErrorKind::StorageFull.into())
            }
            _ => None,
        };
        let result = match refused {
            Some(error) => Err(error),
            None if inner.fault == Some(Fault::Cut(now)) => {
                let synced = (inner.durable.clone(), inner.pending.clone());
                let _ = work(&mut inner);
                // A sync that was cut has promised nothing; a write that was cut is pending.
                if inner.pending.len() < synced.1.len() {
                    (inner.durable, inner.pending) = synced;
                }
                inner.off = true;
                Err(ErrorKind::BrokenPipe.into())
            }
            None => work(&mut inner),
        };
        let path = path.to_owned();
        result.map_err(|source| StorageError::Io { operation: "use", path, source })
    }
}

impl Tree {
    fn find(&self, path: &str) -> io::Result<Node> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(ROOT, |node, part| {
            let names = self.folders.get(&node).ok_or(ErrorKind::NotADirectory)?;
            names.get(part).copied().ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    /// The folder a path lies in, and its last part.
    fn place(&self, path: &str) -> io::Result<(Node, String)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(folder)?, name.to_owned()))
    }

    fn file(&self, path: &str) -> io::Result<Node> {
        let node = self.find(path)?;
        if self.files.contains_key(&node) { Ok(node) } else { Err(ErrorKind::IsADirectory.into()) }
    }

    fn apply(&mut self, pending: &Pending) {
        match pending {
            Pending::Bytes { file, at, bytes } => {
                let content = self.files.entry(*file).or_default();
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Pending::Length { file, length } => {
                self.files.entry(*file).or_default().resize(*length, 0);
            }
            Pending::Names { changes } => {
                for (folder, name, node) in changes {
                    let names = self.folders.entry(*folder).or_default();
                    match node {
                        Some(node) => names.insert(name.clone(), *node),
                        None => names.remove(name),
                    };
                }
            }
        }
    }
}

impl Inner {
    fn change(&mut self, pending: Pending) {
        self.seen.apply(&pending);
        self.pending.push(pending);
    }

    fn new_node(&mut self, path: &str, folder: bool) -> io::Result<Node> {
        let (parent, name) = self.seen.place(path)?;
        let node = self.next;
        self.next += 1;
        // A node without a name is in no one's way, so both views may hold it at once.
        for tree in [&mut self.seen, &mut self.durable] {
            if folder {
                tree.folders.insert(node, BTreeMap::new());
            } else {
                tree.files.insert(node, Vec::new());
            }
        }
        self.change(Pending::Names { changes: vec![(parent, name, Some(node))] });
        Ok(node)
    }

    fn create(&mut self, path: &str) -> io::Result<Node> {
        match self.seen.file(path) {
            Ok(file) => {
                self.change(Pending::Length { file, length: 0 });
                Ok(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.new_node(path, false),
            Err(error) => Err(error),
        }
    }

    fn keep(&mut self, mut of: impl FnMut(&Pending) -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if of(&pending) {
                self.durable.apply(&pending);
            } else {
                self.pending.push(pending);
            }
        }
    }
}

impl Storage for CutDisk {
    fn create_dir_all(&self, path: &str) -> StorageResult<()> {
        self.door(path, true, |inner| {
            let mut at = String::new();
            for part in path.split('/') {
                at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
                if inner.seen.find(&at).is_err() {
                    inner.new_node(&at, true)?;
                }
            }
            Ok(())
        })
    }

    fn read(&self, path: &str) -> StorageResult<Vec<u8>> {
        self.door(path, false, |inner| Ok(inner.seen.files[&inner.seen.file(path)?].clone()))
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()> {
        self.door(path, false, |inner| {
            let (content, at) = (&inner.seen.files[&inner.seen.file(path)?], offset as usize);
            let found = content.get(at..at + into.len()).ok_or(ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(found);
            Ok(())
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()> {
        self.door(path, true, |inner| {
            let file = inner.create(path)?;
            inner.change(Pending::Bytes { file, at: 0, bytes: bytes.to_vec() });
            Ok(())
        })
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.door(path, true, |inner| {
            let (file, at) = (inner.seen.file(path)?, offset as usize);
            inner.change(Pending::Bytes { file, at, bytes: bytes.to_vec() });
            Ok(())
        })
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        self.door(path, true, |inner| {
            let file = inner.create(path)?;
            inner.change(Pending::Length { file, length: length as usize });
            Ok(())
        })
    }

    fn sync(&self, path: &str) -> StorageResult<()> {
        self.door(path, false, |inner| {
            let node = inner.seen.file(path)?;
            inner.keep(|pending| match pending {
                Pending::Bytes { file, .. } | Pending::Length { file, .. } => *file == node,
                Pending::Names { .. } => false,
            });
            Ok(())
        })
    }

    fn sync_dir(&self, path: &str) -> StorageResult<()> {
        self.door(path, false, |inner| {
            let node = inner.seen.find(path)?;
            inner.keep(|pending| match pending {
                Pending::Names { changes } => changes.iter().any(|(folder, ..)| *folder == node),
                _ => false,
            });
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        self.door(from, false, |inner| {
            let node = inner.seen.find(from)?;
            let ((old, old_name), (new, new_name)) =
                (inner.seen.place(from)?, inner.seen.place(to)?);
            let changes = vec![(old, old_name, None), (new, new_name, Some(node))];
            inner.change(Pending::Names { changes });
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> StorageResult<()> {
        self.door(path, false, |inner| {
            inner.seen.file(path)?;
            let (folder, name) = inner.seen.place(path)?;
            inner.change(Pending::Names { changes: vec![(folder, name, None)] });
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &str) -> StorageResult<()> {
        self.door(path, false, |inner| {
            let node = inner.seen.find(path)?;
            for name in inner.seen.folders[&node].keys().cloned().collect::<BTreeSet<_>>() {
                inner.change(Pending::Names { changes: vec![(node, name, None)] });
            }
            let (folder, name) = inner.seen.place(path)?;
            inner.change(Pending::Names { changes: vec![(folder, name, None)] });
            Ok(())
        })
    }

    fn list(&self, path: &str) -> StorageResult<Vec<String>> {
        self.door(path, false, |inner| match inner.seen.find(path) {
            Ok(node) => Ok(inner.seen.folders[&node].keys().cloned().collect()),
            Err(_) => Ok(Vec::new()),
        })
    }

    fn len(&self, path: &str) -> StorageResult<Option<u64>> {
        self.door(path, false, |inner| {
            Ok(inner.seen.file(path).ok().map(|file| inner.seen.files[&file].len() as u64))
        })
    }
}

mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let disk = CutDisk::new();
        disk.write("kept", b"1").unwrap();
        disk.sync("kept").unwrap();
        disk.sync_dir("").unwrap();
        disk.write("lost", b"2").unwrap();
        disk.write_at("kept", 0, b"3").unwrap();
        assert_eq!(disk.read("kept").unwrap(), b"3");
        assert_eq!(disk.after_cut(0).paths(), ["kept"]);
        assert_eq!(disk.after_cut(0).read("kept").unwrap(), b"1");
        assert_eq!(disk.after_cut(1).read("lost").unwrap(), b"2");
    }

    #[test]
    fn a_name_without_its_bytes_and_bytes_without_their_name_both_happen() {
        let disk = CutDisk::new();
        disk.write("a", b"full").unwrap();
        disk.sync_dir("").unwrap();
        assert_eq!(disk.after_cut(0).read("a").unwrap(), b"");
        let disk = CutDisk::new();
        disk.write("a", b"full").unwrap();
        disk.sync("a").unwrap();
        assert!(disk.after_cut(0).paths().is_empty());
        let found: BTreeSet<usize> = (2..200)
            .filter_map(|luck| disk.after_cut(luck).len("a").unwrap())
            .map(|length| length as usize)
            .collect();
        assert_eq!(found, BTreeSet::from([4]), "synced bytes are whole once they have a name");
    }

    #[test]
    fn a_write_can_be_torn_and_a_rename_cannot() {
        let disk = CutDisk::new();
        disk.write("a", b"old").unwrap();
        disk.sync("a").unwrap();
        disk.sync_dir("").unwrap();
        disk.write_at("a", 0, b"new").unwrap();
        let found: BTreeSet<_> =
            (0..200).map(|luck| disk.after_cut(luck).read("a").unwrap()).collect();
        assert!(found.len() > 2, "{found:?}");
        disk.rename("a", "b").unwrap();
        for luck in 0..200 {
            assert_eq!(disk.after_cut(luck).paths().len(), 1);
        }
    }
}
