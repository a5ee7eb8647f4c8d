//! Own ranks over a new global adapter: fitted again, then rehearsed, until somebody is content with them.
//!
//! - In: learners as they were, the new global adapter, what the adapted layers read on blocks of the
//!   device's own, its reservoir. Out: candidates, one after the other, each to be judged.
//! - Order: from the ridge that leaves most to the new global adapter on; at each the fit first, then what
//!   some steps on the reservoir make of it. A fit cannot give back what does not fit the own ranks; steps can.
//! - A rehearsed step is a step of a job without new text. Fast and slow both move, AdamW begins again
//!   with every candidate, and nothing is offered to the reservoir.
//! - Never here: what a candidate is judged by, a commit.

use super::LearnError;
use super::course::{Owned, own_texts, replayed, rules};
use super::engines::Engines;
use super::evaluate::Pulse;
use super::feed::Feed;
use super::plan::retain_of;
use crate::adapter::Adapter;
use crate::head::Seen;
use crate::reservoir::Reservoir;
use crate::settings::{DRAW_BLOCKS_MAX, REFIT_RIDGES, REHEARSED_RATE, REHEARSED_STEPS, Settings};
use crate::train::{self, Batch, Learners, Moments, TrainError, Whitening, refit_while};

/// What the own ranks are fitted again from.
#[derive(Clone, Copy)]
pub struct Fit<'f> {
    /// The learners as they were.
    pub was: &'f Learners,
    /// The new global adapter.
    pub next: &'f Adapter,
    /// An own part that nothing was learned with.
    pub fresh: &'f Adapter,
    /// What the adapted layers read on text of the device's own, under its slow adapter.
    pub seen: &'f Seen,
}

/// What a rehearsal works with.
pub struct Rehearsal<'r, 'a> {
    /// The loaded base.
    pub engines: &'r Engines,
    /// Where blocks are drawn from: a copy, whose pass may go on; none, and nothing is rehearsed.
    pub reservoir: Option<&'r mut Reservoir>,
    /// Texts of the base's own, on which it is held to itself; may be empty.
    pub anchor: &'r mut Feed<'a>,
    /// What such texts say of the inputs of A.
    pub whitening: Option<&'r Whitening>,
    /// Ranks of the new global adapter, which do not move.
    pub still: usize,
}

/// Learners over a new global adapter, and how they came to be.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The learners; moments and k begin again.
    pub learners: Learners,
    /// Ridge of the fit.
    pub ridge: f64,
    /// Rehearsed steps after it.
    pub steps: u64,
}

/// Candidates, one after the other.
pub struct Settling<'s, 'a> {
    fit: Fit<'s>,
    rehearsal: Rehearsal<'s, 'a>,
    /// As the rehearsed steps have them.
    settings: Settings,
    /// Ridges and steps that are left.
    ridges: std::slice::Iter<'static, f64>,
    steps: std::slice::Iter<'static, u64>,
    /// The last ridge and the learners as they go on from it.
    at: Option<(f64, Learners)>,
}

impl<'s, 'a> Settling<'s, 'a> {
    /// None of them yet; `settings`: of the device's jobs.
    pub fn new(fit: Fit<'s>, rehearsal: Rehearsal<'s, 'a>, settings: &Settings) -> Self {
        let iters = REHEARSED_STEPS.into_iter().max().unwrap_or(0);
        let (retain, learning_rate) =
            (retain_of(settings, iters), REHEARSED_RATE * settings.learning_rate);
        let settings = Settings { iters, retain, learning_rate, ..settings.clone() };
        let (ridges, steps) = (REFIT_RIDGES.iter(), REHEARSED_STEPS.iter());
        Self { fit, rehearsal, settings, ridges, steps, at: None }
    }

    /// The next candidate; none when all were seen.
    ///
    /// - `further`: whether steps may help the one before it; else the next ridge is taken.
    /// - `pulse` is asked before every linear layer that is fitted, and before every step.
    ///
    /// # Errors
    /// [`LearnError`] of adapters that do not fit each other, of engines and reservoir; what `pulse` returns.
    /// A loss that is not finite ends its ridge, not the search.
    pub fn next(
        &mut self,
        further: bool,
        pulse: &mut Pulse<'_>,
    ) -> Result<Option<Candidate>, LearnError> {
        let rehearsed = if further { self.rehearsed(pulse)? } else { None };
        if rehearsed.is_some() {
            return Ok(rehearsed);
        }
        let Some(&ridge) = self.ridges.next() else { return Ok(None) };
        let Fit { was, next, fresh, seen } = self.fit;
        let learners = refit_while(was, next, fresh, seen, ridge, pulse)?;
        self.steps = REHEARSED_STEPS.iter();
        self.at = Some((ridge, learners.clone()));
        Ok(Some(Candidate { learners, ridge, steps: 0 }))
    }

    /// The last candidate after more steps; none where there is nothing to draw or a loss was not finite.
    fn rehearsed(&mut self, pulse: &mut Pulse<'_>) -> Result<Option<Candidate>, LearnError> {
        let (Some((ridge, learners)), Some(&steps)) = (&mut self.at, self.steps.next()) else {
            return Ok(None);
        };
        while learners.k < steps {
            pulse()?;
            match self.rehearsal.step(learners, &self.settings) {
                Err(LearnError::Train(TrainError::NotFinite { .. })) | Ok(false) => {
                    return Ok(None);
                }
                done => done?,
            };
        }
        let Learners { fast, slow, moments, .. } = learners;
        let moments = Moments::zeros(moments.first.len());
        let learners = Learners { fast: fast.clone(), slow: slow.clone(), moments, k: 0 };
        Ok(Some(Candidate { learners, ridge: *ridge, steps }))
    }
}

impl Rehearsal<'_, '_> {
    /// One step of a job all of whose blocks are drawn; whether there were some.
    fn step(&mut self, learners: &mut Learners, settings: &Settings) -> Result<bool, LearnError> {
        let Some(reservoir) = &mut self.reservoir else { return Ok(false) };
        let many = settings.batch_size + settings.replay_batch_size;
        let drawn = reservoir.draw(many.min(reservoir.held() as usize).min(DRAW_BLOCKS_MAX))?;
        let Some(blocks) = replayed(&self.engines.trunk, &drawn)? else { return Ok(false) };
        let is_anchored = settings.anchor_weight > 0.0;
        let turn = learners.k as usize;
        let anchor = if is_anchored {
            own_texts(self.anchor, turn, settings.anchor_batch_size)?
        } else {
            None
        };
        let anchor = anchor.as_ref().map(Owned::group);
        let batch = Batch { fresh: blocks.group(), replay: None, anchor };
        let rules = rules(settings, learners.k + 1, self.whitening, self.still);
        let rate = settings.learning_rate_at(learners.k + 1) as f32;
        train::step(&self.engines.head, learners, &[batch], &rules, rate)?;
        Ok(true)
    }
}
