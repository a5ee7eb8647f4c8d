//! Files and folders in memory, and the changes of them that a power cut may lose or tear.
//!
//! - A node is a file or a folder; a name in a folder leads to one. A node without a name is lost.
//! - Content is shared between copies of a tree until one of them changes it.

use super::Fate;
use crate::ports::StorageError;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

pub(super) type Node = usize;
pub(super) const ROOT: Node = 0;
/// The smallest piece that a disk writes whole.
const SECTOR: usize = sapwood_protocol::limits::SECTOR_BYTES as usize;

/// Names of one folder.
pub(super) type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<Node, Arc<Vec<u8>>>,
    pub(super) folders: BTreeMap<Node, Arc<Names>>,
}

/// One change that is durable only after a sync.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes written at a place of a file.
    Bytes { file: Node, at: usize, bytes: Arc<[u8]> },
    /// A file's length; what is new is zeros.
    Length { file: Node, length: usize },
    /// Names given and taken, all at once.
    Names { changes: Arc<[(Node, String, Option<Node>)]> },
}

impl Change {
    /// Whether a sync of this file makes it durable.
    pub(super) fn is_of_file(&self, node: Node) -> bool {
        match self {
            Self::Bytes { file, .. } | Self::Length { file, .. } => *file == node,
            Self::Names { .. } => false,
        }
    }

    /// Whether a sync of this folder makes it durable.
    pub(super) fn is_of_folder(&self, node: Node) -> bool {
        match self {
            Self::Names { changes } => changes.iter().any(|(folder, ..)| *folder == node),
            _ => false,
        }
    }

    /// Whether less than all of it can reach the disk.
    pub(super) fn can_tear(&self) -> bool {
        !matches!(self, Self::Names { .. })
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { files: BTreeMap::new(), folders: BTreeMap::from([(ROOT, Arc::default())]) }
    }

    /// A node that nothing leads to yet.
    pub(super) fn make(&mut self, node: Node, folder: bool) {
        if folder {
            self.folders.insert(node, Arc::default());
        } else {
            self.files.insert(node, Arc::default());
        }
    }

    /// The highest node there is.
    pub(super) fn highest(&self) -> Node {
        self.files.keys().chain(self.folders.keys()).copied().max().unwrap_or(ROOT)
    }

