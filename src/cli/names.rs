//! What is one of a few and no setting of learning, as the command line names it.
//!
//! - In: words. Out: the library's own enums.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use sapwood::base::Number;
use sapwood::gate::Split;
use sapwood::settings::{HeadWeights, Method};

/// How exported weights are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Precision {
    F32,
    F16,
}

/// How the weights of a fused model are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum NumberName {
    F32,
    F16,
    Bf16,
}

impl From<NumberName> for Number {
    fn from(name: NumberName) -> Self {
        match name {
            NumberName::F32 => Self::F32,
            NumberName::F16 => Self::F16,
            NumberName::Bf16 => Self::Bf16,
        }
    }
}

/// Which kind of folder a fused model becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FolderKind {
    /// A Hugging Face folder: config.json, safetensors, tokenizer.
    Hf,
    /// A model folder, with an ONNX file.
    Sapwood,
}

impl FolderKind {
    /// As it is named on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Sapwood => "sapwood",
        }
    }
}

/// Whose layout an adapter is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// llama.cpp and Ollama.
    Gguf,
    /// mlx-lm.
    Mlx,
    /// PEFT.
    Peft,
}

impl Layout {
    /// As it is named on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Mlx => "mlx",
            Self::Peft => "peft",
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

/// [`HeadWeights`] on the command line.
pub(crate) fn head_weights() -> impl TypedValueParser<Value = HeadWeights> {
    let words = HeadWeights::WORDS.iter();
    let words =
        words.map(|(word, about)| PossibleValue::new(*word).help(about.trim_end_matches('.')));
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value(word.into()))
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
