//! The trunk: the frozen lower part of the base, from token ids to hidden states, run by tract.
//!
//! - In: an opened [`Base`], the tap, ids `[B, T]`. Out: the residual stream `[B, T, D]` that enters
//!   layer `tap`; 0 is the embedding's output, L what the last layer leaves.
//! - [`Whole`] runs everything up to the logits: the oracle of trunk and head together.
//! - The graph is never the file's own. [`Whole`] runs the canonical graph in f32; [`Trunk`] one of
//!   fewer operators, made for it (`trunk/layers.rs`), whose weights lie as narrow as loses nothing.
//!   Loading peaks at the canonical graph that the other is compared with.
//! - Threads: batches of blocks of one length run side by side; a product inside one takes what
//!   threads are idle.
//! - Never here: gradients, adapters, padding. This stage is the only one that names tract; a device
//!   that tract does not reach gets its layers as a function (`trunk/continued.rs`).
//! - Invariants: what runs has been compared with the plain canonical graph on this machine. tract
//!   0.23.9 miscompiles ordinary causal masks for sequences of two tokens (pass `FoldUniformMask`).
//!   A block's hidden state is the same to the last bit alone or among others, on one thread or many.

mod continued;
mod layers;
#[cfg(test)]
mod tests;

pub use continued::Layers;

use crate::base::canonical::{self, Canonical, Part};
use crate::base::{Base, BaseError, Config, Precision, Weight};
use crate::decoder::{Turns, Weights};
use crate::products::{self, Frozen};
use continued::Continued;
use layers::Lower;
use ndarray::{Array2, Array3, ArrayD, Ix3};
use prost::Message;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use tract_linalg::multithread::Executor;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TractErrorContext;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::optim::Optimizer;
use tract_onnx::tract_core::runtime::RunOptions;

/// Most blocks that go through the layers together: their rows pay for packing the weights, and
/// their activations still fit where one block's do.
pub(crate) const BATCH_MAX: usize = 4;
/// Most that the optimised graph may differ from the plain one, relative to the largest value.
const DIFFERENCE_MAX: f32 = 1e-3;

/// Why the trunk cannot be loaded or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrunkError {
    /// The base cannot be read, or the sequence is too long for it.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The tap lies above the last layer.
    #[error("the tap is {tap}, expected 0 to {layers}, the layers of the base")]
    Tap {
        /// Asked for.
        tap: usize,
        /// Layers of the base.
        layers: usize,
    },
    /// A batch without tokens.
    #[error("ids have shape [{batch}, {length}], expected at least one token")]
    Empty {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        length: usize,
    },
    /// An id that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocab}; the tokenizer is of another model")]
    Token {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// The engine failed.
    #[error("tract cannot {doing}: {what}")]
    Engine {
        /// What was under way.
        doing: &'static str,
        /// What the engine said.
        what: String,
    },
    /// The optimised graph computes something else than the plain one.
    #[error(
        "the graph as it runs is off by {difference:e} of scale for {batch} x {length} tokens, \
         expected at most {DIFFERENCE_MAX:e}; this build cannot run this base"
    )]
    Miscompiled {
        /// Sequences of the probe.
        batch: usize,
        /// Tokens of each.
        length: usize,
        /// Largest difference over largest value.
        difference: f32,
    },
    /// Layers that another engine runs compute something else than tract's.
    #[error(
        "the trunk on this device is off by {difference:e} of scale for {batch} x {length} tokens, \
         expected at most {DIFFERENCE_MAX:e}; nothing was started (use --device cpu)"
    )]
    Differs {
        /// Sequences of the probe.
        batch: usize,
        /// Tokens of each.
        length: usize,
        /// Largest difference over largest value.
        difference: f32,
    },
    /// Layers that another engine runs failed.
    #[error("the device cannot run the trunk: {what}; use --device cpu")]
    Device {
        /// What the other engine said.
        what: String,
    },
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {what}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        what: String,
    },
}

/// The frozen layers below the tap, ready to run.
pub struct Trunk {
    engine: Engine,
    /// What the engine computes with.
    lower: Lower,
    /// More than one thread, or none but the caller's.
    pool: Option<Arc<ThreadPool>>,
    tap: usize,
    /// The layers, where tract runs none but the embedding.
    continued: Option<Continued>,
}

