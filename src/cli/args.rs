//! The command line: subcommands and flags, named as mlx-lm and PEFT name them.
//!
//! - In: arguments. Out: what to run, and the flags as [`Overrides`] of the settings.
//! - Never here: any work.

use super::names::{
    ActivationsName, EmbeddingName, Precision, ScheduleName, SplitName, WeightsName, methods,
};
use clap::{Args, Parser, Subcommand};
use sapwood::settings::{Device, Method, Overrides};
use std::path::PathBuf;

/// A language model that keeps learning on the device it runs on, without forgetting.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_override_self = true)]
pub(crate) struct Command {
    #[command(subcommand)]
    pub action: Action,
    /// One line of JSON per event on standard output, instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Adapt the shipped base to a shipped domain and show what was learned and what was kept.
    Quickstart(Quickstart),
    /// Learn from data: one job of I-LoRA, judged by the gate and committed to the state folder.
    Adapt(Box<Adapt>),
    /// Score the base or an adapter: bits per byte, perplexity, accuracy over choices.
    Eval(Eval),
    /// Write text after a prompt.
    Generate(Generate),
    /// Learn several domains one after the other by several methods and compare what is forgotten.
    Stream(Box<Stream>),
    /// Turn a Hugging Face folder into a model folder with an ONNX file.
    Export(Export),
    /// Look into the replay reservoir of a state folder.
    #[command(subcommand)]
    Replay(Replay),
    /// Look at adapters.
    #[command(subcommand)]
    Adapter(Adapter),
    /// Go back to an earlier generation of a state folder.
    Rollback(Rollback),
    /// Show devices, features and the memory a job would need.
    Doctor(Box<Doctor>),
}

/// `sapwood quickstart`
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// Folder that holds `base/` and `samples/`; by default `models` here or beside the program.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Keep the state folder here instead of throwing it away.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Optimiser steps for each of the two domains.
    #[arg(long, default_value_t = 60)]
    pub iters: u64,
    /// Seed of all chance.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads; 0 is one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// The settings of learning as flags; each wins over the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct LearnFlags {
    /// Configuration file, TOML with the names of these flags as keys.
    #[arg(short, long)]
    pub config: Option<PathBuf>,
    /// Model folder (see `sapwood export`).
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Optimiser steps of the job [100; `adapt` chooses by the data].
    #[arg(long)]
    pub iters: Option<u64>,
    /// Fresh blocks of a batch [3].
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Replayed blocks of a batch, which weigh by their number; 0 turns replay off [5].
    #[arg(long)]
    pub replay_batch_size: Option<usize>,
    /// Highest learning rate [by the base].
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Warm-up: below 1 a part of --iters, else steps [0.05].
    #[arg(long)]
    pub warmup: Option<f64>,
    /// How the learning rate goes on after the warm-up [constant].
    #[arg(long, value_enum)]
    pub lr_schedule: Option<ScheduleName>,
    /// Decoupled weight decay of AdamW [0.01].
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this global norm [1].
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// Batches that one optimiser step averages [1].
    #[arg(long)]
    pub grad_accumulation_steps: Option<usize>,
    /// How many of the top layers learn; -1 is all [by the base].
    #[arg(long, allow_negative_numbers = true)]
    pub num_layers: Option<i64>,
    /// LoRA rank r [16; 32 on small bases].
    #[arg(long)]
    pub rank: Option<usize>,
    /// LoRA alpha; the scale is alpha / r [twice the rank].
    #[arg(long)]
    pub alpha: Option<f64>,
    /// Linear layers that LoRA changes, with commas between [all seven].
    #[arg(long, value_delimiter = ',')]
    pub target_modules: Option<Vec<String>>,
    /// Learn answers only, not prompts.
    #[arg(long)]
    pub mask_prompt: bool,
    /// Most tokens T of a block [256].
    #[arg(long)]
    pub max_seq_length: Option<usize>,
    /// Seed of all chance [0].
    #[arg(long)]
    pub seed: Option<u64>,
    /// How much of the slow learner is kept per step, lambda [by the steps].
    #[arg(long)]
    pub retain: Option<f64>,
    /// Weight of the relative distance between fast and slow hidden states, in nats [10].
    #[arg(long)]
    pub gamma: Option<f64>,
    /// Which hidden states that distance sees [last].
    #[arg(long, value_enum)]
    pub embedding_layers: Option<EmbeddingName>,
    /// Texts that the base writes before a job, on which it is held to itself; 0: none
    /// [by the base].
    #[arg(long)]
    pub anchor_blocks: Option<usize>,
    /// Weight of the divergence from the base on them [0.3].
    #[arg(long)]
    pub anchor_weight: Option<f64>,
    /// How strongly the inputs of A are whitened by what they are on these texts; 0: not at all
    /// [by the base].
    #[arg(long)]
    pub whitening: Option<f64>,
    /// Reptile: steps after which slow goes a part of the way to fast, and fast begins again there;
    /// 0: slow follows at every step [0].
    #[arg(long)]
    pub reptile_steps: Option<u64>,
    /// Blocks that the reservoir holds [2000].
    #[arg(long)]
    pub replay_blocks: Option<u64>,
    /// Bytes that the reservoir may take; wins over --replay-blocks.
    #[arg(long)]
    pub replay_bytes: Option<u64>,
    /// Keep hidden states at the tap in the reservoir, as f16.
    #[arg(long)]
    pub replay_hidden: bool,
    /// Do as the authors' program of I-LoRA does, for comparison.
    #[arg(long)]
    pub as_published: bool,
    /// auto, cpu, cuda:N or metal [auto].
    #[arg(long)]
    pub device: Option<Device>,
    /// How the frozen weights of the head are kept on the CPU [auto].
    #[arg(long, value_enum)]
    pub head_weights: Option<WeightsName>,
    /// What the forward pass keeps for the backward pass on the CPU [f32].
    #[arg(long, value_enum)]
    pub activations: Option<ActivationsName>,
    /// Threads; 0 is one per core [0].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Steps between two lines of progress; 0: only at the end [10].
    #[arg(long)]
    pub steps_per_report: Option<u64>,
    /// Steps between two evaluations; 0: only at the end [50].
    #[arg(long)]
    pub steps_per_eval: Option<u64>,
    /// Evaluations without a gain on new text after which a job ends early; 0: it never does [0].
    #[arg(long)]
    pub patience: Option<u64>,
}

