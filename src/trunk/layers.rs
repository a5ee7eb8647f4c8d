//! The frozen layers as a graph of few operators, made for many tokens at once.
//!
//! - In: the weights below the tap. Out: a typed graph from ids `[B, T]` to hidden states
//!   `[B, T, D]`: a lookup, then five operators a layer. The canonical graph of the same layers has
//!   fifty.
//! - The operators hold the weights by reference: what writes text holds the same.
//! - Never here: the check against the canonical graph, which `trunk.rs` makes at every load.
//!
//! Source: `base/canonical.rs`, of which every operator here is a part.

use super::attention::Attention;
use super::kernels::{self, LANES, Product};
use super::{TrunkError, engine};
use crate::base::{Base, BaseError, Config, Weight};
use crate::products::gemm::{Into, View};
use crate::products::{Frozen, Pool};
use crate::settings::HeadWeights;
use crate::weights::{Layer, Part};
use std::fmt;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{
    EvalContext, EvalOp, Op, StaticName, ToDim, TypedOp, bail, ensure,
};
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

/// What the graph computes with.
pub(super) struct Weights {
    /// `[V, D]`
    pub(super) embedding: Arc<Frozen>,
    /// The layers below the tap, as narrow as loses nothing.
    pub(super) layers: Vec<Arc<Layer>>,
    /// Cosines and sines of every position, `[positions, head_dim / 2]` each.
    pub(super) turns: Arc<(Vec<f32>, Vec<f32>)>,
}

impl Weights {
    pub(super) fn load(base: &Base, tap: usize) -> Result<Self, BaseError> {
        let config = base.config();
        let Weight { data, .. } = base.weight("model.embed_tokens.weight")?;
        let embedding = Frozen::new(data, (config.vocab, config.hidden), HeadWeights::Auto);
        let layer = |index| Ok(Arc::new(Layer::load(base, index, HeadWeights::Auto)?));
        let layers: Result<_, BaseError> = (0..tap).map(layer).collect();
        let turns = Arc::new(config.rope_tables(config.positions()));
        Ok(Self { embedding: Arc::new(embedding), layers: layers?, turns })
    }
}

/// The embedding and the layers below the tap.
pub(super) fn graph(weights: &Weights, config: &Config) -> Result<TypedModel, TrunkError> {
    let product = Product::native().map_err(engine("find its kernels"))?;
    let mut builder = Builder { model: TypedModel::default() };
    let embedding = Table(Arc::clone(&weights.embedding));
    let mut x = builder.embedding(embedding).map_err(engine("build the embedding"))?;
    let attention = Attention::new(config, product, Arc::clone(&weights.turns));
    for (index, layer) in weights.layers.iter().enumerate() {
        x = builder.layer(index, layer, x, &attention).map_err(engine("build a layer"))?;
    }
    builder.model.select_output_outlets(&[x]).map_err(engine("end the graph"))?;
    Ok(builder.model)
}

/// Adds operators.
struct Builder {
    model: TypedModel,
}

impl Builder {
    fn embedding(&mut self, table: Table) -> TractResult<OutletId> {
        let (batch, length) = (self.model.symbols.sym("B"), self.model.symbols.sym("S"));
        let fact = i64::fact([batch.to_dim(), length.to_dim()]);
        let ids = self.model.add_source("input_ids", fact)?;
        Ok(self.model.wire_node("model.layers.0", table, &[ids])?[0])
    }

    /// From the input of a layer to that of the next.
    fn layer(
        &mut self,
        index: usize,
        layer: &Arc<Layer>,
        x: OutletId,
        attention: &Attention,
    ) -> TractResult<OutletId> {
        let qkv = self.linear(index, layer, Part::Qkv, &[x])?;
        let name = format!("model.layers.{index}.self_attn");
        let attended = self.model.wire_node(name, attention.clone(), &[qkv])?[0];
        let middle = self.linear(index, layer, Part::O, &[attended, x])?;
        let gated = self.linear(index, layer, Part::GateUp, &[middle])?;
        self.linear(index, layer, Part::Down, &[gated, middle])
    }

    fn linear(
        &mut self,
        index: usize,
        layer: &Arc<Layer>,
        part: Part,
        inputs: &[OutletId],
    ) -> TractResult<OutletId> {
        let linear = Linear { pool: Pool::default(), layer: Arc::clone(layer), part };
        let name = format!("model.layers.{index}.{part:?}");
        Ok(self.model.wire_node(name, Shared(Arc::new(linear)), inputs)?[0])
    }
}

/// The embedding: a row of the table `[V, D]` for every id.
#[derive(Clone)]
struct Table(Arc<Frozen>);

impl fmt::Debug for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Table")
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Table {}

