//! Settings: what a user may choose, and every limit that the choices live under.
//!
//! `table.rs` names each setting once: flags, keys of files, help, identity and manual come from there.
//! - In: TOML text (`-c`), flags as [`Overrides`]. Out: [`Settings`] whose values are in range.
//! - Never here: files, the environment, the command line's parser.
//! - Invariant: settings that passed [`Settings::check`] hold no NaN, and every size fits the limits.

mod choices;
mod file;
mod limits;
mod method;
mod row;
mod table;

use std::collections::BTreeMap;
use std::fmt;

pub use choices::{Activations, Device, EmbeddingLayers, HeadWeights, MatmulPrecision, Schedule};
pub use file::problem;
pub use limits::*;
pub use method::Method;
pub use row::{Home, Kind, Reader, Row};
pub use table::{Overrides, Settings, rows};

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

    /// These wishes if `reader` does something with each.
    ///
    /// # Errors
    /// [`SettingsError::Together`] for the first that it would ignore.
    pub fn read_by(self, reader: Reader) -> Result<Self, SettingsError> {
        let ignored = self.named().find(|(home, ..)| !home.has(reader));
        match ignored {
            Some((_, key, got)) => Err(SettingsError::Together { key, got, with: reader.title() }),
            None => Ok(self),
        }
    }

    /// These wishes if none of them would be ignored, with what follows from them.
    ///
    /// # Errors
    /// [`SettingsError::Together`] for the first that another one rules out.
    pub fn together(mut self) -> Result<Self, SettingsError> {
        if self.target_modules.as_ref().is_some_and(|names| *names == [ALL_LINEAR]) {
            self.target_modules = Some(TARGET_MODULES.map(str::to_owned).to_vec());
        }
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        let above_0 = |value: Option<f64>| number(value.filter(|&value| value > 0.0));
        let of_texts = [
            ("whitening", above_0(self.whitening)),
            ("anchor-weight", above_0(self.anchor_weight)),
        ];
        let of_a_batch =
            [("anchor-batch-size", self.anchor_batch_size.map(|texts| texts.to_string()))];
        if self.anchor_blocks == Some(0) {
            none_of("--anchor-blocks 0", of_texts.clone().into_iter().chain(of_a_batch.clone()))?;
        }
        if self.anchor_weight == Some(0.0) {
            none_of("--anchor-weight 0", of_a_batch.clone())?;
        }
        if self.replay_bytes.flatten().is_some() {
            let blocks = self.replay_blocks.map(|blocks| blocks.to_string());
            none_of("--replay-bytes", [("replay-blocks", blocks)])?;
        }
        if self.steps_per_eval == Some(0) {
            let patience = self.patience.filter(|&patience| patience > 0);
            let patience = patience.map(|patience| patience.to_string());
            none_of("--steps-per-eval 0", [("patience", patience)])?;
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
        none_of("--as-published", of_texts.into_iter().chain(of_a_batch).chain(fixed))?;
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
        values.entry("anchor-batch-size").or_insert_with(|| 1.into());
        values.entry("matmul-precision").or_insert_with(|| "highest".into());
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
        self.check_each()?;
        let most = STEP_BLOCKS_MAX / self.batch_size;
        if self.grad_accumulation_steps > most {
            let expected = format!("at most {most} with --batch-size {}", self.batch_size);
            return Err(range("grad-accumulation-steps", &expected, self.grad_accumulation_steps));
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
        let text = serde_json::to_string(&self.bare())?;
        let mut values: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text)?;
        // Ways of keeping numbers that give the same results may change too.
        if matches!(self.head_weights, HeadWeights::Auto | HeadWeights::F32) {
            values.remove("head-weights");
        }
        if self.activations != Activations::Bf16 {
            values.remove("activations");
        }
        // As in checkpoints of versions that knew no other.
        if self.matmul_precision == MatmulPrecision::Highest {
            values.remove("matmul-precision");
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

#[cfg(test)]
mod tests;