impl LearnFlags {
    /// The flags that were given.
    pub(crate) fn overrides(&self) -> Overrides {
        let on = |flag: bool| flag.then_some(true);
        Overrides {
            model: self.model.clone().map(Some),
            iters: self.iters,
            batch_size: self.batch_size,
            replay_batch_size: self.replay_batch_size,
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            lr_schedule: self.lr_schedule.map(Into::into),
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            grad_accumulation_steps: self.grad_accumulation_steps,
            num_layers: self.num_layers,
            rank: self.rank,
            alpha: self.alpha,
            target_modules: self.target_modules.clone(),
            mask_prompt: on(self.mask_prompt),
            max_seq_length: self.max_seq_length,
            seed: self.seed,
            retain: self.retain,
            gamma: self.gamma,
            embedding_layers: self.embedding_layers.map(Into::into),
            anchor_blocks: self.anchor_blocks,
            anchor_weight: self.anchor_weight,
            whitening: self.whitening,
            reptile_steps: self.reptile_steps,
            replay_blocks: self.replay_blocks,
            replay_bytes: self.replay_bytes.map(Some),
            replay_hidden: on(self.replay_hidden),
            as_published: on(self.as_published),
            device: self.device,
            head_weights: self.head_weights.map(Into::into),
            activations: self.activations.map(Into::into),
            threads: self.threads,
            steps_per_report: self.steps_per_report,
            steps_per_eval: self.steps_per_eval,
            patience: self.patience,
            ..Overrides::default()
        }
    }
}

/// `sapwood adapt`
#[derive(Debug, Args)]
pub(crate) struct Adapt {
    #[command(flatten)]
    pub learn: LearnFlags,
    /// Data: a folder with train.jsonl (valid.jsonl, test.jsonl), a .jsonl, text files, or `-`.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// State folder of the device; made when it is not there.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Also write the slow adapter here, in PEFT layout.
    #[arg(long)]
    pub adapter_path: Option<PathBuf>,
    /// General text that must not be unlearned; the gate watches it.
    #[arg(long)]
    pub general: Option<PathBuf>,
    /// Name of the domain in reports; by default the data's file or folder name.
    #[arg(long)]
    pub domain: Option<String>,
    /// Steps between two checkpoints; 0: only the commit [50].
    #[arg(long)]
    pub save_every: Option<u64>,
    /// Go on with the job that was interrupted.
    #[arg(long)]
    pub resume: bool,
    /// Least relative gain on new text for the adapter to be kept [0].
    #[arg(long, allow_negative_numbers = true)]
    pub gate_new: Option<f64>,
    /// Most relative loss on old text [0.02].
    #[arg(long)]
    pub gate_old: Option<f64>,
    /// Most relative loss on general text [0.05].
    #[arg(long)]
    pub gate_general: Option<f64>,
}

