//! How the next token is chosen: temperature, nucleus, a draw.
//!
//! - In: the logits of every token, chance. Out: a token.
//! - Never here: the layers that the logits come from.
//!
//! Source of nucleus sampling: arXiv 1904.09751.

use super::GenerateError;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are drawn; 1 is all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// # Errors
    /// [`GenerateError::Sampling`] for a value out of range, NaN included.
    pub fn check(&self) -> Result<(), GenerateError> {
        let (temperature, top_p) = (self.temperature, self.top_p);
        if !(0.0..=100.0).contains(&temperature) {
            let (key, expected) = ("temp", "0 to 100");
            return Err(GenerateError::Sampling { key, expected, got: temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let (key, expected) = ("top-p", "above 0, at most 1");
            return Err(GenerateError::Sampling { key, expected, got: top_p });
        }
        Ok(())
    }

    /// Draws an index of `logits` `[V]`.
    pub(super) fn draw(&self, logits: &[f32], chance: &mut ChaCha8Rng) -> u32 {
        let likeliest = |best: (usize, f32), (id, &logit): (usize, &f32)| {
            if logit > best.1 { (id, logit) } else { best }
        };
        let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), likeliest);
        if self.temperature == 0.0 {
            return best.0 as u32;
        }
        let weight = |&logit: &f32| f64::from((logit - best.1) / self.temperature).exp();
        let mut weights: Vec<(u32, f64)> =
            logits.iter().enumerate().map(|(id, logit)| (id as u32, weight(logit))).collect();
        // The order matters to a nucleus alone, and sorting a vocabulary costs as much as a small layer.
        if self.top_p < 1.0 {
            weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let (mut nucleus, mut count) = (0.0, 0);
        while count < weights.len() && nucleus < f64::from(self.top_p) * total {
            nucleus += weights[count].1;
            count += 1;
        }
        // 53 bits fill an f64's mantissa exactly.
        let mut left = (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * nucleus;
        for &(id, weight) in &weights[..count] {
            left -= weight;
            if left < 0.0 {
                return id;
            }
        }
        best.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    fn drawn(temperature: f32, top_p: f32) -> [u32; 3] {
        let logits = [1.0f32, 3.0, 2.0].map(|p| p.ln());
        let sampling = Sampling { temperature, top_p, seed: 1 };
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
        let check = |temperature, top_p| Sampling { temperature, top_p, seed: 0 }.check();
        assert!(check(f32::NAN, 1.0).is_err() && check(-1.0, 1.0).is_err());
        assert!(check(1.0, 0.0).is_err() && check(1.0, f32::NAN).is_err());
        assert!(check(0.0, 1.0).is_ok());
    }
}
