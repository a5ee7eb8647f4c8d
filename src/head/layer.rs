//! The weights of a decoder layer, and RoPE's tables.
//!
//! The CPU's own kernels take matrices side by side that share an input, so that a layer is four
//! products; candle's ops take one tensor a linear layer.

use super::HeadError;
use crate::adapter::Target;
use crate::base::{Base, Config};
use crate::products::Frozen;
use crate::settings::HeadWeights;
use candle_core::{Device, Result, Tensor, bail};

/// Linear layers with one input, as one matrix.
pub(crate) struct Projection {
    pub(crate) frozen: Frozen,
    /// `[out]`, zeros for linear layers without.
    pub(crate) bias: Option<Vec<f32>>,
    /// The linear layers, each with its first column.
    pub(crate) targets: Vec<(Target, usize)>,
}

/// One linear layer of the base as candle holds it.
pub(crate) struct LinearWeight {
    /// `[in, out]`
    pub(crate) weight: Tensor,
    /// `[out]`
    pub(crate) bias: Option<Tensor>,
}

/// A weight for the kernels or for candle.
pub(crate) enum Kept {
    /// For the CPU's own kernels.
    Frozen(Frozen),
    /// For candle's ops.
    Tensor(Tensor),
}

impl Kept {
    /// For the kernels.
    pub(crate) fn frozen(&self) -> Result<&Frozen> {
        match self {
            Self::Frozen(frozen) => Ok(frozen),
            Self::Tensor(_) => bail!("the head was loaded for candle's ops"),
        }
    }

    /// For candle, `[in, out]`; a kept matrix is widened at every call.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Frozen(frozen) => Tensor::from_vec(frozen.widened(), frozen.fans(), &Device::Cpu),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }
}

/// How a layer's linear layers lie in memory.
enum Linears {
    /// Queries, keys and values; output; gate and up; down.
    Projections(Box<[Projection; 4]>),
    /// In the order of [`Target::ALL`].
    Tensors(Box<[LinearWeight; 7]>),
}

/// One decoder layer of the base.
pub(crate) struct Layer {
    /// Gain of the norm before attention, `[D]`.
    pub(crate) input_norm: Tensor,
    /// Gain of the norm before the MLP, `[D]`.
    pub(crate) post_norm: Tensor,
    /// Epsilon of both.
    pub(crate) eps: f32,
    linears: Linears,
}

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

    /// The linear layers side by side in it.
    fn targets(self) -> &'static [Target] {
        match self {
            Self::Qkv => &[Target::Q, Target::K, Target::V],
            Self::O => &[Target::O],
            Self::GateUp => &[Target::Gate, Target::Up],
            Self::Down => &[Target::Down],
        }
    }
}

impl Layer {
    /// Reads layer `index` of the base for the CPU's kernels (`kept`), else for candle.
    pub(crate) fn load(
        base: &Base,
        index: usize,
        device: &Device,
        kept: Option<HeadWeights>,
    ) -> std::result::Result<Self, HeadError> {
        let prefix = format!("model.layers.{index}");
        let linears = match kept {
            Some(kept) => {
                let [qkv, o, gate_up, down] =
                    Part::ALL.map(|part| Projection::load(base, &prefix, part, kept));
                Linears::Projections(Box::new([qkv?, o?, gate_up?, down?]))
            }
            None => {
                let [q, k, v, o, gate, up, down] =
                    Target::ALL.map(|target| LinearWeight::load(base, &prefix, target, device));
                Linears::Tensors(Box::new([q?, k?, v?, o?, gate?, up?, down?]))
            }
        };
        Ok(Self {
            input_norm: tensor(base, &format!("{prefix}.input_layernorm.weight"), device)?,
            post_norm: tensor(base, &format!("{prefix}.post_attention_layernorm.weight"), device)?,
            eps: base.config().norm_eps,
            linears,
        })
    }

    /// One of the four products of the CPU's kernels.
    pub(crate) fn projection(&self, part: Part) -> Result<&Projection> {
        match &self.linears {
            Linears::Projections(projections) => Ok(&projections[part as usize]),
            Linears::Tensors(_) => bail!("the head was loaded for candle's ops"),
        }
    }

