//! Whether a job takes the memory that was estimated: estimate and peak side by side, over six shapes.
//!
//! - Weights are noise that bf16 holds exactly, as the weights of published models are; all but the
//!   shipped base are made for the bench and thrown away.
//! - Each shape runs in a process of its own: from an opened model folder to the commit, four steps with
//!   the settings that the base chooses. The kernel counts the peak, once for loading and once for the job.
//! - `cargo bench --bench memory -- OUT [SHAPE]` makes folders in OUT and prints the table. Linux only.

use anyhow::{Context, Result, ensure};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::{Base, Config, ExportOptions, Precision, export, read_config};
use sapwood::block::Block;
use sapwood::learner::{
    Engines, Event, Material, Memory, Offered, Outcome, Tokens, adapt, for_base, install, spec,
};
use sapwood::ports::Disk;
use sapwood::settings::{Overrides, Settings};
use sapwood::state::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A model, and how it learns.
struct Shape {
    name: &'static str,
    /// Width, layers, heads, key heads, MLP, vocabulary; none for the shipped base.
    random: Option<[usize; 6]>,
    /// Settings beside those that the base chooses, TOML.
    settings: &'static str,
    /// Ranks of a global adapter that is installed after a first job; 0: none, and the job is the first.
    ranks: usize,
}

const SHAPES: [Shape; 8] = [
    Shape { name: "shipped base", random: None, settings: "", ranks: 0 },
    Shape { name: "15 M", random: Some([288, 6, 6, 6, 768, 32_000]), settings: "", ranks: 0 },
    Shape { name: "135 M", random: Some([576, 30, 9, 3, 1536, 49_152]), settings: "", ranks: 0 },
    Shape {
        name: "135 M, lean",
        random: Some([576, 30, 9, 3, 1536, 49_152]),
        settings: "head-weights = 'int8'\nactivations = 'recompute'",
        ranks: 0,
    },
    Shape {
        name: "4 wide layers",
        random: Some([2048, 4, 32, 8, 8192, 32_000]),
        settings: "",
        ranks: 0,
    },
    Shape {
        name: "long blocks",
        random: Some([768, 6, 12, 12, 3072, 32_000]),
        settings: "max-seq-length = 1024\nreplay-hidden = true\nreplay-blocks = 200",
        ranks: 0,
    },
    Shape { name: "shipped base, global of rank 128", random: None, settings: "", ranks: 128 },
    Shape {
        name: "15 M, global of rank 128",
        random: Some([288, 6, 6, 6, 768, 32_000]),
        settings: "",
        ranks: 128,
    },
];

/// Blocks to learn, held out, and of general text.
const BLOCKS: [usize; 3] = [48, 24, 8];
/// As many steps as there are texts of the base's own, so that all of them are read; replay is full.
const JOB: &str = "iters = 16\nanchor-blocks = 16\ngate-new = -1\nsteps-per-eval = 0";

fn main() -> Result<()> {
    // `cargo bench` adds a word of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["measure", shape, model, state] => {
            let shape = &SHAPES[shape.parse::<usize>()?];
            let line = measured(shape, Path::new(model), Path::new(state))?;
            Ok(writeln!(std::io::stdout(), "{line}")?)
        }
        [out] => table(Path::new(out), None),
        [out, name] => table(Path::new(out), Some(name)),
        _ => anyhow::bail!("expected: cargo bench --bench memory -- OUT [SHAPE]"),
    }
}

fn table(out: &Path, only: Option<&str>) -> Result<()> {
    let mut text = String::from(
        "| model | T | program | weights | learners | step | hidden | loading | estimate MB | loading MB | job MB | estimate / peak | install, estimate MB | install MB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (index, shape) in SHAPES.iter().enumerate() {
        if only.is_some_and(|only| only != shape.name) {
            continue;
        }
        let folder = out.join(index.to_string());
        fs::create_dir_all(&folder)?;
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        command.args(["measure", &index.to_string()]);
        command.arg(model(shape, &folder)?).arg(folder.join("state"));
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line: Value = serde_json::from_slice(&output.stdout)?;
        let mb =
            |pointer: &str| line.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN) / 1e6;
        let parts = ["program", "weights", "learners", "step", "hidden", "loading"];
        let parts: Vec<String> =
            parts.iter().map(|part| format!("{:.0}", mb(&format!("/memory/{part}")))).collect();
        let (estimate, load, job) = (mb("/total"), mb("/load"), mb("/job"));
        text += &format!(
            "| {} | {} | {} | {estimate:.0} | {load:.0} | {job:.0} | {:.2} | {:.0} | {:.0} |\n",
            shape.name,
            line["tokens"],
            parts.join(" | "),
            estimate / load.max(job),
            mb("/install/0"),
            mb("/install/1"),
        );
        fs::remove_dir_all(&folder)?;
    }
    Ok(write!(std::io::stdout(), "{text}")?)
}

