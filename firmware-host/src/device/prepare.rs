//! From the samples of a job to its blocks, under the same watch as its steps.
//!
//! - In: a job whose record is on disk. Out: [`Prepared`]: what can be learned and what it is judged by.
//! - No more is read than the steps of a job can learn: the rest waits for the next one.
//! - After every sample the watch looks, so that orders, heat and the watchdog do not wait for a text.
//! - Never here: the state folder.

use super::plan::Made;
use super::{DeviceError, lock};
use crate::config::Config;
use sapwood::block::Block;
use sapwood::inbox::{Inbox, Job};
use sapwood::intake::{Dataset, Example};
use sapwood::tokenise::{TokeniseError, Tokeniser};
use std::ops::ControlFlow;
use std::slice;
use std::sync::Mutex;

/// Of ten bytes one is held out.
const HELD_OUT: u64 = 10;

/// What a job can be made of.
pub(super) struct Prepared {
    /// The job, which may end earlier than it was asked to.
    pub(super) job: Job,
    /// Samples read.
    pub(super) samples: u64,
    /// Blocks to learn; empty when the samples give none.
    pub(super) train: Vec<Block>,
    /// Blocks to judge by.
    pub(super) valid: Vec<Block>,
    /// Whether the blocks to judge by are those to learn, for want of others.
    pub(super) judged_by_itself: bool,
    /// BLAKE3 of the samples.
    pub(super) hash: [u8; 32],
    /// Samples that nothing can be learned from, and why.
    pub(super) unfit: Vec<(u64, String)>,
}

impl Prepared {
    /// What the samples gave, for the decision about them.
    pub(super) fn made(&self) -> Made {
        let (samples, blocks) = (self.samples, self.train.len());
        Made { samples, blocks, judged_by_itself: self.judged_by_itself }
    }
}

/// Where samples come from and what makes blocks of them.
pub(super) struct Source<'s> {
    pub(super) inbox: &'s Mutex<Inbox>,
    pub(super) tokeniser: &'s Tokeniser,
    pub(super) config: &'s Config,
}

impl Source<'_> {
    /// Reads the samples of a job; none when `pulse` says to stop.
    ///
    /// # Errors
    /// [`DeviceError::Inbox`] when the disk refuses for now.
    pub(super) fn prepare(
        &self,
        mut job: Job,
        pulse: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Prepared>, DeviceError> {
        let taken = lock(self.inbox).take(job.through)?;
        if taken.lost > 0 {
            tracing::warn!(samples = taken.lost, "samples of the inbox cannot be read any more");
        }
        let (most, mut count) = (self.blocks_max(), 0);
        let (mut fit, mut unfit) = (Fit::default(), Vec::new());
        let mut samples = taken.samples.into_iter().peekable();
        while let Some((number, example)) = samples.next() {
            if pulse().is_break() {
                return Ok(None);
            }
            match self.blocks(&example) {
                Ok(blocks) => {
                    count += blocks.len() as u64;
                    fit.examples.push(example);
                    fit.blocks.push(blocks);
                }
                Err(error) => unfit.push((number, error.to_string())),
            }
            if count >= most && fit.examples.len() > 1 && samples.peek().is_some() {
                job.through = number;
                break;
            }
        }
        let dataset = Dataset::of_examples(fit.examples.clone());
        // What is held out is the end: a document that was cut stands on both sides.
        let held_from = fit.examples.len() - dataset.valid.len().min(fit.examples.len());
        let mut train = self.side(&dataset.train, &fit, 0);
        let mut valid = self.side(&dataset.valid, &fit, held_from);
        let judged_by_itself = train.is_empty() || valid.is_empty();
        if train.is_empty() {
            train.clone_from(&valid);
        }
        if valid.is_empty() {
            valid.clone_from(&train);
        }
        let samples = (fit.examples.len() + unfit.len()) as u64;
        let hash = dataset.hash;
        Ok(Some(Prepared { job, samples, train, valid, judged_by_itself, hash, unfit }))
    }

    /// Blocks that the steps of a job can read once, with those that are held out beside them.
    fn blocks_max(&self) -> u64 {
        let (job, learn) = (&self.config.job, &self.config.learn);
        let fresh = u64::from(learn.fresh_blocks().max(1));
        let learned = job.iters_max.max(job.iters_min).saturating_mul(fresh);
        learned.saturating_add(learned / (HELD_OUT - 1))
    }

    fn blocks(&self, example: &Example) -> Result<Vec<Block>, TokeniseError> {
        let learn = &self.config.learn;
        let one = slice::from_ref(example);
        Ok(self.tokeniser.blocks(one, learn.max_seq_length, learn.mask_prompt, 0)?.blocks)
    }

    /// Blocks of one side of a split, whose examples stand in `fit` from `from` on: those that were made,
    /// but for a document that was cut in two.
    fn side(&self, side: &[Example], fit: &Fit, from: usize) -> Vec<Block> {
        let blocks = side.iter().zip(from..).map(|(example, at)| {
            let whole = fit.examples.get(at).is_some_and(|one| one == example);
            match fit.blocks.get(at).filter(|_| whole) {
                Some(blocks) => blocks.clone(),
                // A piece that gives no block is nothing to learn or to judge by.
                None => self.blocks(example).unwrap_or_default(),
            }
        });
        blocks.flatten().collect()
    }
}

/// Examples that something can be learned from, each with its blocks.
#[derive(Default)]
struct Fit {
    examples: Vec<Example>,
    blocks: Vec<Vec<Block>>,
}
