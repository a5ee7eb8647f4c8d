//! A Hugging Face folder of a base's weights: safetensors, in one file or in shards with an index.
//!
//! - In: weights in our layout, the small files of the folder that they come from. Out: the folder that
//!   transformers, mlx-lm and llama.cpp's converter read: linear weights `[out, in]`, a tied output layer
//!   left out, Phi-3's packed as it has them, the type of the numbers in `config.json`.
//! - The folder appears whole or not at all, and one weight at a time is in memory.
//! - Never here: where the weights come from.
//!
//! Source: the safetensors format, <https://github.com/huggingface/safetensors>; the index as
//! transformers' `save_pretrained` writes it.

use super::export::{Partial, Sink, json_object, pretty, whole};
use super::hf::{PACKED, theirs, turned};
use super::number::Number;
use super::{BaseError, Config, ExportReport, Family, Source};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Most bytes of weights in one file, as mlx-lm and transformers have it.
pub const SHARD_BYTES_MAX: u64 = 5_000_000_000;
/// Files of a slow tokenizer, which other programs may read.
pub const TOKENIZERS: [&str; 4] =
    ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"];
/// Numbers that are encoded at a time.
const SOME: usize = 1 << 16;

/// One tensor in a shard.
struct Entry {
    name: String,
    shape: Vec<usize>,
    bytes: u64,
    /// The weights whose rows it holds, one after the other.
    weights: Vec<String>,
}

/// Writes `out` from its small files and whatever has the weights, in shards of at most `shard_bytes_max`, or
/// one weight where that is more.
/// # Errors
/// What reading a weight finds wrong; [`BaseError::Range`]; [`BaseError::Occupied`] when `out` holds
/// something; [`BaseError::Write`]. Nothing is left behind.
pub fn write(
    out: &Path,
    (config, source): (&Config, &dyn Source),
    small: &[(&'static str, Vec<u8>)],
    number: Number,
    shard_bytes_max: u64,
) -> Result<ExportReport, BaseError> {
    let partial = Partial::beside(out)?;
    let mut files = Vec::new();
    for (file, bytes) in small {
        let path = partial.path.join(file);
        match *file {
            "config.json" => whole(&path, &config_json(bytes, number)?)?,
            _ => whole(&path, bytes)?,
        }
        files.push((*file).to_owned());
    }

    let shards = shards(config, number, shard_bytes_max);
    let name = |at: usize| match shards.len() {
        1 => "model.safetensors".to_owned(),
        all => format!("model-{:05}-of-{all:05}.safetensors", at + 1),
    };
    for (at, shard) in shards.iter().enumerate() {
        write_shard(&partial.path.join(name(at)), shard, source, number)?;
        files.push(name(at));
    }
    let all =
        || shards.iter().enumerate().flat_map(|(at, shard)| shard.iter().map(move |e| (at, e)));
    let weight_bytes = all().map(|(_, entry)| entry.bytes).sum();
    if shards.len() > 1 {
        let map: Map<_, _> =
            all().map(|(at, entry)| (entry.name.clone(), name(at).into())).collect();
        let index = json!({ "metadata": { "total_size": weight_bytes }, "weight_map": map });
        let file = "model.safetensors.index.json";
        whole(&partial.path.join(file), &pretty(&index))?;
        files.push(file.to_owned());
    }
    partial.publish(out)?;
    let (parameters, tensors) = (config.parameters(), all().count());
    Ok(ExportReport { parameters, tensors, weight_bytes, external: shards.len() > 1, files })
}

/// The weights in the order of the decoder, filled into files one after the other.
fn shards(config: &Config, number: Number, shard_bytes_max: u64) -> Vec<Vec<Entry>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for entry in entries(config, number) {
        if filled > 0 && filled + entry.bytes > shard_bytes_max {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += entry.bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(entry);
        }
    }
    shards
}

/// The tensors in the order of the decoder.
fn entries(config: &Config, number: Number) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (weight, ours) in config.weights() {
        if config.tied && weight == super::foreign::OUTPUT {
            continue;
        }
        let shape = theirs(&weight, &ours);
        let bytes = shape.iter().fold(number.bytes(), |product, &width| product * width as u64);
        let name = match config.family {
            Family::Phi3 => packed(&weight),
            _ => weight.clone(),
        };
        match entries.last_mut().filter(|last| last.name == name) {
            Some(last) => {
                last.shape[0] += shape[0];
                last.bytes += bytes;
                last.weights.push(weight);
            }
            None => entries.push(Entry { name, shape, bytes, weights: vec![weight] }),
        }
    }
    entries
}

/// The tensor of a Phi-3 checkpoint that a weight lies in.
fn packed(weight: &str) -> String {
    let inside = |(packed, parts): (&str, &[&str])| {
        let part = parts.iter().find(|part| weight.ends_with(&format!(".{part}.weight")))?;
        Some(weight.replace(part, packed))
    };
    PACKED.into_iter().find_map(inside).unwrap_or_else(|| weight.to_owned())
}

fn write_shard(
    path: &Path,
    shard: &[Entry],
    source: &dyn Source,
    number: Number,
) -> Result<(), BaseError> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for Entry { name, shape, bytes, .. } in shard {
        let offsets = [end, end + bytes];
        end += bytes;
        let about = json!({
            "dtype": number.safetensors(),
            "shape": shape,
            "data_offsets": offsets,
        });
        header.insert(name.clone(), about);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Readers map the file: numbers begin at a multiple of their width.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = Sink::create(path.to_owned())?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    let mut bytes = Vec::new();
    for name in shard.iter().flat_map(|entry| &entry.weights) {
        for values in turned(name, source.weight(name)?).data.chunks(SOME) {
            bytes.clear();
            number.encode(name, values, &mut bytes)?;
            file.write(&bytes)?;
        }
    }
    file.finish()
}

/// The configuration with the type that the numbers have here.
fn config_json(bytes: &[u8], number: Number) -> Result<Vec<u8>, BaseError> {
    let mut about = json_object(bytes)?;
    // transformers 4 reads the one, 5 reads and writes the other.
    let field = if about.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    about.insert(field.to_owned(), number.torch().into());
    twice(&mut about);
    Ok(pretty(&about.into()))
}

/// What RoPE does stands in `rope_parameters` since transformers 5; version 4, and mlx-lm for most families,
/// look for it where it stood before, and take 10,000 where it does not. It is the same in both places.
fn twice(about: &mut Map<String, Value>) {
    let Some(Value::Object(mut scaling)) = about.get("rope_parameters").cloned() else { return };
    let theta = scaling.remove("rope_theta");
    let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str);
    let scaling = kind.is_some_and(|kind| kind != "default").then(|| Value::Object(scaling));
    for (key, value) in [("rope_theta", theta), ("rope_scaling", scaling)] {
        if let Some(value) = value.filter(|_| about.get(key).is_none_or(Value::is_null)) {
            about.insert(key.to_owned(), value);
        }
    }
}
