//! Settings that are one of a few: schedule, layers of the distance, how numbers are kept and multiplied, device.

use super::{SettingsError, range};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Makes settings that are one of a few words from a table: a line is a word and what it stands for.
macro_rules! choices {
    ($($(#[doc = $about:literal])+ $name:ident, at first $start:ident {
        $($(#[doc = $doc:literal])+ $choice:ident = $word:literal,)+
    })+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $doc])+ #[serde(rename = $word)] $choice,)+ }

        impl $name {
            /// Its words, each with what it stands for.
            pub const WORDS: &'static [(&'static str, &'static str)] =
                &[$(($word, concat!($($doc),+).trim_ascii()),)+];
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$start
            }
        }
    )+};
}

choices! {
    /// How the learning rate goes on after the warm-up.
    Schedule, at first Constant {
        /// It stays.
        Constant = "constant",
        /// It falls to zero along half a cosine.
        Cosine = "cosine",
        /// It falls to zero along a line.
        Linear = "linear",
    }
    /// Which hidden states of fast are held close to those of slow.
    EmbeddingLayers, at first Last {
        /// Those after the last layer.
        Last = "last",
        /// Those after every layer of the head.
        All = "all",
    }
    /// How the frozen linear weights of the head are kept on the CPU.
    HeadWeights, at first Auto {
        /// bf16 or f16 where every weight survives it, else f32: the same results as f32.
        Auto = "auto",
        /// f32.
        F32 = "f32",
        /// Rounded to bf16.
        Bf16 = "bf16",
        /// Rounded to 8 bits with a scale for each output; rows may be rounded too, for speed.
        Int8 = "int8",
    }
    /// How the CPU multiplies rows with the frozen weights.
    MatmulPrecision, at first Auto {
        /// Medium where the processor can and all frozen weights are kept in bf16, else highest.
        Auto = "auto",
        /// In f32, or in whole numbers where the weights are kept in 8 bits.
        Highest = "highest",
        /// In bf16 with sums in f32, where the processor can and the weights are kept in bf16; else as highest.
        Medium = "medium",
    }
    /// What the forward pass keeps for the backward pass on the CPU.
    Activations, at first F32 {
        /// What is dear to compute again, in f32.
        F32 = "f32",
        /// The same, rounded to bf16.
        Bf16 = "bf16",
        /// Only each layer's input; the layer runs again on the way back. The same results as f32.
        Recompute = "recompute",
    }
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
