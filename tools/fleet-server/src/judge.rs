//! The judge: a role that looks at what a merged round does to text, and says whether it is offered.
//!
//! - In: a merged round, the operator's texts, and the learner's program, for the server has no engine.
//!   Out: the step eta, of 1, 2 and 4, at which the cohort's text is best and general text not much worse;
//!   where none holds, the first of 1/2 and 1/4 that does; or that none does.
//! - A mean of many is smaller than what each has learned: twice of it keeps nearly twice as much, and costs
//!   general text next to nothing (EXPERIMENTS.md).
//! - What the judge read is in the round's report: bits per byte before and after.
//! - Never here: who may say that a candidate is released.

mod program; // the learner's program
mod scratch; // where adapters lie for it

pub use program::Program;
pub use scratch::{Scratch, clear};

use crate::cohorts::{self, Cohort};
use crate::home::Home;
use crate::operator::OrderError;
use crate::operator::rounds::{self as orders, Verdict};
use crate::rounds::{NONE, Round};
use crate::store::blobs::BlobError;
use crate::work::{self, MergeError};
use sapwood::adapter::{Adapter, AdapterError, wire};
use sapwood_protocol::fleet::update::{Expected, Kind};
use sapwood_protocol::limits::FLEET_RANK_MAX;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// Steps from G along the mean: the best of these,
const ETAS: [f64; 3] = [1.0, 2.0, 4.0];
/// or where none holds, the first of these that does.
const SMALLER: [f64; 2] = [0.5, 0.25];
/// General text may be worse by this part.
const GENERAL_LOSS_MAX: f64 = 0.01;

/// Why nothing was judged; the round is as it was.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The learner's program did not score a text.
    #[error("{program} eval: {problem}; the round is as it was", program = program.display())]
    Eval {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// A folder for an adapter.
    #[error("{path}: {source}", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A merge with a smaller step.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The round.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// An adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}

/// Bits per byte of both texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Of general text.
    pub general: f64,
    /// Of the cohort's.
    pub cohort: f64,
}

impl Scores {
    fn shown(self) -> Value {
        json!({"general": self.general, "cohort": self.cohort})
    }
}

/// Whether an adapter with these scores is offered in the place of one with those.
///
/// # Errors
/// Why not.
pub fn holds(before: Scores, after: Scores) -> Result<(), String> {
    let most = before.general * (1.0 + GENERAL_LOSS_MAX);
    // So that a score that is no number holds nothing.
    let better = after.cohort < before.cohort;
    let kept = after.general <= most;
    match (better, kept) {
        (true, true) => Ok(()),
        (false, _) => Err(format!(
            "the cohort's text has {:.4} bits per byte, expected less than {:.4}",
            after.cohort, before.cohort
        )),
        (_, false) => Err(format!(
            "general text has {:.4} bits per byte, expected at most {most:.4}",
            after.general
        )),
    }
}

/// What gives an adapter's scores; none is the bare base.
pub trait Score {
    /// The scores of both texts.
    ///
    /// # Errors
    /// [`JudgeError`].
    fn score(&mut self, adapter: Option<&Adapter>, cohort: &Cohort) -> Result<Scores, JudgeError>;
}

/// What came of a judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The candidate's sequence; none when the round was refused.
    pub sequence: Option<u64>,
    /// What was read.
    pub report: Value,
}

/// Judges a merged round: makes a candidate of it, or refuses it.
///
/// # Errors
/// [`JudgeError`]; the round is as it was.
pub fn judge(
    home: &Home,
    id: u64,
    score: &mut dyn Score,
    now_ms: impl Fn() -> u64,
) -> Result<Found, JudgeError> {
    // Before anything is scored, which takes long.
    let round = orders::merged(&home.book, id)?;
    let cohort = orders::cohort(&home.book, Some(round.cohort))?;
    let global = match round.artifact == NONE {
        true => None,
        false => Some(read(&cohort, &home.blobs.read(round.artifact)?)?),
    };
    let before = score.score(global.as_ref(), &cohort)?;
    let look = |eta| -> Result<(Vec<u8>, Scores), JudgeError> {
        let file = file(home, &round, &cohort, eta)?;
        let after = score.score(Some(&read(&cohort, &file)?), &cohort)?;
        Ok((file, after))
    };
    let tries = tries(before, look)?;
    let shown: Vec<Value> = tries.iter().map(Try::shown).collect();
    let Some(Try { eta, made: file, .. }) = best(&tries) else {
        let report = json!({"by": "judge", "before": before.shown(), "tries": shown});
        orders::refuse(&home.book, id, "judge", &report, now_ms())?;
        return Ok(Found { sequence: None, report });
    };
    let report = json!({"by": "judge", "eta": eta, "before": before.shown(), "tries": shown});
    let (artifact, bytes) = (home.blobs.put(file)?, file.len() as u64);
    let verdict = Verdict { who: "judge", artifact, bytes, report: report.clone() };
    let sequence = orders::approve(home, id, &verdict, now_ms())?;
    home.blobs.see_to(artifact, file)?;
    Ok(Found { sequence: Some(sequence), report })
}

