//! A simulated device: real learners and a reservoir in memory, which learn a piece of text a round.
//!
//! - In: what all devices share (the loaded base, blocks, texts of the base's own, settings). Out: learners
//!   that moved, and how the first steps went.
//! - The same steps as a device's job, but without the gate: what is compared is the install.
//! - Never here: how an install is done (`rule`), what is scored.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::adapter::stacked::part;
use sapwood::adapter::{Adapter, Spec};
use sapwood::block::Block;
use sapwood::learner::{
    Bench, Course, Cursor, Engines, Feed, Rehearsal, geometry, spec, whitening,
};
use sapwood::ports::Memory;
use sapwood::reservoir::Reservoir;
use sapwood::settings::{Method, Settings};
use sapwood::train::{Learners, Whitening};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of hidden states that all devices share.
const HIDDEN_BYTES_MAX: usize = 1 << 30;
/// Bytes of hidden states of the base's own texts.
const OWN_BYTES_MAX: usize = 64 << 20;
/// The first steps of a round, which tell whether an install disturbs learning.
pub(crate) const FIRST_STEPS: u64 = 10;

/// What all devices share.
pub(crate) struct Shared<'a> {
    pub(crate) engines: &'a Engines,
    /// What is learned by, seed apart; as [`Method::Sapwood`] has it.
    pub(crate) settings: Settings,
    /// Of a device's own part.
    pub(crate) own: Spec,
    /// Of the merged one, at scale 1.
    pub(crate) global: Spec,
    /// Steps of a round after what is sent.
    pub(crate) late: u64,
    feed: Feed<'a>,
    anchor: Feed<'a>,
    /// By the ranks before the own ones.
    whitenings: BTreeMap<usize, Option<Arc<Whitening>>>,
}

impl<'a> Shared<'a> {
    /// `blocks`: of all devices; `texts`: the base's own; `rank`: of the merged adapter.
    pub(crate) fn new(
        engines: &'a Engines,
        settings: &Settings,
        rank: usize,
        blocks: &'a [Block],
        texts: &'a [Block],
    ) -> Result<Self> {
        let settings = Method::Sapwood.apply(settings);
        let config = engines.base.config();
        let texts = if settings.own_texts() == 0 { &[][..] } else { texts };
        Ok(Self {
            engines,
            own: spec(config, &settings)?,
            global: spec(config, &Settings { rank, alpha: rank as f64, ..settings.clone() })?,
            settings,
            late: 0,
            feed: Feed::new(&engines.trunk, blocks, HIDDEN_BYTES_MAX),
            anchor: Feed::new(&engines.trunk, texts, OWN_BYTES_MAX),
            whitenings: BTreeMap::new(),
        })
    }

    /// What whitens an adapter of `spec`, made once for each rank.
    pub(crate) fn whitening(
        &mut self,
        spec: &Spec,
        still: usize,
    ) -> Result<Option<Arc<Whitening>>> {
        if let Some(known) = self.whitenings.get(&still) {
            return Ok(known.clone());
        }
        let strength = self.settings.whitening;
        let made = whitening(self.engines, &mut self.anchor, spec, strength, &mut || Ok(()))?;
        self.whitenings.insert(still, made.clone());
        Ok(made)
    }

    /// What steps over `still` ranks of a global adapter are rehearsed with, from `reservoir`.
    pub(crate) fn rehearsal<'r>(
        &'r mut self,
        reservoir: &'r mut Reservoir,
        whitening: Option<&'r Whitening>,
        still: usize,
    ) -> Rehearsal<'r, 'a> {
        let (engines, anchor) = (self.engines, &mut self.anchor);
        Rehearsal { engines, reservoir: Some(reservoir), anchor, whitening, still }
    }

    /// An own part that nothing was learned with.
    pub(crate) fn fresh(&mut self, seed: u64) -> Result<Adapter> {
        let own = self.own.clone();
        let whitening = self.whitening(&own, 0)?;
        let mut fresh = Adapter::fresh(own, &mut ChaCha8Rng::seed_from_u64(seed));
        whitening.iter().for_each(|whitening| whitening.apply(&mut fresh.values));
        Ok(fresh)
    }
}

/// One device.
pub(crate) struct Device {
    /// Its domain.
    pub(crate) home: usize,
    pub(crate) seed: u64,
    /// What it learns, round by round.
    pub(crate) pieces: Vec<Range<usize>>,
    pub(crate) learners: Learners,
    pub(crate) reservoir: Reservoir,
    /// Ranks of the global adapter under its own; 0 before the first.
    pub(crate) still: usize,
    /// What it sends.
    pub(crate) sent: Adapter,
    /// Installs so far.
    pub(crate) installs: u64,
}

impl Device {
    /// A device that has learned nothing.
    pub(crate) fn new(
        shared: &mut Shared<'_>,
        home: usize,
        seed: u64,
        pieces: Vec<Range<usize>>,
    ) -> Result<Self> {
        let geometry = geometry(shared.engines.base.config(), &shared.settings)?;
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let reservoir = Reservoir::create(Arc::new(Memory::default()), geometry, secret)?;
        let learners = Learners::new(shared.fresh(seed)?);
        let sent = learners.slow.clone();
        Ok(Self { sent, home, seed, pieces, learners, reservoir, still: 0, installs: 0 })
    }

    /// The same device, to go another way from here.
    pub(crate) fn copy(&self) -> Result<Self> {
        Ok(Self {
            reservoir: self.reservoir.copy(Arc::new(Memory::default()))?,
            pieces: self.pieces.clone(),
            learners: self.learners.clone(),
            sent: self.sent.clone(),
            ..*self
        })
    }

    /// What it sends: its own part of the slow learner, as it was then.
    pub(crate) fn own_part(&self) -> Adapter {
        self.sent.clone()
    }

    /// Learns the piece of a round; `look` sees the learners after the first steps. Gives the mean loss of
    /// those steps on what was new to them.
    pub(crate) fn learn(
        &mut self,
        shared: &mut Shared<'_>,
        round: usize,
        mut look: impl FnMut(&Learners) -> Result<()>,
    ) -> Result<f64> {
        let whitening = shared.whitening(&self.learners.fast.spec.clone(), self.still)?;
        let mut course = Course::new(self.pieces[round].clone(), self.seed, Cursor::default());
        let (mut lost, first) = (0.0, FIRST_STEPS.min(shared.settings.iters));
        for step in 1..=shared.settings.iters {
            if self.reservoir.room() < shared.settings.fresh_blocks() {
                self.reservoir.settle()?;
            }
            let bench = Bench {
                engines: shared.engines,
                feed: &mut shared.feed,
                learners: &mut self.learners,
                reservoir: Some(&mut self.reservoir),
                anchor: &mut shared.anchor,
                whitening: whitening.as_deref(),
                still: self.still,
            };
            let report = course.step(bench, &shared.settings)?;
            if step <= first {
                lost += f64::from(report.step.losses.fresh) / first as f64;
            }
            if step == shared.settings.iters - shared.late {
                self.sent = part(&self.learners.slow, &(self.still..usize::MAX));
            }
            if step == first {
                look(&self.learners)?;
            }
        }
        Ok(lost)
    }
}