    /// The linear layer that a target names, for candle; a kept one is widened at every call.
    pub(crate) fn linear(&self, target: Target) -> Result<LinearWeight> {
        match &self.linears {
            Linears::Tensors(linears) => {
                let LinearWeight { weight, bias } = &linears[target as usize];
                Ok(LinearWeight { weight: weight.clone(), bias: bias.clone() })
            }
            Linears::Projections(projections) => {
                let mut all = projections.iter();
                let found = all.find_map(|projection| projection.linear(target).transpose());
                found.unwrap_or_else(|| bail!("no linear layer {}", target.module()))
            }
        }
    }
}

impl Projection {
    fn load(
        base: &Base,
        prefix: &str,
        part: Part,
        kept: HeadWeights,
    ) -> std::result::Result<Self, HeadError> {
        let config = base.config();
        let fans = part.targets().iter().map(|target| target.fans(config));
        let fan_in = part.targets().first().map_or(0, |target| target.fans(config).0);
        let fan_out: usize = fans.map(|(_, fan_out)| fan_out).sum();
        let mut numbers = vec![0f32; fan_in * fan_out];
        let mut bias = (part == Part::Qkv && config.qkv_bias).then(|| vec![0f32; fan_out]);
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
        Ok(Self { frozen: Frozen::new(numbers, (fan_in, fan_out), kept), bias, targets })
    }

    /// One of its linear layers for candle, if it is here.
    fn linear(&self, target: Target) -> Result<Option<LinearWeight>> {
        let Some(place) = self.targets.iter().position(|(own, _)| *own == target) else {
            return Ok(None);
        };
        let (_, all) = self.frozen.fans();
        let first = self.targets[place].1;
        let end = self.targets.get(place + 1).map_or(all, |(_, first)| *first);
        let weight = Tensor::from_vec(self.frozen.widened(), self.frozen.fans(), &Device::Cpu)?;
        let weight = weight.narrow(1, first, end - first)?.contiguous()?;
        let bias = match &self.bias {
            Some(bias) => Some(Tensor::from_slice(&bias[first..end], end - first, &Device::Cpu)?),
            None => None,
        };
        Ok(Some(LinearWeight { weight, bias }))
    }
}

impl LinearWeight {
    fn load(
        base: &Base,
        prefix: &str,
        target: Target,
        device: &Device,
    ) -> std::result::Result<Self, HeadError> {
        let name = format!("{prefix}.{}", target.module());
        let biased = base.config().qkv_bias && matches!(target, Target::Q | Target::K | Target::V);
        let bias = match biased {
            true => Some(tensor(base, &format!("{name}.bias"), device)?),
            false => None,
        };
        Ok(Self { weight: tensor(base, &format!("{name}.weight"), device)?, bias })
    }
}

/// A weight of the base as an f32 tensor.
pub(crate) fn tensor(
    base: &Base,
    name: &str,
    device: &Device,
) -> std::result::Result<Tensor, HeadError> {
    let weight = base.weight(name)?;
    Ok(Tensor::from_vec(weight.data, weight.shape, device)?)
}

/// A matrix of the base for the CPU's kernels (`kept`), else for candle.
pub(crate) fn matrix(
    base: &Base,
    name: &str,
    device: &Device,
    kept: Option<HeadWeights>,
) -> std::result::Result<Kept, HeadError> {
    let Some(kept) = kept else { return Ok(Kept::Tensor(tensor(base, name, device)?)) };
    let weight = base.weight(name)?;
    let fans = match weight.shape[..] {
        [fan_in, fan_out] => (fan_in, fan_out),
        _ => (0, 0),
    };
    Ok(Kept::Frozen(Frozen::new(weight.data, fans, kept)))
}
/// RoPE's cosines and sines, `[positions, head_dim / 2]`, as numbers and as tensors.
pub(crate) struct Rotary {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) cos_table: Tensor,
    pub(crate) sin_table: Tensor,
    pub(crate) positions: usize,
}

impl Rotary {
    pub(crate) fn new(
        config: &Config,
        positions: usize,
        device: &Device,
    ) -> std::result::Result<Self, HeadError> {
        let (cos, sin) = config.rope_tables(positions);
        let shape = (positions, config.head_dim / 2);
        Ok(Self {
            cos_table: Tensor::from_slice(&cos, shape, device)?,
            sin_table: Tensor::from_slice(&sin, shape, device)?,
            cos,
            sin,
            positions,
        })
    }
}
