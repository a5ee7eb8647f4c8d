//! A new global adapter under what a device has learned: fitted again, judged, then on trial or declined.
//!
//! - In: loaded engines, a state between two jobs, the global adapter as it was offered, general text.
//!   Out: the verdict; with it a generation on trial, or the reason and nothing else.
//! - The own ranks are derived again from what the device reads on blocks of its own, and rehearsed on its
//!   reservoir (`settle`), until the gate keeps one. A device that has learned nothing begins with fresh ones.
//! - The gate looks at earlier domains and general text: nothing may get worse than its limits say.
//! - Reservoir, inbox and the steps of the device's life are untouched; AdamW and its warm-up begin again.
//! - Invariant: until the commit nothing changes, and the listener may end it at any point before.

use super::LearnError;
use super::anchor::{own_texts, whitening};
use super::course::replayed;
use super::engines::Engines;
use super::events::{self, Event, Score, Text, Who, of};
use super::feed::{Feed, hidden};
use super::heritage::Heritage;
use super::job::{Listener, Outcome, named, pulse};
use super::memory::HIDDEN_BYTES_MAX;
use super::settle::{Candidate, Fit, Rehearsal, Settling};
use super::spec;
use super::start::{Ground, adapter, learners};
use super::texts::Texts;
use crate::adapter::peft::{self, Meta, Role};
use crate::adapter::stacked::stack;
use crate::adapter::{Adapter, Module, Spec, wire};
use crate::block::Block;
use crate::gate::{Judge, Reason, Verdict};
use crate::head::{Group, Seen};
use crate::reservoir::Reservoir;
use crate::settings::{REFIT_BLOCKS, Settings};
use crate::state::{
    Commit, Global, Install, InstallOutcome, LearnerRecord, Series, Since, State, StateError,
    shapes,
};
use crate::train::Learners;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::update::{Expected, Kind};
use sapwood_protocol::limits::FLEET_RANK_MAX;

/// A global adapter that was offered to the device.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Of the statement that offers it; only one above all that were taken of its series is taken.
    pub sequence: u64,
    /// What that counts in; none by hand.
    pub series: Option<Series>,
    /// BLAKE3 of its file.
    pub artifact: [u8; 32],
    /// The adapter, of one rank in every module.
    pub global: Adapter,
}

impl Offered {
    /// Reads the file of a global adapter of this base, whatever its cohort: whoever offers it knows that.
    ///
    /// # Errors
    /// [`LearnError::Adapter`] says what is wrong with it.
    pub fn read(
        bytes: &[u8],
        base: [u8; 32],
        (series, sequence): (Option<Series>, u64),
    ) -> Result<Self, LearnError> {
        let header = wire::header(bytes)?;
        let expected = Expected {
            kind: Kind::Global,
            base: Hash(base),
            cohort: header.meta.cohort,
            from: None,
            shape: &header.shape,
            rank_max: FLEET_RANK_MAX,
        };
        let (global, _) = wire::decode(bytes, &expected)?;
        Ok(Self { sequence, series, artifact: *blake3::hash(bytes).as_bytes(), global })
    }
}

/// Installs `offered` on trial, or declines it with the reason.
///
/// - `general`: text that no job learns.
/// - `start`: how a text of the base's own begins, as in [`Material`](super::Material).
///
/// # Errors
/// [`LearnError::Foreign`], [`LearnError::Installed`], [`LearnError::Interrupted`],
/// [`LearnError::Unjudged`], [`StateError::OnTrial`], [`StateError::Taken`], and what engines and disk
/// give; whatever it is, the generation in use stays in use and nothing is remembered of the offer.
pub fn install(
    engines: &Engines,
    state: &mut State,
    offered: &Offered,
    settings: &Settings,
    general: &[Block],
    start: &[u32],
    tell: &mut Listener<'_>,
) -> Result<Outcome, LearnError> {
    let settings = &engines.decided(settings);
    let install = Installing::begin(engines, state, offered, settings)?;
    match install.judge(state, general, start, tell) {
        Err(LearnError::Stopped) => Ok(Outcome::Stopped),
        Ok((verdict, learners, scores)) => {
            let generation = install.decide(state, &verdict, &learners, &scores)?;
            let (kept, reason) = (verdict.keeps(), verdict.to_string());
            let _ = tell(&Event::Verdict { kept, reason, generation });
            Ok(Outcome::Judged { verdict, generation, scores })
        }
        Err(error) => Err(error),
    }
}

