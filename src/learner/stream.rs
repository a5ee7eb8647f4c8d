//! A stream of domains: learned one after the other as a device would meet them, scored after each.
//!
//! - In: blocks of every domain, a method. Out: the matrix R of bits per byte of the slow learner.
//! - The same jobs as on a device, but without the gate and without a state folder: what is
//!   compared is the method, so nothing may be dropped.
//! - Joint training sees all domains at once, shuffled, with as many blocks a step as the others, for
//!   as many steps or a multiple of them; a row of R follows each T-th part of its steps.

use super::LearnError;
use super::course::{Bench, Course, Cursor, Report, order};
use super::engines::Engines;
use super::evaluate::HeldOut;
use super::feed::Feed;
use super::{geometry, spec};
use crate::adapter::Adapter;
use crate::block::Block;
use crate::gate::{Direction, Matrix};
use crate::ports::Memory;
use crate::reservoir::Reservoir;
use crate::settings::{Method, Settings};
use crate::train::Learners;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use std::ops::Range;
use std::sync::Arc;

/// What is told as the domain of a joint step.
const ALL_DOMAINS: &str = "all domains";

/// The training blocks of all domains, side by side, and where each domain begins and ends.
pub struct Domains {
    /// Names, in the order of the stream.
    pub names: Vec<String>,
    /// Blocks of all domains.
    pub blocks: Vec<Block>,
    /// Where each domain's blocks lie.
    pub spans: Vec<Range<usize>>,
    /// Held-out blocks of each domain.
    pub test: Vec<Vec<Block>>,
}

impl Domains {
    /// No domain yet.
    pub fn new() -> Self {
        Self { names: Vec::new(), blocks: Vec::new(), spans: Vec::new(), test: Vec::new() }
    }

    /// Adds a domain: at most `train_max` training and `test_max` held-out blocks of it, chosen by
    /// a fixed shuffle, so that every method and seed meets the same ones.
    pub fn push(
        &mut self,
        name: String,
        train: Vec<Block>,
        test: Vec<Block>,
        train_max: usize,
        test_max: usize,
    ) {
        let choose = |blocks: Vec<Block>, most: usize| -> Vec<Block> {
            let mut chosen = order(0, 0, 0..blocks.len());
            chosen.truncate(most);
            chosen.into_iter().map(|index| blocks[index].clone()).collect()
        };
        let start = self.blocks.len();
        let domain = self.names.len() as u16 + 1;
        let marked = choose(train, train_max).into_iter().map(|block| Block { domain, ..block });
        self.blocks.extend(marked);
        self.spans.push(start..self.blocks.len());
        self.test.push(choose(test, test_max));
        self.names.push(name);
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self::new()
    }
}

/// A stream with everything that the methods share: the engines and what the trunk computed.
pub struct Stream<'a> {
    engines: &'a Engines,
    names: &'a [String],
    spans: &'a [Range<usize>],
    feed: Feed<'a>,
    held_out: Vec<HeldOut<'a>>,
    before: Vec<f64>,
}

impl<'a> Stream<'a> {
    /// Runs the trunk over the held-out blocks and scores the bare base.
    ///
    /// # Errors
    /// [`LearnError::NoData`] when a domain has nothing to learn or to score.
    pub fn new(
        engines: &'a Engines,
        domains: &'a Domains,
        hidden_bytes_max: usize,
    ) -> Result<Self, LearnError> {
        let empty =
            |index: usize| domains.spans[index].is_empty() || domains.test[index].is_empty();
        if let Some(index) = (0..domains.names.len()).find(|&index| empty(index)) {
            return Err(LearnError::NoData { name: domains.names[index].clone() });
        }
        let held_out: Result<Vec<_>, _> = domains
            .test
            .iter()
            .map(|blocks| HeldOut::new(&engines.trunk, blocks, 8, &mut || Ok(())))
            .collect();
        let mut stream = Self {
            engines,
            names: &domains.names,
            spans: &domains.spans,
            feed: Feed::new(&engines.trunk, &domains.blocks, hidden_bytes_max),
            held_out: held_out?,
            before: Vec::new(),
        };
        stream.before = stream.scores(None)?;
        Ok(stream)
    }

    fn scores(&self, adapter: Option<&Adapter>) -> Result<Vec<f64>, LearnError> {
        let score = |held_out: &HeldOut<'_>| {
            Ok(held_out.score(&self.engines.head, adapter, &mut || Ok(()))?.bits_per_byte())
        };
        self.held_out.iter().map(score).collect()
    }

    /// One method under one seed: `settings.iters` steps between two rows of R, one domain after the
    /// other or, in joint training, all at once under one schedule; there it may be several times as many.
    ///
    /// `tell` hears of every step: the domain's name and the report.
    /// # Errors
    /// [`LearnError::Train`] when a loss is not finite.
    pub fn run(
        &mut self,
        method: Method,
        settings: &Settings,
        mut tell: impl FnMut(&str, &Report),
    ) -> Result<Matrix, LearnError> {
        let mut settings = method.apply(settings);
        let steps = settings.iters * method.joint().unwrap_or(1);
        if method.joint().is_some() {
            settings.iters = steps * self.spans.len() as u64;
        }
        let spec = spec(self.engines.base.config(), &settings)?;
        let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut learners = Learners::new(Adapter::fresh(spec, &mut chance));
        let mut reservoir = match settings.replay_batch_size {
            0 => None,
            _ => Some(reservoir(self.engines, &settings)?),
        };
        let whole = 0..self.spans.last().map_or(0, |span| span.end);
        let mut course = Course::new(whole, settings.seed, Cursor::default());
        let mut rows = Vec::new();
        for (domain, span) in self.names.iter().zip(self.spans) {
            let mut name = ALL_DOMAINS;
            if method.joint().is_none() {
                name = domain;
                course = Course::new(span.clone(), settings.seed, Cursor::default());
            }
            for _ in 0..steps {
                let report =
                    self.step(&mut course, &mut learners, reservoir.as_mut(), &settings)?;
                tell(name, &report);
            }
            rows.push(self.scores(Some(&learners.slow))?);
        }
        Ok(Matrix {
            domains: self.names.to_vec(),
            direction: Direction::LowerIsBetter,
            before: self.before.clone(),
            rows,
        })
    }

    /// One step; a reservoir without room for its blocks first takes for good what was staged.
    fn step(
        &mut self,
        course: &mut Course,
        learners: &mut Learners,
        mut reservoir: Option<&mut Reservoir>,
        settings: &Settings,
    ) -> Result<Report, LearnError> {
        if let Some(reservoir) = &mut reservoir
            && reservoir.room() < settings.fresh_blocks()
        {
            reservoir.settle()?;
        }
        let bench = Bench { engines: self.engines, feed: &mut self.feed, learners, reservoir };
        course.step(bench, settings)
    }
}

/// A reservoir in memory with the settings' size.
fn reservoir(engines: &Engines, settings: &Settings) -> Result<Reservoir, LearnError> {
    let geometry = geometry(engines, settings)?;
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&settings.seed.to_le_bytes());
    Ok(Reservoir::create(Arc::new(Memory::default()), geometry, seed)?)
}