impl Trunk {
    /// Loads the embedding and the layers below `tap`, in `0..=L`; `threads` compute together.
    /// # Errors
    /// [`TrunkError::Tap`], a base that cannot be read, or an engine that does not compute it right.
    pub fn load(base: &Base, tap: usize, threads: usize) -> Result<Self, TrunkError> {
        let layers = base.config().layers;
        if tap > layers {
            return Err(TrunkError::Tap { tap, layers });
        }
        let pool = pool(threads)?;
        let probes = Probes::of(typed_graph(base, Part::Trunk(tap))?, base.config())?;
        let lower = Lower::load(base, tap)?;
        let plan = layers::graph(&lower, base.config())?.into_runnable();
        let plan = plan.map_err(engine("prepare the graph"))?;
        let engine = probes.check(Engine { plan, config: base.config().clone() })?;
        // What comes next finds the memory of the check free.
        trim();
        Ok(Self { engine, lower, pool, tap, continued: None })
    }

    /// The residual stream before layer `tap`, `[B, T, D]`, of ids `[B, T]`.
    ///
    /// Attention is causal, so padding at the end of a row changes nothing before it.
    /// # Errors
    /// [`TrunkError::Token`], [`TrunkError::Empty`], or a length the base does not compute.
    pub fn hidden(&self, ids: &Array2<u32>) -> Result<Array3<f32>, TrunkError> {
        match (&self.continued, &self.pool) {
            (Some(layers), _) => layers.run(&self.engine.run(ids)?),
            (None, Some(pool)) if ids.nrows() == 1 => pool.install(|| self.engine.run(ids)),
            (None, Some(_)) if !ids.is_empty() => self.side_by_side(ids),
            _ => self.engine.run(ids),
        }
    }

    /// Several blocks of one length, as [`Self::hidden_of`] runs them.
    fn side_by_side(&self, ids: &Array2<u32>) -> Result<Array3<f32>, TrunkError> {
        let rows: Vec<Vec<u32>> = ids.outer_iter().map(|row| row.to_vec()).collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let all = self.hidden_of(&rows)?;
        let (batch, length) = ids.dim();
        let mut hidden = Array3::zeros((batch, length, self.width()));
        for (mut hidden, own) in hidden.outer_iter_mut().zip(&all) {
            hidden.assign(own);
        }
        Ok(hidden)
    }

    /// The residual streams before layer `tap`, each `[T, D]`, of blocks of any lengths.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_of(&self, blocks: &[&[u32]]) -> Result<Vec<Array2<f32>>, TrunkError> {
        let batches = self.batches(blocks);
        let run = |batch: &Vec<usize>| {
            let length = batch.first().map_or(0, |&block| blocks[block].len());
            let ids =
                Array2::from_shape_fn((batch.len(), length), |(row, t)| blocks[batch[row]][t]);
            // A device takes its work from one thread.
            if self.continued.is_some() { self.hidden(&ids) } else { self.engine.run(&ids) }
        };
        let hidden: Vec<Array3<f32>> = match &self.pool {
            Some(pool) if self.continued.is_none() => {
                pool.install(|| batches.par_iter().map(run).collect::<Result<_, _>>())
            }
            _ => batches.iter().map(run).collect(),
        }?;
        let mut all = vec![Array2::zeros((0, 0)); blocks.len()];
        for (batch, hidden) in batches.iter().zip(&hidden) {
            for (&block, hidden) in batch.iter().zip(hidden.outer_iter()) {
                all[block] = hidden.to_owned();
            }
        }
        Ok(all)
    }

    /// Blocks of one length that go through the layers together, by their places in `blocks`.
    ///
    /// A weight is packed once for all of a batch, and no number depends on who is beside it.
    fn batches(&self, blocks: &[&[u32]]) -> Vec<Vec<usize>> {
        let threads = self.pool.as_ref().map_or(1, |pool| pool.current_num_threads());
        let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, block) in blocks.iter().enumerate() {
            lengths.entry(block.len()).or_default().push(place);
        }
        let most = if products::one_order() { BATCH_MAX } else { 1 };
        let batches = lengths.into_values().flat_map(|places| {
            let size = places.len().div_ceil(threads).clamp(1, most);
            places.chunks(size).map(<[usize]>::to_vec).collect::<Vec<_>>()
        });
        batches.collect()
    }

    /// The embedding of ids `[T]`: `[T, D]`, row after row.
    ///
    /// # Errors
    /// [`TrunkError::Token`].
    pub fn embedded(&self, ids: &[u32]) -> Result<Vec<f32>, TrunkError> {
        let (vocab, width) = self.lower.embedding.fans();
        let mut rows = vec![0f32; ids.len() * width];
        for (&token, row) in ids.iter().zip(rows.chunks_exact_mut(width.max(1))) {
            if token as usize >= vocab {
                return Err(TrunkError::Token { token, vocab });
            }
            self.lower.embedding.row(token as usize, row);
        }
        Ok(rows)
    }

    /// `[V, D]`
    pub(crate) fn embedding(&self) -> &Frozen {
        &self.lower.embedding
    }

    /// The layers that run here: those below the tap, or none where another engine has them.
    pub(crate) fn layers(&self) -> &[Arc<Weights>] {
        &self.lower.layers
    }

    /// Those of every position.
    pub(crate) fn turns(&self) -> &Turns {
        &self.lower.turns
    }

    /// Runs `work` once on every thread that the trunk keeps, to set what a thread has of its own.
    pub fn on_threads(&self, work: impl Fn() + Sync) {
        if let Some(pool) = &self.pool {
            pool.broadcast(|_| work());
        }
    }

    /// The layer whose input [`Self::hidden`] gives.
    pub fn tap(&self) -> usize {
        self.tap
    }

    /// Hidden width D.
    pub fn width(&self) -> usize {
        self.engine.config.hidden
    }
}

