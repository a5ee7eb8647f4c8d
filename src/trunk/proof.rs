//! What runs computes what the plain canonical graph does: compared on short sequences, once for a base,
//! a program and a processor.

use super::{Engine, TrunkError, engine};
use crate::base::Config;
use crate::products;
use ndarray::{Array2, Array3};
use std::time::UNIX_EPOCH;
use tract_onnx::prelude::*;

/// Most that it may differ, relative to the largest value.
pub(super) const DIFFERENCE_MAX: f32 = 1e-3;

/// The program and the processor that a proof holds for: another build, or the same elsewhere, may round
/// and miscompile otherwise.
pub(crate) fn machine() -> String {
    let program = std::env::current_exe().and_then(std::fs::metadata).ok();
    let written = program.as_ref().and_then(|file| file.modified().ok());
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let version = env!("CARGO_PKG_VERSION");
    let (bytes, nanos) = (program.map(|file| file.len()), written.map(|time| time.as_nanos()));
    format!("{version} {bytes:?} {nanos:?} {}", products::kernels())
}

/// Short sequences and what the plain canonical graph makes of them.
pub(super) struct Probes(Vec<(Array2<u32>, Array3<f32>)>);

impl Probes {
    pub(super) fn of(plain: TypedModel, config: &Config) -> Result<Self, TrunkError> {
        let plan = plain.into_runnable().map_err(engine("prepare the plain graph"))?;
        let plain = Engine { plan, config: config.clone() };
        let shapes = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
        let shapes = shapes.into_iter();
        let shapes = shapes.filter(|&(_, length)| plain.config.check_length(length).is_ok());
        let ids = shapes.map(|shape| probe(shape, plain.config.vocab));
        let pairs = ids.map(|ids| plain.run(&ids).map(|expected| (ids, expected)));
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    /// Refuses what computes something else.
    pub(super) fn hold(
        &self,
        run: impl Fn(&Array2<u32>) -> Result<Array3<f32>, TrunkError>,
    ) -> Result<(), TrunkError> {
        for (ids, expected) in &self.0 {
            let difference = relative_difference(&run(ids)?, expected);
            // Not a number is a failure too.
            if difference.is_nan() || difference > DIFFERENCE_MAX {
                let (batch, length) = ids.dim();
                return Err(TrunkError::Miscompiled { batch, length, difference });
            }
        }
        Ok(())
    }
}

/// Largest difference over the largest expected value; not a number when a difference is none.
pub(super) fn relative_difference(got: &Array3<f32>, expected: &Array3<f32>) -> f32 {
    if got.dim() != expected.dim() {
        return f32::INFINITY;
    }
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale);
    // A comparison with what is not a number is false, so that it stays once it came.
    differences.fold(0.0, |worst, next| if next.is_nan() || next > worst { next } else { worst })
}

/// Ids that look like no text, the same on every run.
pub(super) fn probe(shape: (usize, usize), vocab: usize) -> Array2<u32> {
    Array2::from_shape_fn(shape, |(row, column)| {
        ((row * 7919 + column * 104_729 + 17) % vocab) as u32
    })
}
