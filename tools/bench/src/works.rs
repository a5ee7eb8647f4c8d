//! The table of works: what is measured, on which shape, against whom, and what it should cost.
//!
//! - Out: [`WORKS`] in the order of the rows, and the constants that both sides share.
//! - Never here: how anything is run.

use anyhow::{Result, bail, ensure};
use sapwood::adapter::Target;
use sapwood::head::Keep;
use sapwood::settings::{Activations, Device, HeadWeights, MatmulPrecision};
use serde_json::json;

/// Fresh blocks of a step, and sequences of a trunk pass: B.
pub(crate) const BLOCKS: usize = 8;
/// Tokens of every block: T. All but the first are labels.
pub(crate) const TOKENS: usize = 128;
/// Rank of the adapters, on q and v.
pub(crate) const RANK: usize = 8;
/// Linear layers of a decoder layer that have an adapter: q and v.
pub(crate) const TARGETS: [Target; 2] = [Target::Q, Target::V];

/// Most that a loss or gradient norm may differ in f32, relative: both sides round, in another
/// order of sums; another formula or another weight is off by far more.
pub(crate) const EXACT: f64 = 1e-3;
/// The same for weights of 8 bits and for bf16: the error is theirs by choice and is printed.
pub(crate) const ROUNDED: f64 = 5e-2;

/// A model whose weights are made for the benchmark, or the base of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Its name in works and folders.
    pub(crate) name: &'static str,
    /// Width, layers, heads, key heads, MLP, vocabulary; none for the default base.
    random: Option<[usize; 6]>,
}

impl Shape {
    /// `config.json` of a shape with random weights.
    pub(crate) fn config(&self) -> Option<String> {
        let [hidden, layers, heads, kv_heads, ffn, vocab] = self.random?;
        let config = json!({
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": ffn,
            "vocab_size": vocab,
            "hidden_act": "silu",
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
        });
        Some(config.to_string())
    }
}

const BASE: Shape = Shape { name: "base", random: None };
const SMALL: Shape = Shape { name: "15m", random: Some([288, 6, 6, 6, 768, 32_000]) };
const LARGE: Shape = Shape { name: "135m", random: Some([576, 30, 9, 3, 1536, 49_152]) };

const DEFAULT: Keep = Keep {
    weights: HeadWeights::Auto,
    precision: MatmulPrecision::Highest,
    activations: Activations::F32,
};
const MEDIUM: Keep = Keep { precision: MatmulPrecision::Medium, ..DEFAULT };
const INT8: Keep = Keep { weights: HeadWeights::Int8, ..DEFAULT };
const LEAN: Keep = Keep { activations: Activations::Recompute, ..INT8 };

/// What one measured unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An optimiser step, from token ids to the average: the trunk runs on the fresh blocks.
    Step {
        /// Layers that learn, from the top; 0 is all.
        layers: usize,
        /// Replayed blocks, whose hidden states are stored; the peer computes them again.
        replay: usize,
        /// How the head keeps its frozen weights and its activations.
        keep: Keep,
    },
    /// A forward pass through this many layers.
    Trunk {
        /// Layers below the tap.
        layers: usize,
        /// What they multiply in.
        precision: MatmulPrecision,
    },
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What the table says.
    pub(crate) title: &'static str,
    /// The model.
    pub(crate) shape: Shape,
    /// What is done with it.
    pub(crate) kind: Kind,
    /// Most time and memory, as parts of the f32 peer's, where a goal is set.
    pub(crate) goals: [Option<f64>; 2],
}

const fn step(layers: usize, replay: usize, keep: Keep) -> Kind {
    Kind::Step { layers, replay, keep }
}

