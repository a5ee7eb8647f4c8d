//! Rotary positions: the angles by which queries and keys are turned, and their tables.
//!
//! - Invariant: the frequencies are rounded to f32 where transformers rounds them; at position
//!   4,000 a last bit of a frequency is 2e-4 of a turn.
//!
//! Source: RoFormer, arXiv 2104.09864; transformers 5, `modeling_rope_utils.py`.

use super::BaseError;
use super::config::POSITIONS_MAX;
use super::fields::Fields;
use std::f32::consts::PI;

/// How positions rotate queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies, `theta^(-2i / head_dim)`.
    pub theta: f64,
    /// How the frequencies are stretched for a longer context.
    pub scaling: RopeScaling,
}

/// A stretch of the frequencies for contexts longer than the model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// The divisor of long waves.
        factor: f64,
        /// Waves longer than `original / low` are long.
        low: f64,
        /// Waves shorter than `original / high` are short.
        high: f64,
        /// Context of the first training, in tokens.
        original: usize,
    },
}

impl Rope {
    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4).
    pub(super) fn parse(fields: &Fields, context: usize) -> Result<Self, BaseError> {
        refuse_partial(fields)?;
        let theta = fields.positive("rope_theta", 10_000.0)?;
        let inner = match fields.inner("rope_scaling")? {
            Some(inner) => Some(inner),
            None => fields.inner("rope_parameters")?,
        };
        let Some(inner) = inner else { return Ok(Self { theta, scaling: RopeScaling::None }) };
        refuse_partial(&inner)?;
        let theta = inner.positive("rope_theta", theta)?;
        let field = if inner.has("rope_type") { "rope_type" } else { "type" };
        let scaling = match inner.text(field)?.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: required(&inner, "factor")? },
            Some("llama3") => llama3(&inner, context)?,
            Some(_) => return Err(inner.wrong(field, "\"default\", \"linear\" or \"llama3\"")),
        };
        Ok(Self { theta, scaling })
    }

    /// Turns per position of each pair of channels, `[head_dim / 2]`.
    pub(super) fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            1.0 / f64::from(self.theta as f32).powf(f64::from(exponent)) as f32
        });
        plain.map(|frequency| self.scaling.apply(frequency)).collect()
    }

    /// Whether every angle of every position is a number, as no hostile base makes it.
    pub(super) fn is_finite(&self, head_dim: usize) -> bool {
        let last = POSITIONS_MAX as f32;
        self.frequencies(head_dim).iter().all(|frequency| (frequency * last).is_finite())
    }

    /// Cosine and sine, each `[positions, head_dim / 2]` row-major.
    pub(super) fn tables(&self, head_dim: usize, positions: usize) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.frequencies(head_dim);
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |turn| position as f32 * turn));
        angles.map(|angle| (f64::from(angle).cos() as f32, f64::from(angle).sin() as f32)).unzip()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor as f32,
            Self::Llama3 { factor, low, high, original } => {
                let (factor, low, high) = (factor as f32, low as f32, high as f32);
                let wave = 2.0 * PI / frequency;
                if wave > original as f32 / low {
                    frequency / factor
                } else if wave < original as f32 / high {
                    frequency
                } else {
                    let blend = (original as f32 / wave - low) / (high - low);
                    (1.0 - blend) * frequency / factor + blend * frequency
                }
            }
        }
    }
}

fn llama3(inner: &Fields, context: usize) -> Result<RopeScaling, BaseError> {
    let (low, high) = (required(inner, "low_freq_factor")?, required(inner, "high_freq_factor")?);
    if high as f32 <= low as f32 {
        return Err(inner.wrong("high_freq_factor", format!("more than low_freq_factor, {low}")));
    }
    let original = inner.size("original_max_position_embeddings", context)?;
    Ok(RopeScaling::Llama3 { factor: required(inner, "factor")?, low, high, original })
}

/// A positive number without a default.
fn required(fields: &Fields, field: &str) -> Result<f64, BaseError> {
    if !fields.has(field) || fields.is_null(field) {
        return Err(fields.wrong(field, "a positive number"));
    }
    fields.positive(field, 1.0)
}

fn refuse_partial(fields: &Fields) -> Result<(), BaseError> {
    if fields.positive("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(fields.wrong("partial_rotary_factor", "1.0: every channel rotates"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wave that fits the old context 1.75 times lies a quarter of the way from 1 to 4: a quarter of its
    /// frequency stays, three quarters are divided by 8 (transformers, `_compute_llama3_parameters`).
    #[test]
    fn llama3_keeps_more_of_a_shorter_wave() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
        for (fits, kept) in [(0.5, 0.125), (1.75, 0.34375), (3.25, 0.78125), (8.0, 1.0)] {
            let frequency = 2.0 * PI * fits / 8192.0;
            let part = scaling.apply(frequency) / frequency;
            // A few roundings of f32.
            assert!((part - kept).abs() < 1e-5, "{fits}: {part}");
        }
    }
}
