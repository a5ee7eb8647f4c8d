//! Singular vectors as the factors of an adapter, ready for narrow numbers.
//!
//! - In: parts in f64. Out: A and B in f32, scale 1, the rows of A as long as the columns of B up to
//!   a factor of 2; the factor between them is a power of two, so that it rounds nothing.

use super::{AggregateError, Truncated};
use sapwood::adapter::{Adapter, Spec};

/// What is smaller beside the largest singular value is rounding, and f32 would not hold it.
const NOISE: f64 = 1e-12;
/// Length of a row of A where B is zero: about that of a fresh one.
const FRESH: f64 = 0.5;

/// The adapter whose products the parts are; `spec`: with scale 1.
///
/// # Errors
/// [`AggregateError::NotFinite`] when a number does not fit f32.
pub(super) fn adapter(parts: &[Truncated], spec: &Spec) -> Result<Adapter, AggregateError> {
    let mut values = vec![0.0; spec.len()];
    for (part, module) in parts.iter().zip(&spec.modules) {
        let largest = part.values.first().copied().unwrap_or(0.0);
        for (rank, value) in part.values.iter().enumerate() {
            let heard = *value > NOISE * largest;
            let (long, wide) = if heard { split(*value) } else { (FRESH, 0.0) };
            let a = &mut values[module.a.clone()][rank * module.fan_in..];
            for (to, number) in a.iter_mut().zip(part.right.row(rank)) {
                *to = (long * number) as f32;
            }
            let b = values[module.b.clone()].iter_mut().skip(rank).step_by(module.rank);
            for (to, number) in b.zip(part.left.row(rank)) {
                *to = (wide * number) as f32;
            }
        }
    }
    if !values.iter().all(|number| number.is_finite()) {
        return Err(AggregateError::NotFinite);
    }
    Ok(Adapter { spec: spec.clone(), values })
}

/// Factors of a right singular vector of length 1 and of a left one of length `value`: a power of two
/// near the root of `value`, and its inverse.
fn split(value: f64) -> (f64, f64) {
    const EXPONENT_BITS: u32 = 11;
    const MANTISSA_BITS: u32 = 52;
    const BIAS: i64 = 1023;
    let exponent = ((value.to_bits() >> MANTISSA_BITS) & ((1 << EXPONENT_BITS) - 1)) as i64 - BIAS;
    let power = |exponent: i64| f64::from_bits(((exponent + BIAS) as u64) << MANTISSA_BITS);
    // Never subnormal nor infinite: half of an exponent of f64.
    let half = exponent.div_euclid(2);
    (power(half), power(-half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_split_into_two_of_like_size() {
        for value in [1e-300, 3e-7, 0.25, 0.99, 1.0, 2.0, 3.9, 4.0, 5e5, 1e300] {
            let (long, wide) = split(value);
            let ratio = value * wide / long;
            assert!(long * wide == 1.0 && (1.0..4.0).contains(&ratio), "{value}: {long} {wide}");
        }
    }
}
