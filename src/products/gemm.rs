//! One safe door to the `gemm` crate: f32 matrix products over strided views.
//!
//! - In: views that are checked against their slices. Out: `c`, written or added to.
//! - Never here: allocation, threads of its own (rayon's pool is used when asked).
#![expect(unsafe_code, reason = "gemm takes raw pointers; every bound is asserted before the call")]

use gemm::Parallelism;
use std::ops::Range;

/// A matrix `[rows, cols]` inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major `[rows, cols]`, rows `stride` apart, from the start of `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Row-major `[rows, cols]` without gaps.
    pub(crate) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The same numbers with rows and columns swapped.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows and columns.
    pub(crate) fn dims(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// One row of a matrix whose rows lie in one piece each.
    ///
    /// # Panics
    /// When they do not: a bug of the caller.
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        assert_eq!(self.col_stride, 1, "a row in pieces");
        self.part(row..row + 1, 0..self.cols)
    }

    /// Some rows and columns as the slice from the first number to the last.
    ///
    /// # Panics
    /// When the part is none, or empty: a bug of the caller.
    pub(crate) fn part(&self, rows: Range<usize>, cols: Range<usize>) -> &'a [f32] {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "no such part");
        let first = rows.start * self.row_stride + cols.start * self.col_stride;
        let reach = (rows.len() - 1) * self.row_stride + (cols.len() - 1) * self.col_stride;
        &self.data[first..=first + reach]
    }

    /// From one row to the next, and from one column to the next.
    pub(crate) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }

    /// All numbers from the first of the matrix on.
    pub(crate) fn numbers(&self) -> &'a [f32] {
        self.data
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride
                < self.data.len()
    }
}

/// Whether the product replaces what stands in `c` or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// `c = scale * a b`
    Replace,
    /// `c += scale * a b`
    Add,
}

/// How many threads one product may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller is parallel already.
    One,
    /// All of rayon's.
    All,
}

/// `c (+)= scale * a b`; `c` is row-major `[a.rows, b.cols]`, rows `c_stride` apart.
///
/// # Panics
/// When a view or `c` does not hold the matrix it claims: a bug of the caller, never of input.
pub(crate) fn matmul(
    c: &mut [f32],
    c_stride: usize,
    a: View<'_>,
    b: View<'_>,
    scale: f32,
    into: Into,
    threads: Threads,
) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(a.fits() && b.fits(), "a view is larger than its slice");
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && (m - 1) * c_stride + n <= c.len(), "c is too small");
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    let add = into == Into::Add;
    // # Safety
    // `a`, `b` and `c` were just checked to hold every element that the strides reach; `c` is
    // borrowed mutably, so it overlaps neither view; strides are positive and fit isize because
    // they index slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
