//! The weighted mean of factors: plain arithmetic on adapters of the same spec.
//!
//! - In: adapters, one by one, each with its share of 1. Out: their mean in f32, summed in f64.
//! - Invariant: an adapter averaged with itself is itself.

use crate::folder::Folder;
use anyhow::{Result, ensure};
use sapwood::adapter::peft::Meta;

/// The sum so far.
pub(crate) struct Mean {
    meta: Meta,
    sums: Vec<f64>,
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
        let sums = first.adapter.values.iter().map(|number| share * f64::from(*number)).collect();
        Self { meta: first.meta, sums }
    }

    /// Adds an adapter that agrees with the first.
    pub(crate) fn add(&mut self, next: &Folder, share: f64) {
        for (sum, number) in self.sums.iter_mut().zip(&next.adapter.values) {
            *sum += share * f64::from(*number);
        }
        // The schedule of the average goes on from the device that has learned longest.
        self.meta.steps = self.meta.steps.max(next.meta.steps);
        self.meta.generation = self.meta.generation.max(next.meta.generation);
    }

    /// The mean, in the place of the first adapter's numbers.
    pub(crate) fn finish(self, first: Folder) -> Folder {
        let values = self.sums.into_iter().map(|number| number as f32).collect();
        first.replaced(self.meta, values)
    }
}
