//! The life without faults: what a restart finds after each act, and what was done to the disk.
//!
//! - In: a seed. Out: the recorded history, a mark per act.
//! - Invariant, checked here by counting: what was acknowledged either waits or was taken by a job
//!   that ended.

use crate::life::{Act, live};
use crate::look::{Found, look};
use crate::plan::{Round, plan};
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::{CutDisk, History};
use std::sync::Arc;

/// What stands once an act is done.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Steps of the history by then.
    pub steps: usize,
    /// The round of the act.
    pub round: usize,
    /// The act.
    pub act: Act,
    /// What a restart finds.
    pub found: Found,
}

/// A life without faults.
pub struct Reference {
    /// Its seed.
    pub seed: u64,
    /// Its plan.
    pub plan: Vec<Round>,
    /// All that was done to the disk.
    pub history: History,
    /// A mark per act; the first is before the first act.
    pub marks: Vec<Mark>,
    /// Operations of the whole life.
    pub operations: usize,
}

impl Reference {
    /// The life of this seed.
    ///
    /// # Errors
    /// What is wrong with it even without faults.
    pub fn new(seed: u64, rounds: usize) -> Result<Self, String> {
        Self::on(seed, plan(seed, rounds), |disk| disk)
    }

    /// The life of this plan on a disk that `wrap` stands before.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(
        seed: u64,
        plan: Vec<Round>,
        wrap: impl Fn(Arc<CutDisk>) -> Arc<dyn Storage>,
    ) -> Result<Self, String> {
        let disk = Arc::new(CutDisk::new().recording());
        let (mut marks, mut wrong, mut given) = (Vec::new(), None, 0);
        let mut mark = |round, act| {
            let copy: Arc<dyn Storage> = Arc::new(disk.copy());
            match look(&copy) {
                Ok(look) if look.reports.is_empty() => {
                    if let Act::Intake(samples) = &act {
                        given = samples.iter().copied().chain([given]).max().unwrap_or(0);
                    }
                    let all: Vec<u64> = (look.found.learned + 1..=given).collect();
                    if look.found.waiting != all {
                        let waiting = &look.found.waiting;
                        wrong = Some(format!("after {act:?} {waiting:?} wait, expected {all:?}"));
                    }
                    marks.push(Mark { steps: disk.steps(), round, act, found: look.found });
                }
                Ok(look) => wrong = Some(format!("after {act:?}: {:?}", look.reports)),
                Err(error) => wrong = Some(format!("after {act:?}: {error}")),
            }
        };
        mark(0, Act::Start);
        disk.set(None);
        let lived = live(&wrap(disk.clone()), &plan, 0, true, &mut mark);
        match (lived, wrong) {
            (Err(error), _) => Err(format!("the life without faults ended: {error}")),
            (_, Some(wrong)) => Err(format!("the life without faults: {wrong}")),
            _ => {
                let (history, operations) = (disk.history(), disk.operations());
                Ok(Self { seed, plan, history, marks, operations })
            }
        }
    }

    /// The number of the last mark after that many steps, and what may be found: what was confirmed
    /// last or, where an act was under way, what that would have left.
    pub fn may(&self, steps: usize) -> (usize, &[Mark]) {
        let last = self.marks.partition_point(|mark| mark.steps <= steps).max(1) - 1;
        let under_way = self.marks[last].steps < steps;
        (last, &self.marks[last..=last + usize::from(under_way && last + 1 < self.marks.len())])
    }

    /// The round to go on in after the act of that mark.
    pub fn round_after(&self, mark: usize) -> usize {
        self.marks.get(mark + 1).map_or(self.plan.len(), |next| next.round)
    }

    /// What stands at the end.
    pub fn end(&self) -> Option<&Found> {
        self.marks.last().map(|mark| &mark.found)
    }
}
