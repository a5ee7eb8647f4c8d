//! What a text has said changes what it says next: penalties, and a push for single tokens.
//!
//! - In: logits, the prompt, the tokens of the text so far. Out: other logits.
//! - Frequency and presence count what the text itself has said, repetition the prompt as well: so
//!   they are defined where they come from.
//! - Never here: draws (`sampling`).
//!
//! Sources: OpenAI's API reference, "Frequency and presence penalties", for both of them and the push;
//! arXiv 1909.05858, section 4.1, as transformers has it, for repetition.

use std::collections::BTreeMap;

/// How logits are changed before a token is drawn from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaping {
    /// Taken from a token's logit for each time that the text has it.
    pub frequency: f32,
    /// Taken from a token's logit where the text has it.
    pub presence: f32,
    /// Divides a positive logit and multiplies a negative one of a token that prompt or text have;
    /// above 0, and 1 is none.
    pub repetition: f32,
    /// Added to the logits of these tokens.
    pub pushes: Vec<(u32, f32)>,
}

impl Default for Shaping {
    /// None.
    fn default() -> Self {
        Self { frequency: 0.0, presence: 0.0, repetition: 1.0, pushes: Vec::new() }
    }
}

impl Shaping {
    /// A text after `prompt`; none where nothing is changed.
    pub(super) fn begin(&self, prompt: &[u32]) -> Option<Shaper> {
        let mut said = BTreeMap::new();
        if self.repetition != 1.0 {
            said.extend(prompt.iter().map(|&id| (id, 0)));
        }
        (*self != Self::default()).then(|| Shaper { shaping: self.clone(), said })
    }
}

/// The logits of one text, changed by what it has said.
pub(super) struct Shaper {
    shaping: Shaping,
    /// How often the text has each token; tokens of the prompt alone with 0.
    said: BTreeMap<u32, u32>,
}

impl Shaper {
    /// Takes in the next token of the text.
    pub(super) fn take(&mut self, id: u32) {
        *self.said.entry(id).or_insert(0) += 1;
    }

    /// `logits` `[V]` as they are drawn from; a token beyond them is passed over.
    pub(super) fn shaped(&self, logits: &[f32]) -> Vec<f32> {
        let Self { shaping, said } = self;
        let mut shaped = logits.to_vec();
        for (&id, &count) in said {
            let Some(logit) = shaped.get_mut(id as usize) else { continue };
            *logit = if *logit < 0.0 {
                *logit * shaping.repetition
            } else {
                *logit / shaping.repetition
            };
            if count > 0 {
                *logit -= count as f32 * shaping.frequency + shaping.presence;
            }
        }
        for &(id, push) in &shaping.pushes {
            if let Some(logit) = shaped.get_mut(id as usize) {
                *logit += push;
            }
        }
        shaped
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::sampling::{Sampling, probabilities};
    use super::*;
    use serde_json::Value;

    const GOLDEN: &str = include_str!("../../tests/golden/sampling/cases.json");

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap() as f32).collect()
    }

    fn ids(value: &Value) -> Vec<u32> {
        numbers(value).into_iter().map(|id| id as u32).collect()
    }

    /// Goal: what may be drawn, and how likely. Oracle: `tools/golden/sampling.py` (transformers'
    /// logits processors, and OpenAI's formula for its penalties, in f64). Tolerance: f32 logits.
    #[test]
    fn probabilities_are_those_of_transformers_and_of_openai_s_formula() {
        let cases: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
        assert!(cases.len() > 100);
        for case in &cases {
            let number = |name: &str| case[name].as_f64().unwrap() as f32;
            let pushes = case["pushes"].as_array().unwrap().iter();
            let pushes = pushes.map(|one| (one[0].as_u64().unwrap() as u32, numbers(one)[1]));
            let shaping = Shaping {
                frequency: number("frequency"),
                presence: number("presence"),
                repetition: number("repetition"),
                pushes: pushes.collect(),
            };
            let logits = numbers(&case["logits"]);
            let shaped = match shaping.begin(&ids(&case["prompt"])) {
                Some(mut shaper) => {
                    ids(&case["text"]).into_iter().for_each(|id| shaper.take(id));
                    shaper.shaped(&logits)
                }
                None => logits,
            };
            let sampling = Sampling {
                temperature: number("temperature"),
                top_k: number("top_k") as usize,
                top_p: number("top_p"),
                min_p: number("min_p"),
                seed: 0,
            };
            let mut got = vec![0.0; shaped.len()];
            for (id, probability) in probabilities(sampling, &shaped) {
                got[id] = probability;
            }
            let expected = numbers(&case["probabilities"]);
            let off = got.iter().zip(&expected).map(|(a, b)| (a - f64::from(*b)).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off < 2e-6, "{off}: {case}");
        }
    }

    #[test]
    fn without_a_wish_nothing_is_changed_and_tokens_beyond_the_vocabulary_are_passed_over() {
        assert!(Shaping::default().begin(&[1, 2]).is_none());
        let shaping = Shaping { presence: 1.0, pushes: vec![(9, 3.0)], ..Shaping::default() };
        let mut shaper = shaping.begin(&[7]).unwrap();
        shaper.take(8);
        assert_eq!(shaper.shaped(&[1.0, 2.0]), [1.0, 2.0]);
    }
}