/// Scores the generation on trial beside its parent once more, on held-out text of now: whether it stays,
/// and the bits per byte before and after.
///
/// # Errors
/// [`StateError::NoTrial`]; [`LearnError::Unjudged`]; [`LearnError::Stopped`] when the listener says so; what
/// engines and disk give. Nothing has changed.
pub fn look_again(
    engines: &Engines,
    state: &State,
    settings: &Settings,
    general: &[Block],
    tell: &mut Listener<'_>,
) -> Result<(Verdict, [Option<f64>; 2]), LearnError> {
    let trial = state.trial().ok_or(StateError::NoTrial)?;
    let own = spec(engines.base.config(), settings)?;
    let [before, now] = [state.learner_of(trial.parent)?, state.learner()?];
    let slow = |record: &LearnerRecord| -> Result<Adapter, LearnError> {
        let spec = own.over(Ground::of(record).still());
        record.belongs_to(&engines.base.hash(), &spec)?;
        Ok(adapter(&spec, &record.slow))
    };
    let groups = now.as_ref().map_or_else(Heritage::default, Heritage::of).groups();
    let texts = Texts::new(&engines.trunk, &[], &groups, general, &mut || pulse(tell))?;
    if texts.is_empty() {
        return Err(LearnError::Unjudged);
    }
    let mut scores = Vec::new();
    for (who, record) in [(Who::Before, &before), (Who::Slow, &now)] {
        let adapter = record.as_ref().map(slow).transpose()?;
        let adapter = adapter.as_ref();
        scores.extend(texts.score(&engines.head, who, adapter, &mut || pulse(tell))?);
    }
    let _ = tell(&Event::Scores { step: 0, scores: scores.clone() });
    Ok((Judge::of_install(settings).judge(events::judged(&scores)), change(&scores)))
}

/// Bits per byte before and after, of old text or, where there is none, of general text.
fn change(scores: &[Score]) -> [Option<f64>; 2] {
    let one = |who| of(scores, Text::Old, who).or_else(|| of(scores, Text::General, who));
    [one(Who::Before), one(Who::Slow)].map(|score| score.filter(|bits| bits.is_finite()))
}

/// What the gate says of learners, those, and their scores.
type Judged = (Verdict, Learners, Vec<Score>);

/// An install under way.
struct Installing<'i> {
    engines: &'i Engines,
    offered: &'i Offered,
    settings: &'i Settings,
    /// The own ranks.
    own: Spec,
    /// Ranks of the new global adapter.
    ranks: u32,
    /// What is there.
    record: Option<LearnerRecord>,
    heritage: Heritage,
}

impl<'i> Installing<'i> {
    /// Refuses what cannot be installed here and now.
    fn begin(
        engines: &'i Engines,
        state: &State,
        offered: &'i Offered,
        settings: &'i Settings,
    ) -> Result<Self, LearnError> {
        if let Some(Global { sequence, .. }) =
            state.global().filter(|global| global.artifact == offered.artifact)
        {
            return Err(LearnError::Installed { sequence });
        }
        state.may_install(offered.series, offered.sequence)?;
        if let Some(checkpoint) = state.take_checkpoint()? {
            return Err(LearnError::Interrupted { step: checkpoint.learner.cursor.step });
        }
        let own = spec(engines.base.config(), settings)?;
        let ranks = fitting(&own, &offered.global.spec)?;
        let record = state.learner()?;
        if let Some(record) = &record {
            let now = own.over(Ground::of(record).still());
            record.belongs_to(&engines.base.hash(), &now)?;
        }
        let heritage = record.as_ref().map_or_else(Heritage::default, Heritage::of);
        Ok(Self { engines, offered, settings, own, ranks, record, heritage })
    }

