//! The command line: subcommands and flags, named as mlx-lm and PEFT name them.
//!
//! - In: arguments. Out: what to run; settings of learning come in as [`Flags`].
//! - Never here: any work.

use super::flags::{Adapting, Flags, Streaming};
use super::names::{FolderKind, Layout, NumberName, Precision, SplitName, head_weights, methods};
use clap::{Args, Parser, Subcommand};
use sapwood::settings::{Device, HeadWeights, Method};
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
    /// Serve a model and adapters over HTTP, for OpenAI's clients: `firmware-host serve`.
    #[command(disable_help_flag = true)]
    Serve(super::serve::Serve),
    /// Learn several domains one after the other by several methods and compare what is forgotten.
    Stream(Box<Stream>),
    /// Study what lies between the adapters of a stream, and how alike they see the same text.
    #[command(subcommand)]
    Study(Study),
    /// Turn a Hugging Face folder, a GGUF file or a model of the hub into a model folder with an ONNX file.
    Export(Export),
    /// Write an adapter in the layout of llama.cpp, mlx-lm or PEFT.
    Convert(Convert),
    /// Look at data before it is learned.
    #[command(subcommand)]
    Data(Data),
    /// Fold an adapter into its base: a model of its own, as a Hugging Face folder or a model folder.
    Fuse(Fuse),
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

/// `sapwood adapt`
#[derive(Debug, Args)]
pub(crate) struct Adapt {
    #[command(flatten)]
    pub learn: Flags<Adapting>,
    /// General text that must not be unlearned; the gate watches it.
    #[arg(long)]
    pub general: Option<PathBuf>,
    /// Name of the domain in reports; by default the data's file or folder name.
    #[arg(long)]
    pub domain: Option<String>,
    /// Passes over the data, in place of --iters: steps enough to learn each block so often.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["iters", "resume"])]
    pub epochs: Option<f64>,
    /// Give a job up that was interrupted; --resume goes on with it.
    #[arg(long, conflicts_with = "resume")]
    pub discard: bool,
    /// Write a page of HTML with the job's curves, scores and settings.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
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
    /// How the frozen linear weights are kept on the CPU, as `sapwood adapt` has it.
    #[arg(long, value_parser = head_weights(), default_value = "auto")]
    pub head_weights: HeadWeights,
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
    /// What the system says first, in the model's chat template.
    #[arg(long, requires = "chat")]
    pub system: Option<String>,
    /// Most tokens to write.
    #[arg(long, default_value_t = 100)]
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temp: f32,
    /// Draw from the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A JSON schema that the text fits: a file, or the schema itself. The command fails when --max-tokens
    /// cuts the text.
    #[arg(long, value_name = "FILE|JSON")]
    pub json_schema: Option<String>,
    /// The text is a JSON object, any; otherwise as --json-schema.
    #[arg(long, conflicts_with = "json_schema")]
    pub json_object: bool,
    /// How the frozen linear weights are kept on the CPU, as `sapwood adapt` has it.
    #[arg(long, value_parser = head_weights(), default_value = "auto")]
    pub head_weights: HeadWeights,
}

/// `sapwood stream`
#[derive(Debug, Args)]
pub(crate) struct Stream {
    #[command(flatten)]
    pub learn: Flags<Streaming>,
    #[command(flatten)]
    pub met: Met,
    /// Methods to compare, with commas between; all of them by default. Where slow is no average, a
    /// constant rate becomes a cosine: nothing else lets it come to rest.
    #[arg(long, value_delimiter = ',', value_parser = methods())]
    pub methods: Vec<Method>,
    /// How many seeds, from --seed on; tables give mean and standard deviation.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Folder for matrix.csv, stream.json and the plots.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// The text of a stream.
#[derive(Debug, Args)]
pub(crate) struct Met {
    /// Domain folders or files, in the order in which they are met.
    #[arg(required = true)]
    pub domains: Vec<PathBuf>,
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
}

/// A part of the study.
#[derive(Debug, Subcommand)]
pub(crate) enum Study {
    /// Score straight lines between adapters: barriers, and where on the way all domains together lose least.
    Connectivity(Box<Connectivity>),
    /// Compare how each layer sees a domain's text when it was just learned, and at the end: linear CKA.
    Cka(Box<Cka>),
    /// Score the plane through the slow adapters after the first, the middle and the last domain.
    Plane(Box<Plane>),
    /// Learn the stream under every combination of some settings.
    Sweep(Box<Sweep>),
    /// Learn the stream without a reservoir and with ever larger ones: how little history is enough.
    History(Box<History>),
    /// Put studies side by side: the same questions of bases of several sizes, of methods or of seeds.
    Scale(Scale),
}

/// What every part of the study has.
#[derive(Debug, Args)]
pub(crate) struct Studied {
    #[command(flatten)]
    pub learn: Flags<Streaming>,
    #[command(flatten)]
    pub met: Met,
    /// The method that learns the stream.
    #[arg(long, value_parser = methods(), default_value = "sapwood")]
    pub method: Method,
    /// Folder of the study: what is there already is taken and not computed again.
    #[arg(long)]
    pub out: PathBuf,
}

/// `sapwood study connectivity`
#[derive(Debug, Args)]
pub(crate) struct Connectivity {
    #[command(flatten)]
    pub studied: Studied,
    /// Points of a line, both ends among them.
    #[arg(long, default_value_t = 11)]
    pub points: usize,
}

/// `sapwood study plane`
#[derive(Debug, Args)]
pub(crate) struct Plane {
    #[command(flatten)]
    pub studied: Studied,
    /// Points of each side of the grid.
    #[arg(long, default_value_t = 9)]
    pub side: usize,
}

/// `sapwood study sweep`
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub studied: Studied,
    /// A setting and its values; given again, every value meets every other.
    #[arg(long, required = true, value_name = "SETTING=VALUE,VALUE", action = clap::ArgAction::Append)]
    pub vary: Vec<String>,
    /// How many seeds, from --seed on.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
}

