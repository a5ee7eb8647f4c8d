//! One job: learn from some blocks, be judged, commit or leave everything as it was.
//!
//! - In: loaded engines, a state folder, blocks to learn and blocks held out. Out: the verdict.
//! - Progress leaves as [`Event`]s; the listener may stop the job at any step, which checkpoints it,
//!   and between two batches of held-out text.
//! - Invariant: until the commit, the generation in use does not change.

use super::anchor::{missing, own_texts, whitening};
use super::course::{Bench, Course, Cursor};
use super::engines::Engines;
use super::events::{Event, Score, Text, Who, judged, of};
use super::feed::Feed;
use super::heritage::Heritage;
use super::memory::{HIDDEN_BYTES_MAX, Memory, Tokens};
use super::plan::serves;
use super::since::Since;
use super::start::{Ground, Start};
use super::texts::Texts;
use super::{LearnError, geometry, spec};
use crate::adapter::peft::{self, Meta, Role};
use crate::adapter::{Adapter, Spec};
use crate::block::Block;
use crate::gate::{Judge, Verdict};
use crate::reservoir::Reservoir;
use crate::settings::{DOMAIN_BYTES_MAX, Settings};
use crate::state::{Best, Checkpoint, Commit, Domain, Global, LearnerRecord, State};
use crate::train::{Learners, Whitening};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a job learns from and is judged by.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Name of the domain.
    pub name: String,
    /// What makes the domain this one and no other: where its text comes from, or a name of its own.
    pub key: String,
    /// BLAKE3 of the data, so that a resumed job is known to be the same.
    pub hash: [u8; 32],
    /// Blocks to learn.
    pub train: Vec<Block>,
    /// Blocks of the same domain that are not learned.
    pub valid: Vec<Block>,
    /// General text that no job learns; may be empty.
    pub general: Vec<Block>,
    /// What a text of this base begins with; empty: the base writes none to be held to.
    pub start: Vec<u32>,
}

