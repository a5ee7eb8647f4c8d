//! Settings that are one of a few, as the command line names them.
//!
//! - In: words. Out: the settings' own enums.

use clap::ValueEnum;
use sapwood::settings::{Activations, EmbeddingLayers, HeadWeights, Method, Schedule};

/// How exported weights are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Precision {
    F32,
    F16,
}

/// [`Schedule`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ScheduleName {
    Constant,
    Cosine,
    Linear,
}

impl From<ScheduleName> for Schedule {
    fn from(name: ScheduleName) -> Self {
        match name {
            ScheduleName::Constant => Self::Constant,
            ScheduleName::Cosine => Self::Cosine,
            ScheduleName::Linear => Self::Linear,
        }
    }
}

/// [`EmbeddingLayers`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum EmbeddingName {
    Last,
    All,
}

impl From<EmbeddingName> for EmbeddingLayers {
    fn from(name: EmbeddingName) -> Self {
        match name {
            EmbeddingName::Last => Self::Last,
            EmbeddingName::All => Self::All,
        }
    }
}

/// [`HeadWeights`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WeightsName {
    /// bf16 or f16 where nothing is lost, else f32.
    Auto,
    F32,
    /// Rounded.
    Bf16,
    /// Rounded to 8 bits, and so are the products on processors with AVX-512 VNNI.
    Int8,
}

impl From<WeightsName> for HeadWeights {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Auto => Self::Auto,
            WeightsName::F32 => Self::F32,
            WeightsName::Bf16 => Self::Bf16,
            WeightsName::Int8 => Self::Int8,
        }
    }
}

/// [`Activations`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ActivationsName {
    F32,
    /// Rounded.
    Bf16,
    /// Nothing: every layer runs twice.
    Recompute,
}

impl From<ActivationsName> for Activations {
    fn from(name: ActivationsName) -> Self {
        match name {
            ActivationsName::F32 => Self::F32,
            ActivationsName::Bf16 => Self::Bf16,
            ActivationsName::Recompute => Self::Recompute,
        }
    }
}

/// [`Method`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MethodName {
    /// LoRA on one domain after the other.
    Sequential,
    /// Experience replay.
    Er,
    /// Experience replay with the averaged learner.
    ErEma,
    /// I-LoRA.
    Ilora,
    /// I-LoRA as its authors' program does it.
    AsPublished,
    /// All domains at once: the upper bound.
    Joint,
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Sequential => Self::Sequential,
            MethodName::Er => Self::Replay,
            MethodName::ErEma => Self::ReplayAverage,
            MethodName::Ilora => Self::Ilora,
            MethodName::AsPublished => Self::AsPublished,
            MethodName::Joint => Self::Joint,
        }
    }
}
