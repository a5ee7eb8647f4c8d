//! Settings: what a user may choose, and every limit that the choices live under.
//!
//! One table at the end of this file names each setting once: its type, its default, its meaning.
//! - In: TOML text (`-c`), flags as [`Overrides`]. Out: [`Settings`] whose values are in range.
//! - Never here: files, the environment, the command line's parser.
//! - Invariant: settings that passed [`Settings::check`] hold no NaN, and every size fits the limits.

mod choices;
mod file;
mod limits;
mod method;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use choices::{Activations, Device, EmbeddingLayers, HeadWeights, Schedule};
pub use file::problem;
pub use limits::*;
pub use method::Method;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is not TOML, has an unknown key or a value of the wrong type.
    #[error("configuration, line {line}: {problem}; nothing was started")]
    File {
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A value outside its range.
    #[error("--{key}: expected {expected}, got {got}; nothing was started")]
    Range {
        /// The setting.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// Two settings that do not go together.
    #[error("--{key} {got} has no effect with {with}; nothing was started")]
    Together {
        /// The setting that would be ignored.
        key: &'static str,
        /// What it was.
        got: String,
        /// What rules it out.
        with: &'static str,
    },
    /// A setting has no JSON.
    #[error("the settings cannot be written down: {0}; nothing was started")]
    Identity(#[from] serde_json::Error),
}

impl Overrides {
    /// Reads a configuration file; what it does not name stays open.
    ///
    /// # Errors
    /// [`SettingsError::File`] with the line of an unknown key, a wrong type or broken TOML.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|error| {
            let (line, problem) = file::problem(text, &error);
            let problem = match problem.split_once(", expected one of") {
                // The list of all settings is long, that of a setting's words is what is needed.
                Some((unknown, _)) if unknown.starts_with("unknown field") => {
                    format!("{unknown}; settings have the names of the flags, see `sapwood adapt --help`")
                }
                _ => problem,
            };
            SettingsError::File { line, problem }
        })
    }

    /// These wishes if none of them would be ignored, with what follows from them.
    ///
    /// # Errors
    /// [`SettingsError::Together`] for the first that another one rules out.
    pub fn together(self) -> Result<Self, SettingsError> {
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        let above_0 = |value: Option<f64>| number(value.filter(|&value| value > 0.0));
        let of_texts = [
            ("whitening", above_0(self.whitening)),
            ("anchor-weight", above_0(self.anchor_weight)),
        ];
        if self.anchor_blocks == Some(0) {
            none_of("--anchor-blocks 0", of_texts.clone())?;
        }
        if self.as_published != Some(true) {
            return Ok(self);
        }
        let layers = self.embedding_layers.map(|layers| format!("{layers:?}").to_lowercase());
        let fixed = [
            ("retain", number(self.retain)),
            ("gamma", number(self.gamma)),
            ("embedding-layers", layers),
            ("anchor-blocks", above_0(self.anchor_blocks.map(|blocks| blocks as f64))),
            ("reptile-steps", above_0(self.reptile_steps.map(|steps| steps as f64))),
        ];
        none_of("--as-published", of_texts.into_iter().chain(fixed))?;
        Ok(self.or(Self {
            retain: Some(PUBLISHED_RETAIN),
            gamma: Some(PUBLISHED_GAMMA),
            embedding_layers: Some(EmbeddingLayers::All),
            anchor_blocks: Some(0),
            whitening: Some(0.0),
            ..Self::default()
        }))
    }

    /// What a checkpoint keeps of settings (see [`Settings::identity`]), as wishes again.
    ///
    /// # Errors
    /// [`SettingsError::Identity`] when another version knew settings that this one does not.
    pub fn from_identity(identity: &[(String, String)]) -> Result<Self, SettingsError> {
        let mut values = serde_json::Map::new();
        for (name, value) in identity {
            let key = name.trim_start_matches('-').to_owned();
            values.insert(key, serde_json::from_str(value)?);
        }
        for key in SINCE {
            values.entry(key).or_insert_with(|| 0.into());
        }
        Ok(serde_json::from_value(values.into())?)
    }
}

/// What the authors' program keeps of slow at every step, from the first on.
pub const PUBLISHED_RETAIN: f64 = 0.25;

