//! Linear CKA: how alike two adapters see the same text, whatever the directions they see it in.
//!
//! - In: features of the same rows under each. Out: 1 where they are alike but for a rotation and a scale.
//! - Below 500 rows the estimate without bias stands in for the other, which is too high for few.
//! - Everything is summed in f64, in the smaller of both forms: rows by rows or features by features.
//!
//! Sources: CKA arXiv 1905.00414; without bias arXiv 2010.15327, HSIC of Song et al. 2012.

use super::StudyError;

/// Rows below which the estimate without bias is taken.
const FEW: usize = 500;
/// Rows that the estimate without bias needs more than.
const LEAST: usize = 3;

/// Features of some rows, `[rows, width]` row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// The numbers.
    pub values: Vec<f32>,
    /// Features of a row.
    pub width: usize,
}

impl Features {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Inner products of all rows, `[rows, rows]`, of features less their means.
    fn gram(&self) -> Vec<f64> {
        let (rows, width) = (self.rows(), self.width);
        let mut means = vec![0.0; width];
        for row in self.values.chunks_exact(width.max(1)) {
            means.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / rows as f64);
        }
        let centred: Vec<f64> = self
            .values
            .chunks_exact(width.max(1))
            .flat_map(|row| row.iter().zip(&means).map(|(x, mean)| f64::from(*x) - mean))
            .collect();
        let mut gram = vec![0.0; rows * rows];
        for i in 0..rows {
            for j in i..rows {
                let (one, two) = (&centred[i * width..][..width], &centred[j * width..][..width]);
                let dot = one.iter().zip(two).map(|(x, y)| x * y).sum();
                (gram[i * rows + j], gram[j * rows + i]) = (dot, dot);
            }
        }
        gram
    }
}

/// Linear CKA of two sets of features of the same rows; of no number when one of them does not vary.
///
/// # Errors
/// [`StudyError::Rows`] when they have not the same number of rows, or fewer than 4.
pub fn cka(first: &Features, second: &Features) -> Result<f64, StudyError> {
    let (rows, other) = (first.rows(), second.rows());
    if rows != other || rows <= LEAST {
        return Err(StudyError::Rows { first: rows, second: other, least: LEAST });
    }
    let (k, l) = (first.gram(), second.gram());
    let hsic = |k: &[f64], l: &[f64]| match rows < FEW {
        true => unbiased(k, l, rows),
        false => k.iter().zip(l).map(|(x, y)| x * y).sum(),
    };
    Ok(hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt())
}

/// HSIC without bias, but for a factor that all of a quotient share.
fn unbiased(k: &[f64], l: &[f64], n: usize) -> f64 {
    // Off the diagonal alone.
    let off = |gram: &[f64], i: usize, j: usize| if i == j { 0.0 } else { gram[i * n + j] };
    let sums = |gram: &[f64]| -> Vec<f64> {
        (0..n).map(|i| (0..n).map(|j| off(gram, i, j)).sum()).collect()
    };
    let (k_sums, l_sums) = (sums(k), sums(l));
    let both: f64 = (0..n).flat_map(|i| (0..n).map(move |j| off(k, i, j) * off(l, i, j))).sum();
    let all = k_sums.iter().sum::<f64>() * l_sums.iter().sum::<f64>();
    let rows: f64 = k_sums.iter().zip(&l_sums).map(|(x, y)| x * y).sum();
    let count = n as f64;
    both + all / ((count - 1.0) * (count - 2.0)) - 2.0 * rows / (count - 2.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    fn random(rows: usize, width: usize, seed: u64) -> Features {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * width).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
        Features { values, width }
    }

    fn mapped(features: &Features, map: impl Fn(&[f32]) -> Vec<f32>) -> Features {
        let values: Vec<f32> = features.values.chunks(features.width).flat_map(map).collect();
        Features { width: values.len() / features.rows(), values }
    }

    #[test]
    fn a_rotation_and_a_scale_change_nothing_and_any_other_map_does() {
        for rows in [40, FEW] {
            let first = random(rows, 3, 1);
            let turned = mapped(&first, |x| vec![5.0 * x[1] + 1.0, -5.0 * x[0], 5.0 * x[2]]);
            assert!((cka(&first, &first).unwrap() - 1.0).abs() < 1e-12);
            // f32's rounding of the map.
            assert!((cka(&first, &turned).unwrap() - 1.0).abs() < 1e-6);
            let skewed = mapped(&first, |x| vec![9.0 * x[0], x[1], x[0] + x[2]]);
            assert!(cka(&first, &skewed).unwrap() < 0.95);
        }
    }

    /// What has nothing in common is near 0 without bias, however few the rows; with it, it is not.
    #[test]
    fn few_rows_do_not_look_alike_by_their_number() {
        let (first, second) = (random(30, 200, 1), random(30, 200, 2));
        assert!(cka(&first, &second).unwrap().abs() < 0.05);
        let (k, l) = (first.gram(), second.gram());
        let dot = |k: &[f64], l: &[f64]| -> f64 { k.iter().zip(l).map(|(x, y)| x * y).sum() };
        assert!(dot(&k, &l) / (dot(&k, &k) * dot(&l, &l)).sqrt() > 0.5);
    }

    #[test]
    fn features_of_other_rows_are_not_compared() {
        for (first, second) in [(5, 6), (3, 3)] {
            let refused = cka(&random(first, 2, 1), &random(second, 2, 2));
            let said = refused.unwrap_err().to_string();
            assert!(said.contains(&format!("{first} and {second}")), "{said}");
        }
    }
}
