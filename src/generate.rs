//! Text from a prompt: sampling token by token over the head's cache of keys and values.
//!
//! - In: prompt ids, an adapter or none. Out: ids, one at a time, until an end token or the limit.
//! - The head is loaded with tap 0 here, so that one cache holds every layer.
//! - Never here: the tokenizer, the terminal.
//!
//! Source of nucleus sampling: arXiv 1904.09751.

use crate::adapter::Adapter;
use crate::base::Base;
use crate::head::{Head, HeadError, Place, Session};
use crate::trunk::{Trunk, TrunkError};
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What can go wrong while generating.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The head failed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The embedding failed: an id beyond the vocabulary.
    #[error(transparent)]
    Trunk(#[from] TrunkError),
    /// A prompt without tokens.
    #[error("the prompt has no tokens; expected at least one")]
    Empty,
    /// A choice of sampling that has no meaning.
    #[error("--{key}: expected {expected}, got {got}")]
    Sampling {
        /// The flag.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: f32,
    },
}

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
    fn draw(&self, logits: &[f32], chance: &mut ChaCha8Rng) -> u32 {
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
        weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
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

/// A base ready to write text, with any adapter.
pub struct Generator {
    embedding: Trunk,
    head: Head,
    ends: Vec<u32>,
}

impl Generator {
    /// Loads every layer of the base; `tokens_max` bounds prompt and answer together.
    ///
    /// # Errors
    /// [`GenerateError::Head`] or [`GenerateError::Trunk`] when the base cannot be loaded.
    pub fn load(base: &Base, place: &Place, tokens_max: usize) -> Result<Self, GenerateError> {
        let embedding = Trunk::load(base, 0, 1)?;
        let head = Head::load_for_generating(base, 0, place, tokens_max)?;
        Ok(Self { embedding, head, ends: base.config().eos.clone() })
    }

    /// Starts a text after `prompt` `[T]`.
    ///
    /// # Errors
    /// [`GenerateError::Empty`] without a prompt; [`GenerateError::Sampling`]; the head's own.
    pub fn start(
        &self,
        prompt: &[u32],
        adapter: Option<&Adapter>,
        sampling: Sampling,
    ) -> Result<Text<'_>, GenerateError> {
        sampling.check()?;
        if prompt.is_empty() {
            return Err(GenerateError::Empty);
        }
        let mut session = self.head.session(adapter)?;
        let logits = self.feed(&mut session, prompt)?;
        let chance = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Text { generator: self, session, logits, sampling, chance, ended: false })
    }

    fn feed(&self, session: &mut Session, ids: &[u32]) -> Result<Vec<f32>, GenerateError> {
        let row = Array2::from_shape_fn((1, ids.len()), |(_, t)| ids[t]);
        Ok(self.head.next_logits(session, &self.embedding.hidden(&row)?)?)
    }
}

/// A text being written.
pub struct Text<'a> {
    generator: &'a Generator,
    session: Session,
    logits: Vec<f32>,
    sampling: Sampling,
    chance: ChaCha8Rng,
    ended: bool,
}

impl Text<'_> {
    /// The next token, or none after an end token.
    ///
    /// # Errors
    /// [`HeadError::Length`] when the text outgrows the model's context.
    pub fn next_token(&mut self) -> Result<Option<u32>, GenerateError> {
        if self.ended {
            return Ok(None);
        }
        let id = self.sampling.draw(&self.logits, &mut self.chance);
        if self.generator.ends.contains(&id) {
            self.ended = true;
            return Ok(None);
        }
        self.logits = self.generator.feed(&mut self.session, &[id])?;
        Ok(Some(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