/// Its weight of the distance, whose squares are not relative to anything.
pub const PUBLISHED_GAMMA: f64 = 1.0;

/// What the first checkpoints do not name, since nobody did it then.
const SINCE: [&str; 2] = ["anchor-blocks", "whitening"];

impl Settings {
    /// Reads a configuration file; a key that is left out has its default.
    ///
    /// # Errors
    /// [`SettingsError::File`] with the line of an unknown key, a wrong type or broken TOML.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        Ok(Self::default().merge(Overrides::from_toml(text)?))
    }

    /// Refuses what is out of range, by name.
    ///
    /// # Errors
    /// [`SettingsError::Range`] for the first setting that is.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_sizes()?;
        self.check_reals()?;
        let expected = format!("one or more of {}, each once", TARGET_MODULES.join(", "));
        let known = |name: &String| TARGET_MODULES.contains(&name.as_str());
        let mut names = self.target_modules.clone();
        names.sort_unstable();
        names.dedup();
        let once = names.len() == self.target_modules.len() && !names.is_empty();
        if !once || !names.iter().all(known) {
            return Err(range("target-modules", &expected, self.target_modules.join(",")));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), SettingsError> {
        let replay_max = BATCH_BLOCKS_MAX as u64;
        within("iters", self.iters, 1, u64::from(u32::MAX))?;
        within("batch-size", self.batch_size as u64, 1, BATCH_BLOCKS_MAX as u64)?;
        within("replay-batch-size", self.replay_batch_size as u64, 0, replay_max)?;
        within("grad-accumulation-steps", self.grad_accumulation_steps as u64, 1, replay_max)?;
        within("rank", self.rank as u64, 1, RANK_MAX as u64)?;
        within("max-seq-length", self.max_seq_length as u64, 2, TOKENS_MAX as u64)?;
        within("replay-blocks", self.replay_blocks, 1, REPLAY_BLOCKS_MAX)?;
        within("anchor-blocks", self.anchor_blocks as u64, 0, ANCHOR_BLOCKS_MAX)?;
        within("threads", self.threads as u64, 0, THREADS_MAX as u64)?;
        within("keep-generations", self.keep_generations as u64, 1, 1_000)?;
        if self.num_layers != -1 && self.num_layers < 1 {
            return Err(range("num-layers", "-1 (all) or at least 1", self.num_layers));
        }
        match self.replay_bytes {
            Some(0) => Err(range("replay-bytes", "at least 1", 0)),
            _ => Ok(()),
        }
    }

    fn check_reals(&self) -> Result<(), SettingsError> {
        let reals = [
            ("learning-rate", self.learning_rate, 0.0, 1.0),
            ("warmup", self.warmup, 0.0, f64::from(u32::MAX)),
            ("weight-decay", self.weight_decay, 0.0, 10.0),
            ("max-grad-norm", self.max_grad_norm, 1e-9, 1e9),
            ("alpha", self.alpha, 1e-6, 1e6),
            ("gamma", self.gamma, 0.0, 1e6),
            ("anchor-weight", self.anchor_weight, 0.0, 1e6),
            ("whitening", self.whitening, 0.0, WHITENING_MAX),
            ("gate-new", self.gate_new, -1.0, 1.0),
            ("gate-old", self.gate_old, 0.0, 10.0),
            ("gate-general", self.gate_general, 0.0, 10.0),
        ];
        for (key, value, low, high) in reals {
            // A range holds no NaN, so this refuses it too.
            if !(low..=high).contains(&value) {
                return Err(range(key, &format!("{low} to {high}"), value));
            }
        }
        if !(0.0..1.0).contains(&self.retain) {
            return Err(range("retain", "0 <= retain < 1", self.retain));
        }
        if self.learning_rate == 0.0 {
            return Err(range("learning-rate", "above 0", self.learning_rate));
        }
        if self.warmup >= 1.0 && self.warmup.fract() != 0.0 {
            return Err(range("warmup", "a part below 1, or whole steps", self.warmup));
        }
        Ok(())
    }

    /// How many of the top layers learn, in a model of `layers`.
    ///
    /// # Errors
    /// [`SettingsError::Range`] when the model has fewer.
    pub fn layers_of(&self, layers: usize) -> Result<usize, SettingsError> {
        match usize::try_from(self.num_layers) {
            Err(_) => Ok(layers),
            Ok(wanted) if wanted <= layers => Ok(wanted),
            Ok(wanted) => {
                Err(range("num-layers", &format!("at most the model's {layers}"), wanted))
            }
        }
    }

    /// Texts that the base is to write for itself: none where nothing has a use for them.
    pub fn own_texts(&self) -> usize {
        let is_used = self.anchor_weight > 0.0 || self.whitening > 0.0;
        if is_used { self.anchor_blocks } else { 0 }
    }

    /// Fresh blocks of one optimiser step.
    pub fn fresh_blocks(&self) -> u32 {
        let blocks = self.batch_size.saturating_mul(self.grad_accumulation_steps);
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// Steps of the warm-up: `warmup` below 1 is a part of `iters`, else it is the steps.
    pub fn warmup_steps(&self) -> u64 {
        let steps = if self.warmup < 1.0 { self.warmup * self.iters as f64 } else { self.warmup };
        steps.round() as u64
    }

    /// The learning rate of a job's step, counted from 1: a line up to `learning_rate`, then the schedule.
    ///
    /// The first step of the warm-up is not zero, the last step of a falling schedule nearly is.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let warm = self.warmup_steps();
        if step <= warm {
            return self.learning_rate * step as f64 / warm as f64;
        }
        let rest = self.iters.saturating_sub(warm).max(1) as f64;
        let done = ((step - warm - 1) as f64 / rest).min(1.0);
        self.learning_rate
            * match self.lr_schedule {
                Schedule::Constant => 1.0,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                Schedule::Linear => 1.0 - done,
            }
    }

    /// The settings that decide a job's numbers, each as JSON under its key: what a checkpoint keeps.
    ///
    /// Paths, reports, checkpoints, the gate and the thread count are left out: they may change.
    ///
    /// # Errors
    /// [`SettingsError::Identity`] when a value has no JSON; checked settings always have.
    pub fn identity(&self) -> Result<Vec<(String, String)>, SettingsError> {
        let start = Self::default();
        let bare = Self {
            model: None,
            data: None,
            adapter_path: None,
            state: None,
            resume: false,
            steps_per_report: start.steps_per_report,
            save_every: start.save_every,
            keep_generations: start.keep_generations,
            threads: start.threads,
            gate_new: start.gate_new,
            gate_old: start.gate_old,
            gate_general: start.gate_general,
            ..self.clone()
        };
        let text = serde_json::to_string(&bare)?;
        let mut values: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text)?;
        // Ways of keeping numbers that give the same results may change too.
        if matches!(self.head_weights, HeadWeights::Auto | HeadWeights::F32) {
            values.remove("head-weights");
        }
        if self.activations != Activations::Bf16 {
            values.remove("activations");
        }
        Ok(values.into_iter().map(|(key, value)| (format!("--{key}"), value.to_string())).collect())
    }
}

