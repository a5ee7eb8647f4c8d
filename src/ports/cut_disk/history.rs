//! What was done to a disk, in order, and every disk that a power cut could have left of it.
//!
//! - In: the steps that a [`CutDisk`] recorded, syncs among them as barriers.
//! - Out: for any number of first steps a [`Cut`]: what is durable, and what may be lost.
//! - Legal is every subset of what no sync has made durable, each change kept, dropped or torn, a
//!   later one without an earlier one; a rename happens whole or not at all.

use super::CutDisk;
use super::tree::{Change, Node, Tree};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What a power cut does to one change that no sync has made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never reached the disk.
    Dropped,
    /// It reached the disk.
    Kept,
    /// Some of it did: sectors or first bytes, a length without bytes, zeros or garbage in their
    /// place, as the seed says. What cannot be torn is kept.
    Torn(u64),
}

/// One recorded step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A file or a folder that has no name yet.
    Made { node: Node, folder: bool },
    /// A change that a cut may lose.
    Change(Change),
    /// Bytes and length of a file are durable.
    SyncFile(Node),
    /// Names in a folder are durable.
    SyncFolder(Node),
}

/// The steps since a disk was made.
#[derive(Clone, Debug)]
pub struct History {
    pub(super) start: Tree,
    pub(super) steps: Vec<Step>,
}

/// A disk at the moment when power is lost.
#[derive(Clone, Debug)]
pub struct Cut {
    pub(super) durable: Tree,
    pub(super) pending: Vec<Change>,
}

impl History {
    /// Steps recorded.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Power lost after the first `steps` steps.
    pub fn cut(&self, steps: usize) -> Cut {
        let mut cut = Cut::of(self.start.clone());
        self.steps.iter().take(steps).for_each(|step| cut.advance(step));
        cut
    }

    /// Power lost after each number of steps from `first` on at which a cut differs from the one
    /// before, with that number.
    pub fn cuts(&self, first: usize) -> impl Iterator<Item = (usize, Cut)> {
        let mut cut = self.cut(first);
        let rest = self.steps.iter().enumerate().skip(first);
        rest.filter_map(move |(at, step)| {
            cut.advance(step);
            let differs = !matches!(step, Step::Made { .. });
            differs.then(|| (at + 1, cut.clone()))
        })
    }
}

impl Cut {
    pub(super) fn of(tree: Tree) -> Self {
        Self { durable: tree, pending: Vec::new() }
    }

    /// Changes that may be lost.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many of them can be torn.
    pub fn tearable(&self) -> usize {
        self.pending.iter().filter(|change| change.can_tear()).count()
    }

    /// A fate per pending change: bit n of `kept` is whether the n-th is kept.
    pub fn subset(&self, kept: u64) -> Vec<Fate> {
        let fate = |bit| if kept >> bit & 1 == 1 { Fate::Kept } else { Fate::Dropped };
        (0..self.pending.len()).map(|bit| if bit < 64 { fate(bit) } else { Fate::Kept }).collect()
    }

    /// A fate per pending change by chance: dropped, kept or torn.
    pub fn by_chance(&self, seed: u64) -> Vec<Fate> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let fate = |_| match chance.next_u32() % 3 {
            0 => Fate::Dropped,
            1 => Fate::Torn(chance.next_u64()),
            _ => Fate::Kept,
        };
        (0..self.pending.len()).map(fate).collect()
    }

    /// The disk when power comes back; a change without a fate is dropped.
    pub fn disk(&self, fates: &[Fate]) -> CutDisk {
        let mut tree = self.durable.clone();
        for (change, fate) in self.pending.iter().zip(fates) {
            tree.suffer(change, *fate);
        }
        tree.forget_nameless();
        CutDisk::of(tree)
    }

    /// The disk with every change kept.
    pub fn whole(&self) -> CutDisk {
        self.disk(&vec![Fate::Kept; self.pending.len()])
    }

    pub(super) fn advance(&mut self, step: &Step) {
        match step {
            // A node without a name is in no one's way, so it may be there at once.
            Step::Made { node, folder } => self.durable.make(*node, *folder),
            Step::Change(change) => self.pending.push(change.clone()),
            Step::SyncFile(node) => self.keep(|change| change.is_of_file(*node)),
            Step::SyncFolder(node) => self.keep(|change| change.is_of_folder(*node)),
        }
    }

    fn keep(&mut self, of: impl Fn(&Change) -> bool) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let synced = of(change);
            if synced {
                durable.apply(change);
            }
            !synced
        });
    }
}
