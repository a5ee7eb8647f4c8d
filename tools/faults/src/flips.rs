//! Damage: flipped bits in every file of a rich state folder, files cut short, grown, exchanged.
//!
//! - A restart finds what was there, or reports what is gone, or refuses and names the file.
//! - Whatever it finds was once written as what it is taken for.
//! - Not to be seen in the bytes, and so allowed: an inbox that ends early, between two batches or
//!   with its last segment gone, as one that never had more; a file gone that need not be there, one of
//!   a sample set aside among them; a file as it was at an earlier time.

use crate::cuts::open;
use crate::life::{Act, live};
use crate::look::{Found, Held, Look};
use crate::place::Place;
use crate::plan::unfinished;
use crate::reference::Reference;
use crate::tally::Tally;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::CutDisk;
use sapwood::reservoir::below;
use std::sync::Arc;

/// One of so many damages is more than a flipped bit.
pub const OTHER_EVERY: u64 = 11;
/// Names of the damages.
const KINDS: [&str; 8] = [
    "one flipped bit",
    "flipped bits",
    "file cut short",
    "file made longer",
    "file overwritten in part",
    "files exchanged",
    "file gone",
    "file of an earlier time",
];

/// The places of the last three.
const EXCHANGED: usize = 5;
const GONE: usize = 6;
const OLD: usize = 7;

/// A state folder with everything in it, and all that was ever true of it.
pub struct Rich {
    seed: u64,
    disk: CutDisk,
    earlier: CutDisk,
    truth: Found,
    past: Vec<Found>,
    paths: Vec<String>,
}

/// What became of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nobody reads those bytes.
    Harmless,
    /// What is found is whole all the same, and the damage is reported.
    Whole,
    /// Something is gone, and that is reported.
    Reported,
    /// An error names the file.
    Refused,
    /// A folder as it could have been at an earlier time.
    Earlier,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Harmless => "in bytes that nobody needs",
            Self::Whole => "reported, nothing lost",
            Self::Reported => "reported, fell back or dropped",
            Self::Refused => "refused by name",
            Self::Earlier => "as it was at an earlier time",
        }
    }
}

impl Rich {
    /// The folder of this seed's life.
    ///
    /// # Errors
    /// What is wrong with it before any damage.
    pub fn new(seed: u64) -> Result<Self, String> {
        let plan = unfinished(seed, 6);
        let reference = Reference::on(seed, plan.clone(), |disk| disk)?;
        let middle = reference.marks.iter().rposition(|mark| mark.act == Act::Forget);
        let earlier = middle.map_or(0, |mark| reference.marks[mark].steps);
        let earlier = reference.history.cut(earlier).whole();
        let disk = Arc::new(CutDisk::new());
        let storage: Arc<dyn Storage> = disk.clone();
        live(&storage, &plan, 0, true, &mut |_, _| {}).map_err(|error| error.to_string())?;
        let truth = reference.end().cloned().unwrap_or_default();
        let past = reference.marks.into_iter().map(|mark| mark.found).collect();
        let paths = disk.paths();
        Ok(Self { seed, disk: disk.copy(), earlier, truth, past, paths })
    }

    /// Every file of the folder.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Damages of the numbers `flips`, each looked at.
    pub fn campaign(&self, flips: std::ops::Range<u64>, tally: &mut Tally) {
        for flip in flips {
            if tally.is_full() {
                return;
            }
            self.one(flip, tally);
        }
    }

    /// Damage of that number.
    pub fn one(&self, flip: u64, tally: &mut Tally) {
        let mut chance = ChaCha8Rng::seed_from_u64(self.seed.rotate_left(32) ^ flip);
        let disk = self.disk.copy();
        let (kind, path, other) = self.damage(&disk, flip, &mut chance);
        let name = KINDS[kind];
        match self.judge(&Arc::new(disk), kind, path, other) {
            Ok(outcome) => {
                *tally.damages.entry((name, outcome.name())).or_default() += 1;
            }
            Err(what) => {
                let place = Place::Flip { life: self.seed, flip };
                tally.violation(place, format!("{name} in {path}: {what}"));
            }
        }
    }

