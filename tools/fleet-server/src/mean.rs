//! The weighted mean of factors: plain arithmetic on tensors of equal names and shapes.
//!
//! - In: adapters, one by one, each with its share of 1. Out: their mean in f32, summed in f64.
//! - Invariant: an adapter averaged with itself is itself.

use crate::folder::{Folder, Meta, Tensor};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// The sum so far.
pub(crate) struct Mean {
    meta: Meta,
    sums: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Each adapter's share of the mean; shares sum to 1.
///
/// # Errors
/// When there is not one finite weight of at least 0 for each adapter, or all are 0.
pub(crate) fn shares(weights: Option<&[f64]>, adapters: usize) -> Result<Vec<f64>> {
    let weights = weights.map_or_else(|| vec![1.0; adapters], <[f64]>::to_vec);
    ensure!(
        weights.len() == adapters,
        "--weights: expected {adapters}, one for each adapter, got {}",
        weights.len()
    );
    for weight in &weights {
        ensure!(
            weight.is_finite() && *weight >= 0.0,
            "--weights: expected finite numbers of at least 0, got {weight}"
        );
    }
    let sum: f64 = weights.iter().sum();
    ensure!(sum > 0.0 && sum.is_finite(), "--weights: expected a positive sum, got {sum}");
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

impl Mean {
    pub(crate) fn start(first: &Folder, share: f64) -> Self {
        let scaled = |(shape, numbers): &Tensor| {
            (shape.clone(), numbers.iter().map(|number| share * f64::from(*number)).collect())
        };
        let sums = first.tensors.iter().map(|(name, of)| (name.clone(), scaled(of))).collect();
        Self { meta: first.meta.clone(), sums }
    }

    /// Adds an adapter that has the same tensors.
    pub(crate) fn add(&mut self, next: &Folder, share: f64) -> Result<()> {
        for name in next.tensors.keys() {
            ensure!(self.sums.contains_key(name), "tensor `{name}` is not expected");
        }
        for (name, (expected, sum)) in &mut self.sums {
            let Some((got, numbers)) = next.tensors.get(name) else {
                anyhow::bail!("tensor `{name}` is missing");
            };
            ensure!(expected == got, "`{name}`: expected shape {expected:?}, got {got:?}");
            for (sum, number) in sum.iter_mut().zip(numbers) {
                *sum += share * f64::from(*number);
            }
        }
        // The schedule of the average goes on from the device that has learned longest.
        self.meta.steps = self.meta.steps.max(next.meta.steps);
        self.meta.generation = self.meta.generation.max(next.meta.generation);
        Ok(())
    }

    /// The mean, in the place of the first adapter's tensors.
    pub(crate) fn finish(self, first: Folder) -> Folder {
        let narrow = |(shape, sum): (Vec<usize>, Vec<f64>)| -> Tensor {
            (shape, sum.into_iter().map(|number| number as f32).collect())
        };
        let tensors = self.sums.into_iter().map(|(name, sum)| (name, narrow(sum))).collect();
        first.replaced(self.meta, tensors)
    }
}
