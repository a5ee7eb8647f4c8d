//! The one table of settings: each has its name, type, default, range, who takes it, and its meaning.
//!
//! - A row: what it means, `name: type = default, in range, home use`, and who chooses it where nobody
//!   names it. `Numbers` decide what a job computes, `Ways` only how or how far.
//! - Out: [`Settings`], the same fields as optional [`Overrides`], and [`rows`] for flags and manuals.

use super::row::{AllOrLayers, Allows, Any, Home, Modules, PartOrSteps, Row, Typed};
use super::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a setting decides.
#[derive(PartialEq, Eq)]
enum Use {
    /// What a job computes.
    Numbers,
    /// How a job is done, how far, or where it is kept: that may change while it is interrupted.
    Ways,
}

/// The bytes of a field's name as a flag.
const fn kebab<const N: usize>(name: &str) -> [u8; N] {
    let (from, mut to, mut at) = (name.as_bytes(), [0; N], 0);
    while at < N {
        to[at] = if from[at] == b'_' { b'-' } else { from[at] };
        at += 1;
    }
    to
}

/// The name of a field as a flag and as a key.
macro_rules! key {
    ($field:ident) => {{
        const NAME: &str = stringify!($field);
        const KEY: [u8; NAME.len()] = kebab(NAME);
        const {
            match std::str::from_utf8(&KEY) {
                Ok(key) => key,
                Err(_) => NAME,
            }
        }
    }};
}

/// Makes [`Settings`], their defaults and ranges, and the same fields as [`Overrides`] from one table.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+
       $field:ident: $type:ty = $start:expr, in $range:expr, $home:ident $use:ident $(, by $by:literal)?;)+) => {
        /// Everything a user may choose, with the defaults of `README.md`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings { $($(#[doc = $doc])+ pub $field: $type,)+ }

        /// What was said of the settings: a field that is `None` leaves the setting as it is.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Overrides { $($(#[doc = $doc])+ pub $field: Option<$type>,)+ }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $start,)+ }
            }
        }

        impl Overrides {
            /// These wishes, and those of `other` where these say nothing.
            pub fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)+ }
            }

            /// The settings that are named: who takes each, its key, its value.
            pub(super) fn named(&self) -> impl Iterator<Item = (Home, &'static str, String)> {
                let named = [$(self.$field.as_ref().map(|value| {
                    (Home::$home, key!($field), serde_json::to_string(value).unwrap_or_default())
                }),)+];
                named.into_iter().flatten()
            }
        }

        impl Settings {
            /// These settings with every override that is given; flags win over the file.
            pub fn merge(self, flags: Overrides) -> Self {
                Self { $($field: flags.$field.unwrap_or(self.$field),)+ }
            }

            /// Refuses the first setting that is out of its own range.
            pub(super) fn check_each(&self) -> Result<(), SettingsError> {
                $(if let Some(got) = Allows::<$type>::refused(&($range), &self.$field) {
                    let expected = Allows::<$type>::expected(&($range)).unwrap_or_default();
                    return Err(range(key!($field), &expected, got));
                })+
                Ok(())
            }

            /// These settings without those that do not decide a job's numbers.
            pub(super) fn bare(&self) -> Self {
                let start = Self::default();
                Self { $($field: match Use::$use {
                    Use::Numbers => self.$field.clone(),
                    Use::Ways => start.$field,
                },)+ }
            }
        }

        /// Every setting, in the order of the manual.
        pub fn rows() -> Vec<Row> {
            let start = toml::Table::try_from(Settings::default()).unwrap_or_default();
            vec![$(Row {
                key: key!($field),
                about: concat!($($doc),+).trim_ascii(),
                start: start.get(key!($field)).map(ToString::to_string),
                by: None $(.or(Some($by)))?,
                expected: Allows::<$type>::expected(&($range)),
                kind: <$type as Typed>::KIND,
                home: Home::$home,
            },)+]
        }
    };
}