impl fmt::Debug for Trunk {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Trunk below layer {}", self.tap)
    }
}

/// The whole base, ready to run.
#[derive(Debug)]
pub struct Whole {
    engine: Engine,
}

impl Whole {
    /// Loads everything, the output layer too.
    /// # Errors
    /// As [`Trunk::load`].
    pub fn load(base: &Base, threads: usize) -> Result<Self, TrunkError> {
        let executor = pool(threads)?.map_or(Executor::SingleThread, Executor::MultiThread);
        let options = RunOptions { executor: Some(executor), ..RunOptions::default() };
        let typed = typed_graph(base, Part::Whole)?;
        // The plain plan shares the weights, which optimising repacks: it goes first.
        let probes = Probes::of(typed.clone(), base.config())?;
        let plan = optimised(typed)
            .and_then(|graph| graph.into_runnable_with_options(&options))
            .map_err(engine("optimise the graph"))?;
        Ok(Self { engine: probes.check(Engine { plan, config: base.config().clone() })? })
    }

    /// Loads everything as the graph stands, without what makes it fast: the oracle of a few tokens, which
    /// takes no more memory than the weights in f32.
    /// # Errors
    /// As [`Trunk::load`].
    pub fn plain(base: &Base) -> Result<Self, TrunkError> {
        let plan = typed_graph(base, Part::Whole)?.into_runnable();
        let plan = plan.map_err(engine("prepare the plain graph"))?;
        Ok(Self { engine: Engine { plan, config: base.config().clone() } })
    }

    /// The logits `[B, T, V]` of ids `[B, T]`.
    /// # Errors
    /// As [`Trunk::hidden`].
    pub fn logits(&self, ids: &Array2<u32>) -> Result<Array3<f32>, TrunkError> {
        self.engine.run(ids)
    }
}

/// Whether weights are kept as narrow as loses nothing: where the kernels of this machine take them so.
pub(crate) fn keeps_narrow() -> bool {
    products::one_order()
}

/// Gives memory that was freed back to the system, where the allocator otherwise keeps it: after
/// loading a 540 MB base that is 0.6 GB.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "glibc has no safe way to say this")]
    // SAFETY: malloc_trim takes any padding, locks the arenas itself and moves no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A plan that passed its check, and what its input must hold to.
#[derive(Debug)]
struct Engine {
    plan: Arc<TypedRunnableModel>,
    config: Config,
}

impl Engine {
    fn check(&self, ids: &Array2<u32>, expected: &Array3<f32>) -> Result<(), TrunkError> {
        let got = self.run(ids)?;
        let difference = relative_difference(&got, expected);
        // Not a number is a failure too.
        if difference <= DIFFERENCE_MAX {
            return Ok(());
        }
        let (batch, length) = ids.dim();
        Err(TrunkError::Miscompiled { batch, length, difference })
    }

    fn run(&self, ids: &Array2<u32>) -> Result<Array3<f32>, TrunkError> {
        let (batch, length) = ids.dim();
        let vocab = self.config.vocab;
        if ids.is_empty() {
            return Err(TrunkError::Empty { batch, length });
        }
        self.config.check_length(length)?;
        if let Some(&token) = ids.iter().find(|&&token| token as usize >= vocab) {
            return Err(TrunkError::Token { token, vocab });
        }
        let ids: Tensor = ids.mapv(i64::from).into();
        let run = || -> TractResult<Array3<f32>> {
            let output = self.plan.run(tvec![ids.into_tvalue()])?.remove(0);
            Ok(output.into_tensor().into_plain_array::<f32>()?.into_dimensionality::<Ix3>()?)
        };
        run().map_err(engine("run the graph"))
    }
}

