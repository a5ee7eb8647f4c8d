//! The means that a job reports: over the steps since the last report.
//!
//! - In: what every step did. Out: one [`Event::Step`].

use super::course::StepReport;
use super::events::Event;
use crate::head::Losses;

/// The sums so far.
#[derive(Default)]
pub(super) struct Since {
    steps: u32,
    replayed: u32,
    tokens: usize,
    sum: Option<Losses>,
    gradient_norm: f32,
    learning_rate: f64,
}

impl Since {
    /// Adds a step.
    pub(super) fn add(&mut self, report: &StepReport) {
        let new = report.step.losses;
        let both = |a: Option<f32>, b: Option<f32>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.sum = Some(self.sum.map_or(new, |sum| Losses {
            fresh: sum.fresh + new.fresh,
            replay: both(sum.replay, new.replay),
            embedding: both(sum.embedding, new.embedding),
            anchor: both(sum.anchor, new.anchor),
            total: sum.total + new.total,
        }));
        self.steps += 1;
        self.replayed += u32::from(new.replay.is_some());
        self.tokens += report.tokens;
        self.gradient_norm += report.step.gradient_norm;
        self.learning_rate = report.learning_rate;
    }

    /// What is told of them: means, and the last rate.
    pub(super) fn event(&self, step: u64, iters: u64, held: u64) -> Event {
        let mean = |sum: f32| sum / self.steps.max(1) as f32;
        // The first steps of a device's life have nothing to replay.
        let replayed = |sum: f32| sum / self.replayed.max(1) as f32;
        let sum = self.sum.as_ref();
        Event::Step {
            step,
            iters,
            loss: mean(sum.map_or(0.0, |sum| sum.total)),
            fresh: mean(sum.map_or(0.0, |sum| sum.fresh)),
            replay: sum.and_then(|sum| sum.replay).map(replayed),
            embedding: sum.and_then(|sum| sum.embedding).map(replayed),
            anchor: sum.and_then(|sum| sum.anchor).map(mean),
            gradient_norm: mean(self.gradient_norm),
            learning_rate: self.learning_rate,
            tokens: self.tokens,
            held,
        }
    }
}