settings! {
    /// Model folder (see `sapwood export`).
    model: Option<PathBuf> = None, in Any, Commands Ways;
    /// Data: a folder with train.jsonl (valid.jsonl, test.jsonl), a .jsonl, text files, or `-`.
    data: Option<PathBuf> = None, in Any, Adapt Ways;
    /// Optimiser steps of the job.
    iters: u64 = 100, in 1..=STEPS_MAX, Commands Numbers, by "the data";
    /// Fresh blocks of a batch.
    batch_size: usize = 3, in 1..=STEP_BLOCKS_MAX, Learning Numbers;
    /// Replayed blocks of a batch, which weigh by their number; 0 turns replay off.
    replay_batch_size: usize = 5, in 0..=DRAW_BLOCKS_MAX, Learning Numbers;
    /// Highest learning rate.
    learning_rate: f64 = 1e-3, in 1e-36..=1.0, Learning Numbers, by "the base";
    /// Warm-up: below 1 a part of `iters`, else steps.
    warmup: f64 = 0.05, in PartOrSteps, Learning Numbers;
    /// How the learning rate goes on after the warm-up.
    lr_schedule: Schedule = Schedule::Constant, in Any, Learning Numbers;
    /// Decoupled weight decay of AdamW.
    weight_decay: f64 = 0.01, in 0.0..=10.0, Learning Numbers;
    /// Gradients are scaled down to this global norm.
    max_grad_norm: f64 = 1.0, in 1e-9..=1e9, Learning Numbers;
    /// Batches that one optimiser step sums.
    grad_accumulation_steps: usize = 1, in 1..=STEP_BLOCKS_MAX, Learning Numbers;
    /// How many of the top layers learn; -1 is all.
    num_layers: i64 = 4, in AllOrLayers, Learning Numbers, by "the base";
    /// LoRA rank r.
    rank: usize = 16, in 1..=RANK_MAX, Learning Numbers, by "the base";
    /// LoRA alpha; the scale is alpha / r.
    alpha: f64 = 32.0, in 1e-6..=1e6, Learning Numbers, by "the rank";
    /// Linear layers that LoRA changes, with commas between, or all-linear.
    target_modules: Vec<String> = TARGET_MODULES.map(str::to_owned).to_vec(), in Modules, Learning Numbers;
    /// Learn answers only, not prompts.
    mask_prompt: bool = false, in Any, Learning Numbers;
    /// Most tokens T of a block.
    max_seq_length: usize = 256, in 2..=POSITIONS_MAX, Learning Numbers;
    /// Steps between two lines of progress; 0: only at the end.
    steps_per_report: u64 = 10, in 0..=STEPS_MAX, Commands Ways;
    /// Steps between two evaluations; 0: only at the end.
    steps_per_eval: u64 = 50, in 0..=STEPS_MAX, Learning Numbers;
    /// Evaluations without a gain on new text after which a job ends early; 0: it never does.
    patience: u64 = 0, in 0..=STEPS_MAX, Learning Numbers;
    /// Steps between two checkpoints; 0: only the commit.
    save_every: u64 = 50, in 0..=STEPS_MAX, Jobs Ways;
    /// Also write the slow adapter here, in PEFT layout.
    adapter_path: Option<PathBuf> = None, in Any, Adapt Ways;
    /// State folder of the device; made when it is not there.
    state: Option<PathBuf> = None, in Any, Adapt Ways;
    /// Go on with the job that was interrupted.
    resume: bool = false, in Any, Adapt Ways;
    /// Seed of all chance.
    seed: u64 = 0, in Any, Learning Numbers;
    /// How much of the slow learner is kept per step, lambda; 0: slow is fast.
    retain: f64 = 0.95, in 0.0..=RETAIN_MAX, Learning Numbers, by "the steps";
    /// Weight of the relative distance between fast and slow hidden states, in nats.
    gamma: f64 = 10.0, in 0.0..=1e6, Learning Numbers;
    /// Which hidden states that distance sees.
    embedding_layers: EmbeddingLayers = EmbeddingLayers::Last, in Any, Learning Numbers;
    /// Texts that the base writes before a job, on which it is held to itself; 0: none.
    anchor_blocks: usize = 256, in 0..=ANCHOR_BLOCKS_MAX, Learning Numbers, by "the base";
    /// How many of them a batch has.
    anchor_batch_size: usize = 1, in 1..=STEP_BLOCKS_MAX, Learning Numbers, by "the base";
    /// Weight of the divergence from the base on them, in parts of the cross-entropy.
    anchor_weight: f64 = 0.3, in 0.0..=1e6, Learning Numbers, by "the base";
    /// How strongly the inputs of A are whitened by what they are on these texts; 0: not at all.
    whitening: f64 = 0.0, in 0.0..=WHITENING_MAX, Learning Numbers, by "the base";
    /// Reptile: steps after which slow goes `1 - retain` of the way to fast and fast begins again
    /// there; 0: slow follows at every step.
    reptile_steps: u64 = 0, in 0..=STEPS_MAX, Learning Numbers;
    /// Blocks that the reservoir holds.
    replay_blocks: u64 = 2_000, in 1..=RESERVOIR_BLOCKS_MAX as u64, Learning Numbers;
    /// Bytes that the reservoir may take; given, it decides how many blocks fit.
    replay_bytes: Option<u64> = None, in 1..=RESERVOIR_BYTES_MAX, Learning Numbers;
    /// Keep hidden states at the tap in the reservoir, as f16.
    replay_hidden: bool = false, in Any, Learning Numbers;
    /// Do as the authors' program of I-LoRA does, for comparison.
    as_published: bool = false, in Any, Learning Numbers;
    /// Least relative gain on new text for an adapter to be kept; below 0 allows a loss.
    gate_new: f64 = 0.0, in -1.0..=1.0, Jobs Ways;
    /// Most relative loss on old text, the mean over its domains; half of it for a global adapter.
    gate_old: f64 = 0.02, in 0.0..=10.0, Jobs Ways;
    /// Most relative loss on any one old domain.
    gate_worst: f64 = 0.1, in 0.0..=10.0, Jobs Ways;
    /// Most relative loss on general text; half of it for a global adapter.
    gate_general: f64 = 0.05, in 0.0..=10.0, Jobs Ways;
    /// Adapters that stay on disk for a rollback, the current one included.
    keep_generations: usize = 4, in 2..=GENERATIONS_KEPT_MAX, Jobs Ways;
    /// Where to compute: auto, cpu, cuda:N or metal.
    device: Device = Device::Auto, in Any, Learning Numbers;
    /// How the frozen weights of the head are kept on the CPU.
    head_weights: HeadWeights = HeadWeights::Auto, in Any, Learning Numbers;
    /// How the CPU multiplies rows with the frozen weights.
    matmul_precision: MatmulPrecision = MatmulPrecision::Auto, in Any, Learning Numbers;
    /// What the forward pass keeps for the backward pass on the CPU.
    activations: Activations = Activations::F32, in Any, Learning Numbers;
    /// Threads; 0 is one per core.
    threads: usize = 0, in 0..=THREADS_MAX, Learning Ways;
}
