//! How a device takes a new global adapter.
//!
//! - In: a device, the new global adapter, texts to judge by. Out: the device with it, and the ridge that
//!   was used where there is one.
//! - Invariant: every install that changes the global adapter begins with zero moments and k = 0.

use super::device::{Device, Shared};
use anyhow::Result;
use sapwood::adapter::Adapter;
use sapwood::adapter::stacked::{part, stack};
use sapwood::block::Block;
use sapwood::gate::{self, Change, Direction, Reason, Scores, Verdict};
use sapwood::head::{Group, Seen};
use sapwood::learner::{Candidate, Engines, Feed, Fit, HeldOut, Settling};
use sapwood::ports::Memory;
use sapwood::train::{Learners, Moments, refit};
use std::sync::Arc;

/// Blocks of the reservoir that a refit looks at.
const SEEN_BLOCKS: usize = 16;

/// Names of the rules on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Word {
    /// No fleet.
    Local,
    /// The global adapter, and a fresh own part (FedAvg).
    Replace,
    /// The own part as it was, beside the global adapter.
    Keep,
    /// The same with the zero-padded mean of factors as the global adapter.
    Factors,
    /// The own part fitted again, at every ridge.
    Refit,
    /// As a device does it: fitted again and rehearsed until held-out text allows it.
    Settle,
}

/// A rule with its ridge.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule {
    Local,
    Replace,
    Keep,
    Factors,
    Refit(f64),
    Settle,
}

impl Rule {
    /// The rules of some words and ridges.
    pub(crate) fn all(words: &[Word], ridges: &[f64]) -> Vec<Self> {
        let of = |word: &Word| match word {
            Word::Local => vec![Self::Local],
            Word::Replace => vec![Self::Replace],
            Word::Keep => vec![Self::Keep],
            Word::Factors => vec![Self::Factors],
            Word::Refit => ridges.iter().map(|&ridge| Self::Refit(ridge)).collect(),
            Word::Settle => vec![Self::Settle],
        };
        words.iter().flat_map(of).collect()
    }

    /// Its name in tables.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Local => "no fleet".to_owned(),
            Self::Replace => "replace, fresh L".to_owned(),
            Self::Keep => "L as it was".to_owned(),
            Self::Factors => "L as it was, mean of factors".to_owned(),
            Self::Refit(ridge) => format!("refit {ridge}"),
            Self::Settle => "refit and rehearsal".to_owned(),
        }
    }

    /// The ridge in a title, where it has one.
    pub(crate) fn ridge_of(title: &str) -> Option<f64> {
        title.strip_prefix("refit ")?.parse().ok()
    }

    /// Where the rule of a title stands in tables: as [`Word`] has them, ridges rising.
    pub(crate) fn order(title: &str) -> (usize, f64) {
        let simple = [Self::Local, Self::Replace, Self::Keep, Self::Factors];
        match (Self::ridge_of(title), simple.iter().position(|rule| rule.title() == title)) {
            (Some(ridge), _) => (simple.len(), ridge),
            (None, Some(at)) => (at, 0.0),
            (None, None) => (simple.len() + 1, 0.0),
        }
    }

    /// Puts `next` under the device's own part; the ridge, where one was used.
    pub(crate) fn install(
        &self,
        shared: &mut Shared<'_>,
        device: &mut Device,
        next: &Adapter,
        judge: &Judge<'_>,
    ) -> Result<Option<f64>> {
        // One that no other install of the device has.
        device.installs += 1;
        let seed = device.seed + (device.installs << 32);
        let (learners, ridge) = match self {
            Self::Local => return Ok(None),
            Self::Replace => (Learners::new(stack(next, &shared.fresh(seed)?)?), None),
            Self::Keep | Self::Factors => (beside(device, next)?, None),
            Self::Refit(ridge) => {
                let (fresh, seen) = (shared.fresh(seed)?, seen(shared, device)?);
                (refit(&device.learners, next, &fresh, &seen, *ridge)?, Some(*ridge))
            }
            Self::Settle => match settled(shared, device, next, seed, judge)? {
                Some(Candidate { learners, ridge, .. }) => (learners, Some(ridge)),
                None => return Ok(None),
            },
        };
        (device.learners, device.still) = (learners, next.spec.modules[0].rank);
        Ok(ridge)
    }
}

