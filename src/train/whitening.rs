//! Whitening: A moves in inputs that are alike in all directions on text that the base wrote itself.
//!
//! - In: the second moments C of what every adapted linear layer reads on such text, bare base.
//!   Out: their roots `S = (I + strength C)^(-1/2)`, which A, its gradient and its moves are
//!   multiplied by: `A = A' S`, and it is A' that AdamW moves.
//! - C and S have a mean eigenvalue of 1. Wide inputs are cut into tiles, whitened each by itself.
//! - What a move does to the base's own text no longer depends on the few directions that all text
//!   shares: new domains are learned in the others, and what the base says elsewhere stays.
//! - Never here: the base, learning, a decision whether to whiten.
//!
//! Source: the input side of K-FAC's preconditioner, arXiv 1503.05671, with C from text that is to be
//! kept, as in orthogonal weight modification, arXiv 1810.01256.

use crate::adapter::{Module, Spec};
use crate::head::{Seen, tiles};
use crate::products::gemm::{Into, Threads, View, matmul};
use std::sync::Arc;

/// Where the iteration for a root has converged: the largest entry that `Z Y` is off the identity by.
const ROOT_TOLERANCE: f32 = 1e-4;
/// Most steps of it; 15 to 20 are taken at a condition of 10,000.
const ROOT_STEPS: usize = 40;

/// The roots for every A of an adapter.
pub struct Whitening {
    modules: Vec<(Module, Arc<Vec<Vec<f32>>>)>,
}

impl Whitening {
    /// The roots of what was `seen`, for the modules of the same spec; `strength` above 0.
    pub fn new(spec: &Spec, seen: &Seen, strength: f64) -> Self {
        let root = |sum: &Vec<f32>| even(inverse_root(sum, strength as f32));
        let roots: Vec<Arc<Vec<Vec<f32>>>> =
            seen.sums().map(|tiles| Arc::new(tiles.iter().map(root).collect())).collect();
        let of = |module: &Module| Some((module.clone(), Arc::clone(&roots[seen.index(module)?])));
        Self { modules: spec.modules.iter().filter_map(of).collect() }
    }

    /// Multiplies every A among an adapter's flat `values` by its root.
    ///
    /// It turns the gradient of A into that of A', a move of A' into one of A, and a fresh A into one
    /// whose product with typical text is as even as its numbers.
    pub fn apply(&self, values: &mut [f32]) {
        for (module, roots) in &self.modules {
            let a = &mut values[module.a.clone()];
            let old = a.to_vec();
            for (tile, root) in tiles(module.fan_in).zip(roots.iter()) {
                let n = tile.len();
                let old = View::new(&old[tile.start..], module.rank, n, module.fan_in);
                let root = View::dense(root, n, n);
                let a = &mut a[tile.start..];
                matmul(a, module.fan_in, old, root, 1.0, Into::Replace, Threads::All);
            }
        }
    }
}

/// A root scaled to a mean eigenvalue of 1.
fn even(mut root: Vec<f32>) -> Vec<f32> {
    let n = (root.len() as f64).sqrt().round() as usize;
    let mean = (0..n).map(|i| f64::from(root[i * n + i])).sum::<f64>() / n as f64;
    root.iter_mut().for_each(|x| *x /= mean as f32);
    root
}

