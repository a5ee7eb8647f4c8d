//! Products of two matrices of the moment by one thread, as attention needs them tile by tile.
//!
//! - In: views; the right one's rows or its columns lie in one piece each. Out: `c`, replaced or added to.
//! - By the kernels of the frozen matrices where the processor has them, else by the `gemm` crate: its
//!   own way into a product costs as much as one of these.
//! - Never here: threads, matrices that stay as they are.

use super::gemm::{Into, Threads, View, matmul};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::{
    frozen::{Floats, Side},
    panel::{self, Float, Out},
};

/// `c (+)= a b`; `c` is row-major, rows `stride` apart.
///
/// # Panics
/// When a view or `c` does not hold the matrix it claims: a bug of the caller, never of input.
pub(crate) fn near(c: &mut [f32], stride: usize, a: View<'_>, b: View<'_>, into: Into) {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if panel::available() {
        let ((depth, columns), (row, column)) = (b.dims(), b.strides());
        assert_eq!(a.dims().1, depth, "inner dimensions differ");
        assert!(row == 1 || column == 1, "a right side in pieces");
        let (side, width) = match column {
            // Of a single row no other says where it ends.
            1 if depth == 1 => (Side::Straight, columns),
            1 => (Side::Straight, row),
            _ => (Side::Turned, column),
        };
        let out = Out { numbers: c, stride, into };
        let right = Floats::F32(b.numbers());
        return Float::new(a, right, width, side).product(columns, out, Threads::One);
    }
    matmul(c, stride, a, b, 1.0, into, Threads::One);
}