impl Material {
    /// Whether a job can begin with it.
    ///
    /// # Errors
    /// [`LearnError::NoData`], [`LearnError::Domain`].
    pub fn check(&self) -> Result<(), LearnError> {
        let longest = self.name.len().max(self.key.len());
        if self.name.is_empty() || longest > DOMAIN_BYTES_MAX {
            return Err(LearnError::Domain { got: longest });
        }
        if self.train.is_empty() || self.valid.is_empty() {
            return Err(LearnError::NoData { name: self.name.clone() });
        }
        Ok(())
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The listener stopped it; the checkpoint waits for `resume`.
    Stopped,
    /// The gate has spoken.
    Judged {
        /// What it said.
        verdict: Verdict,
        /// The generation in use now, if there is one.
        generation: Option<u64>,
        /// All scores, before and after.
        scores: Vec<Score>,
    },
}

/// Hears what happens, and may stop the job.
pub type Listener<'l> = dyn FnMut(&Event) -> ControlFlow<()> + 'l;

/// Learns `material` and commits what the gate keeps.
///
/// # Errors
/// [`LearnError`]; whatever it is, the generation in use stays in use. After a loss that is not
/// finite the last checkpoint stays too.
pub fn adapt(
    engines: &Engines,
    state: &mut State,
    material: &Material,
    settings: &Settings,
    tell: &mut Listener<'_>,
) -> Result<Outcome, LearnError> {
    match learn_and_judge(engines, state, material, &engines.decided(settings), tell) {
        Err(LearnError::Stopped) => Ok(Outcome::Stopped),
        outcome => outcome,
    }
}

/// Asks the listener whether to go on, where there is nothing to tell.
pub(super) fn pulse(tell: &mut Listener<'_>) -> Result<(), LearnError> {
    if tell(&Event::Pulse).is_break() { Err(LearnError::Stopped) } else { Ok(()) }
}

/// The job; [`LearnError::Stopped`] when the listener stopped it, after the checkpoint.
fn learn_and_judge(
    engines: &Engines,
    state: &mut State,
    material: &Material,
    settings: &Settings,
    tell: &mut Listener<'_>,
) -> Result<Outcome, LearnError> {
    material.check()?;
    state.may_commit()?;
    for message in engines.notices(settings) {
        let _ = tell(&Event::Warning { message });
    }
    let config = engines.base.config();
    let spec = spec(config, settings)?.over(state.ranks());
    let tokens = Tokens::of(material, state);
    let memory = Memory::estimate(&engines.base, &spec, settings, tokens);
    let start = Start::find(engines, state, material, settings, &spec, tell)?;
    let Start { mut learners, heritage, cursor, before, checkpoint, is_first, ground } = start;
    let domain = heritage.domain(&material.name, &material.key, state.next_domain());
    let tagged = |block: &Block| Block { domain: domain.number, ..block.clone() };
    let train: Vec<Block> = material.train.iter().map(tagged).collect();
    let reservoir = match settings.replay_batch_size {
        0 => None,
        _ => Some(reservoir(engines, state, settings, checkpoint.as_ref())?),
    };
    let start = &material.start;
    let texts = missing(engines, start, settings, state)?;
    if texts > 0 {
        let _ = tell(&Event::Writing { texts });
    }
    let own = own_texts(engines, start, settings, Some(state), &mut || pulse(tell))?;
    if own.len() < settings.own_texts() {
        let (got, wanted) = (own.len(), settings.own_texts());
        let message = format!("the base wrote {got} of {wanted} texts to be held to");
        let _ = tell(&Event::Warning { message });
    }
    let mut anchor = Feed::new(&engines.trunk, &own, HIDDEN_BYTES_MAX as usize);
    let strength = settings.whitening;
    let whitening = whitening(engines, &mut anchor, &spec, strength, &mut || pulse(tell))?;
    if let Some(whitening) = whitening.as_ref().filter(|_| is_first) {
        learners.whiten(whitening, ground.still());
    }
    let old = heritage.groups_but(&domain);
    let old_blocks = old.iter().map(|group| group.blocks.len()).sum();
    let Material { valid, general, .. } = material;
    let texts = Texts::new(&engines.trunk, valid, &old, general, &mut || pulse(tell))?;
    let ready = Event::Ready {
        domain: material.name.clone(),
        parameters: config.parameters(),
        trained: spec.len() as u64,
        device: engines.backend.name(),
        blocks: train.len(),
        held_out: [valid.len(), old_blocks, general.len()],
        memory,
        step: cursor.step,
        iters: settings.iters,
    };
    let _ = tell(&ready);
    let mut job = Job {
        engines,
        state,
        material,
        settings,
        spec,
        learners,
        ground,
        heritage: &heritage,
        reservoir,
        domain,
        texts: &texts,
        before,
        best: checkpoint.and_then(|checkpoint| checkpoint.best),
        feed: Feed::new(&engines.trunk, &train, HIDDEN_BYTES_MAX as usize),
        anchor,
        whitening,
    };
    job.run(cursor, tell)
}

/// The state's reservoir, with room for the fresh blocks of a step.
fn reservoir(
    engines: &Engines,
    state: &mut State,
    settings: &Settings,
    checkpoint: Option<&Checkpoint>,
) -> Result<Reservoir, LearnError> {
    let wanted = geometry(engines.base.config(), settings)?;
    let reservoir = state.reservoir(wanted, seed_bytes(settings.seed), checkpoint)?;
    serves(reservoir.geometry(), &wanted, settings.fresh_blocks())?;
    Ok(reservoir)
}

/// A seed for whoever takes 32 bytes.
pub(super) fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// A job under way.
struct Job<'j, 'a> {
    engines: &'j Engines,
    state: &'j mut State,
    material: &'j Material,
    settings: &'j Settings,
    spec: Spec,
    learners: Learners,
    ground: Ground,
    heritage: &'j Heritage,
    reservoir: Option<Reservoir>,
    domain: Domain,
    texts: &'j Texts<'j>,
    before: Option<Adapter>,
    best: Option<Best>,
    feed: Feed<'a>,
    anchor: Feed<'a>,
    whitening: Option<Arc<Whitening>>,
}

impl Job<'_, '_> {
    fn run(&mut self, cursor: Cursor, tell: &mut Listener<'_>) -> Result<Outcome, LearnError> {
        let mut scores = self.score(Who::Before, self.before.as_ref(), tell)?;
        let _ = tell(&Event::Scores { step: cursor.step, scores: scores.clone() });
        let end = self.learn(cursor, tell)?;
        let learned = self.score_learners(end, tell)?;
        scores.extend(self.at_its_best(learned, end, tell)?);
        let _ = tell(&Event::Scores { step: end.step, scores: scores.clone() });
        let verdict = Judge::of(self.settings).judge(judged(&scores));
        let generation = self.decide(&verdict)?;
        let (kept, reason) = (verdict.keeps(), verdict.to_string());
        let _ = tell(&Event::Verdict { kept, reason, generation });
        Ok(Outcome::Judged { verdict, generation, scores })
    }

