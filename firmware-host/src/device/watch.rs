//! What looks after a run while it learns: after every step, whether it may go on.
//!
//! - In: the learner's events. Out: go on, or stop and why; the curve and the heartbeat on the board.
//! - Orders are looked at after every step, constraints every few seconds.
//! - The budget stops a run between two steps only: a run makes a step at least, and judging is not
//!   cut, so that a budget shorter than reading the held-out text cannot keep a job from its end.

use super::Order;
use crate::budget::{Budget, Meter};
use crate::clock::Clock;
use crate::constraints::{Constraints, Situation};
use crate::probe::Probes;
use crate::status::{Board, Change, StepPoint};
use sapwood::learner::{Event, Score, Text, Who};
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Looks after one run.
pub(super) struct Watch<'w> {
    pub(super) clock: &'w dyn Clock,
    pub(super) probes: &'w mut dyn Probes,
    pub(super) constraints: &'w mut Constraints,
    pub(super) orders: &'w mut Receiver<Order>,
    pub(super) board: &'w Board,
    pub(super) meter: &'w Meter,
    pub(super) budget: Budget,
    pub(super) situation: Situation,
    /// Time between two looks at the constraints.
    pub(super) every: Duration,
    pub(super) looked: Duration,
    /// Orders that came meanwhile and are for the worker.
    pub(super) heard: Vec<Order>,
    /// Why the run was told to stop.
    pub(super) stop: Option<String>,
    /// Whether it was its budget.
    pub(super) spent: bool,
    /// Steps of the job so far.
    pub(super) step: u64,
    pub(super) scores: Vec<Score>,
}

impl Watch<'_> {
    /// Hears an event of the learner; breaks when the run must stop.
    pub(super) fn hear(&mut self, event: &Event) -> ControlFlow<()> {
        self.board.beat();
        match event {
            Event::Ready { step, .. } => self.step = *step,
            Event::Step { step, loss, fresh, replay, .. } => {
                self.step = *step;
                let (loss, fresh, replay) = (*loss, *fresh, *replay);
                self.board.step(StepPoint { step: *step, loss, fresh, replay });
            }
            Event::Scores { scores, .. } => self.scores.clone_from(scores),
            Event::Warning { message } => tracing::warn!("{message}"),
            Event::Plateau { step, best } => {
                tracing::info!(step, best, "new text gains no more: the job ends early");
            }
            Event::Best { step } => tracing::info!(step, "an earlier adapter of the job is judged"),
            Event::Checkpoint { step } => tracing::debug!(step, "checkpoint"),
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
        while let Ok(order) = self.orders.try_recv() {
            self.heard.push(order);
            match order {
                Order::Pause => return Some("paused by an operator".to_owned()),
                Order::Stop => return Some("the program was told to end".to_owned()),
                Order::JobNow => self.situation.ordered = true,
                Order::Resume => {}
            }
        }
        let elapsed = self.clock.elapsed();
        if elapsed.saturating_sub(self.looked) < self.every {
            return None;
        }
        self.looked = elapsed;
        let readings = self.probes.read();
        self.budget.spend(elapsed, &readings, self.meter.written());
        self.situation.serving = self.board.serving();
        let look = self.constraints.look(&readings, &self.situation, self.clock);
        let resident_bytes = self.probes.resident_bytes();
        self.board.update(|status| {
            status.resident_bytes = resident_bytes;
            status.uptime_seconds = elapsed.as_secs_f64();
            (status.readings, status.constraints) = (readings, look.states);
        });
        look.go_on.err()
    }

    /// Bits per byte before and after, of the texts that were scored on both sides.
    pub(super) fn changes(&self) -> Vec<Change> {
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
