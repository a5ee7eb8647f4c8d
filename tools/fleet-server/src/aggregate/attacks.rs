//! What hostile devices send in place of what they learned: nine attacks on a mean.
//!
//! - In: what honest devices sent, what the hostile ones learned as honest ones would, a seed. Out: an update
//!   for each hostile device, of the same modules.
//! - They know all that the others send, and agree: more than a device of a fleet can.
//! - Never in a server: for tests, benches and the simulator.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::stacked::stack;
use sapwood::adapter::{Adapter, AdapterError, Module, Spec, Strength};

/// Rank of what is made of noise.
const NOISE_RANK: usize = 4;
/// The part of its own noise in an update that goes a common way.
const OWN_NOISE: f32 = 0.5;

/// One way to mislead a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attack {
    /// The opposite of what was learned.
    Flip,
    /// A hundred times what was learned.
    Times100,
    /// The opposite, ten times.
    FlipTimes10,
    /// Nothing that was learned, as large as usual.
    Noise,
    /// Nothing at all.
    Zeros,
    /// The opposite of what the honest devices have in common.
    MinusMean,
    /// "A little is enough" (arXiv 1902.06156): each number a little off the mean, where it hides best.
    Little,
    /// All of them the same noise.
    Direction,
    /// The same noise, each with some of its own.
    NoisyDirection,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Flip,
        Self::Times100,
        Self::FlipTimes10,
        Self::Noise,
        Self::Zeros,
        Self::MinusMean,
        Self::Little,
        Self::Direction,
        Self::NoisyDirection,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flip => "flip",
            Self::Times100 => "x100",
            Self::FlipTimes10 => "flip-x10",
            Self::Noise => "noise",
            Self::Zeros => "zeros",
            Self::MinusMean => "minus-mean",
            Self::Little => "little",
            Self::Direction => "direction",
            Self::NoisyDirection => "noisy-direction",
        }
    }

    /// The attack of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }

    /// What each hostile device sends in place of what it learned.
    ///
    /// # Errors
    /// [`AdapterError`] when the updates are of other modules.
    pub fn sent(
        self,
        honest: &[Adapter],
        learned: &[Adapter],
        seed: u64,
    ) -> Result<Vec<Adapter>, AdapterError> {
        let Some(like) = honest.first().or(learned.first()) else { return Ok(Vec::new()) };
        let usual = usual(honest);
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut noise = |norm: f64| noise(&like.spec, norm, &mut chance);
        let times = |factor: f32| learned.iter().map(|own| scaled(own, factor)).collect();
        Ok(match self {
            Self::Flip => times(-1.0),
            Self::Times100 => times(100.0),
            Self::FlipTimes10 => times(-10.0),
            Self::Zeros => times(0.0),
            Self::Noise => learned.iter().map(|_| noise(usual)).collect(),
            Self::Direction => vec![noise(usual); learned.len()],
            Self::NoisyDirection => {
                let way = noise(usual);
                let own = |_| stack(&way, &scaled(&noise(usual), OWN_NOISE));
                learned.iter().map(own).collect::<Result<_, _>>()?
            }
            Self::MinusMean => vec![off_mean(honest, |mean, _| -mean); learned.len()],
            Self::Little => {
                let z = deviations(honest.len() + learned.len(), learned.len());
                vec![off_mean(honest, |mean, deviation| mean - z * deviation); learned.len()]
            }
        })
    }
}

/// How many deviations off the mean a number may be to lie among those of so many honest devices that
/// they and the hostile ones are the majority.
fn deviations(all: usize, hostile: usize) -> f64 {
    let honest = all.saturating_sub(hostile).max(1);
    let others = (all / 2 + 1).saturating_sub(hostile);
    let part = (honest.saturating_sub(others)) as f64 / honest as f64;
    // Half of the honest devices are on the other side: with fewer to win over, nothing hides.
    quantile(part.clamp(0.5, 0.999))
}

/// The argument at which the normal distribution has a part of at least a half, by halving.
fn quantile(part: f64) -> f64 {
    let [mut low, mut high] = [0.0, 6.0];
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if below(middle) < part { low = middle } else { high = middle }
    }
    low
}

/// The normal distribution from 0 to `x`, and a half: Simpson's rule in 64 steps.
fn below(x: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let step = x / 64.0;
    let weight = |at: u32| match at {
        0 | 64 => 1.0,
        at if at % 2 == 1 => 4.0,
        _ => 2.0,
    };
    0.5 + step / 3.0 * (0..=64).map(|at| weight(at) * density(f64::from(at) * step)).sum::<f64>()
}

/// The mean norm of some updates.
fn usual(updates: &[Adapter]) -> f64 {
    // An update that is no number has no norm, and no part in what is usual.
    let norms: Vec<f64> = updates.iter().filter_map(|one| super::norm(one).ok()).collect();
    norms.iter().sum::<f64>() / norms.len().max(1) as f64
}