/// Which adapter to use with a model.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Model folder.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Adapter in PEFT layout; without it and --state the bare base.
    #[arg(long)]
    pub adapter_path: Option<PathBuf>,
    /// State folder whose committed slow adapter is used.
    #[arg(long, conflicts_with = "adapter_path")]
    pub state: Option<PathBuf>,
    /// auto, cpu, cuda:N or metal.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads; 0 is one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// `sapwood eval`
#[derive(Debug, Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub choice: Choice,
    /// Text to score; of a folder, test.jsonl, else valid.jsonl, else all of it.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Lines of {"prompt", "choices", "answer"} to score by likelihood.
    #[arg(long)]
    pub choices: Option<PathBuf>,
    /// Most tokens T of a block.
    #[arg(long, default_value_t = 256)]
    pub max_seq_length: usize,
    /// Score answers only, not prompts.
    #[arg(long)]
    pub mask_prompt: bool,
}

/// `sapwood generate`
#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub choice: Choice,
    /// What to go on from.
    #[arg(long, short)]
    pub prompt: String,
    /// Put the prompt into the model's chat template.
    #[arg(long)]
    pub chat: bool,
    /// Most tokens to write.
    #[arg(long, default_value_t = 100)]
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    pub temp: f32,
    /// Draw from the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `sapwood stream`
#[derive(Debug, Args)]
pub(crate) struct Stream {
    #[command(flatten)]
    pub learn: LearnFlags,
    /// Domain folders or files, in the order in which they are met.
    #[arg(required = true)]
    pub domains: Vec<PathBuf>,
    /// Methods to compare, with commas between; all of them by default. Where slow is no average, a
    /// constant rate becomes a cosine: nothing else lets it come to rest.
    #[arg(long, value_delimiter = ',', value_parser = methods())]
    pub methods: Vec<Method>,
    /// How many seeds, from --seed on; tables give mean and standard deviation.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Blocks scored of each domain after each domain.
    #[arg(long, default_value_t = 48)]
    pub eval_blocks: usize,
    /// What is scored: choose settings by `valid`, report results of `test`. `valid` takes at most
    /// --eval-blocks blocks, and at most a quarter, from the end of each domain's training text, the same
    /// ones for every method and seed, and learns the rest.
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    pub split: SplitName,
    /// General text that no domain learns, scored before and after every domain; of a folder,
    /// test.jsonl, else valid.jsonl, else all of it, and at most --eval-blocks blocks.
    #[arg(long)]
    pub general: Option<PathBuf>,
    /// Folder for matrix.csv, stream.json and the plots.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// `sapwood export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Hugging Face folder: config.json, safetensors, tokenizer.json.
    pub hf_dir: PathBuf,
    /// Model folder to write; must not exist or be empty.
    pub model_dir: PathBuf,
    /// How weights are stored.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
}

/// `sapwood replay`
#[derive(Debug, Subcommand)]
pub(crate) enum Replay {
    /// What the reservoir holds.
    Stats {
        /// State folder.
        #[arg(long)]
        state: PathBuf,
    },
    /// Read and check every block.
    Verify {
        /// State folder.
        #[arg(long)]
        state: PathBuf,
    },
}

/// `sapwood adapter`
#[derive(Debug, Subcommand)]
pub(crate) enum Adapter {
    /// Rank, scale and size of the change in every layer.
    Inspect {
        /// Adapter folder, PEFT layout.
        adapter: PathBuf,
        /// Model folder it belongs to.
        #[arg(long)]
        model: Option<PathBuf>,
    },
    /// How far apart two adapters are.
    Diff {
        /// One adapter folder.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Model folder they belong to.
        #[arg(long)]
        model: Option<PathBuf>,
    },
}

/// `sapwood rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// State folder.
    #[arg(long)]
    pub state: PathBuf,
    /// Generation to go back to; by default the one before the current.
    #[arg(long)]
    pub to: Option<u64>,
}

/// `sapwood doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub learn: LearnFlags,
}
