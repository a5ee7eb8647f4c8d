//! Whether two quantities rise together: Spearman's rank correlation.
//!
//! - In: pairs of numbers. Out: -1 to 1, or none where ranks say nothing.
//! - Equal numbers share the mean of their ranks.
//! - Never here: what the numbers are of.
//!
//! Source: C. Spearman, American Journal of Psychology 15, 1904; the convention for equal numbers is that of
//! `scipy.stats.spearmanr`.

/// Fewest pairs of which it is told: two always lie on a line.
const PAIRS_MIN: usize = 3;

/// How far the second numbers of the pairs rise with the first; none of fewer than three pairs, of numbers
/// that are not finite, or where one side has one value only.
pub fn spearman(pairs: &[[f64; 2]]) -> Option<f64> {
    if pairs.len() < PAIRS_MIN || !pairs.iter().flatten().all(|value| value.is_finite()) {
        return None;
    }
    let [one, two] =
        [0, 1].map(|side| ranks(&pairs.iter().map(|pair| pair[side]).collect::<Vec<_>>()));
    // Both sides have this mean, whatever is equal among them.
    let mean = (pairs.len() + 1) as f64 / 2.0;
    let product = |one: &[f64], two: &[f64]| -> f64 {
        one.iter().zip(two).map(|(one, two)| (one - mean) * (two - mean)).sum()
    };
    let spread = product(&one, &one) * product(&two, &two);
    (spread > 0.0).then(|| product(&one, &two) / spread.sqrt())
}

/// The rank of every value, from 1.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&one, &two| values[one].total_cmp(&values[two]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&one, &two| values[one] == values[two]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&index| ranks[index] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_has_no_correlation() {
        assert_eq!(spearman(&[[1.0, 2.0], [2.0, 3.0]]), None);
        assert_eq!(spearman(&[[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), None);
        assert_eq!(spearman(&[[1.0, 2.0], [f64::NAN, 3.0], [3.0, 4.0]]), None);
        assert_eq!(spearman(&[[1.0, 2.0], [f64::INFINITY, 3.0], [3.0, 4.0]]), None);
        assert_eq!(spearman(&[[-0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]), None, "zeros are equal");
    }

    #[test]
    fn it_sees_the_order_alone() {
        let pairs: Vec<[f64; 2]> = (1..9).map(|x| [f64::from(x), f64::from(x).exp()]).collect();
        assert_eq!(spearman(&pairs), Some(1.0));
        let fallen: Vec<[f64; 2]> = pairs.iter().map(|[x, y]| [*x, -y]).collect();
        assert_eq!(spearman(&fallen), Some(-1.0));
    }
}
