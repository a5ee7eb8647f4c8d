//! How much memory a job will take, before it starts.
//!
//! - In: the opened base, the settings, how much text there is. Out: bytes, by what they are for.
//! - What is counted is the peak of the whole process, on the CPU: loading and learning do not fall
//!   together, so it is the larger of the two. `cargo bench --bench memory` holds it to what is taken.
//! - `sapwood doctor` prints it; whoever loads a base or begins a job refuses what does not fit.

use super::heritage::{HELD_OUT_BYTES_MAX, TOKEN_BYTES};
use super::job::Material;
use super::precision::precision;
use super::{anchor, texts, threads};
use crate::adapter::{Module, Spec};
use crate::base::{Base, Config};
use crate::block::Block;
use crate::head;
use crate::settings::{Activations, HeadWeights, MatmulPrecision, Settings};
use crate::state::State;
use crate::trunk;
use serde::Serialize;

/// Bytes of a job's peak, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The program itself: its code, its threads, what the allocator keeps beside.
    pub program: u64,
    /// Weights of the base, as they are kept.
    pub weights: u64,
    /// Fast, slow, gradient, AdamW's two moments, and the roots that whiten, with the ranks of a global adapter;
    /// of an install, learners before and after.
    pub learners: u64,
    /// What the backward pass keeps of one batch, and the largest temporary buffers of a step, of reading
    /// text or of writing some.
    pub step: u64,
    /// Hidden states that the job keeps: of fresh blocks, of the base's own texts, of held-out text.
    pub hidden: u64,
    /// Texts that are written beside the job, what is kept of earlier ones, and adapters for them.
    pub serving: u64,
    /// All that is there while the base is loaded: its weights in f32, and the output layer again.
    pub loading: u64,
}

/// What whoever serves a base may take at most beside its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// Of keys and values of earlier texts.
    pub prompt_cache_bytes: u64,
    /// Numbers of all adapters that are held.
    pub adapter_numbers: u64,
    /// Texts at the same time.
    pub texts: usize,
    /// Tokens of each, prompt and answer together.
    pub tokens: usize,
}

impl Serving {
    fn bytes(self, config: &Config) -> u64 {
        let tokens = self.tokens.min(config.positions());
        let texts = wide(self.texts) * head::session_bytes(config, 1, tokens);
        self.prompt_cache_bytes + NUMBER * self.adapter_numbers + texts
    }
}

/// Tokens that a job will meet, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// To learn.
    pub fresh: u64,
    /// Held out, of the new domain, of general text and of old domains.
    pub held_out: u64,
}

impl Tokens {
    /// Of a job on top of a state.
    pub fn of(material: &Material, state: &State) -> Self {
        let count =
            |blocks: &[Block]| blocks.iter().map(|block| block.tokens.len() as u64).sum::<u64>();
        let held_out = count(&material.valid) + count(&material.general);
        let all = Self { fresh: count(&material.train), held_out };
        if state.current().is_some() { all.with_old() } else { all }
    }

    /// The same, with as much text of old domains as a state keeps.
    pub fn with_old(self) -> Self {
        Self { held_out: self.held_out + HELD_OUT_BYTES_MAX / TOKEN_BYTES, ..self }
    }
}

/// Most bytes of hidden states that a job keeps of its fresh blocks.
pub(super) const HIDDEN_BYTES_MAX: u64 = 256 << 20;
/// What the program takes before it loads anything, and a little for what its threads leave lying.
const PROGRAM_BYTES: u64 = 30 << 20;
/// Bytes of a number in f32.
const NUMBER: u64 = size_of::<f32>() as u64;
/// What an allocator needs for a hundred bytes that are asked for.
const ALLOCATED: u64 = 105;

impl Memory {
    /// The estimate for a base, an adapter of it with all its ranks, the settings and the text of a job.
    pub fn estimate(base: &Base, spec: &Spec, settings: &Settings, tokens: Tokens) -> Self {
        let config = base.config();
        let sizes = Sizes::of(config, settings, precision(base, settings));
        let d = sizes.d;
        let own = wide(settings.own_texts()) * sizes.own_tokens;
        let own_tokens = settings.max_seq_length.min(anchor::TOKENS_MAX);
        let writing = head::session_bytes(config, settings.own_texts(), own_tokens);
        let step = sizes.step(settings, Thin::of(spec)).max(sizes.reading(settings)).max(writing);
        let kept = |tokens: u64, most: u64| most.min(NUMBER * tokens * d);
        let roots = roots(spec, settings);
        let whole: u64 = config.weights().iter().map(|(_, sizes)| numbers(sizes)).sum();
        let with = |bytes: u64| bytes * ALLOCATED / 100;
        Self {
            program: PROGRAM_BYTES,
            weights: weights(base, settings),
            learners: with(NUMBER * (6 * wide(spec.len()) + 10 * borrowed(spec, settings)) + roots),
            step: with(step),
            hidden: with(
                kept(tokens.fresh, HIDDEN_BYTES_MAX)
                    + kept(own, HIDDEN_BYTES_MAX)
                    + kept(tokens.held_out, texts::HIDDEN_BYTES_MAX),
            ),
            serving: 0,
            loading: PROGRAM_BYTES + with(NUMBER * (whole + wide(config.vocab) * d)),
        }
    }