/// Refuses the first of `wishes` that was made: with what rules them all out it would be ignored.
fn none_of(
    with: &'static str,
    wishes: impl IntoIterator<Item = (&'static str, Option<String>)>,
) -> Result<(), SettingsError> {
    let made = wishes.into_iter().find_map(|(key, got)| Some((key, got?)));
    made.map_or(Ok(()), |(key, got)| Err(SettingsError::Together { key, got, with }))
}

fn range(key: &'static str, expected: &str, got: impl fmt::Display) -> SettingsError {
    SettingsError::Range { key, expected: expected.to_owned(), got: got.to_string() }
}

fn within(key: &'static str, value: u64, low: u64, high: u64) -> Result<(), SettingsError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(range(key, &format!("{low} to {high}"), value))
}

/// Makes [`Settings`], their defaults and the same fields as optional [`Overrides`] from one table.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $start:expr,)+) => {
        /// Everything a user may choose, with the defaults of `README.md`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings { $($(#[doc = $doc])+ pub $field: $type,)+ }

        /// What was said of the settings: a field that is `None` leaves the setting as it is.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
        }

        impl Settings {
            /// These settings with every override that is given; flags win over the file.
            pub fn merge(self, flags: Overrides) -> Self {
                Self { $($field: flags.$field.unwrap_or(self.$field),)+ }
            }
        }
    };
}

