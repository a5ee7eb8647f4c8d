//! Decompositions of a few long rows: QR by Householder, singular values by one-sided Jacobi.
//!
//! - In: rows of f64. Out: orthonormal rows and small square matrices.
//! - Invariant: rows that depend on each other, rows of zeros too, still give orthonormal ones.
//! - Ours, because a merge must give the same bytes on every processor: nalgebra 0.35 may return wrong
//!   singular values for ordinary matrices (a matrix of ones among them, its issue 1172), faer and
//!   LAPACK sum in an order that depends on the processor. `tests.rs` compares with numpy.
//!
//! Source: Golub and Van Loan, Matrix Computations, 5.2.1 and 8.6.3.

use super::product::{Processor, add_scaled, dot};

/// Rounds over all pairs. Ten are usual.
const SWEEPS_MAX: usize = 60;

/// Rows of equal length.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) numbers: Vec<f64>,
    pub(super) width: usize,
}

impl Rows {
    pub(super) fn zeros(rows: usize, width: usize) -> Self {
        Self { numbers: vec![0.0; rows * width], width }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len() / self.width
    }

    pub(super) fn row(&self, at: usize) -> &[f64] {
        &self.numbers[at * self.width..(at + 1) * self.width]
    }

    pub(super) fn row_mut(&mut self, at: usize) -> &mut [f64] {
        &mut self.numbers[at * self.width..(at + 1) * self.width]
    }

    /// Two rows, `first` above `second`.
    fn pair_mut(&mut self, first: usize, second: usize) -> (&mut [f64], &mut [f64]) {
        let (above, below) = self.numbers.split_at_mut(second * self.width);
        (&mut above[first * self.width..(first + 1) * self.width], &mut below[..self.width])
    }
}

/// `X = triangle^T orthonormal`, in other words the QR decomposition of `X^T`.
pub(super) struct Qr {
    /// `[min(rows, width), width]`.
    pub(super) orthonormal: Rows,
    /// `[min(rows, width), rows]`: column j says what row j of X is made of.
    pub(super) triangle: Rows,
}

/// The QR decomposition of rows.
pub(super) fn qr(processor: Processor, mut rows: Rows) -> Qr {
    processor.run(
        #[inline(always)]
        || {
            let steps = rows.len().min(rows.width);
            let ends: Vec<f64> = (0..steps).map(|step| reflect(&mut rows, step)).collect();
            let mut triangle = Rows::zeros(steps, rows.len());
            for column in 0..rows.len() {
                for (step, end) in ends.iter().enumerate().take(column + 1) {
                    let number = if step == column { *end } else { rows.row(column)[step] };
                    triangle.row_mut(step)[column] = number;
                }
            }
            let mut orthonormal = Rows::zeros(steps, rows.width);
            for at in 0..steps {
                orthonormal.row_mut(at)[at] = 1.0;
                for step in (0..=at).rev() {
                    mirror(&mut orthonormal.row_mut(at)[step..], &rows.row(step)[step..]);
                }
            }
            Qr { orthonormal, triangle }
        },
    )
}

/// Turns row `step` into the mirror that clears it after its diagonal, and applies that to all rows
/// below; returns the diagonal. A mirror is a vector of length the root of 2, or zero where nothing is.
#[inline(always)]
fn reflect(rows: &mut Rows, step: usize) -> f64 {
    let whole = dot(rows.row(step), rows.row(step)).sqrt();
    let tail = &mut rows.row_mut(step)[step..];
    let norm = dot(tail, tail).sqrt();
    // Rounding of a row that depends on those above. It is alike in rows that are alike: each would leave
    // rounding of rounding to the next, until its square is none.
    if whole.is_finite() && norm <= f64::EPSILON * whole {
        tail.fill(0.0);
        return 0.0;
    }
    let end = if tail[0] > 0.0 { -norm } else { norm };
    tail[0] -= end;
    let shorten = (2.0 / dot(tail, tail)).sqrt();
    tail.iter_mut().for_each(|number| *number *= shorten);
    for below in step + 1..rows.len() {
        let (mirror_row, row) = rows.pair_mut(step, below);
        mirror(&mut row[step..], &mirror_row[step..]);
    }
    end
}

#[inline(always)]
fn mirror(row: &mut [f64], by: &[f64]) {
    let along = dot(row, by);
    add_scaled(row, -along, by);
}

/// `W^T = turned^T scaled`: the rows of `scaled` are orthogonal, longest first, `turned` is orthonormal.
pub(super) struct Svd {
    /// Row p: the p-th left singular vector times its singular value.
    pub(super) scaled: Rows,
    /// Row p: the p-th right singular vector.
    pub(super) turned: Rows,
    /// Largest first.
    pub(super) values: Vec<f64>,
}

/// The singular value decomposition of W, given by its columns; none when it does not converge, as
/// with a number that is not finite.
pub(super) fn svd(processor: Processor, mut columns: Rows) -> Option<Svd> {
    let count = columns.len();
    let mut turned = Rows::zeros(count, count);
    for at in 0..count {
        turned.row_mut(at)[at] = 1.0;
    }
    let all = dot(&columns.numbers, &columns.numbers).sqrt();
    let quiet = all * f64::EPSILON;
    let settled = processor.run(
        #[inline(always)]
        || (0..SWEEPS_MAX).any(|_| sweep(&mut columns, &mut turned, quiet)),
    );
    if !settled || !all.is_finite() {
        return None;
    }
    let lengths: Vec<f64> =
        (0..count).map(|at| dot(columns.row(at), columns.row(at)).sqrt()).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|left, right| lengths[*right].total_cmp(&lengths[*left]));
    let ordered = |rows: &Rows| {
        let numbers = order.iter().flat_map(|at| rows.row(*at)).copied().collect();
        Rows { numbers, width: rows.width }
    };
    let values = order.iter().map(|at| lengths[*at]).collect();
    Some(Svd { scaled: ordered(&columns), turned: ordered(&turned), values })
}

/// Turns every pair of rows until they are orthogonal; whether all were already. What is shorter than
/// `quiet` is rounding of the others and left alone.
#[inline(always)]
fn sweep(columns: &mut Rows, turned: &mut Rows, quiet: f64) -> bool {
    let near = f64::EPSILON * columns.width.max(8) as f64;
    let mut settled = true;
    for first in 0..columns.len() {
        for second in first + 1..columns.len() {
            let (one, two) = columns.pair_mut(first, second);
            let (ones, twos, both) = (dot(one, one), dot(two, two), dot(one, two));
            let lengths = ones.sqrt() * twos.sqrt();
            // Also false for NaN, which never settles.
            if both.abs() <= near * lengths || ones.sqrt().min(twos.sqrt()) <= quiet {
                continue;
            }
            settled = false;
            let cotangent = (twos - ones) / (2.0 * both);
            let tangent =
                cotangent.signum() / (cotangent.abs() + (1.0 + cotangent * cotangent).sqrt());
            let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
            rotate(one, two, cosine, cosine * tangent);
            let (one, two) = turned.pair_mut(first, second);
            rotate(one, two, cosine, cosine * tangent);
        }
    }
    settled
}

#[inline(always)]
fn rotate(one: &mut [f64], two: &mut [f64], cosine: f64, sine: f64) {
    for (one, two) in one.iter_mut().zip(two) {
        (*one, *two) = (cosine * *one - sine * *two, sine * *one + cosine * *two);
    }
}