/// Short sequences and what the plain canonical graph makes of them.
struct Probes(Vec<(Array2<u32>, Array3<f32>)>);

impl Probes {
    fn of(plain: TypedModel, config: &Config) -> Result<Self, TrunkError> {
        let plan = plain.into_runnable().map_err(engine("prepare the plain graph"))?;
        let plain = Engine { plan, config: config.clone() };
        let shapes = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
        let shapes = shapes.into_iter();
        let shapes = shapes.filter(|&(_, length)| plain.config.check_length(length).is_ok());
        let ids = shapes.map(|shape| probe(shape, plain.config.vocab));
        let pairs = ids.map(|ids| plain.run(&ids).map(|expected| (ids, expected)));
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    /// Gives the engine back when it computes the same.
    fn check(self, loaded: Engine) -> Result<Engine, TrunkError> {
        for (ids, expected) in &self.0 {
            loaded.check(ids, expected)?;
        }
        Ok(loaded)
    }
}

/// Largest difference over the largest expected value; not a number when a difference is none.
fn relative_difference(got: &Array3<f32>, expected: &Array3<f32>) -> f32 {
    if got.dim() != expected.dim() {
        return f32::INFINITY;
    }
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale);
    // A comparison with what is not a number is false, so that it stays once it came.
    differences.fold(0.0, |worst, next| if next.is_nan() || next > worst { next } else { worst })
}

/// Ids that look like no text, the same on every run.
fn probe(shape: (usize, usize), vocab: usize) -> Array2<u32> {
    Array2::from_shape_fn(shape, |(row, column)| {
        ((row * 7919 + column * 104_729 + 17) % vocab) as u32
    })
}

fn engine(doing: &'static str) -> impl Fn(TractError) -> TrunkError {
    move |error| TrunkError::Engine { doing, what: format!("{error:#}") }
}

fn pool(threads: usize) -> Result<Option<Arc<ThreadPool>>, TrunkError> {
    if threads <= 1 {
        return Ok(None);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| TrunkError::Threads { threads, what: error.to_string() })?;
    Ok(Some(Arc::new(pool)))
}

/// The canonical graph with the base's weights, for any batch and length, not yet optimised.
fn typed_graph(base: &Base, part: Part) -> Result<TypedModel, TrunkError> {
    let Canonical { graph, slots, .. } = Canonical::new(base.config(), part, Precision::F32);
    let bytes = canonical::model(base.config(), graph).encode_to_vec();
    let framework = tract_onnx::onnx().with_ignore_value_info(true);
    // Weights are not in the graph: each becomes an unresolved input, then a constant.
    let parsed = framework
        .proto_model_for_read(&mut bytes.as_slice())
        .and_then(|proto| framework.parse(&proto, None))
        .map_err(engine("parse the graph"))?;
    let mut model = parsed.model;
    for slot in slots {
        let Weight { shape, data } = base.weight(&slot.name)?;
        let fill = || -> TractResult<()> {
            let tensor: Tensor = ArrayD::from_shape_vec(shape, data)?.into();
            let tensor = tensor.into_arc_tensor();
            let outlet = parsed.outlets_by_name.get(&slot.name).context("no such input")?;
            let node = model.node_mut(outlet.node);
            node.outputs[0].fact = InferenceFact::from(TypedFact::try_from(&tensor)?);
            node.op = Box::new(Const::new(tensor)?);
            Ok(())
        };
        fill().map_err(engine("take a weight"))?;
    }
    let finish = || -> TractResult<TypedModel> {
        let ids = *parsed.outlets_by_name.get("input_ids").context("no input_ids")?;
        model.set_input_outlets(&[ids])?;
        let (batch, length) = (model.symbols.sym("B").to_dim(), model.symbols.sym("S").to_dim());
        let fact = InferenceFact::dt_shape(i64::datum_type(), tvec!(batch, length));
        model.set_input_fact(0, fact)?;
        model.set_output_fact(0, InferenceFact::default())?;
        model.into_typed()
    };
    finish().map_err(engine("type the graph"))
}

/// The graph as it runs, less the pass that miscompiles causal masks.
fn optimised(mut model: TypedModel) -> TractResult<TypedModel> {
    let mut optimiser = Optimizer::declutter();
    optimiser.passes.retain(|pass| !format!("{pass:?}").starts_with("FoldUniformMask"));
    optimiser.optimize(&mut model)?;
    model.optimize()?;
    Ok(model)
}