/// Every row.
pub(crate) const WORKS: [Work; 18] = [
    Work {
        name: "base",
        title: "default base, all layers",
        shape: BASE,
        kind: step(0, 0, DEFAULT),
        goals: [None, None],
    },
    Work {
        name: "base-lean",
        title: "default base, all layers, lean",
        shape: BASE,
        kind: step(0, 0, LEAN),
        goals: [None, None],
    },
    Work {
        name: "base-ilora",
        title: "default base, I-LoRA, top 4 layers, 8 + 8 blocks",
        shape: BASE,
        kind: step(4, BLOCKS, DEFAULT),
        goals: [None, None],
    },
    Work {
        name: "15m",
        title: "15M shape, all layers",
        shape: SMALL,
        kind: step(0, 0, DEFAULT),
        goals: [Some(0.55), Some(0.15)],
    },
    Work {
        name: "15m-medium",
        title: "15M shape, all layers, medium precision",
        shape: SMALL,
        kind: step(0, 0, MEDIUM),
        goals: [None, None],
    },
    Work {
        name: "15m-lean",
        title: "15M shape, all layers, lean",
        shape: SMALL,
        kind: step(0, 0, LEAN),
        goals: [None, Some(0.06)],
    },
    Work {
        name: "135m",
        title: "SmolLM2-135M shape, all layers",
        shape: LARGE,
        kind: step(0, 0, DEFAULT),
        goals: [Some(0.65), Some(0.30)],
    },
    Work {
        name: "135m-medium",
        title: "SmolLM2-135M shape, all layers, medium precision",
        shape: LARGE,
        kind: step(0, 0, MEDIUM),
        goals: [None, None],
    },
    Work {
        name: "135m-lean",
        title: "SmolLM2-135M shape, all layers, lean",
        shape: LARGE,
        kind: step(0, 0, LEAN),
        goals: [None, Some(0.10)],
    },
    Work {
        name: "135m-top4",
        title: "SmolLM2-135M shape, top 4 layers, with trunk",
        shape: LARGE,
        kind: step(4, 0, DEFAULT),
        goals: [Some(0.70), Some(0.40)],
    },
    Work {
        name: "135m-top4-medium",
        title: "SmolLM2-135M shape, top 4 layers, with trunk, medium precision",
        shape: LARGE,
        kind: step(4, 0, MEDIUM),
        goals: [None, None],
    },
    Work {
        name: "135m-ilora",
        title: "SmolLM2-135M shape, I-LoRA, top 8 layers, 8 + 8 blocks",
        shape: LARGE,
        kind: step(8, BLOCKS, DEFAULT),
        goals: [Some(0.40), Some(0.30)],
    },
    Work {
        name: "135m-ilora-medium",
        title: "SmolLM2-135M shape, I-LoRA, top 8 layers, 8 + 8 blocks, medium precision",
        shape: LARGE,
        kind: step(8, BLOCKS, MEDIUM),
        goals: [None, None],
    },
    Work {
        name: "135m-ilora-int8",
        title: "SmolLM2-135M shape, I-LoRA, top 8 layers, 8 + 8 blocks, int8",
        shape: LARGE,
        kind: step(8, BLOCKS, INT8),
        goals: [Some(0.30), Some(0.20)],
    },
    Work {
        name: "135m-ilora-int8-medium",
        title: "SmolLM2-135M shape, I-LoRA, top 8 layers, 8 + 8 blocks, int8 over a trunk at medium",
        shape: LARGE,
        kind: step(8, BLOCKS, Keep { precision: MatmulPrecision::Medium, ..INT8 }),
        goals: [None, None],
    },
    Work {
        name: "135m-trunk26",
        title: "SmolLM2-135M shape, trunk forward, 26 layers",
        shape: LARGE,
        kind: Kind::Trunk { layers: 26, precision: MatmulPrecision::Highest },
        goals: [Some(1.0), Some(1.0)],
    },
    Work {
        name: "135m-trunk30",
        title: "SmolLM2-135M shape, trunk forward, 30 layers",
        shape: LARGE,
        kind: Kind::Trunk { layers: 30, precision: MatmulPrecision::Highest },
        goals: [Some(1.0), Some(1.0)],
    },
    Work {
        name: "135m-trunk30-medium",
        title: "SmolLM2-135M shape, trunk forward, 30 layers, medium precision",
        shape: LARGE,
        kind: Kind::Trunk { layers: 30, precision: MatmulPrecision::Medium },
        goals: [None, None],
    },
];

