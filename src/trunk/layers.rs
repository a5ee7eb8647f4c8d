//! The frozen layers as a graph of few operators, made for many tokens at once.
//!
//! - In: a base and the tap. Out: a typed graph from ids `[B, T]` to hidden states `[B, T, D]`: a
//!   lookup, then four operators a layer. The canonical graph of the same layers has fifty.
//! - Weights are read, packed for the product and let go of one at a time: loading takes about the
//!   memory of the loaded trunk.
//! - Never here: the check against the canonical graph, which `trunk.rs` makes at every load.
//!
//! Source: `base/canonical.rs`, of which every operator here is a part.

use super::attention::Attention;
use super::kernels::{self, LANES, Product};
use super::{TrunkError, engine};
use crate::base::{Base, Config, Weight};
use crate::products::gemm::{Into, View};
use crate::products::{Frozen, Pool};
use crate::settings::HeadWeights;
use std::fmt;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{
    EvalContext, EvalOp, Op, StaticName, ToDim, TypedOp, bail, ensure,
};
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

/// The embedding and the layers below `tap`.
pub(super) fn graph(base: &Base, tap: usize) -> Result<TypedModel, TrunkError> {
    let product = Product::native().map_err(engine("find its kernels"))?;
    let mut builder = Builder { base, model: TypedModel::default() };
    let mut x = builder.embedding()?;
    let attention = Attention::new(base.config(), product);
    for layer in 0..tap {
        x = builder.layer(layer, x, &attention)?;
    }
    builder.model.select_output_outlets(&[x]).map_err(engine("end the graph"))?;
    Ok(builder.model)
}

/// Adds operators, weights first.
struct Builder<'a> {
    base: &'a Base,
    model: TypedModel,
}

impl Builder<'_> {
    fn embedding(&mut self) -> Result<OutletId, TrunkError> {
        let Weight { data, .. } = self.base.weight("model.embed_tokens.weight")?;
        let Config { vocab, hidden, .. } = *self.base.config();
        let table = Table(Arc::new(Frozen::new(data, (vocab, hidden), HeadWeights::Auto)));
        let wire = || -> TractResult<OutletId> {
            let (batch, length) = (self.model.symbols.sym("B"), self.model.symbols.sym("S"));
            let fact = i64::fact([batch.to_dim(), length.to_dim()]);
            let ids = self.model.add_source("input_ids", fact)?;
            Ok(self.model.wire_node("model.layers.0", table, &[ids])?[0])
        };
        wire().map_err(engine("build the embedding"))
    }

    /// From the input of a layer to that of the next.
    fn layer(
        &mut self,
        layer: usize,
        x: OutletId,
        attention: &Attention,
    ) -> Result<OutletId, TrunkError> {
        let at = |module: &str| format!("model.layers.{layer}.{module}");
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|name| at(&format!("self_attn.{name}")));
        let norm = Some(at("input_layernorm"));
        let biased = self.base.config().qkv_bias;
        let qkv = self.linear(&[x], norm, &qkv, biased, Ending::Each)?;
        let name = at("self_attn");
        let attended = self.model.wire_node(name, attention.clone(), &qkv);
        let attended = attended.map_err(engine("build a layer"))?[0];
        let down = [at("self_attn.o_proj")];
        let middle = self.linear(&[attended, x], None, &down, false, Ending::Add)?[0];
        let norm = Some(at("post_attention_layernorm"));
        let up = ["gate_proj", "up_proj"].map(|name| at(&format!("mlp.{name}")));
        let gated = self.linear(&[middle], norm, &up, false, Ending::Gate)?[0];
        let down = [at("mlp.down_proj")];
        Ok(self.linear(&[gated, middle], None, &down, false, Ending::Add)?[0])
    }

    /// One [`Linear`] over the modules' weights, named after the first of them.
    fn linear(
        &mut self,
        inputs: &[OutletId],
        norm: Option<String>,
        modules: &[String],
        biased: bool,
        ending: Ending,
    ) -> Result<TVec<OutletId>, TrunkError> {
        let Config { norm_eps, .. } = *self.base.config();
        let norm = match norm {
            Some(module) => Some((self.base.weight(&format!("{module}.weight"))?.data, norm_eps)),
            None => None,
        };
        let mut parts = Vec::new();
        for module in modules {
            let Weight { shape, data } = self.base.weight(&format!("{module}.weight"))?;
            let fans = match shape[..] {
                [fan_in, fan_out] => (fan_in, fan_out),
                _ => (0, 0),
            };
            let weight = Frozen::new(data, fans, HeadWeights::Auto);
            let bias = match biased {
                true => Some(self.base.weight(&format!("{module}.bias"))?.data),
                false => None,
            };
            parts.push(Part { weight, bias });
        }
        let linear = Linear { pool: Pool::default(), norm, parts, ending };
        let wired = self.model.wire_node(modules[0].clone(), Shared(Arc::new(linear)), inputs);
        wired.map_err(engine("build a layer"))
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

/// What becomes of the products.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Each is an output.
    Each,
    /// `silu(first) * second` is the output.
    Gate,
    /// The only one plus the second input is the output.
    Add,
}

