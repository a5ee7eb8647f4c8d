//! A learner's own ranks fitted again beside another global adapter: on its own text it stays what it was.
//!
//! - In: learners over the old global one, the new global one, second moments of what the adapted layers
//!   read on the learners' own text. Out: learners over the new one.
//! - Per linear layer, with C the moments at a mean eigenvalue of 1 and D the change that is to be made
//!   good (global and own ranks less the new global): the own change X of rank r that minimises
//!   `tr((X - D) C (X - D)ᵀ) + ridge |X|²`. With `P = (I + C / ridge)^(-1/2)` that is the rank-r part of
//!   `D C P / ridge`, times P. C is as wide as the layer, all else thin.
//! - Ridge says how much is left to the new global adapter where the own text says little.
//! - Fast and slow are fitted together and share A, so that the average of their factors stays that of
//!   their products.
//! - Never here: engines, the base, a decision whether the result is kept.
//!
//! Source: closed form of reduced-rank ridge regression; P by the iteration of `whitening`.

use super::whitening::inverse_root;
use super::{Learners, Moments};
use crate::adapter::stacked::stack;
use crate::adapter::{Adapter, AdapterError, Module};
use crate::head::{Seen, tiles};
use crate::products::gemm::{Into, Threads, View, matmul};
use nalgebra::{DMatrix, SymmetricEigen};

/// Energy below which a direction is rounding: f32 has 24 bits, a square of it 48.
const ROUNDING: f64 = 1e-12;

/// Learners over `next` whose own ranks are those of `fresh`, a new adapter.
///
/// - `seen`: what the layers of `learners` read on their own text, under their slow adapter.
/// - `ridge`: above 0, in parts of the mean eigenvalue of the moments.
/// - Ranks that nothing is left for stay fresh. Moments and k begin again.
///
/// # Errors
/// [`AdapterError::Alone`], [`AdapterError::Fans`]: the three do not adapt the same layers of one base.
pub fn refit(
    learners: &Learners,
    next: &Adapter,
    fresh: &Adapter,
    seen: &Seen,
    ridge: f64,
) -> Result<Learners, AdapterError> {
    refit_while(learners, next, fresh, seen, ridge, &mut || Ok(()))
}

