//! Matrix products of trunk and head: frozen matrices, views, and the buffers they go to.
//!
//! - In: rows of f32 and matrices. Out: rows of f32.
//! - Every loop over rows is parallel (rayon, the pool in force) and runs on the widest vectors that
//!   the processor turns out to have; no build flags.
//! - Invariant: a number of a product with a frozen matrix is summed in one order, whatever rows are
//!   beside it and however many threads run, where our own kernels serve (x86-64 with AVX2, aarch64).
//! - Never here: layers, losses, candle, tract.

pub(crate) mod frozen;
pub(crate) mod gemm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel;
pub(crate) mod pool;
mod row;
mod near;

pub(crate) use frozen::{Form, Frozen};
pub(crate) use near::near;
pub(crate) use pool::Pool;

/// Whether the invariant holds here.
pub(crate) fn one_order() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return panel::available();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// What the products' numbers depend on beside their sides: which kernels this processor gets.
pub(crate) fn kernels() -> String {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return format!("{} {}", std::env::consts::ARCH, panel::kernels());
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::env::consts::ARCH.to_owned()
}

/// Whether this processor multiplies in bf16.
pub(crate) fn in_bf16() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return panel::bf16_available();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Whether this processor multiplies in whole numbers what is kept in 8 bits.
pub(crate) fn in_whole_numbers() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return panel::whole_available();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Rows a parallel task takes, so that small inputs still split.
pub(crate) fn rows_per_task(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads() * 4).max(1)
}

/// Runs loops as compiled for AVX2 where the processor has it; elsewhere as the target has it, which
/// on aarch64 is with NEON.
///
/// What `work` calls must be inlined, else it stays compiled for the target's oldest processor.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(work);
    }
    work()
}
