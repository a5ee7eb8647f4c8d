//! How likely a token was, and which ones were likelier: what the model itself says, before any choice.
//!
//! - In: logits. Out: natural logarithms of probabilities, at temperature 1 and without penalties.
//! - Never here: draws, texts.

use crate::decoder::kernels::maximum;

/// A token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The token.
    pub id: u32,
    /// Natural logarithm, 0 at most.
    pub log: f32,
}

/// The score of token `id` of logits `[V]`, and those of the `top` likeliest tokens, the likeliest first.
pub fn scores(logits: &[f32], id: u32, top: usize) -> (Score, Vec<Score>) {
    let best = maximum(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
    let log = |logit: f32| (f64::from(logit - best) - sum.ln()) as f32;
    let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let first = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if (1..all.len()).contains(&top) {
        all.select_nth_unstable_by(top - 1, first);
    }
    all.truncate(top);
    all.sort_unstable_by(first);
    let top = all.into_iter().map(|(id, logit)| Score { id, log: log(logit) }).collect();
    (Score { id, log: log(own) }, top)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `torch.log_softmax(torch.tensor([1., 3., 2., -4.]).double(), -1)`.
    #[test]
    fn scores_are_those_of_a_softmax() {
        let expected = [-2.408_212, -0.408_212, -1.408_212, -7.408_212];
        let logits = [1.0, 3.0, 2.0, -4.0];
        for (id, expected) in (0..).zip(expected) {
            let (own, top) = scores(&logits, id, 2);
            assert!((own.log - expected).abs() < 1e-6, "{own:?}");
            assert_eq!((top[0].id, top[1].id, top.len()), (1, 2, 2));
            assert!(id != 1 || own == top[0], "the same number in both places");
        }
        assert_eq!(scores(&logits, 0, 9).1.len(), 4);
        assert!(scores(&logits, 0, 0).1.is_empty());
    }
}