/// One weight `[in, out]` and its bias.
struct Part {
    weight: Frozen,
    bias: Option<Vec<f32>>,
}

/// `norm(x)` times one or more weights.
struct Linear {
    /// Scratch of the products.
    pool: Pool,
    /// RMSNorm's gain and epsilon.
    norm: Option<(Vec<f32>, f32)>,
    parts: Vec<Part>,
    ending: Ending,
}

impl fmt::Debug for Linear {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Linear")
    }
}

/// A [`Linear`] whose weights every copy of the graph shares.
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
        let outputs = if self.0.ending == Ending::Each { self.0.parts.len() } else { 1 };
        let fact = |part: &Part| {
            let mut shape = x.shape.clone();
            shape.set(2, part.weight.fans().1.to_dim());
            f32::fact(shape)
        };
        Ok(self.0.parts[..outputs].iter().map(fact).collect())
    }

    as_op!();
}

impl EvalOp for Shared {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = inputs.remove(0).into_tensor();
        let &[batch, tokens, width] = x.shape() else { bail!("a linear layer takes [B, T, D]") };
        let outputs = self.0.products(x.into_shape(&[batch * tokens, width])?, inputs.first())?;
        let shaped = outputs.into_iter().map(|output| {
            let shape = [batch, tokens, output.shape()[1]];
            Ok(output.into_shape(&shape)?.into_tvalue())
        });
        shaped.collect()
    }
}

impl Linear {
    /// The outputs `[N, out]` of `x` `[N, in]`.
    fn products(&self, mut x: Tensor, residual: Option<&TValue>) -> TractResult<TVec<Tensor>> {
        let rows = x.shape()[0];
        if let Some((gain, epsilon)) = &self.norm {
            ensure!(x.shape()[1] == gain.len(), "{:?} under a norm of {}", x.shape(), gain.len());
            kernels::norm(x.try_as_plain_ram_mut()?.as_slice_mut()?, gain, *epsilon)?;
        }
        let input = x.try_as_plain_ram()?;
        let mut outputs = TVec::new();
        for Part { weight, bias } in &self.parts {
            let (fan_in, fan_out) = weight.fans();
            ensure!(x.shape()[1] == fan_in, "{:?} under a weight of {fan_in}", x.shape());
            let mut output =
                Tensor::zero_aligned::<f32>(&[rows, fan_out], LANES * size_of::<f32>())?;
            let mut view = output.try_as_plain_ram_mut()?;
            let numbers = view.as_slice_mut::<f32>()?;
            let input = View::dense(input.as_slice()?, rows, fan_in);
            weight.forward(input, (&mut *numbers, fan_out, Into::Replace), &self.pool);
            if let Some(bias) = bias {
                for row in numbers.chunks_exact_mut(fan_out) {
                    add(row, bias);
                }
            }
            outputs.push(output);
        }
        match (&self.ending, &mut *outputs, residual) {
            (Ending::Each, _, None) => Ok(outputs),
            (Ending::Gate, [gate, up], None) => {
                let up = up.try_as_plain_ram()?;
                kernels::gate(gate.try_as_plain_ram_mut()?.as_slice_mut()?, up.as_slice()?)?;
                outputs.truncate(1);
                Ok(outputs)
            }
            (Ending::Add, [output], Some(residual)) => {
                let residual = residual.try_as_plain_ram()?;
                add(output.try_as_plain_ram_mut()?.as_slice_mut()?, residual.as_slice()?);
                Ok(outputs)
            }
            (ending, _, _) => bail!("{ending:?} does not end {} products", self.parts.len()),
        }
    }
}

/// `x += y`.
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