/// `sapwood study history`
#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub studied: Studied,
    /// Sizes of the reservoir in blocks; the gain is told in parts of the best one's.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 16, 32, 64, 128, 256])]
    pub blocks: Vec<u64>,
    /// How many seeds, from --seed on.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
}

/// `sapwood study scale`
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// Folders of studies.
    #[arg(required = true)]
    pub studies: Vec<PathBuf>,
    /// Page to write, in place of an earlier one.
    #[arg(long)]
    pub out: PathBuf,
}

/// `sapwood study cka`
#[derive(Debug, Args)]
pub(crate) struct Cka {
    #[command(flatten)]
    pub studied: Studied,
    /// Blocks of each domain to compare on, as far as --eval-blocks leaves them.
    #[arg(long, default_value_t = 500)]
    pub blocks: usize,
}

/// `sapwood export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Hugging Face folder (config.json, safetensors, tokenizer.json) or GGUF file; hf:ORG/NAME[@REVISION]
    /// or hf:ORG/NAME/FILE.gguf of the hub; ollama:NAME[:TAG] of Ollama's store.
    pub source: PathBuf,
    /// Model folder to write; must not exist or be empty.
    pub model_dir: PathBuf,
    /// How weights are stored.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
}

/// `sapwood convert`
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Adapter folder of PEFT or mlx-lm, or a state folder for its committed slow adapter.
    pub adapter: PathBuf,
    /// File (gguf) or folder (mlx, peft) to write; must not exist, a folder may be empty.
    pub out: PathBuf,
    /// Whose layout.
    #[arg(long, value_enum)]
    pub to: Layout,
    /// Model folder it belongs to; by default the one that the adapter names.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// How numbers are stored, for gguf.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
}

/// `sapwood data`
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Say what a job would read and learn, show the first examples with what counts, and refuse what a
    /// job would refuse.
    Check(DataCheck),
}

/// `sapwood data check`
#[derive(Debug, Args)]
pub(crate) struct DataCheck {
    /// Model folder: its tokenizer and its chat template.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The data: a folder, a file, or `-`.
    #[arg(long)]
    pub data: PathBuf,
    /// Learn answers only, not prompts.
    #[arg(long)]
    pub mask_prompt: bool,
    /// Most tokens T of a block; by default as a job has it.
    #[arg(long)]
    pub max_seq_length: Option<usize>,
    /// Examples to show.
    #[arg(long, default_value_t = 3)]
    pub show: usize,
}

/// `sapwood fuse`
#[derive(Debug, Args)]
pub(crate) struct Fuse {
    /// The base: a model folder, or a Hugging Face folder.
    #[arg(long)]
    pub model: PathBuf,
    /// Adapter folder of PEFT or mlx-lm, or a state folder for its committed slow adapter.
    #[arg(long, alias = "adapter")]
    pub adapter_path: PathBuf,
    /// Folder to write; must not exist or be empty.
    pub out: PathBuf,
    /// Which kind of folder.
    #[arg(long, value_enum, default_value_t = FolderKind::Hf)]
    pub format: FolderKind,
    /// How weights are stored; bf16 in a Hugging Face folder only.
    #[arg(long, value_enum, default_value_t = NumberName::F32)]
    pub dtype: NumberName,
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
    /// Put a global adapter under what a state has learned, on trial, if the gate lets it.
    Install(Install),
    /// Keep the generation on trial.
    Confirm {
        /// State folder.
        #[arg(long)]
        state: PathBuf,
    },
    /// Give the generation before the one on trial back.
    Revert {
        /// State folder.
        #[arg(long)]
        state: PathBuf,
    },
}

/// `sapwood adapter install`
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Model folder.
    #[arg(long)]
    pub model: PathBuf,
    /// State folder; without one that has learned, the adapter is all there is.
    #[arg(long)]
    pub state: PathBuf,
    /// The global adapter, as a fleet's server sends it.
    #[arg(long)]
    pub global: PathBuf,
    /// General text that must not get worse; by default that of the model folder.
    #[arg(long)]
    pub general: Option<PathBuf>,
    /// Number of the offer; by default one above the last that was taken.
    #[arg(long)]
    pub sequence: Option<u64>,
    /// Configuration file of `sapwood adapt`.
    #[arg(short, long)]
    pub config: Option<PathBuf>,
    /// Where the head runs: auto, cpu, cuda, cuda:N, metal.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads; 0 is one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
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
    pub learn: Flags<Streaming>,
}
