//! A stream of domains: learned one after the other as a device would meet them, scored after each.
//!
//! - In: blocks of every domain, general text, a method. Out: the matrix R of bits per byte of the slow
//!   learner, and general text's score beside each row.
//! - The same jobs as on a device, but without the gate and without a state folder: what is
//!   compared is the method, so nothing may be dropped.
//! - Joint training sees all domains at once, shuffled, with as many blocks a step as the others, for
//!   as many steps or a multiple of them; a row of R follows each T-th part of its steps.

use super::LearnError;
use super::anchor::whitening;
use super::course::{Bench, Course, Cursor, StepReport, order};
use super::engines::Engines;
use super::evaluate::{HeldOut, Seen};
use super::feed::Feed;
use super::halt::{Halt, Rest};
use super::job::seed_bytes;
use super::{geometry, spec};
use crate::adapter::Adapter;
use crate::block::Block;
use crate::gate::{Direction, Matrix, Tally};
use crate::ports::Memory;
use crate::reservoir::Reservoir;
use crate::settings::{Method, Settings};
use crate::train::Learners;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use std::ops::{ControlFlow, Range};
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
    /// Texts of the base's own, for methods that hold it to itself.
    pub own: Vec<Block>,
    /// Blocks of general text, which no domain learns; none, and it is not scored.
    pub general: Vec<Block>,
}

impl Domains {
    /// No domain yet.
    pub fn new() -> Self {
        Self {
            names: Vec::new(),
            blocks: Vec::new(),
            spans: Vec::new(),
            test: Vec::new(),
            own: Vec::new(),
            general: Vec::new(),
        }
    }

    /// Takes from the end of a domain's training text what is scored in place of its test text: at
    /// most `most` blocks, at most a quarter.
    pub fn hold_back(train: &mut Vec<Block>, most: usize) -> Vec<Block> {
        train.split_off(train.len() - most.min(train.len() / 4))
    }

    /// At most `most` blocks, chosen by a fixed shuffle, so that every method and seed meets the same
    /// ones.
    pub fn choose(blocks: Vec<Block>, most: usize) -> Vec<Block> {
        let chosen = order(0, 0, 0..blocks.len()).into_iter().take(most);
        let mut blocks: Vec<Option<Block>> = blocks.into_iter().map(Some).collect();
        chosen.filter_map(|index| blocks[index].take()).collect()
    }

    /// Adds a domain: at most `train_max` training and `test_max` held-out blocks of it, as
    /// [`Domains::choose`] does.
    pub fn push(
        &mut self,
        name: String,
        train: Vec<Block>,
        test: Vec<Block>,
        train_max: usize,
        test_max: usize,
    ) {
        let start = self.blocks.len();
        let domain = self.names.len() as u32 + 1;
        let marked =
            Self::choose(train, train_max).into_iter().map(|block| Block { domain, ..block });
        self.blocks.extend(marked);
        self.spans.push(start..self.blocks.len());
        self.test.push(Self::choose(test, test_max));
        self.names.push(name);
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of hidden states of the base's own texts that a run keeps.
const OWN_BYTES_MAX: usize = 64 << 20;

/// A stream with everything that the methods share: the engines and what the trunk computed.
pub struct Stream<'a> {
    engines: &'a Engines,
    names: &'a [String],
    spans: &'a [Range<usize>],
    feed: Feed<'a>,
    own: &'a [Block],
    held_out: Vec<HeldOut<'a>>,
    general: HeldOut<'a>,
    /// Scores of the bare base: each domain's, and general text's where there is some.
    before: (Vec<f64>, Option<f64>),
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
        let held_out = |blocks| HeldOut::new(&engines.trunk, blocks, 8, &mut || Ok(()));
        let mut stream = Self {
            engines,
            names: &domains.names,
            spans: &domains.spans,
            feed: Feed::new(&engines.trunk, &domains.blocks, hidden_bytes_max),
            own: &domains.own,
            held_out: domains
                .test
                .iter()
                .map(|blocks| held_out(blocks))
                .collect::<Result<_, _>>()?,
            general: held_out(&domains.general)?,
            before: (Vec::new(), None),
        };
        stream.before = stream.scores(None)?;
        Ok(stream)
    }

