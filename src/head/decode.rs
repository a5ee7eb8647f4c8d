//! Every layer of the base, as a text needs them: a prompt at once, then token by token.
//!
//! - In: the embedding of the tokens that follow, an adapter or none. Out: the logits of the next.
//! - On a device a pass costs about the same for many texts as for one, so texts of one length may go
//!   abreast there; on the CPU each has a session of its own.
//! - The weights are those that trunk and head learn with; a session has its keys, its values and
//!   scratch, nothing else. Any number of sessions run at once, each on the threads in force.
//! - Where the head's weights are candle's, on other devices, so is the work (`reference.rs`).
//! - Invariant: a session takes no more memory than it said before it began.
//! - Never here: sampling, the vocabulary, gradients.

use super::attention::{self, Shape, Turn};
use super::cache::Past;
use super::layer::{Kept, Rotary};
use super::lora::{self, Lora};
use super::reference::{Cache, ReferenceLayer};
use super::{Below, Factors, Head, HeadError, entropy, kernels};
use crate::adapter::{Adapter, Module};
use crate::base::Config;
use crate::products::Pool;
use crate::products::gemm::{Into, View};
use crate::trunk::Trunk;
use crate::weights::{self, Part};
use candle_core::{Result, Tensor};

/// Most tokens of a prompt that go through the layers together: enough that packing the weights
/// costs little beside the products, few enough for memory.
const ROWS_MAX: usize = 256;
/// Most texts of one session on a device: keys and values of each take its memory. No other number was
/// measured.
const ABREAST_MAX: usize = 32;

/// All layers of a base whose trunk and head are loaded.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    trunk: &'a Trunk,
    below: Option<&'a Below>,
    head: &'a Head,
}

/// One text, or some abreast: the adapter it is written with, and the keys and values of what it has
/// seen.
pub struct Session<'a> {
    texts: usize,
    seen: usize,
    tokens_max: usize,
    state: State<'a>,
}

/// What a session keeps, by who computes.
enum State<'a> {
    /// The CPU's own kernels.
    Hand {
        adapter: Option<&'a Adapter>,
        /// Of every layer.
        past: Vec<Past>,
        /// The residual stream after the last layer and the last token, `[D]`.
        last: Vec<f32>,
        pool: Pool,
    },
    /// candle's ops.
    Candle {
        factors: Factors,
        caches: Vec<Cache>,
        rotary: Rotary,
        /// As above, `[texts, D]`.
        last: Option<Tensor>,
    },
}

impl Session<'_> {
    /// Tokens seen so far, of each text.
    pub fn seen(&self) -> usize {
        self.seen
    }
}

impl<'a> Decoder<'a> {
    /// `below`: the layers under the tap, where the trunk has them from another engine.
    pub fn new(trunk: &'a Trunk, below: Option<&'a Below>, head: &'a Head) -> Self {
        Self { trunk, below, head }
    }

