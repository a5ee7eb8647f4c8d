//! What a job tells while it runs: plain facts, for a terminal, a log or a line of JSON.

use super::memory::Memory;
use crate::gate::{Change, Direction, Scores, Worst};
use serde::Serialize;

/// Which learner a score belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The slow adapter before the job; the bare base in the first job.
    Before,
    /// The fast learner.
    Fast,
    /// The slow learner: what is judged and committed.
    Slow,
}

/// Which held-out text a score belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    /// The domain of this job.
    New,
    /// Domains of earlier jobs.
    Old,
    /// General text.
    General,
}

impl Text {
    /// Every kind, in the order of the reports.
    pub const ALL: [Self; 3] = [Self::New, Self::Old, Self::General];
}

/// One score of one learner on one held-out text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Which text.
    pub text: Text,
    /// Which learner.
    pub who: Who,
    /// Which old domain; none for all text of its kind, where domains weigh the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Bits per byte; lower is better.
    pub bits_per_byte: f64,
    /// e to the mean nats of a token.
    pub perplexity: f64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Something the user should know, and that does not stop the job.
    Warning {
        /// One sentence.
        message: String,
    },
    /// The base writes texts of its own, to be held to; it has them when the job is ready.
    Writing {
        /// How many are missing.
        texts: usize,
    },
    /// Everything is loaded; learning begins.
    Ready {
        /// Name of the domain.
        domain: String,
        /// Parameters of the base.
        parameters: u64,
        /// Parameters that learn.
        trained: u64,
        /// `cpu`, `cuda:0` or `metal`.
        device: String,
        /// Training blocks.
        blocks: usize,
        /// Held-out blocks of the new domain, of old ones, and of general text.
        held_out: [usize; 3],
        /// Estimate of the memory that the job needs, in bytes.
        memory: Memory,
        /// Step at which the job goes on; 0 at its beginning.
        step: u64,
        /// Optimiser steps of the job.
        iters: u64,
    },
    /// One optimiser step, or the mean over the steps since the last of these.
    Step {
        /// Steps of the job so far.
        step: u64,
        /// Steps of the job.
        iters: u64,
        /// What is minimised.
        loss: f32,
        /// Nats a label on fresh blocks.
        fresh: f32,
        /// Nats a label on replayed blocks.
        replay: Option<f32>,
        /// Distance of fast and slow hidden states, squared, in parts of the squared length.
        embedding: Option<f32>,
        /// Divergence of fast from the base on the base's own text, in nats a label.
        anchor: Option<f32>,
        /// Norm of the gradient before clipping.
        gradient_norm: f32,
        /// Learning rate.
        learning_rate: f64,
        /// Tokens learned since the last of these.
        tokens: usize,
        /// Blocks in the reservoir.
        held: u64,
    },
    /// Held-out text is being read: nothing to show, but the job may be stopped here.
    Pulse,
    /// Held-out text was scored.
    Scores {
        /// Steps of the job so far.
        step: u64,
        /// The scores.
        scores: Vec<Score>,
    },
    /// New text has not gained for as many scorings as the settings allow: the job ends early.
    Plateau {
        /// Steps of the job so far.
        step: u64,
        /// The step whose slow learner is the best so far.
        best: u64,
    },
    /// The slow learner of an earlier step is better on new text than the last one: it is judged.
    Best {
        /// Steps of the job when it was scored.
        step: u64,
    },
    /// The job can go on from here after a power cut.
    Checkpoint {
        /// Steps of the job so far.
        step: u64,
    },
    /// The job was told to stop; a checkpoint holds it.
    Stopped {
        /// Steps of the job so far.
        step: u64,
    },
    /// A global adapter is to come under what was learned.
    Installing {
        /// Of the statement that offered it.
        sequence: u64,
        /// Its rank, and the own one beside it.
        ranks: [usize; 2],
        /// Blocks of the device's own that the own ranks are fitted again on; 0: they begin anew.
        blocks: usize,
        /// Held-out blocks of earlier domains, and of general text.
        held_out: [usize; 2],
    },
    /// The own ranks stand over a new global adapter: their scores follow.
    Refitted {
        /// How much the fit left to the new global adapter, in parts of the mean eigenvalue of the moments.
        ridge: f64,
        /// Steps on the reservoir after it.
        steps: u64,
    },
    /// The gate's word.
    Verdict {
        /// Whether the new slow adapter is committed.
        kept: bool,
        /// Why, in one line.
        reason: String,
        /// The generation in use now; none when nothing was ever committed.
        generation: Option<u64>,
    },
}

/// The bits per byte of one learner on one text.
pub(super) fn of(scores: &[Score], text: Text, who: Who) -> Option<f64> {
    let found = scores.iter().find(|s| s.text == text && s.who == who && s.domain.is_none());
    found.map(|score| score.bits_per_byte)
}

/// The old domain that lost most, of those scored before and after.
fn worst(scores: &[Score]) -> Option<Worst> {
    let of = |who, name: &str| {
        let own = |score: &&Score| score.who == who && score.domain.as_deref() == Some(name);
        scores.iter().find(own).map(|score| score.bits_per_byte)
    };
    let domains = scores.iter().filter(|score| score.who == Who::Before);
    let changes = domains.filter_map(|score| {
        let domain = score.domain.clone()?;
        let change = Change { before: score.bits_per_byte, after: of(Who::Slow, &domain)? };
        Some(Worst { domain, change })
    });
    // What is no number is the worst there can be.
    let loss = |worst: &Worst| match worst.change.after / worst.change.before {
        loss if loss.is_nan() => f64::INFINITY,
        loss => loss,
    };
    changes.max_by(|one, other| loss(one).total_cmp(&loss(other)))
}

/// What the gate looks at: the slow learner against the adapter in use.
pub(super) fn judged(scores: &[Score]) -> Scores {
    let change = |text| {
        let (before, after) = (of(scores, text, Who::Before)?, of(scores, text, Who::Slow)?);
        Some(Change { before, after })
    };
    let is_new = scores.iter().any(|score| score.text == Text::New);
    Scores {
        new: is_new
            .then(|| change(Text::New).unwrap_or(Change { before: f64::NAN, after: f64::NAN })),
        old: change(Text::Old),
        worst: worst(scores),
        general: change(Text::General),
        direction: Direction::LowerIsBetter,
    }
}