    /// What the gate says of the first candidate that it keeps, or of the last.
    fn judge(
        &self,
        state: &mut State,
        general: &[Block],
        start: &[u32],
        tell: &mut Listener<'_>,
    ) -> Result<Judged, LearnError> {
        let Self { engines, settings, offered, .. } = self;
        let groups = self.heritage.groups();
        let texts = Texts::new(&engines.trunk, &[], &groups, general, &mut || pulse(tell))?;
        if texts.is_empty() {
            return Err(LearnError::Unjudged);
        }
        let was = self
            .record
            .as_ref()
            .map(|record| learners(&self.own.over(Ground::of(record).still()), record));
        let slow = was.as_ref().map(|was| &was.slow);
        let score = |who, adapter: Option<&Adapter>, tell: &mut Listener<'_>| {
            texts.score(&engines.head, who, adapter, &mut || pulse(tell))
        };
        let before = score(Who::Before, slow, tell)?;
        let mut reservoir = state.committed_reservoir()?;
        let seen = slow.map(|slow| self.see(reservoir.as_mut(), slow, tell)).transpose()?;
        let _ = tell(&Event::Installing {
            sequence: offered.sequence,
            ranks: [self.ranks as usize, settings.rank],
            blocks: seen.as_ref().map_or(0, |(_, blocks)| *blocks),
            held_out: [groups.iter().map(|group| group.blocks.len()).sum(), general.len()],
        });
        let judged = |learners: Learners, tell: &mut Listener<'_>| {
            let after = score(Who::Slow, Some(&learners.slow), tell)?;
            let scores = [&before[..], &after].concat();
            let _ = tell(&Event::Scores { step: 0, scores: scores.clone() });
            let verdict = Judge::of_install(settings).judge(events::judged(&scores));
            Ok((verdict, learners, scores))
        };
        let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
        let (next, fresh) = (&offered.global, Adapter::fresh(self.own.clone(), &mut chance));
        let Some((was, (seen, _))) = was.as_ref().zip(seen) else {
            return judged(Learners::new(stack(next, &fresh)?), tell);
        };
        let fit = Fit { was, next, fresh: &fresh, seen: &seen };
        let last = self.settle(fit, state, reservoir.as_mut(), start, &judged, tell)?;
        pulse(tell)?;
        last.ok_or(LearnError::Unjudged)
    }

    /// What the gate says of the first candidate of a fit that it keeps, or of the last.
    fn settle(
        &self,
        fit: Fit<'_>,
        state: &mut State,
        reservoir: Option<&mut Reservoir>,
        start: &[u32],
        judged: &dyn Fn(Learners, &mut Listener<'_>) -> Result<Judged, LearnError>,
        tell: &mut Listener<'_>,
    ) -> Result<Option<Judged>, LearnError> {
        let (engines, still) = (self.engines, self.ranks as usize);
        let own = own_texts(engines, start, self.settings, Some(state), &mut || pulse(tell))?;
        let mut anchor = Feed::new(&engines.trunk, &own, HIDDEN_BYTES_MAX as usize);
        let (spec, strength) = (self.own.over(still), self.settings.whitening);
        let whitening = whitening(engines, &mut anchor, &spec, strength, &mut || pulse(tell))?;
        let whitening = whitening.as_deref();
        let rehearsal = Rehearsal { engines, reservoir, anchor: &mut anchor, whitening, still };
        let mut settling = Settling::new(fit, rehearsal, self.settings);
        let (mut last, mut further) = (None, false);
        while let Some(candidate) = settling.next(further, &mut || pulse(tell))? {
            let Candidate { learners, ridge, steps } = candidate;
            let _ = tell(&Event::Refitted { ridge, steps });
            let (verdict, ..) = last.insert(judged(learners, tell)?);
            further = match verdict {
                Verdict::Keep { .. } => break,
                // Steps on the device's own text bring back that alone.
                Verdict::Drop { reason, .. } => matches!(reason, Reason::Old | Reason::Worst),
            };
        }
        Ok(last)
    }

    /// What the adapted layers read on blocks of the device's own under its slow adapter, and how many.
    ///
    /// Of the reservoir, whose committed pass does not notice, or of the held-out text where there is none.
    fn see(
        &self,
        reservoir: Option<&mut Reservoir>,
        slow: &Adapter,
        tell: &mut Listener<'_>,
    ) -> Result<(Seen, usize), LearnError> {
        let Engines { trunk, head, .. } = self.engines;
        let mut seen = Seen::new(&slow.spec);
        let drawn = match reservoir {
            Some(reservoir) => {
                let held = reservoir.held() as usize;
                reservoir.draw(REFIT_BLOCKS.min(held))?
            }
            None => Vec::new(),
        };
        for one in drawn.chunks(1) {
            pulse(tell)?;
            if let Some(owned) = replayed(trunk, one)? {
                head.see(&owned.group(), Some(slow), &mut seen)?;
            }
        }
        if !drawn.is_empty() {
            return Ok((seen, drawn.len()));
        }
        let held_out = self.heritage.some(REFIT_BLOCKS);
        for block in held_out {
            pulse(tell)?;
            let blocks = [block];
            let hidden = hidden(trunk, &blocks)?;
            head.see(&Group { blocks: &blocks, hidden: &hidden }, Some(slow), &mut seen)?;
        }
        Ok((seen, held_out.len()))
    }

    /// Commits on trial, or remembers the reason; the generation in use afterwards.
    fn decide(
        &self,
        state: &mut State,
        verdict: &Verdict,
        learners: &Learners,
        scores: &[Score],
    ) -> Result<Option<u64>, LearnError> {
        let Offered { sequence, series, artifact, .. } = *self.offered;
        let (outcome, reason) = (InstallOutcome::Declined, verdict.to_string());
        let [before, after] = change(scores);
        let install = Install { sequence, series, artifact, outcome, reason, before, after };
        if !verdict.keeps() {
            state.decline(install)?;
            return Ok(state.current().map(|generation| generation.number));
        }
        let record = self.record(learners)?;
        let meta = Meta {
            base_hash: record.base,
            generation: state.next_generation(),
            steps: record.step,
            role: Role::Slow,
            retain: self.settings.retain as f32,
            global: record.global.map(named),
        };
        let base_name = self.engines.model.display().to_string();
        let files = peft::write(&learners.slow, &meta, &base_name)?;
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        state.set_keep(self.settings.keep_generations);
        let verdict = install.reason.clone();
        let commit = Commit {
            files: &files,
            learner: &record,
            reservoir: None,
            domain: 0,
            verdict: &verdict,
        };
        Ok(Some(state.install(commit, install)?))
    }

    /// The record of the new generation: moments that begin again, all else of the device's life as it was.
    fn record(&self, learners: &Learners) -> Result<LearnerRecord, LearnError> {
        let Offered { sequence, series, artifact, .. } = *self.offered;
        let Learners { fast, slow, moments, .. } = learners;
        let mut record = LearnerRecord {
            fast: fast.values.clone(),
            slow: slow.values.clone(),
            first_moment: moments.first.clone(),
            second_moment: moments.second.clone(),
            step: self.record.as_ref().map_or(0, |record| record.step),
            shapes: shapes(&slow.spec),
            base: self.engines.base.hash(),
            settings: self.settings.identity()?,
            global: Some(Global { ranks: self.ranks, artifact, sequence, series }),
            since: Since::default(),
            ..LearnerRecord::default()
        };
        self.heritage.write_to(&mut record);
        Ok(record)
    }
}

/// The rank of a global adapter that adapts what `own` does, at one rank.
fn fitting(own: &Spec, global: &Spec) -> Result<u32, LearnError> {
    let place = |module: &Module| (module.layer, module.target, module.fan_in, module.fan_out);
    let foreign = |expected, got| Err(LearnError::Foreign { expected, got });
    let differs = own.modules.iter().zip(&global.modules).find(|(o, g)| place(o) != place(g));
    if let Some((expected, got)) = differs {
        return foreign(shown(expected), shown(got));
    }
    let (expected, got) = (own.modules.len(), global.modules.len());
    if expected != got {
        return foreign(format!("{expected} linear layers"), got.to_string());
    }
    let ranks = global.modules.first().map_or(0, |module| module.rank);
    match global.modules.iter().find(|module| module.rank != ranks) {
        Some(other) => foreign(format!("rank {ranks} everywhere"), shown(other)),
        None => Ok(u32::try_from(ranks).unwrap_or(u32::MAX)),
    }
}

fn shown(module: &Module) -> String {
    let Module { layer, target, rank, fan_in, fan_out, .. } = *module;
    format!("{} of layer {layer}, {fan_in} x {fan_out}, rank {rank}", target.name())
}