    /// The same where texts are written beside the job.
    pub fn with_serving(self, base: &Base, serving: Serving) -> Self {
        Self { serving: serving.bytes(base.config()), ..self }
    }

    /// The estimate for a base that serves texts and learns nothing.
    pub fn of_serving(base: &Base, settings: &Settings, serving: Serving) -> Self {
        let (spec, tokens) = (Spec { modules: Vec::new() }, Tokens::default());
        let job = Self::estimate(base, &spec, settings, tokens);
        Self { learners: 0, step: 0, hidden: 0, ..job }.with_serving(base, serving)
    }

    /// The estimate for an install: learners as they were, `was`, and three candidates as they will be, `next`.
    /// A step, and what a job keeps of its text, are counted as for a job on top.
    pub fn of_install(
        base: &Base,
        [was, next]: [&Spec; 2],
        settings: &Settings,
        tokens: Tokens,
    ) -> Self {
        let job = Self::estimate(base, next, settings, tokens);
        let [was_numbers, next_numbers] = [was, next].map(|spec| wide(spec.len()));
        // Record and learners; what is offered, the last candidate, the next one and the one that is rehearsed,
        // and its gradient; sums, and roots of one input beside them.
        let all = NUMBER * (8 * was_numbers + 14 * next_numbers)
            + 2 * head::sum_bytes(was)
            + roots(next, settings);
        let learners = all * ALLOCATED / 100;
        Self { learners, ..job }
    }

    /// What a job takes beside the loaded base.
    pub fn job(&self) -> u64 {
        self.learners + self.step + self.hidden
    }

    /// The peak of it all.
    pub fn total(&self) -> u64 {
        (self.program + self.weights + self.job() + self.serving).max(self.loading)
    }
}

/// Bytes of the weights as they are kept: trunk and head share an embedding that both keep alike.
fn weights(base: &Base, settings: &Settings) -> u64 {
    let config = base.config();
    let learning = settings.layers_of(config.layers).unwrap_or(config.layers);
    let tap = config.layers - learning;
    let of_head = |name: &str| {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        layer.and_then(|layer| layer.parse::<usize>().ok()).is_some_and(|layer| layer >= tap)
    };
    let kept = |name: &str| {
        let narrow = if trunk::keeps_narrow() { base.narrowest(name).bytes() } else { NUMBER };
        let is_shared = name == "lm_head.weight" && config.tied;
        match settings.head_weights {
            HeadWeights::Int8 if name == "lm_head.weight" || of_head(name) => 1,
            _ if is_shared => 0,
            HeadWeights::Bf16 if of_head(name) => 2,
            HeadWeights::F32 if of_head(name) => NUMBER,
            _ => narrow,
        }
    };
    config.weights().iter().map(|(name, sizes)| kept(name) * numbers(sizes)).sum()
}

fn numbers(sizes: &[usize]) -> u64 {
    sizes.iter().map(|&size| wide(size)).product()
}

fn wide(x: usize) -> u64 {
    x as u64
}

/// Bytes of the roots that whiten; the sums that they are made from stay until they are.
fn roots(spec: &Spec, settings: &Settings) -> u64 {
    let is_whitened = settings.own_texts() > 0 && settings.whitening > 0.0;
    if is_whitened { 2 * head::sum_bytes(spec) } else { 0 }
}

/// Numbers of a global adapter's ranks. As large as they may be, a commit shows beside a step: the record and
/// its bytes, four vectors each, the adapter's files and the adapter in use before.
fn borrowed(spec: &Spec, settings: &Settings) -> u64 {
    let one = |module: &Module| {
        let ranks = wide(module.rank.saturating_sub(settings.rank));
        ranks * wide(module.fan_in + module.fan_out)
    };
    spec.modules.iter().map(one).sum()
}

/// Ranks whose part of a row, `x Aᵀ`, a pass keeps: of all layers, and of the layer that has the most.
#[derive(Clone, Copy)]
struct Thin {
    all: u64,
    layer: u64,
}

impl Thin {
    fn of(spec: &Spec) -> Self {
        let ranks = |modules: &[Module]| modules.iter().map(|module| wide(module.rank)).sum();
        let layers = spec.modules.chunk_by(|one, next| one.layer == next.layer);
        Self { all: ranks(&spec.modules), layer: layers.map(ranks).max().unwrap_or(0) }
    }
}

/// The sizes that buffers are made of.
struct Sizes {
    d: u64,
    f: u64,
    q: u64,
    kv: u64,
    heads: u64,
    vocab: u64,
    learning: u64,
    is_medium: bool,
    is_qk_normed: bool,
    /// Tokens of the longest block, and of a text of the base's own.
    t: u64,
    own_tokens: u64,
}