    /// All steps of the job; where it stands afterwards.
    fn learn(&mut self, cursor: Cursor, tell: &mut Listener<'_>) -> Result<Cursor, LearnError> {
        let (engines, settings) = (self.engines, self.settings);
        let mut course = Course::new(0..self.feed.blocks().len(), settings.seed, cursor);
        let mut since = Since::default();
        loop {
            self.look(course.cursor(), tell)?;
            if course.cursor().step >= settings.iters || self.is_flat() {
                break;
            }
            let crowded = self
                .reservoir
                .as_ref()
                .is_some_and(|reservoir| reservoir.room() < settings.fresh_blocks());
            if crowded {
                self.checkpoint(course.cursor(), tell)?;
            }
            let bench = Bench {
                engines,
                feed: &mut self.feed,
                learners: &mut self.learners,
                reservoir: self.reservoir.as_mut(),
                anchor: &mut self.anchor,
                whitening: self.whitening.as_deref(),
                still: self.ground.still(),
            };
            let report = course.step(bench, settings)?;
            self.ground.tokens += report.fresh_tokens as u64;
            since.add(&report);
            let step = course.cursor().step;
            let last = step == settings.iters;
            let mut flow = ControlFlow::Continue(());
            if last || due(step, settings.steps_per_report) {
                let held = self.reservoir.as_ref().map_or(0, Reservoir::held);
                flow = tell(&since.event(step, settings.iters, held.into()));
                since = Since::default();
            }
            if flow.is_break() && !last {
                return self.stop(course.cursor(), tell);
            }
            if !last && due(step, settings.save_every) {
                self.checkpoint(course.cursor(), tell)?;
            }
        }
        Ok(course.cursor())
    }

    /// Scores the learners where that is due, and keeps slow if it is the best so far.
    ///
    /// It comes before the next step, not after the last: a job that goes on from a checkpoint between
    /// the two scores as one that was never cut.
    fn look(&mut self, at: Cursor, tell: &mut Listener<'_>) -> Result<(), LearnError> {
        let (step, every) = (at.step, self.settings.steps_per_eval);
        let is_seen = self.best.as_ref().is_some_and(|best| best.seen >= step);
        if step == 0 || step >= self.settings.iters || !due(step, every) || is_seen {
            return Ok(());
        }
        let scores = self.score_learners(at, tell)?;
        let score = of(&scores, Text::New, Who::Slow).unwrap_or(f64::NAN);
        let slow = &self.learners.slow.values;
        match &mut self.best {
            Some(best) if score < best.score => {
                *best = Best { step, seen: step, stale: 0, score, slow: slow.clone() };
            }
            Some(best) => (best.seen, best.stale) = (step, best.stale + 1),
            None if score.is_finite() => {
                self.best = Some(Best { step, seen: step, stale: 0, score, slow: slow.clone() });
            }
            None => {}
        }
        let _ = tell(&Event::Scores { step, scores });
        if let Some(best) = self.best.as_ref().filter(|_| self.is_flat()) {
            let _ = tell(&Event::Plateau { step, best: best.step });
        }
        Ok(())
    }

    /// Whether new text has not gained for as long as the settings have patience.
    fn is_flat(&self) -> bool {
        let patience = self.settings.patience;
        patience > 0 && self.best.as_ref().is_some_and(|best| best.stale >= patience)
    }

    /// The scores at the end of a job: of the best slow adapter, if the last one is not it.
    ///
    /// Fast begins the next job there too: what it learned since did new text no good.
    fn at_its_best(
        &mut self,
        last: Vec<Score>,
        end: Cursor,
        tell: &mut Listener<'_>,
    ) -> Result<Vec<Score>, LearnError> {
        let score = of(&last, Text::New, Who::Slow).unwrap_or(f64::INFINITY);
        let Some(best) = self.best.take_if(|best| best.score < score) else { return Ok(last) };
        let was = std::mem::replace(&mut self.learners.slow.values, best.slow.clone());
        let scores = match self.score(Who::Slow, Some(&self.learners.slow), tell) {
            Err(LearnError::Stopped) => {
                self.learners.slow.values = was;
                self.best = Some(best);
                return self.stop(end, tell);
            }
            scores => scores?,
        };
        self.learners.fast.values.clone_from(&best.slow);
        let _ = tell(&Event::Best { step: best.step });
        let fast = last.into_iter().filter(|score| score.who == Who::Fast);
        Ok(fast.chain(scores).collect())
    }