    /// The base's configuration.
    pub fn config(&self) -> &'a Config {
        &self.head.config
    }

    /// How many texts a session can have: one on the CPU.
    pub fn abreast_max(&self) -> usize {
        if self.head.is_frozen() { 1 } else { ABREAST_MAX }
    }

    /// A new, empty session of at most `tokens_max` tokens.
    ///
    /// # Errors
    /// [`HeadError::Adapter`] when the adapter does not fit; [`HeadError::Base`] when the model
    /// computes no sequence so long; [`HeadError::Apart`] when trunk and head are not of one whole.
    pub fn session(
        &self,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> std::result::Result<Session<'a>, HeadError> {
        self.session_of(1, adapter, tokens_max)
    }

    /// The same of `texts` texts abreast, as many as [`Decoder::abreast_max`] at most.
    ///
    /// # Errors
    /// [`HeadError::Abreast`], and as [`Decoder::session`].
    pub fn session_of(
        &self,
        texts: usize,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> std::result::Result<Session<'a>, HeadError> {
        let max = self.abreast_max();
        if !(1..=max).contains(&texts) {
            return Err(HeadError::Abreast { texts, max });
        }
        let config = self.config();
        config.check_length(tokens_max)?;
        let lower = match self.head.is_frozen() {
            true => self.trunk.layers().len(),
            false => self.below.map_or(0, Below::len),
        };
        if lower != self.head.tap {
            return Err(HeadError::Apart { lower, tap: self.head.tap });
        }
        let all = 0..config.layers;
        if let Some(adapter) = adapter {
            super::check(adapter, config, all.clone())?;
        }
        let state = if self.head.is_frozen() {
            let shape = self.head.shape(1, 1);
            let past = all.map(|_| Past::new(tokens_max, &shape)).collect();
            State::Hand { adapter, past, last: Vec::new(), pool: Pool::default() }
        } else {
            let (factors, _) = self.head.factors(adapter, all.clone(), false)?;
            let caches = all.map(|_| Cache::default()).collect();
            let rotary = Rotary::new(config, tokens_max, &self.head.device)?;
            State::Candle { factors, caches, rotary, last: None }
        };
        Ok(Session { texts, seen: 0, tokens_max, state })
    }

    /// Most bytes of a session of one text of `tokens` tokens: keys and values, and what one pass needs.
    pub fn session_bytes(&self, tokens: usize) -> u64 {
        let Config { layers, hidden, ffn, vocab, .. } = *self.config();
        let shape = self.head.shape(1, 1);
        let past = 2 * layers * shape.kv() * tokens;
        let row = 3 * hidden + shape.qkv() + shape.q() + 3 * ffn;
        // A pool's buffers are up to twice as long as what was asked for.
        let scratch = 2 * tokens.min(ROWS_MAX) * row + 2 * vocab;
        (size_of::<f32>() * (past + scratch)) as u64
    }

    /// Goes on with tokens whose embedding is `embedded`, `[texts, n, D]`.
    ///
    /// # Errors
    /// [`HeadError::Length`] when the session has no room for them; nothing was changed then.
    pub fn extend(
        &self,
        session: &mut Session<'_>,
        embedded: &[f32],
    ) -> std::result::Result<(), HeadError> {
        let d = self.config().hidden * session.texts;
        let got = session.seen + embedded.len() / d;
        if got > session.tokens_max {
            return Err(HeadError::Length { got, max: session.tokens_max });
        }
        // One way into the threads in force, instead of one for every loop.
        rayon::scope(|_| {
            // Texts abreast lie one after the other, and so does what is to be said of each.
            let rows_max = if session.texts == 1 { ROWS_MAX } else { usize::MAX / d };
            for rows in embedded.chunks(rows_max * d) {
                self.pass(session, rows)?;
                session.seen += rows.len() / d;
            }
            Ok(())
        })
    }

    /// The logits `[texts, V]` of the token after the last; not a number before the first.
    ///
    /// # Errors
    /// [`HeadError::Engine`] when a device fails.
    pub fn logits(&self, session: &Session<'_>) -> std::result::Result<Vec<f32>, HeadError> {
        let (head, config) = (self.head, self.config());
        match &session.state {
            State::Hand { last, .. } if last.is_empty() => Ok(vec![f32::NAN; config.vocab]),
            State::Candle { last: None, .. } => Ok(vec![f32::NAN; session.texts * config.vocab]),
            State::Hand { last, .. } => {
                let lm_head = head.lm_head.frozen()?;
                let (mut normed, mut logits) = (vec![0f32; last.len()], vec![0f32; config.vocab]);
                entropy::with_f32(&head.norm, |gain| {
                    kernels::rms_norm(last, gain, config.norm_eps, &mut normed, &mut [0.0]);
                })?;
                rayon::scope(|_| lm_head.forward_row(&normed, &mut logits, Into::Replace));
                Ok(logits)
            }
            State::Candle { last: Some(last), .. } => {
                let normed = head.normed(last)?;
                Ok(normed.matmul(&head.lm_head.tensor()?)?.flatten_all()?.to_vec1()?)
            }
        }
    }

    /// Some rows through all layers.
    fn pass(&self, session: &mut Session<'_>, rows: &[f32]) -> Result<()> {
        let (d, seen, texts) = (self.config().hidden, session.seen, session.texts);
        let tokens = rows.len() / d / texts;
        match &mut session.state {
            State::Hand { adapter, past, last, pool } => {
                let (cos, sin) = self.trunk.turns();
                let from = seen * self.config().head_dim / 2;
                let turns = (&cos[from..], &sin[from..]);
                let shape = self.head.shape(1, tokens);
                let mut x = pool.copy(rows);
                for (index, past) in past.iter_mut().enumerate() {
                    let layer = self.layer(index)?;
                    let (modules, span) = adapter.map_or((&[][..], 0..0), |a| lora::part(a, index));
                    let factors = adapter.map_or(&[][..], |adapter| &adapter.values[span]);
                    Pass { layer, modules, factors, turns, shape, pool }.run(seen, past, &mut x);
                }
                last.clear();
                last.extend_from_slice(&x[x.len() - d..]);
                pool.give([x]);
                pool.settle();
            }
            State::Candle { factors, caches, rotary, last } => {
                let mut x = Tensor::from_slice(rows, (texts, tokens, d), &self.head.device)?;
                let lower = self.below.into_iter().flat_map(Below::layers);
                let layers = lower.chain(&self.head.layers).zip(&factors.layers).zip(caches);
                for ((layer, (modules, factors)), cache) in layers {
                    let config = &self.head.config;
                    let layer = ReferenceLayer { config, layer, rotary, modules, factors };
                    x = layer.forward(&x, seen, Some(cache))?;
                }
                *last = Some(x.narrow(1, tokens - 1, 1)?.squeeze(1)?);
            }
        }
        Ok(())
    }

    /// One layer of the CPU's kernels.
    fn layer(&self, index: usize) -> Result<&'a weights::Layer> {
        match index.checked_sub(self.head.tap) {
            None => Ok(&self.trunk.layers()[index]),
            Some(index) => self.head.layers[index].frozen(),
        }
    }
}

