//! The frozen layers as a graph of few operators, made for many tokens at once.
//!
//! - In: the weights below the tap. Out: a typed graph from the ids `[N]` of some sequences, one after
//!   the other, and their lengths, to hidden states `[N, D]`: a lookup, then one operator a layer, which
//!   the decoder computes. The canonical graph of the same layers has fifty.
//! - The operators hold the weights by reference: what writes text holds the same.
//! - Never here: the check against the canonical graph, which `trunk.rs` makes.
//!
//! Source: `base/canonical.rs`, of which every operator here is a part.

use super::{TrunkError, engine};
use crate::base::{Base, BaseError, Config, Weight};
use crate::decoder::{self, Context, Sequences, Shape, Turns, Weights};
use crate::products::{Form, Frozen, Pool};
use crate::settings::MatmulPrecision;
use rayon::prelude::*;
use std::fmt;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{
    EvalContext, EvalOp, Op, StaticName, ToDim, TypedOp, bail, ensure,
};
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

/// What the graph computes with.
pub(super) struct Lower {
    /// `[V, D]`
    pub(super) embedding: Arc<Frozen>,
    /// The layers below the tap, as narrow as loses nothing.
    pub(super) layers: Vec<Arc<Weights>>,
    pub(super) turns: Arc<Turns>,
    /// Buffers of all layers; blocks that run side by side share them.
    pub(super) pool: Arc<Pool>,
}

impl Lower {
    pub(super) fn load(base: &Base, tap: usize) -> Result<Self, BaseError> {
        let config = base.config();
        let Weight { data, .. } = base.weight("model.embed_tokens.weight")?;
        let embedding = Frozen::new(data, (config.vocab, config.hidden), Form::default());
        let layer = |index| Ok(Arc::new(Weights::load(base, index, Form::default())?));
        let layers: Result<_, BaseError> = (0..tap).into_par_iter().map(layer).collect();
        Ok(Self {
            embedding: Arc::new(embedding),
            layers: layers?,
            turns: Arc::new(Turns::new(config, config.positions())),
            pool: Arc::default(),
        })
    }
}

impl Lower {
    /// The same numbers, shared, multiplied otherwise.
    pub(super) fn at(self, precision: MatmulPrecision) -> Self {
        let layers = self.layers.iter().map(|layer| Arc::new(layer.at(precision))).collect();
        Self { layers, ..self }
    }
}

/// The embedding and the layers below the tap.
pub(super) fn graph(lower: &Lower, config: &Config) -> Result<TypedModel, TrunkError> {
    let mut model = TypedModel::default();
    wire(&mut model, lower, config).map_err(engine("build the graph"))?;
    Ok(model)
}

fn wire(model: &mut TypedModel, lower: &Lower, config: &Config) -> TractResult<()> {
    let rows = [model.symbols.sym("N").to_dim()];
    let ids = model.add_source("input_ids", i64::fact(rows))?;
    let sequences = [model.symbols.sym("B").to_dim()];
    let lengths = model.add_source("lengths", i64::fact(sequences))?;
    let table = Table(Arc::clone(&lower.embedding));
    let mut x = model.wire_node("model.layers.0", table, &[ids])?[0];
    for (index, weights) in lower.layers.iter().enumerate() {
        let layer = Layer {
            weights: Arc::clone(weights),
            turns: Arc::clone(&lower.turns),
            shape: Shape::of(config),
            pool: Arc::clone(&lower.pool),
        };
        let name = format!("model.layers.{}", index + 1);
        x = model.wire_node(name, Decoder(Arc::new(layer)), &[x, lengths])?[0];
    }
    model.select_output_outlets(&[x])
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
        shape.insert_axis(1)?;
        shape.set(1, self.0.fans().1.to_dim());
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

impl EvalOp for Table {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [ids] = &*inputs else { bail!("{} inputs, expected 1", inputs.len()) };
        let &[rows] = ids.shape() else { bail!("an embedding takes [N]") };
        let (vocab, width) = self.0.fans();
        let mut output = Tensor::zero::<f32>(&[rows, width])?;
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

/// One decoder layer over the rows of some sequences, which every copy of the graph shares.
#[derive(Clone)]
struct Decoder(Arc<Layer>);

/// What one of them needs.
struct Layer {
    weights: Arc<Weights>,
    turns: Arc<Turns>,
    shape: Shape,
    pool: Arc<Pool>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Decoder")
    }
}

impl PartialEq for Decoder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Decoder {}

impl Op for Decoder {
    fn name(&self) -> StaticName {
        "DecoderLayer".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Decoder {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let &[x, _] = inputs else { bail!("{} inputs of a layer, expected 2", inputs.len()) };
        Ok(tvec!(x.without_value()))
    }

    as_op!();
}

impl EvalOp for Decoder {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Layer { weights, turns, shape, pool } = &*self.0;
        let [x, lengths] = &*inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        let &[rows, width] = x.shape() else { bail!("a layer takes [N, D]") };
        let d = weights.input_norm.len();
        ensure!(width == d, "rows of {width}, expected {d}");
        let lengths = lengths.try_as_plain_ram()?;
        let lengths = lengths.as_slice::<i64>()?.iter().map(|&length| length as usize);
        let longest = lengths.clone().max().unwrap_or(0);
        let most = turns.positions;
        ensure!(longest <= most, "{longest} tokens, expected at most {most}");
        let sequences = &Sequences::new(lengths);
        ensure!(sequences.rows() == rows, "{rows} rows of {} tokens", sequences.rows());
        let (modules, factors) = (&[][..], &[][..]);
        let shape = *shape;
        let layer = decoder::Layer { weights, turns, pool, modules, factors, shape, sequences };
        let mut stream = pool.copy(x.try_as_plain_ram()?.as_slice::<f32>()?);
        layer.forward(&mut stream, None, Context::Whole);
        let output = Tensor::from_shape(&[rows, width], &stream)?;
        pool.give([stream]);
        Ok(tvec!(output.into_tvalue()))
    }
}