impl Work {
    /// The row of that name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match WORKS.into_iter().find(|work| work.name == name) {
            Some(work) => Ok(work),
            None => bail!("no work is called {name:?}; --list names them all"),
        }
    }

    /// Layers that learn, of a model with `layers`; none for a trunk.
    pub(crate) fn learning(&self, layers: usize) -> Result<usize> {
        match self.kind {
            Kind::Step { layers: 0, .. } => Ok(layers),
            Kind::Step { layers: top, .. } => {
                ensure!(top <= layers, "{}: {top} layers of {layers}", self.name);
                Ok(top)
            }
            Kind::Trunk { .. } => Ok(0),
        }
    }

    /// Who it is compared with there; the first is the one that goals are set against. Nobody where a
    /// GPU would not do what the title says: it keeps weights and activations in f32.
    pub(crate) fn peers(&self, device: Device) -> &'static [Peer] {
        match self.kind {
            Kind::Step { keep, .. } if device == Device::Cpu || keep == DEFAULT => {
                &[Peer::TorchF32, Peer::TorchBf16, Peer::TorchBf16Weights]
            }
            Kind::Trunk { .. } if device == Device::Cpu => &[Peer::OnnxRuntime],
            _ => &[],
        }
    }

    /// Whether our side rounds more than f32 does.
    pub(crate) fn rounds(&self) -> bool {
        let keep = match self.kind {
            Kind::Step { keep, .. } => keep,
            Kind::Trunk { precision, .. } => return precision == MatmulPrecision::Medium,
        };
        matches!(keep.weights, HeadWeights::Bf16 | HeadWeights::Int8)
            || keep.precision == MatmulPrecision::Medium
            || keep.activations == Activations::Bf16
    }
}

/// Whom a work is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// PyTorch + PEFT in f32.
    #[value(name = "f32")]
    TorchF32,
    /// PyTorch + PEFT with bf16 autocast.
    #[value(name = "bf16")]
    TorchBf16,
    /// PyTorch + PEFT with the whole model in bf16, and the adapter in f32 as PEFT makes it.
    #[value(name = "bf16-weights")]
    TorchBf16Weights,
    /// ONNX Runtime in f32.
    #[value(name = "onnx")]
    OnnxRuntime,
}

impl Peer {
    /// Its name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::TorchF32 => "PyTorch + PEFT, f32",
            Self::TorchBf16 => "PyTorch + PEFT, bf16 autocast",
            Self::TorchBf16Weights => "PyTorch + PEFT, bf16 weights",
            Self::OnnxRuntime => "ONNX Runtime, f32",
        }
    }

    /// Most that its numbers may differ from ours, relative, and the number that may differ more:
    /// the MSE of two hidden states that are nearly equal holds rounding many times over.
    pub(crate) fn allows(self, work: &Work) -> (f64, Option<&'static str>) {
        let rounded = matches!(self, Self::TorchBf16 | Self::TorchBf16Weights) || work.rounds();
        if rounded { (ROUNDED, Some("distance")) } else { (EXACT, None) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_found_again() {
        let names: BTreeSet<&str> = WORKS.iter().map(|work| work.name).collect();
        assert_eq!(names.len(), WORKS.len());
        assert!(WORKS.iter().all(|work| Work::named(work.name).unwrap() == *work));
        assert!(Work::named("15M").is_err());
    }

    #[test]
    fn every_shape_is_a_config_that_the_library_reads() {
        let sizes = [SMALL, LARGE].map(|shape| {
            let config = sapwood::base::Config::parse(&shape.config().unwrap(), None).unwrap();
            config.parameters() / 1_000_000
        });
        assert_eq!(sizes, [15, 134]);
    }
}