impl Op for Table {
    fn name(&self) -> StaticName {
        "Embedding".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Table {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let &[ids] = inputs else { bail!("{} inputs of an embedding, expected 1", inputs.len()) };
        let mut shape = ids.shape.clone();
        shape.insert_axis(2)?;
        shape.set(2, self.0.fans().1.to_dim());
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

impl EvalOp for Table {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [ids] = &*inputs else { bail!("{} inputs, expected 1", inputs.len()) };
        let &[batch, tokens] = ids.shape() else { bail!("an embedding takes [B, T]") };
        let (vocab, width) = self.0.fans();
        let mut output =
            Tensor::zero_aligned::<f32>(&[batch, tokens, width], LANES * size_of::<f32>())?;
        let (ids, mut view) = (ids.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
        let rows = view.as_slice_mut::<f32>()?.chunks_exact_mut(width.max(1));
        for (&id, row) in ids.as_slice::<i64>()?.iter().zip(rows) {
            let id = usize::try_from(id).ok().filter(|&id| id < vocab);
            let Some(id) = id else { bail!("a token is not in the vocabulary of {vocab}") };
            self.0.row(id, row);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

/// One of a layer's four products, and what comes before and after it: a norm of what queries and
/// gates are made of, `silu(gate) * up`, the residual that is added to the others.
struct Linear {
    /// Scratch of the product.
    pool: Pool,
    layer: Arc<Layer>,
    part: Part,
}

impl fmt::Debug for Linear {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Linear {:?}", self.part)
    }
}

/// A [`Linear`] that every copy of the graph shares.
#[derive(Clone, Debug)]
struct Shared(Arc<Linear>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shared {}

impl Op for Shared {
    fn name(&self) -> StaticName {
        "Linear".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Shared {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let &[x, ..] = inputs else { bail!("a linear layer without input") };
        let mut shape = x.shape.clone();
        shape.set(2, self.0.width().to_dim());
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

impl EvalOp for Shared {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = inputs.remove(0).into_tensor();
        let &[batch, tokens, width] = x.shape() else { bail!("a linear layer takes [B, T, D]") };
        let output = self.0.product(x.into_shape(&[batch * tokens, width])?, inputs.first())?;
        Ok(tvec!(output.into_shape(&[batch, tokens, self.0.width()])?.into_tvalue()))
    }
}

impl Linear {
    /// Numbers of a row of the output.
    fn width(&self) -> usize {
        let (_, fan_out) = self.layer.projection(self.part).frozen.fans();
        if self.part == Part::GateUp { fan_out / 2 } else { fan_out }
    }

    /// The output `[N, width]` of `x` `[N, in]`.
    fn product(&self, mut x: Tensor, residual: Option<&TValue>) -> TractResult<Tensor> {
        let gain = match self.part {
            Part::Qkv => Some(&self.layer.input_norm),
            Part::GateUp => Some(&self.layer.post_norm),
            Part::O | Part::Down => None,
        };
        if let Some(gain) = gain {
            ensure!(x.shape()[1] == gain.len(), "{:?} under a norm of {}", x.shape(), gain.len());
            let mut plain = x.try_as_plain_ram_mut()?;
            kernels::norm(plain.as_slice_mut()?, gain, self.layer.eps)?;
        }
        let mut output = self.projected(&x)?;
        match (self.part, residual) {
            (Part::Qkv, None) => Ok(output),
            (Part::GateUp, None) => self.gated(&output),
            (Part::O | Part::Down, Some(residual)) => {
                let residual = residual.try_as_plain_ram()?;
                add(output.try_as_plain_ram_mut()?.as_slice_mut()?, residual.as_slice()?);
                Ok(output)
            }
            (part, _) => bail!("{part:?} has one input too many or too few"),
        }
    }

    /// `x W + bias`, `[N, out]`.
    fn projected(&self, x: &Tensor) -> TractResult<Tensor> {
        let projection = self.layer.projection(self.part);
        let (rows, (fan_in, fan_out)) = (x.shape()[0], projection.frozen.fans());
        ensure!(x.shape()[1] == fan_in, "{:?} under a weight of {fan_in}", x.shape());
        let mut output = Tensor::zero_aligned::<f32>(&[rows, fan_out], LANES * size_of::<f32>())?;
        let (input, mut view) = (x.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
        let numbers = view.as_slice_mut::<f32>()?;
        let input = View::dense(input.as_slice()?, rows, fan_in);
        projection.frozen.forward(input, (&mut *numbers, fan_out, Into::Replace), &self.pool);
        projection.add_bias(numbers);
        Ok(output)
    }

    /// `silu(gate) * up`, `[N, F]`, of both side by side.
    fn gated(&self, gate_up: &Tensor) -> TractResult<Tensor> {
        let (rows, width) = (gate_up.shape()[0], self.width());
        let mut output = Tensor::zero_aligned::<f32>(&[rows, width], LANES * size_of::<f32>())?;
        let (gate_up, mut view) = (gate_up.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
        kernels::gate(gate_up.as_slice()?, view.as_slice_mut()?, width)?;
        Ok(output)
    }
}

/// `x += y`.
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
