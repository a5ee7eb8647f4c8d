//! Slow from fast: the exponential average of the LoRA factors.
//!
//! Averaging factors is not averaging their products: with s = 1 - retain,
//! `B'A' = (1-s) B0 A0 + s B1 A1 - s (1-s) dB dA`; the last term is second order in the distance
//! of the two learners, which the embedding loss keeps small.
//!
//! Source: I-LoRA, arXiv 2402.18865, section 4.2.

use crate::adapter::{Adapter, Spec};

/// What can go wrong in a merge.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The two adapters are of different shape.
    #[error(
        "adapter spec differs: expected {expected} modules of {expected_len} numbers, got {got} of \
         {got_len}; the one in use is unchanged"
    )]
    Spec {
        /// Slots of the slow adapter.
        expected: usize,
        /// Its numbers.
        expected_len: usize,
        /// Slots of the fast adapter.
        got: usize,
        /// Its numbers.
        got_len: usize,
    },
}

fn same(slow: &Spec, fast: &Spec) -> Result<(), MergeError> {
    if slow == fast {
        return Ok(());
    }
    Err(MergeError::Spec {
        expected: slow.modules.len(),
        expected_len: slow.len(),
        got: fast.modules.len(),
        got_len: fast.len(),
    })
}

/// What slow keeps at step k = 1, 2, ...: `min(1 - 1/(k+1), retain)`.
///
/// The first steps keep less, so that slow is the plain mean of what it has seen until it is old
/// enough for `retain`.
pub fn retain_at(k: u64, retain: f32) -> f32 {
    retain.min((1.0 - 1.0 / (k as f64 + 1.0)) as f32)
}

/// The next slow adapter, `retain * slow + (1 - retain) * fast`: one step of an exponential average.
///
/// - `slow`, `fast`: same spec. `retain`: kept per step, in `[0, 1)`; 0.99 halves in about 69 steps.
///
/// # Errors
/// [`MergeError::Spec`] when the specs differ.
pub fn ema(slow: &mut Adapter, fast: &Adapter, retain: f32) -> Result<(), MergeError> {
    ema_beside(slow, fast, retain, 0)
}

/// The same beside the first `still` ranks of every module, which are not looked at: what both have in
/// common would not stay the same to the bit.
///
/// # Errors
/// As [`ema`].
pub fn ema_beside(
    slow: &mut Adapter,
    fast: &Adapter,
    retain: f32,
    still: usize,
) -> Result<(), MergeError> {
    same(&slow.spec, &fast.spec)?;
    let Adapter { spec, values } = slow;
    for range in spec.moving(still) {
        let pairs = values[range.clone()].iter_mut().zip(&fast.values[range]);
        for (slow, fast) in pairs {
            *slow = retain * *slow + (1.0 - retain) * fast;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{Module, Target};

    /// One module, rank 2, 3 in, 2 out.
    fn adapter(values: [f32; 10]) -> Adapter {
        let module = Module {
            layer: 0,
            target: Target::Q,
            rank: 2,
            scale: 1.0,
            fan_in: 3,
            fan_out: 2,
            a: 0..6,
            b: 6..10,
        };
        Adapter { spec: Spec { modules: vec![module] }, values: values.to_vec() }
    }

    /// `B A`, `[2, 3]`.
    fn product(adapter: &Adapter) -> [f32; 6] {
        let module = &adapter.spec.modules[0];
        let (a, b) = (adapter.a(module), adapter.b(module));
        std::array::from_fn(|i| (0..2).map(|r| b[i / 3 * 2 + r] * a[r * 3 + i % 3]).sum())
    }

    #[test]
    fn the_average_of_factors_differs_from_that_of_products_by_the_second_order_term() {
        let slow = adapter([0.5, -0.25, 1.0, 0.75, 0.5, -1.0, 0.25, 0.5, -0.75, 1.0]);
        let fast = adapter([0.25, 0.5, -0.5, 1.0, -0.25, 0.75, 0.5, -0.5, 1.0, 0.25]);
        let difference = adapter(std::array::from_fn(|i| fast.values[i] - slow.values[i]));
        let (retain, mut merged) = (0.75, slow.clone());
        assert!(ema(&mut merged, &fast, retain).is_ok());
        let s = 1.0 - retain;
        for i in 0..6 {
            let expected = (1.0 - s) * product(&slow)[i] + s * product(&fast)[i]
                - s * (1.0 - s) * product(&difference)[i];
            // Every number is a small multiple of 2^-10, so f32 holds both sides exactly.
            assert!((product(&merged)[i] - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn the_first_steps_keep_less_than_retain() {
        assert!((retain_at(1, 0.99) - 0.5).abs() < 1e-7);
        assert!((retain_at(3, 0.99) - 0.75).abs() < 1e-7);
        assert!((retain_at(1_000, 0.99) - 0.99).abs() < 1e-7);
    }

    #[test]
    fn adapters_of_different_spec_are_refused_and_slow_stays() {
        let mut slow = adapter([1.0; 10]);
        let mut fast = adapter([2.0; 10]);
        fast.spec.modules[0].layer = 1;
        assert!(matches!(ema(&mut slow, &fast, 0.5), Err(MergeError::Spec { .. })));
        assert_eq!(slow.values, [1.0; 10]);
    }
}
