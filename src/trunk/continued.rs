//! Layers below the tap that another engine runs, on a device that tract does not reach.
//!
//! - In: the residual stream `[B, T, D]` before layer 0, from tract. Out: the one before layer `tap`.
//! - A function and not an engine: whose it is stands below the trunk in the order of the stages.
//! - Invariant: what runs has been compared with tract's own layers on this machine's CPU.

use super::proof::{DIFFERENCE_MAX, probe, relative_difference};
use super::{Trunk, TrunkError};
use crate::base::Base;
use ndarray::Array3;
use std::error::Error;

/// Layers 0..tap as a function of the residual stream, `[B, T, D]` to the same.
pub type Layers =
    Box<dyn Fn(&Array3<f32>) -> Result<Array3<f32>, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// The layers of a trunk that tract does not run.
pub(super) struct Continued(Layers);

impl Continued {
    pub(super) fn run(&self, embedded: &Array3<f32>) -> Result<Array3<f32>, TrunkError> {
        (self.0)(embedded).map_err(|error| TrunkError::Device { what: error.to_string() })
    }
}

impl Trunk {
    /// A trunk whose layers below `tap` are `layers`; tract keeps the embedding, and once computes
    /// all of it to compare.
    /// # Errors
    /// As [`Trunk::load`], and [`TrunkError::Differs`] when `layers` are not the base's.
    pub fn load_continued(
        base: &Base,
        tap: usize,
        threads: usize,
        layers: Layers,
    ) -> Result<Self, TrunkError> {
        let config = base.config();
        let probes = [(1, 1), (1, 2), (2, 3)].into_iter();
        let probes = probes.filter(|&(_, length)| config.check_length(length).is_ok());
        let probes: Vec<_> = probes.map(|shape| probe(shape, config.vocab)).collect();
        // tract's own layers are gone before the embedding is loaded a second time.
        let on_cpu = Self::load(base, tap, threads)?;
        let expected: Result<Vec<_>, _> = probes.iter().map(|ids| on_cpu.hidden(ids)).collect();
        drop(on_cpu);
        let continued = Some(Continued(layers));
        let trunk = Self { tap, continued, ..Self::load(base, 0, threads)? };
        for (ids, expected) in probes.iter().zip(expected?) {
            let difference = relative_difference(&trunk.hidden(ids)?, &expected);
            // Not a number is a failure too.
            if difference.is_nan() || difference > DIFFERENCE_MAX {
                let (batch, length) = ids.dim();
                return Err(TrunkError::Differs { batch, length, difference });
            }
        }
        Ok(trunk)
    }
}
