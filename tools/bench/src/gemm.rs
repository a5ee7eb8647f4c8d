//! The limit: how fast this machine multiplies f32 matrices with all threads, and nothing else.
//!
//! The `gemm` crate is what our own step uses, and the fastest that was found for it in Rust.
#![expect(unsafe_code, reason = "gemm takes raw pointers; the buffers are made here, to measure")]

use crate::measure::timed;

/// Sides of the matrices: large enough to be bound by arithmetic, small enough for the cache.
const SIDE: usize = 1024;
const WARM_UP: usize = 3;
const PRODUCTS: usize = 15;

/// GFLOP/s of a square f32 product on all of rayon's threads, the best of several: a peak.
pub(crate) fn gflops() -> f64 {
    let wave = |index: usize| (index % 251) as f32 / 251.0 - 0.5;
    let a: Vec<f32> = (0..SIDE * SIDE).map(wave).collect();
    let b = a.clone();
    let mut c = vec![0f32; SIDE * SIDE];
    let mut best = 0f64;
    for round in 0..WARM_UP + PRODUCTS {
        let ((), elapsed_ms) = timed(|| square(&mut c, &a, &b));
        if round >= WARM_UP {
            best = best.max(2.0 * (SIDE as f64).powi(3) / elapsed_ms / 1e6);
        }
    }
    best
}

/// `c = a b`, all `[SIDE, SIDE]`, row-major.
fn square(c: &mut [f32], a: &[f32], b: &[f32]) {
    assert!([c.len(), a.len(), b.len()].iter().all(|&len| len == SIDE * SIDE));
    let (row, column) = (SIDE as isize, 1);
    // # Safety
    // Every slice holds SIDE * SIDE numbers, as was just asserted, which is what these sizes and
    // strides reach; `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            SIDE,
            SIDE,
            SIDE,
            c.as_mut_ptr(),
            column,
            row,
            false,
            a.as_ptr(),
            column,
            row,
            b.as_ptr(),
            column,
            row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_that_is_timed_is_a_product() {
        let mut identity = vec![0f32; SIDE * SIDE];
        (0..SIDE).for_each(|i| identity[i * SIDE + i] = 1.0);
        let a: Vec<f32> = (0..SIDE * SIDE).map(|index| (index % 7) as f32).collect();
        let mut c = vec![9f32; SIDE * SIDE];
        square(&mut c, &a, &identity);
        // Small whole numbers: f32 is exact.
        assert_eq!(c, a);
    }
}
