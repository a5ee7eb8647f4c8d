//! The rounds of a fleet under one seed: learn, send, merge, install, and what each of it did to scores.
//!
//! - In: texts dealt to devices, ways to go. Out: events, one for each way and round, and what a merge keeps
//!   of what the devices had learned.
//! - The first round up to the merge is the same for every way, so it is played once.
//! - Hostile devices are the last ones: they learn and install as all do, send something else, and are no
//!   part of any score.

use super::device::{Device, Shared};
use super::merge;
use super::rule::{Judge, Rule};
use super::texts::{HeldBack, Texts};
use super::way::Way;
use anyhow::{Context, Result};
use fleet_server::judge;
use sapwood::adapter::Adapter;
use sapwood::block::Block;
use sapwood::learner::{Engines, HeldOut};
use serde::{Deserialize, Serialize};

/// Blocks of a batch when held-out text is scored.
const TOGETHER: usize = 8;
/// What a merge of the first round is looked at with, beside that which is played on.
const ETAS: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
/// How far apart the seeds of two fleets are: more than devices.
const SEEDS_APART: u64 = 1 << 16;

/// Bits per byte.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scores {
    /// Of the device's own domain.
    pub(crate) own: f64,
    /// Of the others, their mean.
    pub(crate) others: f64,
    /// Of general text.
    pub(crate) general: f64,
}

/// One round under one rule, device by device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) rule: String,
    /// From 1.
    pub(crate) round: usize,
    /// After learning.
    pub(crate) before: Vec<Scores>,
    /// After the install.
    pub(crate) after: Vec<Scores>,
    /// Loss of the first steps of the round, nats a token.
    pub(crate) first_loss: Vec<f64>,
    /// Own domain after them.
    pub(crate) first_own: Vec<f64>,
    /// Where one was used.
    pub(crate) ridges: Vec<Option<f64>>,
    /// The part of its energy that the merge left out; none without a merge.
    pub(crate) dropped: Option<f64>,
    /// The step that the judge took; none when it refused the merge, or was not asked.
    #[serde(default)]
    pub(crate) eta: Option<f64>,
    /// What all domains, and general text, are at under the merged adapter alone.
    #[serde(default)]
    pub(crate) alone: Option<[f64; 2]>,
}

/// What a merge alone keeps of what each device had learned alone, on the device's own domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recall {
    pub(crate) seed: u64,
    /// Mean of products or of factors.
    pub(crate) of: String,
    pub(crate) eta: f64,
    /// Gains over the bare base.
    pub(crate) alone: Vec<f64>,
    pub(crate) merged: Vec<f64>,
    /// What general text is at under the merged adapter, and under the bare base.
    pub(crate) general: [f64; 2],
    pub(crate) dropped: f64,
}

/// What is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(crate) enum Event {
    Round(Round),
    Recall(Recall),
}

/// Held-out text of every kind.
struct Yardstick<'a> {
    engines: &'a Engines,
    test: Vec<HeldOut<'a>>,
    valid: Vec<HeldOut<'a>>,
    general: HeldOut<'a>,
    general_valid: HeldOut<'a>,
}

impl<'a> Yardstick<'a> {
    fn new(engines: &'a Engines, texts: &'a Texts) -> Result<Self> {
        let held =
            |blocks: &'a [Block]| HeldOut::new(&engines.trunk, blocks, TOGETHER, &mut || Ok(()));
        let all = |of: fn(&HeldBack) -> &[Block]| {
            texts.domains.iter().map(|domain| held(of(domain))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            engines,
            test: all(|domain| &domain.test)?,
            valid: all(|domain| &domain.valid)?,
            general: held(&texts.general.test)?,
            general_valid: held(&texts.general.valid)?,
        })
    }

    fn score(&self, text: &HeldOut<'_>, adapter: Option<&Adapter>) -> Result<f64> {
        Ok(text.score(&self.engines.head, adapter, &mut || Ok(()))?.bits_per_byte())
    }

    /// A device's own domain.
    fn own(&self, device: &Device, adapter: Option<&Adapter>) -> Result<f64> {
        self.score(&self.test[device.home], adapter)
    }

    fn scores(&self, home: usize, adapter: &Adapter) -> Result<Scores> {
        let of = |text| self.score(text, Some(adapter));
        let domains: Vec<f64> = self.test.iter().map(of).collect::<Result<_>>()?;
        let own = domains[home];
        let others = (domains.iter().sum::<f64>() - own) / (domains.len() - 1).max(1) as f64;
        Ok(Scores { own, others, general: of(&self.general)? })
    }

