//! A LoRA adapter as plain numbers: which linear layers it changes, and its factors A and B.
//!
//! The effective weight is `W + scale * B A`, `scale = alpha / rank`, stated once per module.
//! - All factors lie in one flat `Vec<f32>`, so that AdamW, the average and a checksum are single loops.
//! - Order: by layer, then by target (q, k, v, o, gate, up, down), A before B. It never changes.
//! - Never here: files (see `peft`, `mlx`, `gguf`, `wire`), engines.
//!
//! Source: LoRA, arXiv 2106.09685.

pub mod compare;
pub mod fuse;
pub mod gguf;
pub mod mlx;
pub mod peft;
pub mod layout;
pub mod stacked;
#[cfg(feature = "fleet")]
pub mod wire;

mod error;

pub use error::AdapterError;

use crate::base::{Config, Family};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::ops::Range;

/// A linear layer of a decoder block that LoRA can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Target {
    /// Every target, in the order of the modules.
    pub const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's name inside a layer, as Hugging Face and PEFT write it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The last part of the module's name, `q_proj` and so on, as `--target-modules` takes it.
    pub fn name(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// The target of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Whether the linear layer has a bias in this base.
    pub fn is_biased(self, config: &Config) -> bool {
        match self {
            Self::Q | Self::K | Self::V => config.qkv_bias,
            Self::O => config.o_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }

    /// `(fan_in, fan_out)` of the linear layer in this base.
    pub fn fans(self, config: &Config) -> (usize, usize) {
        let (d, q, kv) =
            (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::Q => (d, q),
            Self::K | Self::V => (d, kv),
            Self::O => (q, d),
            Self::Gate | Self::Up => (d, config.ffn),
            Self::Down => (config.ffn, d),
        }
    }
}

/// Whether the linear layers that an adapter changes are layers of their own in other programs too.
/// # Errors
/// [`AdapterError::Packed`] for Phi-3, whose q, k and v are one layer there, and gate and up another.
pub fn has_names_elsewhere(config: &Config) -> Result<(), AdapterError> {
    if config.family != Family::Phi3 {
        return Ok(());
    }
    Err(AdapterError::Packed)
}

/// One adapted linear layer and where its factors lie in the flat vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Index of the decoder layer in the base, from 0.
    pub layer: usize,
    /// Which linear layer of it.
    pub target: Target,
    /// Rank r.
    pub rank: usize,
    /// Factor on `B A`: alpha / rank.
    pub scale: f32,
    /// Width of the input.
    pub fan_in: usize,
    /// Width of the output.
    pub fan_out: usize,
    /// Where A, `[r, fan_in]` row-major, lies.
    pub a: Range<usize>,
    /// Where B, `[fan_out, r]` row-major, lies.
    pub b: Range<usize>,
}

/// What a LoRA adapter changes and by how much it may: everything but the numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The adapted linear layers in their fixed order.
    pub modules: Vec<Module>,
}

/// The rank and alpha of one module, before its place is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// Rank r, at least 1.
    pub rank: usize,
    /// `scale * rank`, PEFT's `lora_alpha`.
    pub alpha: f32,
}

impl Spec {
    /// The same strength on every target of every layer in `layers`.
    pub fn uniform(
        config: &Config,
        layers: Range<usize>,
        targets: &[Target],
        strength: Strength,
    ) -> Self {
        Self::from_fn(config, layers, |_, target| targets.contains(&target).then_some(strength))
    }

    /// A strength for each (layer, target) that `choose` does not leave out.
    pub fn from_fn(
        config: &Config,
        layers: Range<usize>,
        mut choose: impl FnMut(usize, Target) -> Option<Strength>,
    ) -> Self {
        Self::placed(layers, |layer, target| Some((choose(layer, target)?, target.fans(config))))
    }

    /// A strength and `(fan_in, fan_out)` for each (layer, target) that `choose` does not leave out.
    pub fn placed(
        layers: Range<usize>,
        mut choose: impl FnMut(usize, Target) -> Option<(Strength, (usize, usize))>,
    ) -> Self {
        let (mut modules, mut at) = (Vec::new(), 0);
        for layer in layers {
            for target in Target::ALL {
                let Some((strength, (fan_in, fan_out))) = choose(layer, target) else { continue };
                let Strength { rank, alpha } = strength;
                let a = at..at + rank * fan_in;
                let b = a.end..a.end + fan_out * rank;
                at = b.end;
                let scale = alpha / rank as f32;
                modules.push(Module { layer, target, rank, scale, fan_in, fan_out, a, b });
            }
        }
        Self { modules }
    }

    /// How many numbers an adapter of this spec holds.
    pub fn len(&self) -> usize {
        self.modules.last().map_or(0, |module| module.b.end)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Where the numbers lie that are not of the first `still` ranks of their module: rows of A and columns
    /// of B. All of them, when none is still.
    pub fn moving(&self, still: usize) -> impl Iterator<Item = Range<usize>> {
        let ranks = move |module: &Module| {
            let (still, rank) = (still.min(module.rank), module.rank);
            let a = module.a.start + still * module.fan_in..module.a.end;
            let (first, rows) = (module.b.start, module.fan_out);
            let b = (0..rows).map(move |row| first + row * rank + still..first + (row + 1) * rank);
            std::iter::once(a).chain(b)
        };
        let whole = (still == 0).then(|| 0..self.len());
        let some = if still == 0 { &[][..] } else { &self.modules };
        whole.into_iter().chain(some.iter().flat_map(ranks))
    }

    /// The module of a linear layer, if it is adapted.
    pub fn module(&self, layer: usize, target: Target) -> Option<&Module> {
        self.modules.iter().find(|module| module.layer == layer && module.target == target)
    }
}

/// A LoRA adapter: its spec and all its factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What it changes.
    pub spec: Spec,
    /// A and B of every module, in the order of the modules, `spec.len()` numbers.
    pub values: Vec<f32>,
}

impl Adapter {
    /// A new adapter that changes nothing yet: A uniform in `±1 / sqrt(fan_in)`, B zero.
    ///
    /// That is PEFT's `init_lora_weights=True`, Kaiming-uniform with a = sqrt(5).
    pub fn fresh(spec: Spec, chance: &mut ChaCha8Rng) -> Self {
        let mut values = vec![0.0; spec.len()];
        for module in &spec.modules {
            let bound = 1.0 / (module.fan_in as f32).sqrt();
            for value in &mut values[module.a.clone()] {
                // 24 bits fill an f32's mantissa exactly.
                let unit = (chance.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
                *value = bound * (2.0 * unit - 1.0);
            }
        }
        Self { spec, values }
    }

    /// A of a module, `[r, fan_in]`.
    pub fn a(&self, module: &Module) -> &[f32] {
        &self.values[module.a.clone()]
    }

    /// B of a module, `[fan_out, r]`.
    pub fn b(&self, module: &Module) -> &[f32] {
        &self.values[module.b.clone()]
    }
}