/// The first candidate that a device would keep; none, and it goes on with what it has.
fn settled(
    shared: &mut Shared<'_>,
    device: &Device,
    next: &Adapter,
    seed: u64,
    judge: &Judge<'_>,
) -> Result<Option<Candidate>> {
    let (fresh, seen) = (shared.fresh(seed)?, seen(shared, device)?);
    let before = judge.scores(shared.engines, &device.learners.slow)?;
    let (engines, still) = (shared.engines, next.spec.modules[0].rank);
    let settings = shared.settings.clone();
    let whitening = shared.whitening(&shared.own.over(still), still)?;
    let mut reservoir = device.reservoir.copy(Arc::new(Memory::default()))?;
    let fit = Fit { was: &device.learners, next, fresh: &fresh, seen: &seen };
    let rehearsal = shared.rehearsal(&mut reservoir, whitening.as_deref(), still);
    let (mut settling, mut further) = (Settling::new(fit, rehearsal, &settings), false);
    while let Some(candidate) = settling.next(further, &mut || Ok(()))? {
        let after = judge.scores(engines, &candidate.learners.slow)?;
        let change = |at: usize| Some(Change { before: before[at], after: after[at] });
        let (old, general) = (change(0), change(1));
        let direction = Direction::LowerIsBetter;
        let scores = Scores { new: None, old, worst: None, general, direction };
        match gate::Judge::of_install(&settings).judge(scores) {
            Verdict::Keep { .. } => return Ok(Some(candidate)),
            Verdict::Drop { reason, .. } => further = reason == Reason::Old,
        }
    }
    Ok(None)
}

/// Held-out text of a device: its own, and general text.
pub(crate) struct Judge<'j> {
    pub(crate) own: &'j HeldOut<'j>,
    pub(crate) general: &'j HeldOut<'j>,
}

impl Judge<'_> {
    /// Bits per byte, own text first.
    fn scores(&self, engines: &Engines, adapter: &Adapter) -> Result<[f64; 2]> {
        let score = |text: &HeldOut<'_>| {
            text.score(&engines.head, Some(adapter), &mut || Ok(())).map(|it| it.bits_per_byte())
        };
        Ok([score(self.own)?, score(self.general)?])
    }
}

/// Both learners over `next`, their own parts as they were.
fn beside(device: &Device, next: &Adapter) -> Result<Learners> {
    let Learners { fast, slow, .. } = &device.learners;
    let over = |learner| stack(next, &part(learner, &(device.still..usize::MAX)));
    let (fast, slow) = (over(fast)?, over(slow)?);
    Ok(Learners { moments: Moments::zeros(fast.values.len()), fast, slow, k: 0 })
}

/// What the layers read on some blocks of the reservoir, under the slow learner. The reservoir does not
/// notice.
fn seen(shared: &Shared<'_>, device: &Device) -> Result<Seen> {
    let mut copy = device.reservoir.copy(Arc::new(Memory::default()))?;
    let held = copy.held() as usize;
    let drawn = copy.draw(SEEN_BLOCKS.min(held))?;
    let blocks: Vec<Block> = drawn.into_iter().map(|drawn| drawn.block).collect();
    let mut feed = Feed::new(&shared.engines.trunk, &blocks, 0);
    let mut seen = Seen::new(&shared.own);
    for at in 0..blocks.len() {
        let (blocks, hidden) = feed.batch(&[at])?;
        let group = Group { blocks: &blocks, hidden: &hidden };
        shared.engines.head.see(&group, Some(&device.learners.slow), &mut seen)?;
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn every_ridge_is_a_rule_and_tables_have_them_rising() {
        let rules = Rule::all(&[Word::Local, Word::Refit, Word::Settle], &[0.1, 10.0]);
        let expected = [Rule::Local, Rule::Refit(0.1), Rule::Refit(10.0), Rule::Settle];
        assert_eq!(rules, expected);
        let mut titles: Vec<String> = rules.iter().rev().map(Rule::title).collect();
        titles.sort_by(|a, b| Rule::order(a).partial_cmp(&Rule::order(b)).unwrap());
        assert!(titles.iter().eq(&rules.iter().map(Rule::title).collect::<Vec<_>>()));
    }
}