/// [`refit`] that asks `pulse` before every linear layer, and ends with its error.
///
/// # Errors
/// As [`refit`], and what `pulse` returns.
pub fn refit_while<E: From<AdapterError>>(
    learners: &Learners,
    next: &Adapter,
    fresh: &Adapter,
    seen: &Seen,
    ridge: f64,
    pulse: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Learners, E> {
    // Of use for its refusals.
    stack(next, fresh).and(stack(&learners.fast, fresh))?;
    let mut own = [fresh.clone(), fresh.clone()];
    for (at, module) in fresh.spec.modules.iter().enumerate() {
        pulse()?;
        let (old, global) = (&learners.fast.spec.modules[at], &next.spec.modules[at]);
        let Some(moments) = seen.index(module).and_then(|index| seen.sums().nth(index)) else {
            continue;
        };
        let sides = [(&learners.fast, old), (&learners.slow, old), (next, global)];
        fit(sides, moments, ridge as f32, module, &mut own);
    }
    let [fast, slow] = own.map(|own| stack(next, &own));
    let (fast, slow) = (fast?, slow?);
    Ok(Learners { moments: Moments::zeros(fast.values.len()), fast, slow, k: 0 })
}

/// Fits one module of the own adapters `[fast, slow]`.
///
/// `sides`: fast and slow as they were, and the new global one.
fn fit(
    sides: [(&Adapter, &Module); 3],
    moments: &[Vec<f32>],
    ridge: f32,
    own: &Module,
    into: &mut [Adapter; 2],
) {
    let Module { fan_in, fan_out, rank, .. } = *own;
    let rows: Vec<f32> = sides.iter().flat_map(|(side, module)| side.a(module)).copied().collect();
    let stacked = rows.len() / fan_in;
    let roots: Vec<Vec<f32>> = moments.iter().map(|sum| inverse_root(sum, ridge.recip())).collect();
    let whitened = times(&times(&rows, fan_in, &unit(moments)), fan_in, &roots);
    let changes = [0, 1].map(|learner| change(sides, learner, stacked));
    let gram = DMatrix::from_fn(stacked, stacked, |i, j| dot(&whitened, fan_in, i, j));
    let outer = changes.iter().map(|change| change.transpose() * change).sum();
    let Some(basis) = directions(&gram, &outer, rank) else { return };
    // Orthonormal rows: the directions of the input that the fit keeps.
    let kept = basis.nrows();
    let wide = DMatrix::from_row_iterator(stacked, fan_in, whitened.iter().map(|&x| f64::from(x)));
    let along: Vec<f32> = (&basis * &wide).transpose().iter().map(|&x| x as f32).collect();
    let a = times(&along, fan_in, &roots);
    let outward = (&gram * basis.transpose()) / f64::from(ridge);
    for (adapter, change) in into.iter_mut().zip(&changes) {
        let b = change * &outward;
        for row in 0..kept {
            let new = &a[row * fan_in..(row + 1) * fan_in];
            let length = new.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            // As long as a fresh row is on average.
            let scale = (length * 3f64.sqrt()).recip();
            if !scale.is_finite() {
                continue;
            }
            let at = own.a.start + row * fan_in;
            let target = &mut adapter.values[at..at + fan_in];
            target.iter_mut().zip(new).for_each(|(to, &x)| *to = (f64::from(x) * scale) as f32);
            for output in 0..fan_out {
                let value = b[(output, row)] / scale / f64::from(own.scale);
                adapter.values[own.b.start + output * rank + row] = value as f32;
            }
        }
    }
}

/// What a learner is to make good: B of the stacked rows, `[out, stacked]`, scales folded in.
fn change(sides: [(&Adapter, &Module); 3], learner: usize, stacked: usize) -> DMatrix<f64> {
    let mut change = DMatrix::zeros(sides[0].1.fan_out, stacked);
    let mut first = 0;
    for (side, (adapter, module)) in sides.into_iter().enumerate() {
        let sign = match side {
            2 => -1.0,
            side => f64::from(u8::from(side == learner)),
        };
        for (at, value) in adapter.b(module).iter().enumerate() {
            let (row, column) = (at / module.rank, first + at % module.rank);
            change[(row, column)] = sign * f64::from(module.scale) * f64::from(*value);
        }
        first += module.rank;
    }
    change
}

/// At most `rank` rows, `[kept, stacked]`, that turn the stacked rows W with `gram = W Wᵀ` into the leading
/// right singular vectors of `B W` with `outer = Bᵀ B`; none where that is nothing.
fn directions(gram: &DMatrix<f64>, outer: &DMatrix<f64>, rank: usize) -> Option<DMatrix<f64>> {
    let whole = |matrix: &DMatrix<f64>| matrix.iter().all(|x| x.is_finite());
    if !whole(gram) || !whole(outer) {
        return None;
    }
    let inner = SymmetricEigen::new(gram.clone());
    let largest = inner.eigenvalues.max();
    let some = |&at: &usize| inner.eigenvalues[at] > ROUNDING * largest.max(f64::MIN_POSITIVE);
    let kept: Vec<usize> = (0..gram.nrows()).filter(some).collect();
    if kept.is_empty() {
        return None;
    }
    let vectors = inner.eigenvectors.select_columns(&kept);
    let root = |power: f64| {
        let mut scaled = vectors.clone();
        for (mut column, &at) in scaled.column_iter_mut().zip(&kept) {
            column *= inner.eigenvalues[at].powf(power);
        }
        scaled
    };
    let square = root(0.5).transpose() * outer * root(0.5);
    let outward = SymmetricEigen::new(square);
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|&a, &b| outward.eigenvalues[b].total_cmp(&outward.eigenvalues[a]));
    let first = order.first().map_or(0.0, |&at| outward.eigenvalues[at]);
    order.retain(|&at| outward.eigenvalues[at] > ROUNDING * first.max(f64::MIN_POSITIVE));
    order.truncate(rank);
    (!order.is_empty())
        .then(|| outward.eigenvectors.select_columns(&order).transpose() * root(-0.5).transpose())
}

/// Moments scaled to a mean eigenvalue of 1, tile by tile.
fn unit(moments: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let unit = |sum: &Vec<f32>| {
        let n = (sum.len() as f64).sqrt().round() as usize;
        let trace = (0..n).map(|i| f64::from(sum[i * n + i])).sum::<f64>();
        let scale = (n as f64 / trace) as f32;
        let scale = if scale.is_finite() { scale } else { 0.0 };
        sum.iter().map(|x| scale * x).collect()
    };
    moments.iter().map(unit).collect()
}

/// Rows `[N, in]` times a matrix of tiles along the diagonal.
fn times(rows: &[f32], fan_in: usize, matrix: &[Vec<f32>]) -> Vec<f32> {
    let (count, mut out) = (rows.len() / fan_in, vec![0.0; rows.len()]);
    for (tile, part) in tiles(fan_in).zip(matrix) {
        let n = tile.len();
        let own = View::new(&rows[tile.start.min(rows.len())..], count, n, fan_in);
        let into = &mut out[tile.start.min(rows.len())..];
        matmul(into, fan_in, own, View::dense(part, n, n), 1.0, Into::Replace, Threads::All);
    }
    out
}

/// The product of two rows, in f64.
fn dot(rows: &[f32], width: usize, i: usize, j: usize) -> f64 {
    let row = |at: usize| &rows[at * width..(at + 1) * width];
    row(i).iter().zip(row(j)).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}