impl Sizes {
    fn of(config: &Config, settings: &Settings, precision: MatmulPrecision) -> Self {
        let t = wide(settings.max_seq_length);
        Self {
            d: wide(config.hidden),
            f: wide(config.ffn),
            q: wide(config.heads * config.head_dim),
            kv: wide(config.kv_heads * config.head_dim),
            heads: wide(config.heads),
            vocab: wide(config.vocab),
            learning: wide(settings.layers_of(config.layers).unwrap_or(config.layers)),
            is_medium: precision == MatmulPrecision::Medium,
            is_qk_normed: config.qk_norm,
            t,
            own_tokens: t.min(wide(anchor::TOKENS_MAX)),
        }
    }

    /// Tape and temporary buffers of one step.
    fn step(&self, settings: &Settings, thin: Thin) -> u64 {
        let &Self { d, f, q, kv, heads, learning, t, .. } = self;
        let is_anchored = settings.own_texts() > 0 && settings.anchor_weight > 0.0;
        let texts = wide(settings.anchor_batch_size.min(settings.own_texts()));
        let anchored = if is_anchored { texts * self.own_tokens } else { 0 };
        let rows = t * wide(settings.batch_size + settings.replay_batch_size) + anchored;
        // Queries and keys before their norms.
        let raw = if self.is_qk_normed { q + kv } else { 0 };
        let kept = rows * (2 * d + 2 * q + 2 * kv + raw + 2 * f + 2 + heads);
        let tape = match settings.activations {
            Activations::F32 => NUMBER * (learning * kept + rows * thin.all),
            Activations::Bf16 => NUMBER * (learning * kept / 2 + kept + rows * thin.all),
            Activations::Recompute => NUMBER * (learning * rows * d + kept + rows * thin.layer),
        };
        let logits = wide(head::logit_rows(settings.activations)) * self.vocab;
        // Rows that are rounded, two numbers in the place of one: the widest of a layer, both slopes of
        // its MLP, and slopes of logits.
        let rounded = match self.is_medium {
            true => rows * f.max(q / 2 + kv) + logits / 2,
            false => 0,
        };
        tape + NUMBER * (rows * (8 * d + 3 * f + q) + rounded + 2 * logits)
    }

    /// Temporary buffers of the trunk while every thread reads blocks of full length.
    fn reading(&self, settings: &Settings) -> u64 {
        let &Self { d, f, q, .. } = self;
        let rows = self.t.max(wide(trunk::ROWS_MAX)) * wide(threads(settings));
        // Rows that are rounded, of the widest product that a layer goes through.
        let rounded = if self.is_medium { d.max(f).max(q) / 2 } else { 0 };
        NUMBER * rows * (8 * d + 3 * f + q + rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::{LearnError, spec};
    use std::path::Path;

    #[test]
    fn what_is_served_is_counted_beside_the_job() -> Result<(), LearnError> {
        let base = Base::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base"))?;
        let settings = Settings::default();
        let spec = spec(base.config(), &settings)?;
        let alone = Memory::estimate(&base, &spec, &settings, Tokens::default());
        let text = head::session_bytes(base.config(), 1, 100);
        let serving =
            Serving { prompt_cache_bytes: 1 << 30, adapter_numbers: 10, texts: 3, tokens: 100 };
        let beside = alone.with_serving(&base, serving);
        assert_eq!(beside.serving, (1 << 30) + 40 + 3 * text);
        assert_eq!(beside.job(), alone.job());
        let all = alone.program + alone.weights + alone.job();
        assert_eq!(beside.total(), all + beside.serving, "a GiB is more than loading takes");
        // Longer than the base can write is not written.
        let long = Serving { tokens: usize::MAX, ..serving };
        assert!(alone.with_serving(&base, long).serving < 1 << 32);
        let only = Memory::of_serving(&base, &settings, serving);
        assert_eq!((only.job(), only.serving), (0, beside.serving));
        Ok(())
    }

    /// A step that is small comes after texts that are written abreast, which take more.
    #[test]
    fn what_the_base_writes_is_counted() -> Result<(), LearnError> {
        let base = Base::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base"))?;
        let lean = Settings {
            activations: Activations::Recompute,
            num_layers: 1,
            batch_size: 1,
            replay_batch_size: 0,
            max_seq_length: anchor::TOKENS_MAX,
            threads: 1,
            ..Settings::default()
        };
        let spec = spec(base.config(), &lean)?;
        let step = |anchor_blocks| {
            let settings = Settings { anchor_blocks, ..lean.clone() };
            Memory::estimate(&base, &spec, &settings, Tokens::default()).step
        };
        let texts = |count| head::session_bytes(base.config(), count, anchor::TOKENS_MAX);
        assert!(step(0) < texts(32), "the test tests nothing: {} of {}", step(0), texts(32));
        assert!(step(32) >= texts(32));
        assert!(step(0) < step(16) && step(16) < step(32) && step(32) == step(512));
        Ok(())
    }
}