/// The shipped base, or one that is made here.
fn model(shape: &Shape, folder: &Path) -> Result<PathBuf> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base");
    let Some([hidden, layers, heads, kv_heads, ffn, vocab]) = shape.random else {
        return Ok(shipped);
    };
    let (hf, model) = (folder.join("hf"), folder.join("model"));
    fs::create_dir_all(&hf)?;
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn,
        "vocab_size": vocab, "hidden_act": "silu", "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": true,
    });
    fs::write(hf.join("config.json"), config.to_string())?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(shipped.join(name), hf.join(name))?;
    }
    let mut chance = ChaCha8Rng::seed_from_u64(1);
    let mut tensors = BTreeMap::new();
    for (name, sizes) in read_config(&hf)?.weights() {
        // Exported weights are `[in, out]`, those of a Hugging Face folder `[out, in]`.
        let sizes: Vec<usize> = match name.contains("_proj") {
            true => sizes.iter().rev().copied().collect(),
            false => sizes,
        };
        if name == "lm_head.weight" {
            continue;
        }
        let scale = if name.contains("norm") { 1.0 } else { 0.04 };
        let number = |_| {
            let noise = f32::from(chance.next_u32() as u16) / 65_536.0 - 0.5;
            bf16::from_f32(if name.contains("norm") { scale } else { scale * noise })
        };
        let count = sizes.iter().product::<usize>();
        let bytes: Vec<u8> = (0..count).map(number).flat_map(|n| n.to_le_bytes()).collect();
        tensors.insert(name, (sizes, bytes));
    }
    let views: Result<BTreeMap<_, _>, _> = tensors
        .iter()
        .map(|(name, (sizes, bytes))| {
            Ok((name, TensorView::new(Dtype::BF16, sizes.clone(), bytes)?))
        })
        .collect::<Result<_, safetensors::SafeTensorError>>();
    safetensors::serialize_to_file(views?, None, &hf.join("model.safetensors"))?;
    export(&hf, &model, ExportOptions { dtype: Precision::F32, ..ExportOptions::default() })?;
    fs::remove_dir_all(&hf)?;
    Ok(model)
}

fn blocks(count: usize, tokens: usize, vocab: u32, seed: u64) -> Vec<Block> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut block = || {
        let tokens: Vec<u32> = (0..tokens).map(|_| chance.next_u32() % vocab).collect();
        let learn = (0..tokens.len()).map(|t| t > 0).collect();
        Block { bytes: 4 * tokens.len() as u32, tokens, learn, domain: 0 }
    };
    (0..count).map(|_| block()).collect()
}

fn settings(shape: &Shape, config: &Config) -> Result<Settings> {
    let said = Overrides::from_toml(&format!("{JOB}\n{}", shape.settings))?;
    Ok(for_base(config, said)?)
}

/// A line of what was estimated and what was taken.
fn measured(shape: &Shape, model: &Path, state: &Path) -> Result<Value> {
    let config = read_config(model)?;
    let settings = settings(shape, &config)?;
    let (tokens, vocab) = (settings.max_seq_length, config.vocab as u32);
    let [train, valid, general] =
        [0, 1, 2].map(|kind| blocks(BLOCKS[kind], tokens, vocab, kind as u64));
    let (name, key, start) = ("noise".to_owned(), "noise".to_owned(), vec![1]);
    let material = Material { name, key, hash: [1; 32], train, valid, general, start };
    reset_peak()?;
    let mut state = State::open(Arc::new(Disk::exclusive(state)?))?;
    let base = Base::open(model)?;
    let own = spec(&config, &settings)?;
    let spec = own.over(shape.ranks);
    let memory = Memory::estimate(&base, &spec, &settings, Tokens::of(&material, &state));
    let engines = Engines::of(base, model, &settings, (memory, None))?;
    let load = peak_bytes()?;
    let learn = |state: &mut State| -> Result<u64> {
        reset_peak()?;
        let outcome = adapt(&engines, state, &material, &settings, &mut go_on)?;
        ensure!(matches!(outcome, Outcome::Judged { .. }), "the job did not end");
        peak_bytes()
    };
    let mut job = learn(&mut state)?;
    let mut put = None;
    if shape.ranks > 0 {
        let tokens = Tokens::of(&material, &state);
        let memory = Memory::of_install(&engines.base, [&own, &spec], &settings, tokens);
        put = Some([
            memory.total(),
            installed(&engines, &mut state, &settings, &material, shape.ranks)?,
        ]);
        state.confirm("to learn on top of it", None)?;
        job = learn(&mut state)?;
    }
    Ok(json!({
        "memory": memory, "total": memory.total(), "tokens": tokens,
        "load": load, "job": job, "install": put,
    }))
}

fn go_on(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The peak of two installs of a global adapter that changes nothing: declined, then on trial.
fn installed(
    engines: &Engines,
    state: &mut State,
    settings: &Settings,
    material: &Material,
    rank: usize,
) -> Result<u64> {
    let config = engines.base.config();
    let own = spec(config, settings)?;
    let strength = Strength { rank, alpha: rank as f32 };
    let targets: Vec<Target> = own.modules.iter().map(|module| module.target).collect();
    let first = own.modules.first().map_or(0, |module| module.layer);
    let targets: Vec<Target> =
        Target::ALL.into_iter().filter(|target| targets.contains(target)).collect();
    let shape = Spec::uniform(config, first..config.layers, &targets, strength);
    let global = Adapter::fresh(shape, &mut ChaCha8Rng::seed_from_u64(3));
    let mut offered = Offered { sequence: 1, series: None, artifact: [1; 32], global };
    reset_peak()?;
    // No candidate passes such a gate: all are made. Then the first does, and is committed.
    let strict = Settings { gate_old: -0.9, ..settings.clone() };
    install(engines, state, &offered, &strict, &material.general, &material.start, &mut go_on)?;
    ensure!(state.trial().is_none(), "the gate let an install through");
    offered.sequence = 2;
    install(engines, state, &offered, settings, &material.general, &material.start, &mut go_on)?;
    ensure!(state.trial().is_some(), "the install was declined");
    peak_bytes()
}

/// Begins to count the peak anew.
fn reset_peak() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn peak_bytes() -> Result<u64> {
    field("VmHWM:")
}

fn field(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    let number = line.split_whitespace().next().context("no number")?;
    Ok(1024 * number.parse::<u64>()?)
}
