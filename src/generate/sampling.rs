//! How the next token is chosen: temperature, the likeliest few, a draw.
//!
//! - In: the logits of every token, chance. Out: a token.
//! - In the order of transformers: the temperature, then top-k, then the nucleus of what is left, then
//!   min-p.
//! - Never here: the layers that the logits come from; what a text has said before (`shaping`).
//!
//! Source of nucleus sampling: arXiv 1904.09751; of min-p: arXiv 2407.01082.

use super::GenerateError;
use crate::decoder::kernels::maximum;
use crate::products::wide;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// Tokens whose weights are at hand at a time.
const SOME: usize = 256;
/// Sums that are kept side by side.
const LANES: usize = 8;
/// 1 / 13!, 1 / 12! and so on to 1 / 0!.
const FACTORS: [f64; 14] = factors();

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability are drawn; 1 is all.
    pub top_p: f32,
    /// Only tokens of at least this part of the likeliest one's probability are drawn; 0 is all.
    pub min_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    /// What the model says, as it says it.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// # Errors
    /// [`GenerateError::Sampling`] for a value out of range, NaN included.
    pub fn check(&self) -> Result<(), GenerateError> {
        let Self { temperature, top_p, min_p, .. } = *self;
        if !(0.0..=100.0).contains(&temperature) {
            let (key, expected) = ("temp", "0 to 100");
            return Err(GenerateError::Sampling { key, expected, got: temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let (key, expected) = ("top-p", "above 0, at most 1");
            return Err(GenerateError::Sampling { key, expected, got: top_p });
        }
        if !(0.0..=1.0).contains(&min_p) {
            let (key, expected) = ("min-p", "0 to 1");
            return Err(GenerateError::Sampling { key, expected, got: min_p });
        }
        Ok(())
    }

    /// Draws an index of `logits` `[V]`.
    pub(super) fn draw(&self, logits: &[f32], chance: &mut ChaCha8Rng) -> u32 {
        let best = wide(
            #[inline(always)]
            || maximum(logits),
        );
        let drawn = match self.temperature {
            0.0 => None,
            temperature => {
                // 53 bits fill an f64's mantissa exactly.
                let place = (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                let odds = Odds::new(logits, best, temperature);
                if self.top_p < 1.0 || self.top_k > 0 || self.min_p > 0.0 {
                    let likely = odds.likely(self.top_k, self.top_p, self.min_p);
                    drawn_of(&likely, place)
                } else {
                    odds.of_all(place)
                }
            }
        };
        let likeliest = || logits.iter().position(|&logit| logit == best).unwrap_or(0);
        drawn.unwrap_or_else(likeliest) as u32
    }
}

/// What every token weighs, in parts of the likeliest one.
struct Odds<'a> {
    logits: &'a [f32],
    best: f32,
    temperature: f32,
    /// Of some tokens each.
    sums: Vec<f64>,
    total: f64,
}

impl<'a> Odds<'a> {
    fn new(logits: &'a [f32], best: f32, temperature: f32) -> Self {
        let mut odds = Self { logits, best, temperature, sums: Vec::new(), total: 0.0 };
        odds.sums = logits.chunks(SOME).map(|some| sum(&odds.weights(some))).collect();
        odds.total = odds.sums.iter().sum();
        odds
    }

    /// Those of at most `SOME` tokens, zeros after them.
    fn weights(&self, logits: &[f32]) -> [f64; SOME] {
        let mut weights = [0.0; SOME];
        let Self { best, temperature, .. } = *self;
        wide(
            #[inline(always)]
            || {
                for (weight, logit) in weights.iter_mut().zip(logits) {
                    *weight = exp(f64::from((logit - best) / temperature));
                }
            },
        );
        weights
    }

    /// The token at a `place` of all, from 0 to 1; none where they weigh nothing that is a number.
    fn of_all(&self, place: f64) -> Option<usize> {
        let mut left = place * self.total;
        for (index, (some, sum)) in self.logits.chunks(SOME).zip(&self.sums).enumerate() {
            if left >= *sum {
                left -= sum;
                continue;
            }
            let found = at(&mut left, self.weights(some).into_iter().take(some.len()));
            if let Some(found) = found {
                return Some(index * SOME + found);
            }
        }
        None
    }

    /// The tokens that may be drawn with their weights, the likeliest first.
    ///
    /// Every bound cuts the same order short: the first `top_k`, those that reach `top_p` of these, and
    /// of them those that weigh `min_p` of the likeliest, whose weight is 1.
    fn likely(&self, top_k: usize, top_p: f32, min_p: f32) -> Vec<(f64, usize)> {
        let (top_p, min_p) = (f64::from(top_p), f64::from(min_p));
        let is_first = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        // If every token weighed less than this, all of them together would be outside: sorting a
        // vocabulary costs as much as a small layer, and most of it is not looked at.
        let outside = (1.0 - top_p) * self.total / self.logits.len() as f64;
        // What top-k leaves is known only when all are compared.
        let least = if top_k == 0 { outside.max(min_p) } else { 0.0 };
        let mut likely = Vec::new();
        for (index, some) in self.logits.chunks(SOME).enumerate() {
            let weights = self.weights(some).into_iter().take(some.len()).zip(index * SOME..);
            likely.extend(weights.filter(|(weight, _)| *weight >= least));
        }
        let mut total = self.total;
        if (1..likely.len()).contains(&top_k) {
            likely.select_nth_unstable_by(top_k - 1, is_first);
            likely.truncate(top_k);
            total = likely.iter().map(|(weight, _)| weight).sum();
        }
        likely.sort_unstable_by(is_first);
        let (mut nucleus, mut count) = (0.0, 0);
        while count < likely.len() && nucleus < top_p * total && likely[count].0 >= min_p {
            nucleus += likely[count].0;
            count += 1;
        }
        likely.truncate(count);
        likely
    }
}

/// The token at a `place` of some, from 0 to 1; none where they weigh nothing that is a number.
fn drawn_of(likely: &[(f64, usize)], place: f64) -> Option<usize> {
    let total: f64 = likely.iter().map(|(weight, _)| weight).sum();
    let found = at(&mut (place * total), likely.iter().map(|(weight, _)| *weight))?;
    Some(likely[found].1)
}

/// The first of some weights that reaches beyond `left`, from which they are taken.
fn at(left: &mut f64, mut weights: impl Iterator<Item = f64>) -> Option<usize> {
    weights.position(|weight| {
        *left -= weight;
        *left < 0.0
    })
}

fn sum(weights: &[f64; SOME]) -> f64 {
    let mut lanes = [0.0; LANES];
    for some in weights.chunks_exact(LANES) {
        lanes.iter_mut().zip(some).for_each(|(lane, weight)| *lane += weight);
    }
    lanes.iter().sum()
}

const fn factors() -> [f64; 14] {
    let (mut factors, mut n, mut factorial) = ([1.0; 14], 1, 1.0);
    while n < 14 {
        factorial *= n as f64;
        factors[13 - n] = 1.0 / factorial;
        n += 1;
    }
    factors
}

/// e^x of an x of at most 0, to about a unit in the last place; below -708 it is 0. Loops of it vectorise.
///
/// A power of two split off, then Taylor's polynomial of degree 13, whose next term is 5e-18 at half of ln 2.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = FACTORS[0];
    for factor in &FACTORS[1..] {
        p = p * r + factor;
    }
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    // What is not a number stays none.
    if x < -708.0 { 0.0 } else { p * power }
}

