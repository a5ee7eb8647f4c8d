//! The gate: scores on held-out text become metrics and a verdict, keep or drop.
//!
//! - In: sums of negative log-likelihood, the accuracies of choices. Out: [`Tally`], [`Matrix`],
//!   [`Verdict`], [`Report`].
//! - Never here: models, files, clocks. The caller evaluates and writes.
//! - Invariant: a score that is not a finite number never keeps an adapter.

mod metrics;
mod report;
mod table;
mod verdict;

use serde::{Deserialize, Serialize};

pub use metrics::{Direction, Matrix, MatrixError, Metrics};
pub use report::{Report, Run, Split, Summary};
pub use verdict::{Change, Judge, Reason, Scores, Verdict, Worst};

/// What an evaluation adds up over blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Negative log-likelihood of all labels, in nats.
    pub nats: f64,
    /// Labels.
    pub tokens: u64,
    /// Bytes of UTF-8 text that the labels stand for.
    pub bytes: u64,
}

impl Tally {
    /// Adds what another part of the text gave.
    pub fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
    }

    /// Bits that the model needs for a byte of text, `nats / ln 2 / bytes`; NaN without text.
    ///
    /// It does not depend on the tokenizer, so models compare.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Perplexity per token, `exp(nats / tokens)`; NaN without labels.
    pub fn perplexity(&self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }
}

/// The choice with the least negative log-likelihood, in nats; the first of equals, none without a number.
///
/// - `per_byte`: divide by the bytes of each choice, so that long answers have a chance.
pub fn chosen(choices: &[Tally], per_byte: bool) -> Option<usize> {
    let cost = |tally: &Tally| match per_byte {
        true => tally.nats / tally.bytes as f64,
        false => tally.nats,
    };
    let mut best: Option<(usize, f64)> = None;
    for (index, cost) in choices.iter().map(cost).enumerate() {
        if !cost.is_nan() && best.is_none_or(|(_, least)| cost < least) {
            best = Some((index, cost));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand; 8 bytes at 1 nat each are 1 / ln 2 bits a byte. 1e-12 is f64 rounding.
    #[test]
    fn bits_per_byte_and_perplexity_follow_their_formulas() {
        let mut tally = Tally { nats: 5.0, tokens: 2, bytes: 5 };
        tally.add(Tally { nats: 3.0, tokens: 2, bytes: 3 });
        assert!((tally.bits_per_byte() - std::f64::consts::LOG2_E).abs() < 1e-12);
        assert!((tally.perplexity() - 2f64.exp()).abs() < 1e-12);
        assert!(Tally::default().bits_per_byte().is_nan());
    }

    #[test]
    fn the_likeliest_choice_wins_and_length_counts_when_asked() {
        let of = |nats, bytes| Tally { nats, tokens: 1, bytes };
        let (short, long, broken) = (of(2.0, 1), of(3.0, 9), of(f64::NAN, 1));
        assert_eq!(chosen(&[long, short], false), Some(1));
        assert_eq!(chosen(&[long, short], true), Some(0));
        assert_eq!(chosen(&[broken, short, short], false), Some(1));
        assert_eq!(chosen(&[broken], false), None);
    }
}
