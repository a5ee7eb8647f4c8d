//! What each update counts: decisions from what is known of the updates, before any is read again.
//!
//! - In: hashes, norms, weights. Out: factors of a sum, in the order of the sum.
//! - Invariant: the order in which updates came changes nothing.

use super::AggregateError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An update counts for at most so many times the median of the tokens.
const TOKENS_MEDIANS_MAX: f64 = 4.0;

/// What is known of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Its place in the [`Source`](super::Source).
    pub at: usize,
    /// BLAKE3 of its bytes: where it stands in the sum.
    pub hash: [u8; 32],
    /// Frobenius norm of all its products together, as [`norm`](super::norm) says.
    pub norm: f64,
    /// The largest rank of its modules.
    pub rank: usize,
    /// What it counts beside the others, at least 0.
    pub weight: f64,
}

/// How far an update may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// As far as it does.
    None,
    /// As far as the median of those that are not zero.
    Median,
}

/// How updates become what each of them counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// By their weights.
    #[default]
    Mean,
    /// So that a hostile fifth does not move the mean far, as [`robust`](super::robust()) says.
    Robust,
}

impl Rule {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Robust => "robust",
        }
    }
}

/// One term of the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The update's place in the [`Source`](super::Source).
    pub at: usize,
    /// The largest rank of its modules.
    pub rank: usize,
    /// `eta w c`: the update is multiplied by it.
    pub factor: f64,
}

/// Weights of updates: `min(tokens, 4 median) / sqrt(1 + behind)`.
///
/// - `learned`: tokens that an update was learned from, and by how many releases it is behind.
pub fn by_tokens(learned: &[(u64, u32)]) -> Vec<f64> {
    let most = TOKENS_MEDIANS_MAX * median(learned.iter().map(|(tokens, _)| *tokens as f64));
    let weight = |(tokens, behind): &(u64, u32)| {
        (*tokens as f64).min(most) / (1.0 + f64::from(*behind)).sqrt()
    };
    learned.iter().map(weight).collect()
}

/// The terms of `eta sum(w c U)`: w sums to 1, `c = min(1, C / |U|)`.
///
/// # Errors
/// [`AggregateError::Weight`] for a weight that is not a finite number of at least 0, and when their
/// sum is not positive.
pub fn shares(facts: &[Facts], clip: Clip, eta: f64) -> Result<Vec<Share>, AggregateError> {
    let (facts, sum) = ordered(facts)?;
    let share = |(one, clip): (&Facts, f64)| Share {
        at: one.at,
        rank: one.rank,
        factor: eta * (one.weight / sum) * clip,
    };
    Ok(facts.iter().zip(clips(&facts, clip)).map(share).collect())
}

/// What each update weighs, by its place, in parts of an equal weight; before it is drawn in.
pub fn parts(facts: &[Facts]) -> BTreeMap<usize, f64> {
    let sum: f64 = facts.iter().map(|one| one.weight).sum();
    let even = facts.len() as f64 / sum;
    facts.iter().map(|one| (one.at, one.weight * even)).collect()
}

/// The facts in the order of the sum, and the sum of their weights.
pub(super) fn ordered(facts: &[Facts]) -> Result<(Vec<Facts>, f64), AggregateError> {
    let mut facts = facts.to_vec();
    facts.sort_by(|one, two| {
        one.hash.cmp(&two.hash).then_with(|| one.weight.total_cmp(&two.weight))
    });
    if let Some(wrong) = facts.iter().find(|one| !one.weight.is_finite() || one.weight < 0.0) {
        return Err(AggregateError::Weight { got: wrong.weight });
    }
    let sum: f64 = facts.iter().map(|one| one.weight).sum();
    if !(sum > 0.0 && sum.is_finite()) {
        return Err(AggregateError::Weight { got: sum });
    }
    Ok((facts, sum))
}

/// By what each is drawn in: `min(1, C / |U|)`.
pub(super) fn clips(facts: &[Facts], clip: Clip) -> Vec<f64> {
    let reach = match clip {
        Clip::None => f64::INFINITY,
        // Whoever sends nothing does not say how far others may go.
        Clip::Median => median(facts.iter().map(|one| one.norm).filter(|norm| *norm > 0.0)),
    };
    let clipped = |one: &Facts| if one.norm > reach { reach / one.norm } else { 1.0 };
    facts.iter().map(clipped).collect()
}

/// The middle of some numbers, of two the mean; 0 of none.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => 0.0,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn facts(at: usize, norm: f64, weight: f64) -> Facts {
        Facts { at, hash: [at as u8 ^ 5; 32], norm, rank: 8, weight }
    }

    #[test]
    fn tokens_count_up_to_four_medians_and_less_when_behind() {
        let weights = by_tokens(&[(100, 0), (50, 1), (1_000_000, 0), (0, 0)]);
        let expected = [100.0, 50.0 / 2.0_f64.sqrt(), 300.0, 0.0];
        for (weight, expected) in weights.iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-12, "{weight} {expected}");
        }
        assert!(by_tokens(&[]).is_empty());
    }

    #[test]
    fn what_reaches_further_than_the_median_is_drawn_in() {
        let all =
            [facts(0, 1.0, 1.0), facts(1, 3.0, 1.0), facts(2, 300.0, 2.0), facts(3, 0.0, 0.0)];
        let by_place = |clip| {
            let mut shares = shares(&all, clip, 0.5).unwrap();
            shares.sort_by_key(|share| share.at);
            shares.iter().map(|share| share.factor).collect::<Vec<_>>()
        };
        assert_eq!(by_place(Clip::None), [0.125, 0.125, 0.25, 0.0]);
        let clipped = by_place(Clip::Median);
        assert_eq!(clipped[..2], [0.125, 0.125]);
        assert!((clipped[2] - 0.0025).abs() < 1e-15, "{clipped:?}");
    }

    #[test]
    fn zeros_do_not_say_how_far_others_may_go() {
        let all = [facts(0, 0.0, 1.0), facts(1, 0.0, 1.0), facts(2, 0.0, 1.0), facts(3, 2.0, 1.0)];
        let shares = shares(&all, Clip::Median, 1.0).unwrap();
        assert!(shares.iter().all(|share| share.factor == 0.25), "{shares:?}");
    }

    #[test]
    fn the_order_of_arrival_changes_nothing() {
        let mut all: Vec<Facts> =
            (0..40).map(|at| facts(at, (at % 7) as f64, 0.1 + 1.0 / (1.0 + at as f64))).collect();
        let expected = shares(&all, Clip::Median, 1.0).unwrap();
        all.reverse();
        all.swap(3, 17);
        assert_eq!(shares(&all, Clip::Median, 1.0).unwrap(), expected);
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        for weight in [f64::NAN, f64::INFINITY, -1.0] {
            let all = [facts(0, 1.0, 1.0), facts(1, 1.0, weight)];
            assert!(matches!(shares(&all, Clip::None, 1.0), Err(AggregateError::Weight { .. })));
        }
        for all in [vec![], vec![facts(0, 1.0, 0.0)], vec![facts(0, 1.0, f64::MAX); 2]] {
            assert!(matches!(shares(&all, Clip::None, 1.0), Err(AggregateError::Weight { .. })));
        }
    }
}