/// What may be drawn, with its probability; the likeliest first.
#[cfg(test)]
pub(super) fn probabilities(sampling: Sampling, logits: &[f32]) -> Vec<(usize, f64)> {
    let best = maximum(logits);
    let odds = Odds::new(logits, best, sampling.temperature);
    let likely = odds.likely(sampling.top_k, sampling.top_p, sampling.min_p);
    let total: f64 = likely.iter().map(|(weight, _)| weight).sum();
    likely.into_iter().map(|(weight, id)| (id, weight / total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    fn drawn(temperature: f32, top_p: f32) -> [u32; 3] {
        let logits = [1.0f32, 3.0, 2.0].map(|p| p.ln());
        let sampling = Sampling { temperature, top_p, seed: 1, ..Sampling::default() };
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..6_000 {
            counts[sampling.draw(&logits, &mut chance) as usize] += 1;
        }
        counts
    }

    #[test]
    fn no_temperature_takes_the_likeliest_token() {
        assert_eq!(drawn(0.0, 1.0), [0, 6_000, 0]);
    }

    /// Odds 1 : 3 : 2 of 6,000; 5 standard deviations of a binomial are 194.
    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let counts = drawn(1.0, 1.0);
        for (count, expected) in counts.iter().zip([1_000i32, 3_000, 2_000]) {
            assert!((*count as i32 - expected).abs() < 194, "{counts:?}");
        }
    }

    #[test]
    fn the_nucleus_leaves_out_the_unlikely_tail() {
        let counts = drawn(1.0, 0.7);
        assert!(counts[0] == 0 && counts[2] > 0, "{counts:?}");
    }

    #[test]
    fn sampling_without_meaning_is_refused() {
        let check =
            |temperature, top_p| Sampling { temperature, top_p, ..Sampling::default() }.check();
        assert!(check(f32::NAN, 1.0).is_err() && check(-1.0, 1.0).is_err());
        assert!(check(1.0, 0.0).is_err() && check(1.0, f32::NAN).is_err());
        assert!(check(0.0, 1.0).is_ok());
        assert!(Sampling { min_p: f32::NAN, ..Sampling::default() }.check().is_err());
    }

    /// The same draw with the library's exponential, every token in a list of its own.
    fn plain(sampling: Sampling, logits: &[f32], chance: &mut ChaCha8Rng) -> u32 {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: &f32| f64::from((logit - best) / sampling.temperature).exp();
        let mut weights: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
        if sampling.top_p < 1.0 {
            weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let (mut nucleus, mut count) = (0.0, 0);
        while count < weights.len() && nucleus < f64::from(sampling.top_p) * total {
            nucleus += weights[count].1;
            count += 1;
        }
        let mut left = (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * nucleus;
        let found = weights[..count].iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        found.unwrap_or(&weights[0]).0
    }

    /// Goal: sums in parts, an exponential of our own and a list of the likely alone draw what a plain
    /// list does. Oracle: the library's exponential, which differs in the last of 53 bits.
    #[test]
    fn a_draw_is_that_of_a_plain_list() {
        let mut chance = ChaCha8Rng::seed_from_u64(2);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..4_000 {
            let len = [1, 2, 255, 256, 257, 1_000][round % 6];
            let spread = [0.0, 1.0, 8.0, 800.0][round % 4];
            let logit = |_| (chance.next_u32() as f32 / u32::MAX as f32 - 0.5) * spread;
            let mut logits: Vec<f32> = (0..len).map(logit).collect();
            if round % 5 == 0 {
                logits[len / 2] = f32::NEG_INFINITY;
            }
            if len == 1 {
                logits[0] = 3.0;
            }
            let temperature = [1.0, 0.3, 2.5][round % 3];
            let top_p = [1.0, 0.9, 0.5, 1e-3, 0.999][round / 6 % 5];
            let sampling = Sampling { temperature, top_p, ..Sampling::default() };
            let mut twin = chance.clone();
            let expected = plain(sampling, &logits, &mut twin);
            assert_eq!(sampling.draw(&logits, &mut chance), expected, "round {round}");
            seen.insert(expected);
        }
        assert!(seen.len() > 100, "{}", seen.len());
    }

    #[test]
    fn the_exponential_is_the_librarys_to_a_few_units_in_the_last_place() {
        for step in 0..70_800 {
            let x = -f64::from(step) / 100.0;
            let off = (exp(x) - x.exp()).abs() / x.exp();
            assert!(off <= 4.0 * f64::EPSILON, "{x}: {off}");
        }
        assert!(exp(-709.0) == 0.0 && exp(f64::NEG_INFINITY) == 0.0 && exp(f64::NAN).is_nan());
    }

    #[test]
    fn logits_that_are_no_numbers_draw_a_token_of_the_vocabulary() {
        for (logits, top_p) in [([f32::NAN; 3], 1.0), ([f32::NEG_INFINITY; 3], 0.5)] {
            let sampling = Sampling { top_p, ..Sampling::default() };
            assert_eq!(sampling.draw(&logits, &mut ChaCha8Rng::seed_from_u64(1)), 0);
        }
    }
}