fn scaled(update: &Adapter, factor: f32) -> Adapter {
    let mut scaled = update.clone();
    for module in &update.spec.modules {
        scaled.values[module.b.clone()].iter_mut().for_each(|number| *number *= factor);
    }
    scaled
}

/// Products of a small rank with a norm together.
fn noise(like: &Spec, norm: f64, chance: &mut ChaCha8Rng) -> Adapter {
    let spec = like_at(like, |_| NOISE_RANK);
    let mut normal =
        || (0..12).map(|_| chance.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 6.0;
    let made = Adapter { values: (0..spec.len()).map(|_| normal()).collect(), spec };
    let is = super::norm(&made).unwrap_or(1.0);
    scaled(&made, (norm / is) as f32)
}

/// A number for each of the honest products' numbers, of their mean and deviation, exact: A is the identity.
fn off_mean(honest: &[Adapter], of: impl Fn(f64, f64) -> f64) -> Adapter {
    let modules = honest.first().map_or_else(Vec::new, |first| first.spec.modules.clone());
    let spec = like_at(&Spec { modules }, |module| module.fan_in);
    let mut made = Adapter { values: vec![0.0; spec.len()], spec };
    let count = honest.len() as f64;
    for (at, module) in made.spec.modules.iter().enumerate() {
        let products: Vec<Vec<f64>> = honest.iter().map(|one| product(one, at)).collect();
        let width = module.fan_in;
        made.values[module.a.clone()].iter_mut().step_by(width + 1).for_each(|one| *one = 1.0);
        for (cell, to) in made.values[module.b.clone()].iter_mut().enumerate() {
            let numbers = products.iter().map(|product| product[cell]);
            let mean = numbers.clone().sum::<f64>() / count;
            let square = numbers.map(|number| (number - mean).powi(2)).sum::<f64>() / count;
            *to = of(mean, square.sqrt()) as f32;
        }
    }
    made
}

/// `scale B A` of one module, `[fan_out, fan_in]`.
pub(super) fn product(update: &Adapter, at: usize) -> Vec<f64> {
    let module = &update.spec.modules[at];
    let (a, b) = (update.a(module), update.b(module));
    let mut product = Vec::with_capacity(module.fan_in * module.fan_out);
    for row in b.chunks_exact(module.rank) {
        let from = product.len();
        product.resize(from + module.fan_in, 0.0);
        for (factor, row) in row.iter().zip(a.chunks_exact(module.fan_in)) {
            let factor = f64::from(*factor) * f64::from(module.scale);
            let cells = product[from..].iter_mut().zip(row);
            cells.for_each(|(cell, number)| *cell += factor * f64::from(*number));
        }
    }
    product
}

/// The same modules at other ranks, scale 1.
fn like_at(spec: &Spec, rank: impl Fn(&Module) -> usize) -> Spec {
    let layers = spec.modules.first().map_or(0, |module| module.layer)
        ..spec.modules.last().map_or(0, |module| module.layer + 1);
    Spec::placed(layers, |layer, target| {
        let module = spec.module(layer, target)?;
        let rank = rank(module);
        Some((Strength { rank, alpha: rank as f32 }, (module.fan_in, module.fan_out)))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::norm;
    use super::super::tests::{random, spec};
    use super::*;

    /// Oracle: scipy's `norm.ppf`; 1e-7 is what Simpson's rule leaves.
    #[test]
    fn a_little_is_as_much_as_hides() {
        assert!((quantile(0.975) - 1.959_963_984_540).abs() < 1e-7);
        assert!((deviations(100, 20) - quantile(0.6125)).abs() < 1e-12);
        assert!((quantile(0.6125) - 0.285_840_874_881).abs() < 1e-7);
        assert_eq!(deviations(10, 2), 0.0);
    }

    #[test]
    fn every_attack_sends_one_update_a_device_of_the_same_modules() {
        let honest: Vec<Adapter> = (0..6).map(|seed| random(8, 1.0, seed)).collect();
        let learned: Vec<Adapter> = (6..8).map(|seed| random(4, 1.0, seed)).collect();
        let usual = usual(&honest);
        for attack in Attack::ALL {
            let sent = attack.sent(&honest, &learned, 1).unwrap();
            assert_eq!(Attack::from_name(attack.name()), Some(attack));
            assert_eq!(sent.len(), 2);
            let all = |one: &Adapter| super::super::walk::fits(one, &spec(4)).is_ok();
            assert!(sent.iter().all(all), "{}", attack.name());
            let part = norm(&sent[0]).unwrap() / usual;
            let expected = match attack {
                Attack::Flip | Attack::Noise | Attack::Direction => 0.5..1.5,
                Attack::Times100 => 50.0..150.0,
                Attack::FlipTimes10 => 5.0..15.0,
                Attack::Zeros => 0.0..1e-9,
                Attack::MinusMean | Attack::Little => 0.2..0.8,
                Attack::NoisyDirection => 1.0..1.3,
            };
            assert!(expected.contains(&part), "{}: {part}", attack.name());
        }
    }
}
