//! The frozen weights of a decoder layer as they lie in memory.
//!
//! - In: a base, and how to keep and multiply its numbers. Out: the gains of its norms and four matrices.
//! - Linear layers with one input lie side by side as one matrix, so that a layer is four products.
//! - Weights are read, narrowed and let go of one matrix at a time: loading takes about the memory
//!   of what was loaded.
//! - Never here: adapters, what a layer computes, other devices than the CPU.

use super::head_norm::HeadNorms;
use crate::adapter::Target;
use crate::base::{Base, BaseError};
use crate::products::{Form, Frozen};
use crate::settings::MatmulPrecision;

/// Which of a layer's four products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Queries, keys and values.
    Qkv,
    /// The attention's output.
    O,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl Part {
    const ALL: [Self; 4] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// The one that a target lies in.
    pub(crate) fn of(target: Target) -> Self {
        match target {
            Target::Q | Target::K | Target::V => Self::Qkv,
            Target::O => Self::O,
            Target::Gate | Target::Up => Self::GateUp,
            Target::Down => Self::Down,
        }
    }

    /// The linear layers side by side in it.
    pub(crate) fn targets(self) -> &'static [Target] {
        match self {
            Self::Qkv => &[Target::Q, Target::K, Target::V],
            Self::O => &[Target::O],
            Self::GateUp => &[Target::Gate, Target::Up],
            Self::Down => &[Target::Down],
        }
    }
}

/// Linear layers with one input, as one matrix.
#[derive(Clone)]
pub(crate) struct Projection {
    pub(crate) frozen: Frozen,
    /// `[out]`, zeros for linear layers without.
    pub(crate) bias: Option<Vec<f32>>,
    /// The linear layers, each with its first column.
    pub(crate) targets: Vec<(Target, usize)>,
}

/// One decoder layer of the base.
pub(crate) struct Weights {
    /// Gain of the norm before attention, `[D]`.
    pub(crate) input_norm: Vec<f32>,
    /// Gain of the norm before the MLP, `[D]`.
    pub(crate) post_norm: Vec<f32>,
    /// Gains of the norms of queries and keys, if the base has them.
    pub(crate) head_norms: Option<HeadNorms>,
    /// Epsilon of all.
    pub(crate) eps: f32,
    /// In the order of [`Part`].
    projections: [Projection; 4],
}

impl Weights {
    /// Reads layer `index` of the base.
    pub(crate) fn load(base: &Base, index: usize, form: Form) -> Result<Self, BaseError> {
        let prefix = format!("model.layers.{index}");
        let [qkv, o, gate_up, down] =
            Part::ALL.map(|part| Projection::load(base, &prefix, part, form));
        Ok(Self {
            input_norm: base.weight(&format!("{prefix}.input_layernorm.weight"))?.data,
            post_norm: base.weight(&format!("{prefix}.post_attention_layernorm.weight"))?.data,
            head_norms: HeadNorms::load(base, &prefix)?,
            eps: base.config().norm_eps,
            projections: [qkv?, o?, gate_up?, down?],
        })
    }

    /// The same numbers, shared, multiplied otherwise.
    pub(crate) fn at(&self, precision: MatmulPrecision) -> Self {
        let at = |own: Projection| Projection { frozen: own.frozen.at(precision), ..own };
        Self {
            input_norm: self.input_norm.clone(),
            post_norm: self.post_norm.clone(),
            head_norms: self.head_norms.clone(),
            eps: self.eps,
            projections: self.projections.clone().map(at),
        }
    }

    /// The four matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Frozen> {
        self.projections.iter().map(|projection| &projection.frozen)
    }

    /// One of the four matrices.
    pub(crate) fn projection(&self, part: Part) -> &Projection {
        &self.projections[part as usize]
    }
}

impl HeadNorms {
    fn load(base: &Base, prefix: &str) -> Result<Option<Self>, BaseError> {
        if !base.config().qk_norm {
            return Ok(None);
        }
        let gain = |name: &str| {
            let weight = base.weight(&format!("{prefix}.self_attn.{name}_norm.weight"));
            weight.map(|weight| weight.data)
        };
        Ok(Some(Self { query: gain("q")?, key: gain("k")? }))
    }
}

impl Projection {
    fn load(base: &Base, prefix: &str, part: Part, form: Form) -> Result<Self, BaseError> {
        let config = base.config();
        let fans = part.targets().iter().map(|target| target.fans(config));
        let fan_in = part.targets().first().map_or(0, |target| target.fans(config).0);
        let fan_out: usize = fans.map(|(_, fan_out)| fan_out).sum();
        let mut numbers = vec![0f32; fan_in * fan_out];
        let is_biased = part.targets().iter().any(|target| target.is_biased(config));
        let mut bias = is_biased.then(|| vec![0f32; fan_out]);
        let (mut targets, mut first) = (Vec::new(), 0);
        for &target in part.targets() {
            let name = format!("{prefix}.{}", target.module());
            let own = base.weight(&format!("{name}.weight"))?.data;
            let width = target.fans(config).1;
            let rows = numbers.chunks_exact_mut(fan_out.max(1)).zip(own.chunks_exact(width.max(1)));
            rows.for_each(|(row, own)| row[first..first + width].copy_from_slice(own));
            if let Some(bias) = &mut bias {
                let own = base.weight(&format!("{name}.bias"))?.data;
                bias[first..first + width].copy_from_slice(&own);
            }
            targets.push((target, first));
            first += width;
        }
        Ok(Self { frozen: Frozen::new(numbers, (fan_in, fan_out), form), bias, targets })
    }

    /// Adds the bias to rows `[N, out]`, if there is one.
    pub(crate) fn add_bias(&self, rows: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in rows.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
