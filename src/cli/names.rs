//! Settings that are one of a few, as the command line names them.
//!
//! - In: words. Out: the settings' own enums.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use sapwood::gate::Split;
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

/// [`Method`] on the command line: its words, each with what it is.
pub(crate) fn methods() -> impl TypedValueParser<Value = Method> {
    let word = |method: &Method| {
        PossibleValue::new(method.word()).help(method.about().trim_end_matches('.'))
    };
    PossibleValuesParser::new(Method::ALL.iter().map(word)).try_map(|word| word.parse::<Method>())
}

/// [`Split`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SplitName {
    /// Each domain's test text, for results.
    Test,
    /// The end of its training text, which is not learned then, to choose settings by.
    Valid,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Test => Self::Test,
            SplitName::Valid => Self::Valid,
        }
    }
}
