//! The types in which weights are written, and numbers in each of them.
//!
//! - In: f32. Out: little-endian bytes, rounded to the nearest once.
//! - Invariant: a number that the type cannot hold is refused by the weight's name.

use super::BaseError;
use half::{bf16, f16};

/// A type of floating point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant, up to 65,504.
    F16,
    /// 16 bits, 8 of them significant, as far as f32 reaches.
    Bf16,
}

impl Number {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// As PyTorch names it.
    pub(super) fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// As safetensors names it.
    pub(super) fn safetensors(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Adds the bytes of a weight's values to `bytes`.
    /// # Errors
    /// [`BaseError::Range`] names the first value that is finite in no such number.
    pub(super) fn encode(
        self,
        tensor: &str,
        values: &[f32],
        bytes: &mut Vec<u8>,
    ) -> Result<(), BaseError> {
        let held = |value: f32| match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        };
        if let Some(&value) = values.iter().find(|&&value| !held(value).is_finite()) {
            let (target, hint) = match self {
                Self::F32 => ("a model", ""),
                Self::F16 => ("f16", "; export with f32 weights"),
                Self::Bf16 => ("bf16", "; export with f32 weights"),
            };
            return Err(BaseError::Range { tensor: tensor.to_owned(), value, target, hint });
        }
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => {
                bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
            }
            Self::Bf16 => {
                bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()));
            }
        }
        Ok(())
    }
}