    pub(super) fn find(&self, path: &str) -> io::Result<Node> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(ROOT, |node, part| {
            self.names(node)?.get(part).copied().ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    /// The folder that a path lies in, and its last part.
    pub(super) fn place(&self, path: &str) -> io::Result<(Node, String)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(folder)?, name.to_owned()))
    }

    pub(super) fn names(&self, folder: Node) -> io::Result<&Names> {
        self.folders.get(&folder).map(|names| &**names).ok_or(ErrorKind::NotADirectory.into())
    }

    /// A file by its path: which node, and its bytes.
    pub(super) fn file(&self, path: &str) -> io::Result<(Node, &Vec<u8>)> {
        let node = self.find(path)?;
        let bytes = self.files.get(&node).ok_or(ErrorKind::IsADirectory)?;
        Ok((node, bytes))
    }

    /// Every file that a name leads to, with its path, sorted by path.
    pub(super) fn reachable(&self) -> BTreeMap<String, Node> {
        let (mut paths, mut folders) = (BTreeMap::new(), vec![(String::new(), ROOT)]);
        while let Some((prefix, folder)) = folders.pop() {
            for (name, node) in self.folders.get(&folder).into_iter().flat_map(|names| &**names) {
                let path = format!("{prefix}{name}");
                if self.folders.contains_key(node) {
                    folders.push((format!("{path}/"), *node));
                } else {
                    paths.insert(path, *node);
                }
            }
        }
        paths
    }

    /// Drops every node that no name leads to.
    pub(super) fn forget_nameless(&mut self) {
        let (mut kept, mut folders) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(folder) = folders.pop() {
            for node in self.folders.get(&folder).into_iter().flat_map(|names| names.values()) {
                kept.insert(*node);
                if self.folders.contains_key(node) {
                    folders.push(*node);
                }
            }
        }
        self.files.retain(|node, _| kept.contains(node));
        self.folders.retain(|node, _| kept.contains(node));
    }

    /// What every name leads to, as one number: two trees with the same are the same.
    pub(super) fn digest(&self) -> u128 {
        let (mut hash, mut folders) = (blake3::Hasher::new(), vec![ROOT]);
        while let Some(folder) = folders.pop() {
            hash.update(b"<");
            for (name, node) in self.folders.get(&folder).into_iter().flat_map(|names| &**names) {
                hash.update(name.as_bytes());
                match self.files.get(node) {
                    Some(bytes) => {
                        hash.update(&[0]).update(&(bytes.len() as u64).to_le_bytes());
                        hash.update(bytes)
                    }
                    None => {
                        folders.push(*node);
                        hash.update(&[1])
                    }
                };
            }
        }
        let mut number = [0; 16];
        number.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        u128::from_le_bytes(number)
    }

    /// Lets a change happen, all of it.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Bytes { file, at, bytes } => {
                let content = Arc::make_mut(self.files.entry(*file).or_default());
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length { file, length } => {
                Arc::make_mut(self.files.entry(*file).or_default()).resize(*length, 0);
            }
            Change::Names { changes } => {
                for (folder, name, node) in changes.iter() {
                    let names = Arc::make_mut(self.folders.entry(*folder).or_default());
                    match node {
                        Some(node) => names.insert(name.clone(), *node),
                        None => names.remove(name),
                    };
                }
            }
        }
    }

    /// Lets a change end as a power cut left it.
    pub(super) fn suffer(&mut self, change: &Change, fate: Fate) {
        match (fate, change) {
            (Fate::Dropped, _) => {}
            (Fate::Torn(seed), Change::Bytes { file, at, bytes }) => {
                let content = Arc::make_mut(self.files.entry(*file).or_default());
                tear(content, *at, bytes, &mut ChaCha8Rng::seed_from_u64(seed));
            }
            (Fate::Torn(seed), Change::Length { file, length }) => {
                let content = Arc::make_mut(self.files.entry(*file).or_default());
                content.truncate(*length);
                stretch(content, *length, Some(&mut ChaCha8Rng::seed_from_u64(seed)));
            }
            (Fate::Kept | Fate::Torn(_), _) => self.apply(change),
        }
    }
}

/// Writes a part of `bytes`: some of the sectors, or the first bytes; the file's length may have
/// become the whole write's all the same, and what was not written there is zeros or anything.
fn tear(content: &mut Vec<u8>, at: usize, bytes: &[u8], chance: &mut ChaCha8Rng) {
    let end = at + bytes.len();
    let kept: Vec<Range<usize>> = if chance.next_u32().is_multiple_of(2) {
        sectors(at, end).filter(|_| chance.next_u32().is_multiple_of(2)).collect()
    } else {
        let first = chance.next_u64() % (bytes.len() as u64 + 1);
        std::iter::once(at..at + first as usize).collect()
    };
    let grown = chance.next_u32().is_multiple_of(2);
    let length = if grown { end } else { kept.last().map_or(0, |last| last.end) };
    let garbage = chance.next_u32().is_multiple_of(2);
    stretch(content, length, garbage.then_some(chance));
    for piece in kept {
        content[piece.clone()].copy_from_slice(&bytes[piece.start - at..piece.end - at]);
    }
}

/// The pieces of `at..end` that lie in one sector each.
fn sectors(at: usize, end: usize) -> impl Iterator<Item = Range<usize>> {
    let first = at - at % SECTOR;
    (first..end).step_by(SECTOR).map(move |start| start.max(at)..(start + SECTOR).min(end))
}

/// Makes a file at least that long; what is new is zeros, or whatever lay there before.
fn stretch(content: &mut Vec<u8>, length: usize, garbage: Option<&mut ChaCha8Rng>) {
    let before = content.len();
    content.resize(before.max(length), 0);
    if let Some(chance) = garbage {
        chance.fill_bytes(&mut content[before..]);
    }
}

/// The error of an operation on this disk.
pub(super) fn refused(operation: &'static str, path: &str, source: io::Error) -> StorageError {
    StorageError::Io { operation, path: path.to_owned(), source }
}