    /// The score of every domain under an adapter, or of the bare base, and of general text where there is
    /// some.
    ///
    /// # Errors
    /// [`LearnError::Head`] when the adapter does not fit.
    pub fn scores(&self, adapter: Option<&Adapter>) -> Result<(Vec<f64>, Option<f64>), LearnError> {
        let score = |held_out: &HeldOut<'_>| -> Result<f64, LearnError> {
            Ok(held_out.score(&self.engines.head, adapter, &mut || Ok(()))?.bits_per_byte())
        };
        let domains = self.held_out.iter().map(score).collect::<Result<_, _>>()?;
        let general = (!self.general.is_empty()).then(|| score(&self.general)).transpose()?;
        Ok((domains, general))
    }

    /// How the layers of the head see held-out blocks of a domain, at most so many, or a few more.
    ///
    /// # Errors
    /// [`LearnError::Head`] when the adapter does not fit.
    pub fn features(
        &self,
        domain: usize,
        adapter: Option<&Adapter>,
        blocks_max: usize,
    ) -> Result<Vec<Seen>, LearnError> {
        let Some(held_out) = self.held_out.get(domain) else { return Ok(Vec::new()) };
        held_out.features(&self.engines.head, adapter, blocks_max, &mut || Ok(()))
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
        tell: impl FnMut(&str, &StepReport),
    ) -> Result<Matrix, LearnError> {
        self.follow(method, settings, None, tell, |_, _| ControlFlow::Continue(()))
    }

    /// [`Stream::run`], from the first domain on or from where it stopped; `after` sees each row of R and
    /// where the stream stands with it, and may stop it there: the matrix has the rows so far.
    ///
    /// # Errors
    /// As [`Stream::run`].
    pub fn follow(
        &mut self,
        method: Method,
        settings: &Settings,
        from: Option<(Rest, Matrix)>,
        mut tell: impl FnMut(&str, &StepReport),
        mut after: impl FnMut(&Matrix, Halt<'_>) -> ControlFlow<()>,
    ) -> Result<Matrix, LearnError> {
        let mut settings = method.apply(settings);
        let steps = settings.iters * method.joint().unwrap_or(1);
        if method.joint().is_some() {
            settings.iters = steps * self.spans.len() as u64;
        }
        let is_first = from.is_none();
        let (rest, mut matrix) = match from {
            Some(from) => from,
            None => self.beginning(&settings)?,
        };
        let Rest { mut learners, mut reservoir, domains: done } = rest;
        matrix.keep(done);
        let own = if settings.own_texts() == 0 { &[][..] } else { self.own };
        let mut anchor = Feed::new(&self.engines.trunk, own, OWN_BYTES_MAX);
        let strength = settings.whitening;
        let spec = learners.fast.spec.clone();
        let whitening = whitening(self.engines, &mut anchor, &spec, strength, &mut || Ok(()))?;
        if is_first {
            whitening.iter().for_each(|whitening| learners.whiten(whitening, 0));
        }
        let whole = 0..self.spans.last().map_or(0, |span| span.end);
        let mut course = Course::new(whole, settings.seed, Cursor::default());
        for (domain, span) in self.names.iter().zip(self.spans).skip(done) {
            let mut name = ALL_DOMAINS;
            if method.joint().is_none() {
                name = domain;
                course = Course::new(span.clone(), settings.seed, Cursor::default());
            }
            let mut first_met = Tally::default();
            for _ in 0..steps {
                if let Some(reservoir) = &mut reservoir
                    && reservoir.room() < settings.fresh_blocks()
                {
                    reservoir.settle()?;
                }
                let bench = Bench {
                    engines: self.engines,
                    feed: &mut self.feed,
                    learners: &mut learners,
                    reservoir: reservoir.as_mut(),
                    anchor: &mut anchor,
                    whitening: whitening.as_deref(),
                    still: 0,
                };
                let report = course.step(bench, &settings)?;
                first_met.add(report.first_met);
                tell(name, &report);
            }
            let (row, general) = self.scores(Some(&learners.slow))?;
            matrix.rows.push(row);
            matrix.general.extend(general);
            if method.joint().is_none() {
                matrix.prequential.push(first_met.bits_per_byte());
            }
            let halt = Halt { learners: &learners, reservoir: reservoir.as_ref() };
            if after(&matrix, halt).is_break() {
                break;
            }
        }
        Ok(matrix)
    }

    /// Learners that have seen nothing, an empty reservoir, and a matrix without a row.
    fn beginning(&self, settings: &Settings) -> Result<(Rest, Matrix), LearnError> {
        let spec = spec(self.engines.base.config(), settings)?;
        let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
        let learners = Learners::new(Adapter::fresh(spec, &mut chance));
        let reservoir = match settings.replay_batch_size {
            0 => None,
            _ => Some(reservoir(self.engines, settings)?),
        };
        let (before, general) = self.before.clone();
        let matrix = Matrix {
            domains: self.names.to_vec(),
            direction: Direction::LowerIsBetter,
            before,
            rows: Vec::new(),
            general: general.into_iter().collect(),
            prequential: Vec::new(),
        };
        Ok((Rest { learners, reservoir, domains: 0 }, matrix))
    }
}

/// A reservoir in memory with the settings' size.
fn reservoir(engines: &Engines, settings: &Settings) -> Result<Reservoir, LearnError> {
    let geometry = geometry(engines.base.config(), settings)?;
    let seed = seed_bytes(settings.seed);
    Ok(Reservoir::create(Arc::new(Memory::default()), geometry, seed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_the_end_and_no_more_than_a_quarter() {
        let blocks = |count: u32| -> Vec<Block> {
            let block = |id| Block { tokens: vec![id], learn: vec![false], bytes: 0, domain: 0 };
            (0..count).map(block).collect()
        };
        for (count, most, held) in [(40, 6, 6), (40, 48, 10), (4, 2, 1), (3, 2, 0), (0, 2, 0)] {
            let mut train = blocks(count);
            let end = Domains::hold_back(&mut train, most);
            assert_eq!(end.len(), held, "{count} blocks, at most {most}");
            assert_eq!([train, end].concat(), blocks(count));
        }
    }
}
