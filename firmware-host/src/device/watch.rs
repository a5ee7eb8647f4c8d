//! What looks after a run while it learns: after every step, whether it may go on.
//!
//! - In: the learner's events. Out: go on, or stop and why; the curve and the heartbeat on the board.
//! - Orders are looked at after every step, constraints every few seconds.
//! - The budget stops a run between two steps only: a run makes a step at least, and judging is not
//!   cut, so that a budget shorter than reading the held-out text cannot keep a job from its end.

use super::Order;
use super::sight::Sight;
use super::told::Told;
use crate::budget::{Budget, Meter};
use crate::config::Config;
use crate::constraints::Situation;
use crate::probe::Readings;
use crate::status::{Change, JobReport, StepPoint};
use sapwood::learner::{Event, Score, Text, Who};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Looks after one run.
pub(super) struct Watch<'w> {
    pub(super) sight: &'w mut Sight,
    told: &'w mut Told,
    meter: Arc<Meter>,
    budget: Budget,
    situation: Situation,
    /// Time between two looks at the constraints.
    every: Duration,
    looked: Duration,
    /// Why the run was told to stop.
    pub(super) stop: Option<String>,
    /// Whether it was its budget.
    pub(super) spent: bool,
    /// Steps of the job so far.
    pub(super) step: u64,
    scores: Vec<Score>,
}

impl<'w> Watch<'w> {
    /// Begins to look after a run that goes on from `step`, in the situation of the look that let it begin.
    pub(super) fn begin(
        (sight, told): (&'w mut Sight, &'w mut Told),
        meter: Arc<Meter>,
        config: &Config,
        readings: &Readings,
        situation: Situation,
        step: u64,
    ) -> Self {
        let looked = sight.clock.elapsed();
        let budget = Budget::begin(&config.budget, looked, readings, meter.written());
        let every = Duration::from_secs_f64(config.job.poll_seconds);
        let (stop, spent, scores) = (None, false, Vec::new());
        Self { sight, told, meter, budget, situation, every, looked, stop, spent, step, scores }
    }

    /// Hears an event of the learner; breaks when the run must stop.
    pub(super) fn hear(&mut self, event: &Event) -> ControlFlow<()> {
        self.sight.board.beat();
        match event {
            Event::Ready { step, .. } => self.step = *step,
            Event::Step { step, loss, fresh, replay, .. } => {
                self.step = *step;
                let (loss, fresh, replay) = (*loss, *fresh, *replay);
                self.sight.board.step(StepPoint { step: *step, loss, fresh, replay });
            }
            Event::Scores { scores, .. } => self.scores.clone_from(scores),
            Event::Warning { message } => tracing::warn!("{message}"),
            Event::Writing { texts } => {
                tracing::info!(texts, "the base writes texts of its own to be held to");
            }
            Event::Plateau { step, best } => {
                tracing::info!(step, best, "new text gains no more: the job ends early");
            }
            Event::Best { step } => tracing::info!(step, "an earlier adapter of the job is judged"),
            Event::Checkpoint { step } => tracing::debug!(step, "checkpoint"),
            Event::Refitted { ridge, steps } => {
                tracing::info!(ridge, steps, "own ranks over it are judged")
            }
            Event::Installing { sequence, blocks, .. } => {
                tracing::info!(sequence, blocks, "a global adapter comes under what was learned");
            }
            Event::Pulse | Event::Stopped { .. } | Event::Verdict { .. } => {}
        }
        if self.stop.is_none() {
            self.stop = self.reason();
        }
        if self.stop.is_none() && matches!(event, Event::Step { .. }) {
            self.stop = self.budget.spent_up();
            self.spent = self.stop.is_some();
        }
        if self.stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Why the run must stop now, if it must.
    fn reason(&mut self) -> Option<String> {
        while let Some(order) = self.told.next() {
            match order {
                Order::Pause => return Some("paused by an operator".to_owned()),
                Order::Stop => return Some("the program was told to end".to_owned()),
                Order::Recall(_) => return Some("its fleet took back what is on trial".to_owned()),
                Order::Rollback(_) => {
                    return Some("another generation is to be in use".to_owned());
                }
                Order::JobNow => self.situation.ordered = true,
                // An install waits for the end of what is under way.
                Order::Resume | Order::Install(_) | Order::Withdraw => {}
            }
        }
        let elapsed = self.sight.clock.elapsed();
        if elapsed.saturating_sub(self.looked) < self.every {
            return None;
        }
        self.looked = elapsed;
        self.situation.serving = self.sight.board.serving();
        let (readings, look) = self.sight.look(elapsed, &self.situation);
        self.budget.spend(elapsed, &readings, self.meter.written());
        look.go_on.err()
    }

    /// What the run has taken so far, and what it changed.
    pub(super) fn report(&mut self) -> JobReport {
        let readings = self.sight.probes.read();
        self.budget.spend(self.sight.clock.elapsed(), &readings, self.meter.written());
        JobReport {
            seconds: self.budget.seconds(),
            joules: self.budget.joules(),
            bytes_written: self.budget.bytes_written(),
            changes: self.changes(),
            ..JobReport::default()
        }
    }

    /// Bits per byte before and after, of the texts that were scored on both sides.
    fn changes(&self) -> Vec<Change> {
        let of = |text: Text, who: Who| {
            let is =
                |score: &&Score| score.text == text && score.who == who && score.domain.is_none();
            let found = self.scores.iter().find(is);
            found.map(|score| score.bits_per_byte)
        };
        let name = |text| match text {
            Text::New => "new",
            Text::Old => "old",
            Text::General => "general",
        };
        let change = |text| {
            let (before, after) = (of(text, Who::Before)?, of(text, Who::Slow)?);
            Some(Change { text: name(text).to_owned(), before, after })
        };
        Text::ALL.into_iter().filter_map(change).collect()
    }
}