    /// What the server's judge reads: validation text of all domains, and general text.
    fn judged(&self, adapter: Option<&Adapter>) -> Result<judge::Scores> {
        let domains: Vec<f64> =
            self.valid.iter().map(|text| self.score(text, adapter)).collect::<Result<_>>()?;
        let cohort = domains.iter().sum::<f64>() / domains.len().max(1) as f64;
        Ok(judge::Scores { general: self.score(&self.general_valid, adapter)?, cohort })
    }

    /// All domains, their mean, and general text under an adapter that is nobody's.
    fn alone(&self, adapter: &Adapter) -> Result<[f64; 2]> {
        let of = |text| self.score(text, Some(adapter));
        let domains: Vec<f64> = self.test.iter().map(of).collect::<Result<_>>()?;
        Ok([domains.iter().sum::<f64>() / domains.len().max(1) as f64, of(&self.general)?])
    }

    fn of_all(&self, devices: &[Device]) -> Result<Vec<Scores>> {
        devices.iter().map(|device| self.scores(device.home, &device.learners.slow)).collect()
    }
}

/// A fleet in the making: its devices after they learned a round, and how its first steps went.
struct Learned {
    devices: Vec<Device>,
    first: Vec<(f64, f64)>,
}

/// A fleet of one seed.
pub(crate) struct Fleet<'a> {
    shared: Shared<'a>,
    texts: &'a Texts,
    yardstick: Yardstick<'a>,
    seed: u64,
    step: Step,
    hostile: usize,
}

/// How much of the mean is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// So much, whatever comes of it.
    Given(f64),
    /// As the server's judge has it: the best of some on validation text, or nothing.
    Judged,
}

impl<'a> Fleet<'a> {
    /// `hostile`: how many of the devices are.
    pub(crate) fn new(
        shared: Shared<'a>,
        texts: &'a Texts,
        seed: u64,
        step: Step,
        hostile: usize,
    ) -> Result<Self> {
        let yardstick = Yardstick::new(shared.engines, texts)?;
        Ok(Self { shared, texts, yardstick, seed, step, hostile })
    }

    /// Plays all rounds each of `ways`, and tells what came of them.
    pub(crate) fn play(
        &mut self,
        ways: &[Way],
        tell: &mut impl FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let begun = self.begin()?;
        self.recall(self.honest(&begun.devices), tell)?;
        for way in ways {
            self.by(way, &begun, tell)?;
        }
        Ok(())
    }

