//! A base that loads in a moment: three Llama layers of seeded noise over the golden tokenizer.
//!
//! - In: a folder to write, a seed. Out: a model folder of Hugging Face in it, the same every time.
//! - `hub` plays the hub for those who fetch.
//! - Never here: what is tested; this crate knows nothing of Sapwood.

pub mod hub;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Width of the hidden states.
pub const HIDDEN: usize = 32;
/// Layers.
pub const LAYERS: usize = 3;
/// Longest sequence.
pub const CONTEXT: usize = 128;
/// Ids of the golden tokenizer.
pub const VOCAB: usize = 300;

const FFN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// Every weight by its Hugging Face name, with its shape there.
pub fn shapes(vocab: usize) -> BTreeMap<String, Vec<usize>> {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![vocab, HIDDEN]),
        ("lm_head.weight".to_owned(), vec![vocab, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    let layer = [
        ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
        ("self_attn.k_proj", vec![kv, HIDDEN]),
        ("self_attn.v_proj", vec![kv, HIDDEN]),
        ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
        ("mlp.gate_proj", vec![FFN, HIDDEN]),
        ("mlp.up_proj", vec![FFN, HIDDEN]),
        ("mlp.down_proj", vec![HIDDEN, FFN]),
        ("input_layernorm", vec![HIDDEN]),
        ("post_attention_layernorm", vec![HIDDEN]),
    ];
    for index in 0..LAYERS {
        for (name, shape) in &layer {
            shapes.insert(format!("model.layers.{index}.{name}.weight"), shape.clone());
        }
    }
    shapes
}

/// The golden files, which lie with the root crate.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// Writes a Hugging Face folder; another seed is another base of the same shape.
///
/// # Errors
/// What the disk says.
pub fn write(folder: &Path, seed: u64, vocab: usize) -> Result<(), Box<dyn Error>> {
    write_scaled(folder, seed, vocab, |_| 1.0)
}

/// The same with every weight times what `scale` says of its name.
///
/// # Errors
/// What the disk says.
pub fn write_scaled(
    folder: &Path,
    seed: u64,
    vocab: usize,
    scale: impl Fn(&str) -> f32,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let golden = golden();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden.join("tokenizer").join(name), folder.join(name))?;
    }
    let text = fs::read_to_string(golden.join("step/base/config.json"))?;
    fs::write(
        folder.join("config.json"),
        text.replace("\"vocab_size\": 96", &format!("\"vocab_size\": {vocab}")),
    )?;
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let shapes = shapes(vocab);
    let bytes: Vec<Vec<u8>> =
        shapes.iter().map(|(name, shape)| weight(shape, scale(name), &mut chance)).collect();
    let views: Result<Vec<_>, _> = shapes
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<_, safetensors::SafeTensorError>>();
    let whole = safetensors::serialize(views?, None)?;
    Ok(fs::write(folder.join("model.safetensors"), whole)?)
}

/// Norms of one; matrices even in `+-1.7 / sqrt(fan in)`, so that each layer keeps its width.
fn weight(shape: &[usize], scale: f32, chance: &mut ChaCha8Rng) -> Vec<u8> {
    let reach = match shape {
        [_, fan_in] => 1.7 / (*fan_in as f32).sqrt(),
        _ => 0.0,
    };
    let mut number = || match shape {
        [_, _] => reach * (chance.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0),
        _ => 1.0,
    };
    (0..shape.iter().product()).flat_map(|_: usize| (scale * number()).to_le_bytes()).collect()
}