impl Head {
    /// Whether the weights are those of the CPU's own kernels.
    fn is_frozen(&self) -> bool {
        matches!(self.lm_head, Kept::Frozen(_))
    }
}

/// One layer with one adapter, over some tokens of one text.
struct Pass<'a> {
    layer: &'a weights::Layer,
    /// The layer's modules.
    modules: &'a [Module],
    /// The layer's factors, flat.
    factors: &'a [f32],
    /// Cosines and sines from the first of the tokens on.
    turns: (&'a [f32], &'a [f32]),
    shape: Shape,
    pool: &'a Pool,
}

impl Pass<'_> {
    /// Turns x, `[N, D]`, into the next residual stream; `first` is the position of the first row.
    fn run(&self, first: usize, past: &mut Past, x: &mut [f32]) {
        let (rows, shape, eps) = (self.shape.tokens, &self.shape, self.layer.eps);
        let ffn = self.layer.projection(Part::Down).frozen.fans().0;
        let (mut normed, mut inverse) = (self.pool.take(x.len()), self.pool.take(rows));
        kernels::rms_norm(x, &self.layer.input_norm, eps, &mut normed, &mut inverse);
        let mut qkv = self.pool.take(rows * shape.qkv());
        self.project(Part::Qkv, &normed, &mut qkv, Into::Replace);
        attention::rope(&mut qkv, shape, self.turns.0, self.turns.1, Turn::Forward);
        past.keep(shape, first, &qkv);
        let mut attended = self.pool.take(rows * shape.q());
        past.attend(shape, first, &qkv, &mut attended);
        self.project(Part::O, &attended, x, Into::Add);
        self.pool.give([qkv, attended]);
        kernels::rms_norm(x, &self.layer.post_norm, eps, &mut normed, &mut inverse);
        let mut gate_up = self.pool.take(rows * 2 * ffn);
        self.project(Part::GateUp, &normed, &mut gate_up, Into::Replace);
        let mut active = self.pool.take(rows * ffn);
        kernels::swiglu(&gate_up, &mut active, ffn);
        self.project(Part::Down, &active, x, Into::Add);
        self.pool.give([normed, inverse, gate_up, active]);
    }

    /// `out (+)= x W + bias + scale (x Aᵀ) Bᵀ` for the linear layers of a part, side by side.
    fn project(&self, part: Part, x: &[f32], out: &mut [f32], into: Into) {
        let projection = self.layer.projection(part);
        let (rows, (fan_in, stride)) = (self.shape.tokens, projection.frozen.fans());
        let input = View::dense(x, rows, fan_in);
        match rows {
            1 => projection.frozen.forward_row(x, out, into),
            _ => projection.frozen.forward(input, (&mut *out, stride, into), self.pool),
        }
        projection.add_bias(out);
        for &(target, column) in &projection.targets {
            let Some(lora) = Lora::of(self.modules, self.factors, target) else { continue };
            let thin = lora.add(input, (&mut out[column..], stride), self.pool);
            self.pool.give([thin]);
        }
    }
}