    /// A checkpoint, then the end of this run.
    fn stop<T>(&mut self, at: Cursor, tell: &mut Listener<'_>) -> Result<T, LearnError> {
        self.checkpoint(at, tell)?;
        let _ = tell(&Event::Stopped { step: at.step });
        Err(LearnError::Stopped)
    }

    /// Scores of fast and slow at `at`, where the job is checkpointed if it is stopped meanwhile.
    fn score_learners(
        &mut self,
        at: Cursor,
        tell: &mut Listener<'_>,
    ) -> Result<Vec<Score>, LearnError> {
        let both = self.score(Who::Fast, Some(&self.learners.fast), tell).and_then(|mut scores| {
            scores.extend(self.score(Who::Slow, Some(&self.learners.slow), tell)?);
            Ok(scores)
        });
        match both {
            Err(LearnError::Stopped) => self.stop(at, tell),
            scores => scores,
        }
    }

    fn score(
        &self,
        who: Who,
        adapter: Option<&Adapter>,
        tell: &mut Listener<'_>,
    ) -> Result<Vec<Score>, LearnError> {
        self.texts.score(&self.engines.head, who, adapter, &mut || pulse(tell))
    }

    /// Optimiser steps of the device's life.
    fn life(&self) -> u64 {
        self.ground.earlier + self.learners.k
    }

    fn record(&self, position: Cursor, heritage: &Heritage) -> Result<LearnerRecord, LearnError> {
        let Learners { fast, slow, moments, k } = &self.learners;
        let mut record = LearnerRecord {
            fast: fast.values.clone(),
            slow: slow.values.clone(),
            first_moment: moments.first.clone(),
            second_moment: moments.second.clone(),
            step: self.life(),
            shapes: crate::state::shapes(&self.spec),
            base: self.engines.base.hash(),
            settings: self.settings.identity()?,
            global: self.ground.global,
            since: self.ground.since(*k),
            ..LearnerRecord::default()
        };
        record.cursor.dataset = self.material.hash;
        record.cursor.epoch = position.epoch;
        record.cursor.position = position.position as u64;
        record.cursor.step = position.step;
        heritage.write_to(&mut record);
        Ok(record)
    }

    fn checkpoint(&mut self, position: Cursor, tell: &mut Listener<'_>) -> Result<(), LearnError> {
        let record = self.record(position, self.heritage)?;
        self.state.checkpoint_with(record, self.best.clone(), self.reservoir.as_mut())?;
        let _ = tell(&Event::Checkpoint { step: position.step });
        Ok(())
    }

    /// Commits or rejects; gives the generation in use afterwards.
    fn decide(&mut self, verdict: &Verdict) -> Result<Option<u64>, LearnError> {
        let reason = verdict.to_string();
        if !verdict.keeps() {
            self.state.reject(self.life(), &reason, self.reservoir.as_mut())?;
            return Ok(self.state.current().map(|generation| generation.number));
        }
        let heritage = self.heritage.with(&self.domain, &self.material.valid);
        let record = self.record(Cursor::default(), &heritage)?;
        let meta = Meta {
            base_hash: self.engines.base.hash(),
            generation: self.state.next_generation(),
            steps: self.life(),
            role: Role::Slow,
            retain: self.settings.retain as f32,
            global: record.global.map(named),
        };
        let base_name = self.engines.model.display().to_string();
        let files = peft::write(&self.learners.slow, &meta, &base_name)?;
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        self.state.set_keep(self.settings.keep_generations);
        let reservoir = self.reservoir.as_mut();
        let (learner, domain, verdict) = (&record, self.domain.number, reason.as_str());
        let commit = Commit { files: &files, learner, reservoir, domain, verdict };
        Ok(Some(self.state.commit(commit)?))
    }
}

/// A global adapter as an adapter's files name it.
pub(super) fn named(global: Global) -> peft::Global {
    let Global { ranks, artifact, sequence, .. } = global;
    peft::Global { ranks, artifact, sequence }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
