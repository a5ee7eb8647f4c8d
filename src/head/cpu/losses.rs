//! The kernels of the losses over rows: cross-entropy, divergence and distance, each with its gradient.
//!
//! - Rows are tokens, row-major, f32; every loop over rows is parallel, on the widest vectors that the
//!   processor turns out to have.
//! - Invariant: no sum whose order depends on threads.
//! - Never here: lm_head, which rows count.

use crate::decoder::kernels::{LANES, dot, exp, maximum, sum, sum_of_exp};
use crate::head::objective::{Distance, LENGTH_MIN};
use crate::products::wide;
use rayon::prelude::*;

/// Cross-entropy of rows of logits `[n, V]` against `targets` `[n]`, in nats, into `nats` `[n]`.
///
/// With `shares` `[n]`, each row of logits becomes its share of the gradient of its own nats.
pub(super) fn cross_entropy(
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    shares: Option<&[f32]>,
    nats: &mut [f32],
) {
    let rows = logits.par_chunks_exact_mut(vocab).zip(targets).zip(nats).enumerate();
    rows.for_each(|(row, ((logits, &target), nats))| {
        let share = shares.map(|shares| shares[row]);
        wide(
            #[inline(always)]
            || *nats = cross_entropy_row(logits, target as usize, share),
        );
    });
}

#[inline(always)]
fn cross_entropy_row(logits: &mut [f32], target: usize, share: Option<f32>) -> f32 {
    let highest = maximum(logits);
    let chosen = logits[target];
    for logit in &mut *logits {
        *logit = exp(*logit - highest);
    }
    let total = sum(logits);
    if let Some(share) = share {
        let factor = share / total;
        for logit in &mut *logits {
            *logit *= factor;
        }
        logits[target] -= share;
    }
    total.ln() + highest - chosen
}

/// `KL(base || fast)` summed over rows of logits `[n, V]`, in nats; those of fast become the gradient of
/// `share` times it.
pub(super) fn divergence(fast: &mut [f32], base: &[f32], vocab: usize, share: f32) -> f64 {
    let rows = fast.par_chunks_exact_mut(vocab).zip(base.par_chunks_exact(vocab));
    let nats: Vec<f32> = rows
        .map(|(fast, base)| {
            let mut nats = 0.0;
            wide(
                #[inline(always)]
                || nats = divergence_row(fast, base, share),
            );
            nats
        })
        .collect();
    // In the order of the rows, whatever thread had which.
    nats.into_iter().map(f64::from).sum()
}

#[inline(always)]
fn divergence_row(fast: &mut [f32], base: &[f32], share: f32) -> f32 {
    let highest = [maximum(fast), maximum(base)];
    let totals = [sum_of_exp(fast, highest[0]), sum_of_exp(base, highest[1])];
    let apart = (totals[0].ln() + highest[0]) - (totals[1].ln() + highest[1]);
    let shares = totals.map(|total| 1.0 / total);
    let one = |fast: &mut f32, base: f32| {
        let truth = exp(base - highest[1]) * shares[1];
        let nats = truth * (base - *fast + apart);
        *fast = share * (exp(*fast - highest[0]) * shares[0] - truth);
        nats
    };
    let mut lanes = [0f32; LANES];
    let (some, rest) = fast.as_chunks_mut::<LANES>();
    let (of_base, base_rest) = base.as_chunks::<LANES>();
    for (fast, base) in some.iter_mut().zip(of_base) {
        for i in 0..LANES {
            lanes[i] += one(&mut fast[i], base[i]);
        }
    }
    let rest: f32 = rest.iter_mut().zip(base_rest).map(|(fast, base)| one(fast, *base)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `slow` `[N, D]` becomes the gradient of `factor` times its squared distances for `fast`; `squares`
/// `[N]` gets each row's.
///
/// A relative distance is D times its part of slow's squared length, so that a mean over rows and
/// channels is a mean over rows.
pub(super) fn distance(
    slow: &mut [f32],
    fast: &[f32],
    factor: f32,
    distance: Distance,
    squares: &mut [f32],
) {
    let d = slow.len() / squares.len().max(1);
    let floor = match distance {
        Distance::OneSided => 0.0,
        Distance::Relative => f32::NEG_INFINITY,
    };
    let rows = slow.par_chunks_exact_mut(d.max(1)).zip(fast.par_chunks_exact(d.max(1)));
    rows.zip(squares).for_each(|((slow, fast), squares)| {
        wide(
            #[inline(always)]
            || {
                let scale = match distance {
                    Distance::OneSided => 1.0,
                    Distance::Relative => d as f32 / (dot(slow, slow) + LENGTH_MIN),
                };
                for (slow, fast) in slow.iter_mut().zip(fast) {
                    let distance = *slow - fast;
                    *slow = if distance < floor { floor } else { distance };
                }
                *squares = scale * dot(slow, slow);
                let slope = -2.0 * factor * scale;
                slow.iter_mut().for_each(|distance| *distance *= slope);
            },
        );
    });
}