/// A step that was looked at, and what was made by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Try<T> {
    /// How much of the mean was added.
    pub eta: f64,
    /// What came of it.
    pub made: T,
    /// Its scores.
    pub after: Scores,
    /// Whether it could be offered.
    pub held: Result<(), String>,
}

impl<T> Try<T> {
    fn shown(&self) -> Value {
        json!({"eta": self.eta, "after": self.after.shown(), "refused": self.held.as_ref().err()})
    }
}

/// Looks at steps, as many as it takes. `look`: what a step makes, and its scores.
///
/// # Errors
/// Those of `look`.
pub fn tries<T, E>(
    before: Scores,
    mut look: impl FnMut(f64) -> Result<(T, Scores), E>,
) -> Result<Vec<Try<T>>, E> {
    let mut tries = Vec::new();
    for eta in ETAS.into_iter().chain(SMALLER) {
        if tries.len() < ETAS.len() || best(&tries).is_none() {
            let (made, after) = look(eta)?;
            tries.push(Try { eta, made, after, held: holds(before, after) });
        }
    }
    Ok(tries)
}

/// The step that is best on the cohort's text among those that hold; of equals the first.
pub fn best<T>(tries: &[Try<T>]) -> Option<&Try<T>> {
    let held = tries.iter().filter(|one| one.held.is_ok());
    held.min_by(|one, other| one.after.cohort.total_cmp(&other.after.cohort))
}

/// The round's result with another step; with the whole one it is there already.
fn file(home: &Home, round: &Round, cohort: &Cohort, eta: f64) -> Result<Vec<u8>, JudgeError> {
    match round.result {
        Some((hash, _)) if eta == ETAS[0] => Ok(home.blobs.read(hash)?),
        _ => Ok(work::merged(home, round, cohort, eta, || Ok(()))?.file),
    }
}

fn read(cohort: &Cohort, file: &[u8]) -> Result<Adapter, JudgeError> {
    let shape = cohort.shape.unwrap_or_else(|| cohorts::shape([0; cohorts::SHAPE_BYTES]));
    let expected = Expected {
        kind: Kind::Global,
        base: cohort.base,
        cohort: cohort.id,
        from: None,
        shape: &shape,
        rank_max: FLEET_RANK_MAX,
    };
    Ok(wire::decode(file, &expected)?.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_candidate_is_better_on_the_cohorts_text_and_keeps_the_general() {
        let before = Scores { general: 1.0, cohort: 2.0 };
        let after = |general, cohort| holds(before, Scores { general, cohort });
        assert_eq!(after(1.01, 1.99), Ok(()));
        assert!(after(1.0101, 1.0).unwrap_err().contains("general text has 1.0101"));
        assert!(after(0.5, 2.0).unwrap_err().contains("expected less than 2.0000"));
        assert!(after(f64::NAN, 1.0).is_err() && after(1.0, f64::NAN).is_err());
    }

    #[test]
    fn the_best_step_that_holds_is_taken() {
        let before = Scores { general: 1.0, cohort: 2.0 };
        let eta = |all: &[(f64, f64)]| {
            let mut left = all.iter();
            let look = |_| -> Result<((), Scores), ()> {
                let &(general, cohort) = left.next().ok_or(())?;
                Ok(((), Scores { general, cohort }))
            };
            let tries = tries(before, look).unwrap();
            assert_eq!(left.len(), 0, "looked at as many as it takes");
            best(&tries).map(|one| one.eta)
        };
        assert_eq!(eta(&[(1.0, 1.9), (1.0, 1.8), (1.02, 1.7)]), Some(2.0));
        assert_eq!(eta(&[(1.0, 1.9), (1.0, 1.9), (1.0, 1.95)]), Some(1.0));
        let none = [(1.0, 2.1), (1.0, 2.2), (1.0, f64::NAN), (2.0, 1.0), (1.0, 2.0)];
        assert_eq!(eta(&none), None);
        assert_eq!(eta(&[(1.0, 2.1), (1.1, 1.0), (1.2, 0.5), (1.0, 1.99)]), Some(0.5));
    }
}