    fn honest<'d, T>(&self, devices: &'d [T]) -> &'d [T] {
        &devices[..devices.len() - self.hostile]
    }

    fn begin(&mut self) -> Result<Learned> {
        let texts = self.texts;
        let devices: Result<Vec<Device>> = texts
            .spans
            .iter()
            .enumerate()
            .map(|(at, pieces)| {
                let seed = self.seed * SEEDS_APART + at as u64;
                Device::new(&mut self.shared, at % texts.domains.len(), seed, pieces.clone())
            })
            .collect();
        self.learn(devices?, 0)
    }

    fn learn(&mut self, mut devices: Vec<Device>, round: usize) -> Result<Learned> {
        let mut first = Vec::new();
        for device in &mut devices {
            let (yardstick, home, mut own) = (&self.yardstick, device.home, f64::NAN);
            let loss = device.learn(&mut self.shared, round, |learners| {
                own = yardstick.score(&yardstick.test[home], Some(&learners.slow))?;
                Ok(())
            })?;
            first.push((loss, own));
        }
        Ok(Learned { devices, first })
    }

    /// What merges of the first round keep.
    fn recall(&self, devices: &[Device], tell: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
        let yardstick = &self.yardstick;
        let updates: Vec<Adapter> = devices.iter().map(Device::own_part).collect();
        let bare: Vec<f64> =
            devices.iter().map(|it| yardstick.own(it, None)).collect::<Result<_>>()?;
        let gains = |of: &dyn Fn(&Device) -> Result<f64>| -> Result<Vec<f64>> {
            devices.iter().zip(&bare).map(|(device, bare)| Ok(bare - of(device)?)).collect()
        };
        let alone = gains(&|device| yardstick.own(device, Some(&device.learners.slow)))?;
        let ways = [("products", merge::products as Merge), ("factors", merge::factors)];
        for (of, merged) in ways {
            for eta in ETAS {
                let merged = merged(&updates, None, &self.shared.global, eta)?;
                let general = [None, Some(&merged.adapter)]
                    .map(|adapter| yardstick.score(&yardstick.general, adapter));
                let [bare, general] = general;
                tell(Event::Recall(Recall {
                    seed: self.seed,
                    of: of.to_owned(),
                    eta,
                    alone: alone.clone(),
                    merged: gains(&|device| yardstick.own(device, Some(&merged.adapter)))?,
                    general: [general?, bare?],
                    dropped: merged.dropped,
                }))?;
            }
        }
        Ok(())
    }

    /// All rounds one way, from the first merge on.
    fn by(
        &mut self,
        way: &Way,
        begun: &Learned,
        tell: &mut impl FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let there =
            if way.attack.is_some() { &begun.devices[..] } else { self.honest(&begun.devices) };
        let devices = there.iter().map(Device::copy).collect::<Result<_>>()?;
        let honest = self.honest(&begun.devices).len();
        let mut learned = Learned { devices, first: begun.first.clone() };
        let mut global: Option<Adapter> = None;
        let rounds = self.texts.spans.first().map_or(0, Vec::len);
        for round in 1..=rounds {
            let Learned { mut devices, first } = learned;
            let before = self.yardstick.of_all(&devices[..honest])?;
            let (mut ridges, mut dropped) = (vec![None; devices.len()], None);
            let mut taken = None;
            if way.rule != Rule::Local {
                taken = self.candidate(way, &devices, global.as_ref(), round)?;
            }
            let eta = taken.as_ref().map(|(eta, _)| *eta);
            if let Some((_, merged)) = taken {
                dropped = Some(merged.dropped);
                for (device, ridge) in devices.iter_mut().zip(&mut ridges) {
                    let yardstick = &self.yardstick;
                    let (own, general) = (&yardstick.valid[device.home], &yardstick.general_valid);
                    let judge = Judge { own, general };
                    *ridge = way.rule.install(&mut self.shared, device, &merged.adapter, &judge)?;
                }
                global = Some(merged.adapter);
            }
            let alone = global.as_ref().map(|global| self.yardstick.alone(global)).transpose()?;
            tell(Event::Round(Round {
                seed: self.seed,
                rule: way.title(),
                round,
                before,
                after: self.yardstick.of_all(&devices[..honest])?,
                first_loss: first[..honest].iter().map(|first| first.0).collect(),
                first_own: first[..honest].iter().map(|first| first.1).collect(),
                ridges: ridges[..honest].to_vec(),
                dropped,
                eta,
                alone,
            }))?;
            if round == rounds {
                break;
            }
            learned = self.learn(devices, round)?;
        }
        Ok(())
    }

    /// What the server offers of a round, and with which step.
    fn candidate(
        &self,
        way: &Way,
        devices: &[Device],
        global: Option<&Adapter>,
        round: usize,
    ) -> Result<Option<(f64, Merged)>> {
        let mut updates: Vec<Adapter> = devices.iter().map(Device::own_part).collect();
        if let Some(attack) = way.attack {
            let learned = updates.split_off(devices.len() - self.hostile);
            let seed = self.seed * SEEDS_APART + round as u64;
            updates.extend(attack.sent(&updates, &learned, seed)?);
        }
        let spec = &self.shared.global;
        let merge = |eta: f64| -> Result<Merged> {
            let merged = match way.rule {
                Rule::Factors => merge::factors(&updates, global, spec, eta),
                _ => merge::weighed(way.weighing, &updates, global, spec, eta),
            };
            merged.context("the merge")
        };
        match self.step {
            Step::Given(eta) => Ok(Some((eta, merge(eta)?))),
            Step::Judged => {
                let before = self.yardstick.judged(global)?;
                let tries = judge::tries(before, |eta| -> Result<_> {
                    let merged = merge(eta)?;
                    let after = self.yardstick.judged(Some(&merged.adapter))?;
                    Ok((merged, after))
                })?;
                Ok(judge::best(&tries).map(|one| (one.eta, one.made.clone())))
            }
        }
    }
}

type Merged = fleet_server::aggregate::Merged;
type Merge = fn(&[Adapter], Option<&Adapter>, &sapwood::adapter::Spec, f64) -> Result<Merged>;