settings! {
    /// The model folder.
    model: Option<PathBuf> = None,
    /// Data: a folder, a file, or `-`.
    data: Option<PathBuf> = None,
    /// Optimiser steps of the job.
    iters: u64 = 100,
    /// Fresh blocks of a batch.
    batch_size: usize = 3,
    /// Replayed blocks of a batch, which weigh by their number; 0 turns replay off.
    replay_batch_size: usize = 5,
    /// Highest learning rate.
    learning_rate: f64 = 1e-3,
    /// Warm-up: below 1 a part of `iters`, else steps.
    warmup: f64 = 0.05,
    /// How the learning rate goes on after the warm-up.
    lr_schedule: Schedule = Schedule::Constant,
    /// Decoupled weight decay of AdamW.
    weight_decay: f64 = 0.01,
    /// Gradients are scaled down to this global norm.
    max_grad_norm: f64 = 1.0,
    /// Batches that one optimiser step sums.
    grad_accumulation_steps: usize = 1,
    /// How many of the top layers learn; -1 is all.
    num_layers: i64 = 4,
    /// Rank r.
    rank: usize = 16,
    /// LoRA alpha; scale = alpha / r.
    alpha: f64 = 32.0,
    /// The linear layers that LoRA changes.
    target_modules: Vec<String> = TARGET_MODULES.map(str::to_owned).to_vec(),
    /// Learn answers only, not prompts.
    mask_prompt: bool = false,
    /// Most tokens T of a block.
    max_seq_length: usize = 256,
    /// Steps between two lines of progress; 0: only at the end.
    steps_per_report: u64 = 10,
    /// Steps between two evaluations; 0: only at the end.
    steps_per_eval: u64 = 50,
    /// Evaluations without a gain on new text after which a job ends early; 0: it never does.
    patience: u64 = 0,
    /// Steps between two checkpoints; 0: only the commit.
    save_every: u64 = 50,
    /// Where the adapter is written or read, PEFT layout.
    adapter_path: Option<PathBuf> = None,
    /// The state folder of the device.
    state: Option<PathBuf> = None,
    /// Go on with an interrupted job.
    resume: bool = false,
    /// Seed of all chance.
    seed: u64 = 0,
    /// How much of slow is kept per step (lambda), in `[0, 1)`; 0: slow is fast.
    retain: f64 = 0.95,
    /// Weight of the relative distance between the hidden states of fast and slow, in nats.
    gamma: f64 = 10.0,
    /// Which hidden states that distance sees.
    embedding_layers: EmbeddingLayers = EmbeddingLayers::Last,
    /// Texts that the base writes before a job, on which fast is held to it; 0: none.
    anchor_blocks: usize = 256,
    /// Weight of the divergence from the base on them, in parts of the cross-entropy.
    anchor_weight: f64 = 0.3,
    /// How strongly the inputs of A are whitened by what they are on those texts; 0: not at all.
    whitening: f64 = 0.0,
    /// Reptile: steps after which slow goes `1 - retain` of the way to fast and fast begins again
    /// there; 0: slow follows at every step.
    reptile_steps: u64 = 0,
    /// Blocks that the reservoir holds.
    replay_blocks: u64 = 2_000,
    /// Bytes that the reservoir may take; given, it decides how many blocks fit.
    replay_bytes: Option<u64> = None,
    /// Keep hidden states at the tap in the reservoir, as f16.
    replay_hidden: bool = false,
    /// Do as the authors' program of I-LoRA does, for comparison.
    as_published: bool = false,
    /// Least relative gain on new text for an adapter to be kept; below 0 allows a loss.
    gate_new: f64 = 0.0,
    /// Most relative loss on old text.
    gate_old: f64 = 0.02,
    /// Most relative loss on general text.
    gate_general: f64 = 0.05,
    /// Adapters that stay on disk for a rollback, the current one included.
    keep_generations: usize = 4,
    /// Where to compute.
    device: Device = Device::Auto,
    /// How the frozen weights of the head are kept on the CPU.
    head_weights: HeadWeights = HeadWeights::Auto,
    /// What the forward pass keeps for the backward pass on the CPU.
    activations: Activations = Activations::F32,
    /// Threads; 0 is one per core.
    threads: usize = 0,
}

#[cfg(test)]
mod tests;