/// `(I + strength C)^(-1/2)` for the moments `sum`, which are scaled to a mean eigenvalue of 1.
///
/// By Newton and Schulz: with `Y = M / |M|` and `Z = I`, `T = (3 I - Z Y) / 2`, `Y T` goes to the
/// root of `M / |M|` and `T Z` to its inverse. The identity where nothing was seen.
pub(super) fn inverse_root(sum: &[f32], strength: f32) -> Vec<f32> {
    let n = (sum.len() as f64).sqrt().round() as usize;
    let identity: Vec<f32> = (0..n * n).map(|at| f32::from(at % (n + 1) == 0)).collect();
    let trace = (0..n).map(|i| f64::from(sum[i * n + i])).sum::<f64>();
    let scale = strength * (n as f64 / trace) as f32;
    if !(scale.is_finite() && sum.iter().all(|x| x.is_finite())) {
        return identity;
    }
    let mut y: Vec<f32> = sum.iter().zip(&identity).map(|(c, i)| i + scale * c).collect();
    let norm = y.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
    y.iter_mut().for_each(|x| *x /= norm);
    let mut z = identity.clone();
    let (mut t, mut next) = (vec![0.0; n * n], vec![0.0; n * n]);
    let times = |c: &mut [f32], a: &[f32], b: &[f32]| {
        let (a, b) = (View::dense(a, n, n), View::dense(b, n, n));
        matmul(c, n, a, b, 1.0, Into::Replace, Threads::All);
    };
    for _ in 0..ROOT_STEPS {
        times(&mut t, &z, &y);
        let off = t.iter().zip(&identity).map(|(t, i)| (t - i).abs()).fold(0.0, f32::max);
        t.iter_mut().zip(&identity).for_each(|(t, i)| *t = 1.5 * i - 0.5 * *t);
        times(&mut next, &y, &t);
        std::mem::swap(&mut y, &mut next);
        times(&mut next, &t, &z);
        std::mem::swap(&mut z, &mut next);
        if off < ROOT_TOLERANCE {
            break;
        }
    }
    let own = norm.sqrt().recip();
    z.iter_mut().for_each(|x| *x *= own);
    z
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sum whose eigenvectors are known: `d` on the diagonal, turned by a reflection.
    fn turned(d: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let n = d.len();
        let length = (n as f32).sqrt();
        // Householder's reflection on (1, 1, ...) / sqrt(n).
        let h = |i: usize, j: usize| f32::from(i == j) - 2.0 / (length * length);
        let turn = |f: &dyn Fn(f32) -> f32| -> Vec<f32> {
            let entry = |i, j| (0..n).map(|k| h(i, k) * f(d[k]) * h(k, j)).sum();
            (0..n * n).map(|at| entry(at / n, at % n)).collect()
        };
        let mean = d.iter().sum::<f32>() / n as f32;
        let scale = |x: f32| (1.0 + 30.0 * x / mean).sqrt().recip();
        let middle = d.iter().map(|&x| scale(x)).sum::<f32>() / n as f32;
        (turn(&|x| x), turn(&|x| scale(x) / middle))
    }

    #[test]
    fn the_root_is_that_of_the_eigenvalues() {
        for d in [vec![1.0, 1.0], vec![5.0], vec![1e4, 1.0, 0.1, 0.0, 3.0], vec![7.0; 9]] {
            let (sum, expected) = turned(&d);
            let root = even(inverse_root(&sum, 30.0));
            let off = root.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 2e-3, "{d:?}: {root:?}, not {expected:?}");
        }
    }

    /// One row alone, at the highest strength that a setting may have.
    #[test]
    fn one_direction_is_as_good_as_many() {
        let n = 200;
        let row: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
        let sum: Vec<f32> = (0..n * n).map(|at| row[at / n] * row[at % n]).collect();
        let root = even(inverse_root(&sum, crate::settings::WHITENING_MAX as f32));
        assert!(root.iter().all(|x| x.is_finite()));
        let times = |x: &[f32]| -> f32 {
            let rows = root.chunks(n).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>());
            rows.map(|y| y * y).sum::<f32>().sqrt() / x.iter().map(|x| x * x).sum::<f32>().sqrt()
        };
        let mut other = row.clone();
        other.rotate_left(1);
        // sqrt(1 + 10,000 * 200) is 1,414 times less of the one that was seen.
        assert!(times(&row) < 0.002 && times(&other) > 0.1, "{} {}", times(&row), times(&other));
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let identity = [1.0, 0.0, 0.0, 1.0];
        assert_eq!(inverse_root(&[0.0; 4], 30.0), identity);
        assert_eq!(inverse_root(&[f32::NAN, 0.0, 0.0, 1.0], 30.0), identity);
        assert_eq!(inverse_root(&[f32::INFINITY, 0.0, 0.0, 1.0], 30.0), identity);
    }
}
