//! Settings that are one of a few: schedule, layers of the distance, device.

use super::{SettingsError, range};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to zero along half a cosine.
    Cosine,
    /// It falls to zero along a line.
    Linear,
}

/// Which hidden states of fast are held close to those of slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingLayers {
    /// Those after the last layer.
    Last,
    /// Those after every layer of the head.
    All,
}

/// Where the learner computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device, else Metal, else the CPU; only what was built in counts.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// How the frozen linear weights of the head are kept on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadWeights {
    /// bf16 or f16 where every weight survives it, else f32: the same results as f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to 8 bits with a scale for each output; rows may be rounded too, for speed.
    Int8,
}

/// What the forward pass keeps for the backward pass on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// What is dear to compute again, in f32.
    #[default]
    F32,
    /// The same, rounded to bf16.
    Bf16,
    /// Only each layer's input; the layer runs again on the way back. The same results as f32.
    Recompute,
}

impl FromStr for Device {
    type Err = SettingsError;

    fn from_str(name: &str) -> Result<Self, SettingsError> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| range("device", "auto, cpu, cuda, cuda:N or metal", name)),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = SettingsError;

    fn try_from(name: String) -> Result<Self, SettingsError> {
        name.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(to, "auto"),
            Self::Cpu => write!(to, "cpu"),
            Self::Cuda(number) => write!(to, "cuda:{number}"),
            Self::Metal => write!(to, "metal"),
        }
    }
}
