//! Our side of a measurement, through the library as a job uses it.
//!
//! - In: a work, a model folder, two adapters in PEFT's layout. Out: a worker's line.
//! - A step runs the trunk on its fresh blocks, as the first visit of a block does, and takes the
//!   hidden states of replayed ones as stored. Token ids and settings are those of `peer.py`.

use crate::measure::{Begun, Line, measure};
use crate::works::{BLOCKS, Kind, TOKENS, Work};
use anyhow::{Context, Result};
use ndarray::{Array2, Array3};
use sapwood::adapter::{Adapter, peft};
use sapwood::base::{Base, Config};
use sapwood::block::Block;
use sapwood::head::{Backend, Below, Distance, Group, Head, Keep, Objective};
use sapwood::learner::Feed;
use sapwood::settings::{Device, EmbeddingLayers, MatmulPrecision};
use sapwood::train::{self, AdamW, Batch, Follow, Learners, Rules, Step};
use sapwood::trunk::{Trunk, trim};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LEARNING_RATE: f32 = 1e-4;
pub(crate) const RULES: Rules<'static> = Rules {
    anchor_weight: 0.0,
    whitening: None,
    objective: Objective {
        gamma: 1.0,
        layers: EmbeddingLayers::Last,
        distance: Distance::Relative,
    },
    adamw: AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 },
    max_grad_norm: 1.0,
    retain: 0.99,
    follow: Follow::Always,
    still: 0,
};

/// What a worker is told.
pub(crate) struct Task {
    /// What to measure.
    pub(crate) work: Work,
    /// The model folder.
    pub(crate) model: PathBuf,
    /// The folder with the adapters `fast` and `slow`.
    pub(crate) adapters: PathBuf,
    /// Where to compute.
    pub(crate) device: Device,
    /// Threads of the trunk; rayon has been told before the process began.
    pub(crate) threads: usize,
    /// What was there before anything is loaded, and how often to repeat.
    pub(crate) begun: Begun,
}

/// Loads what the work needs and measures it.
///
/// # Errors
/// What the library says of the files or of a step.
pub(crate) fn run(task: &Task) -> Result<Line> {
    let base = Base::open(&task.model)?;
    match task.work.kind {
        Kind::Trunk { layers, precision } => trunk(task, &base, layers, precision),
        Kind::Step { replay, keep, .. } => step(task, base, replay, keep),
    }
}

fn trunk(task: &Task, base: &Base, layers: usize, precision: MatmulPrecision) -> Result<Line> {
    let trunk = Trunk::load(base, layers, task.threads)?.at(precision)?;
    trim();
    let vocab = base.config().vocab;
    let ids = Array2::from_shape_fn((BLOCKS, TOKENS), |(row, column)| id(row, column, vocab));
    measure(&task.begun, || {
        let hidden = trunk.hidden(&ids)?;
        // Weighted by place, so that the right numbers at the wrong places do not pass.
        let weighted =
            |(index, value): (usize, &f32)| f64::from(value.abs()) * (1.0 + (index % 97) as f64);
        let sum: f64 = hidden.iter().enumerate().map(weighted).sum();
        Ok(BTreeMap::from([("hidden".into(), sum / hidden.len() as f64)]))
    })
}

fn step(task: &Task, base: Base, replay: usize, keep: Keep) -> Result<Line> {
    let config = base.config().clone();
    let tap = config.layers - task.work.learning(config.layers)?;
    let backend = Backend::open(task.device)?;
    let trunk = trunk_on(&backend, &base, tap, task.threads)?.at(keep.precision)?;
    let head = Head::load(&base, tap, &backend, TOKENS, keep)?;
    drop(base);
    let mut learners = Learners::new(adapter(&task.adapters.join("fast"), &config)?);
    learners.slow = adapter(&task.adapters.join("slow"), &config)?;

    let blocks: Vec<Block> = (0..BLOCKS + replay).map(|row| block(row, config.vocab)).collect();
    let (new, old) = blocks.split_at(BLOCKS);
    let (old, stored) = Feed::new(&trunk, old, 0).batch(&(0..replay).collect::<Vec<_>>())?;
    // Keeps nothing: every step meets its fresh blocks for the first time.
    let mut feed = Feed::new(&trunk, new, 0);
    let indices: Vec<usize> = (0..BLOCKS).collect();
    trim();
    measure(&task.begun, || {
        let (new, hidden) = feed.batch(&indices)?;
        let fresh = Group { blocks: &new, hidden: &hidden };
        let replay = (replay > 0).then_some(Group { blocks: &old, hidden: &stored });
        let batch = Batch { fresh, replay, anchor: None };
        Ok(checks(&train::step(&head, &mut learners, &[batch], &RULES, LEARNING_RATE)?))
    })
}

/// Layers below the tap where the head is, as a job has them.
fn trunk_on(backend: &Backend, base: &Base, tap: usize, threads: usize) -> Result<Trunk> {
    if backend.is_cpu() || tap == 0 {
        return Ok(Trunk::load(base, tap, threads)?);
    }
    let below = Below::load(base, tap, backend, TOKENS)?;
    let layers = move |embedded: &Array3<f32>| Ok(below.hidden(embedded)?);
    Ok(Trunk::load_continued(base, tap, threads, Box::new(layers))?)
}

/// Token `column` of block `row`.
fn id(row: usize, column: usize, vocab: usize) -> u32 {
    ((row * 7919 + column * 104_729 + 17) % vocab) as u32
}

fn block(row: usize, vocab: usize) -> Block {
    Block {
        tokens: (0..TOKENS).map(|column| id(row, column, vocab)).collect(),
        learn: (0..TOKENS).map(|column| column > 0).collect(),
        bytes: 0,
        domain: 0,
    }
}

fn adapter(folder: &Path, config: &Config) -> Result<Adapter> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (lora, tensors) = (read(peft::CONFIG_FILE)?, read(peft::TENSORS_FILE)?);
    let files = peft::Files { config: &lora, tensors: &tensors, meta: None };
    Ok(peft::read(files, config, None)?.0)
}

fn checks(step: &Step) -> BTreeMap<String, f64> {
    let losses = step.losses;
    let fresh = losses.replay.map(|_| losses.fresh);
    let parts = [
        ("loss", Some(losses.total)),
        ("ce_fresh", fresh),
        ("ce_replay", losses.replay),
        ("distance", losses.embedding),
        ("gradient_norm", Some(step.gradient_norm)),
    ];
    let present = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    present.map(|(name, value)| (name.to_owned(), f64::from(value))).collect()
}