    fn damage(&self, disk: &CutDisk, flip: u64, chance: &mut ChaCha8Rng) -> (usize, &str, &str) {
        let mut draw = |bound: usize| below(chance, bound as u64) as usize;
        let path = &self.paths[draw(self.paths.len())];
        let other = &self.paths[draw(self.paths.len())];
        let kind = match flip % OTHER_EVERY {
            0 => 1 + draw(KINDS.len() - 1),
            _ => 0,
        };
        let length = self.disk.read(path).map_or(0, |bytes| bytes.len());
        let (at, bits) = (draw(length), if kind == 0 { 1 } else { 2 + draw(7) });
        match kind {
            0 | 1 => {
                for _ in 0..bits {
                    let (at, bit) = (draw(length), draw(8));
                    disk.damage(path, |bytes| {
                        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit)
                    });
                }
            }
            2 => drop(disk.damage(path, |bytes| bytes.truncate(at))),
            3 => {
                let more: Vec<u8> = (0..=draw(600)).map(|_| draw(256) as u8).collect();
                disk.damage(path, |bytes| bytes.extend(&more));
            }
            4 => {
                let garbage: Vec<u8> = (0..512).map(|_| draw(256) as u8).collect();
                disk.damage(path, |bytes| {
                    bytes.iter_mut().skip(at).zip(garbage).for_each(|(byte, new)| *byte = new);
                });
            }
            EXCHANGED => exchange(disk, path, other),
            GONE => drop(disk.remove(path)),
            _ => {
                let old = self.earlier.read(path).unwrap_or_default();
                disk.damage(path, |bytes| *bytes = old);
            }
        }
        (kind, path, other)
    }

    fn judge(
        &self,
        disk: &Arc<CutDisk>,
        kind: usize,
        path: &str,
        other: &str,
    ) -> Result<Outcome, String> {
        // Two of the flips may have been of one bit, two of the files the same.
        if disk.digest() == self.disk.digest() {
            return Ok(Outcome::Harmless);
        }
        let Look { found, reports, .. } = match open(disk) {
            Ok(look) => look,
            Err(said) if said == "panics" => return Err(said),
            Err(said) if said.contains(path) => return Ok(Outcome::Refused),
            Err(said) if kind == EXCHANGED && said.contains(other) => return Ok(Outcome::Refused),
            Err(said) => return Err(format!("the error does not name it: {said}")),
        };
        self.was_true(&found)?;
        let Some(difference) = found.difference(&self.truth) else {
            let unneeded = path == "reservoir" || kind > 1;
            return match (reports.is_empty(), unneeded) {
                (false, _) => Ok(Outcome::Whole),
                (true, true) => Ok(Outcome::Harmless),
                (true, false) => Err("a flipped bit of it is not seen".to_owned()),
            };
        };
        let ends_early = path.starts_with("inbox/") && difference == "samples that wait";
        match kind {
            _ if !reports.is_empty() => Ok(Outcome::Reported),
            2.. if ends_early && self.truth.waiting.starts_with(&found.waiting) => {
                Ok(Outcome::Earlier)
            }
            GONE if found.job.is_none() && difference == "job" => Ok(Outcome::Earlier),
            GONE if path.starts_with("inbox/aside/") && difference == "samples set aside" => {
                Ok(Outcome::Earlier)
            }
            GONE if found.checkpoint.is_none() && difference == "checkpoint" => {
                Ok(Outcome::Earlier)
            }
            OLD => Ok(Outcome::Earlier),
            _ => Err(format!("another {difference} is found and nothing is reported")),
        }
    }

    /// Whether everything found was once written as what it is taken for, and all of the manifest's
    /// numbers at the same time.
    fn was_true(&self, found: &Found) -> Result<(), String> {
        let one_time = |past: &&Found| {
            (past.learned, past.seen) == (found.learned, found.seen)
                && past.rejections == found.rejections
        };
        let base = self.past.iter().rev().find(one_time).ok_or("numbers of no one time")?;
        for kept in &found.generations {
            let same = |past: &&crate::look::Kept| {
                (past.number, past.step, &past.verdict) == (kept.number, kept.step, &kept.verdict)
                    && (kept.adapter.is_none() || past.adapter == kept.adapter)
            };
            let mut all = self.past.iter().flat_map(|past| &past.generations);
            all.find(same).ok_or_else(|| format!("generation {} never was so", kept.number))?;
        }
        let learner =
            |past: &&Found| (past.current, &past.learner) == (found.current, &found.learner);
        self.past.iter().find(learner).ok_or("a learner of another generation")?;
        within((&found.held, &found.pass), (&base.held, &base.pass))?;
        if let Some((learner, (held, pass))) = &found.checkpoint {
            let mut all = self.past.iter().filter_map(|past| past.checkpoint.as_ref());
            let (_, (staged, order)) =
                all.find(|(past, _)| past == learner).ok_or("a checkpoint that never was")?;
            within((held, pass), (staged, order))?;
        }
        if !found.waiting.iter().is_sorted_by(|a, b| a < b) {
            return Err(format!("samples in no order: {:?}", found.waiting));
        }
        let known = |sample: &u64| self.past.iter().any(|past| past.waiting.contains(sample));
        if let Some(sample) = found.waiting.iter().find(|sample| !known(sample)) {
            return Err(format!("sample {sample} never came"));
        }
        match found.waiting.first().filter(|first| **first <= found.learned) {
            Some(first) => Err(format!("sample {first} was learned and waits again")),
            None if self.past.iter().any(|past| past.job == found.job) => Ok(()),
            None => Err("a job that never was".to_owned()),
        }
    }
}

/// Whether every block is one of all, and all of them are served in the same order.
fn within((held, pass): (&[Held], &[u64]), (all, order): (&[Held], &[u64])) -> Result<(), String> {
    match held.iter().find(|block| !all.contains(block)) {
        Some((offer, ..)) => Err(format!("block {offer} is another than was offered")),
        // Without a block that was dropped the order is another.
        None if held.len() == all.len() && pass != order => {
            Err(format!("{pass:?} would be served, it was {order:?}"))
        }
        None => Ok(()),
    }
}

fn exchange(disk: &CutDisk, one: &str, other: &str) {
    if let (Ok(first), Ok(second)) = (disk.read(one), disk.read(other)) {
        disk.damage(one, |bytes| *bytes = second);
        disk.damage(other, |bytes| *bytes = first);
    }
}
