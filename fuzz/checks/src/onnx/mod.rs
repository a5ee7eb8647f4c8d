//! Models from disk: the ONNX reader with its configuration and external data, and safetensors.
//!
//! - In: a letter, then parts. `e`: edits of a sound decoder's graph, see [`graph`]; `f`: a model
//!   folder as three files; `g`: a configuration and a graph in memory; `h`: a Hugging Face folder.
//! - Promises: a map of a graph gives every weight in the shape of the configuration, or an error;
//!   the file and the message in memory are the same model; what is exported is what was read.

pub mod graph;

use crate::Seed;
use crate::cursor::{Cursor, joined, parts};
use prost::Message;
use sapwood::base::canonical::{Canonical, Part, model};
use sapwood::base::foreign::{Dims, WeightMap, map};
use sapwood::base::hf::Checkpoint;
use sapwood::base::onnx::{ModelProto, OnnxFile, StringStringEntryProto, TensorProto, data_type};
use sapwood::base::{Base, Config, ExportOptions, Precision, export};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

/// The decoder of the seeds.
pub const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 1,
"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 6,
"vocab_size": 8, "max_position_embeddings": 4}"#;
const EXTERNAL: &str = "model.onnx.data";

/// The decoder in f32 and in f16.
static SOUND: LazyLock<[ModelProto; 2]> =
    LazyLock::new(|| [sound(Precision::F32), sound(Precision::F16)]);

/// Reads the bytes as what their first letter says.
pub fn check(bytes: &[u8]) {
    let mut cursor = Cursor(bytes);
    match cursor.byte() {
        b'e' => edited(&mut cursor),
        b'f' => folder(parts(cursor.0)),
        b'g' => in_memory(parts(cursor.0)),
        b'h' => checkpoint(parts(cursor.0)),
        _ => {}
    }
}

/// A folder that is gone afterwards, in memory where there is such a disk.
fn scratch(files: &[(&str, &[u8])]) -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn small() -> Config {
    Config::parse(CONFIG, None).unwrap()
}

/// Edits of the graph, in memory and through a file.
fn edited(cursor: &mut Cursor<'_>) {
    let style = cursor.byte();
    let mut edited = SOUND[usize::from(style & 1)].clone();
    if style & 2 != 0 {
        // Without our mark it is any exporter's graph, and is walked.
        edited.metadata_props.clear();
    }
    graph::edit(&mut edited, cursor);
    let dir = scratch(&[(EXTERNAL, &[0; 256]), ("config.json", CONFIG.as_bytes())]);
    let path = dir.path().join("model.onnx");
    fs::write(&path, edited.encode_to_vec()).unwrap();
    let dims = Dims::from(&small());
    let whole = edited.graph.as_ref().is_some_and(|graph| !graph.node.is_empty());
    let memory = OnnxFile::from_model(&path, edited).map(|file| weights(&file, &dims));
    let disk = OnnxFile::open(&path).map(|file| weights(&file, &dims));
    if let (Ok(memory), Ok(disk)) = (&memory, &disk) {
        assert_eq!(memory, disk, "the file and the message differ");
    }
    assert!(memory.is_ok() || !whole, "no graph in a model that has one");
    opened(dir.path());
}

/// Every weight that can be read; none where the graph is refused.
fn weights(file: &OnnxFile, dims: &Dims) -> Option<Vec<Option<Vec<u32>>>> {
    let map: WeightMap = map(file, dims).ok()?;
    let weight = |name: &String| {
        let (shape, values) = map.read(file, name).ok()?;
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        Some(values.iter().map(|value| value.to_bits()).collect())
    };
    let _ = (map.is_own(), map.is_tied());
    Some(map.places().keys().map(weight).collect())
}

/// A model folder of three files.
fn folder([config, data, model]: [&[u8]; 3]) {
    let files = [("config.json", config), (EXTERNAL, data), ("model.onnx", model)];
    opened(scratch(&files).path());
}

/// Opens a model folder; one that opens gives every weight, finite and of its shape.
fn opened(dir: &Path) {
    let Ok(base) = Base::open(dir) else { return };
    for (name, shape) in base.config().weights() {
        let Ok(weight) = base.weight(&name) else { continue };
        assert_eq!(weight.shape, shape, "{name}");
        assert!(weight.data.iter().all(|value| value.is_finite()), "{name}");
    }
    assert_eq!(Base::open(dir).unwrap().hash(), base.hash());
}

/// A graph of any size by any exporter: only its map matters, its weights need not be there.
fn in_memory([config, model]: [&[u8]; 2]) {
    let config = std::str::from_utf8(config).ok().and_then(|text| Config::parse(text, None).ok());
    let (Some(config), Ok(model)) = (config, ModelProto::decode(model)) else { return };
    let Ok(file) = OnnxFile::from_model(Path::new("absent/model.onnx"), model) else { return };
    weights(&file, &Dims::from(&config));
}

/// A Hugging Face folder: one file, or a shard with an index; exported, it is the same model.
fn checkpoint([config, index, tensors]: [&[u8]; 3]) {
    let mut files = vec![("config.json", config), ("tokenizer.json", b"{}")];
    match index {
        [] => files.push(("model.safetensors", tensors)),
        _ => files.extend([("model.safetensors.index.json", index), ("a.safetensors", tensors)]),
    }
    let dir = scratch(&files);
    let text = std::str::from_utf8(config).ok();
    let Some(config) = text.and_then(|text| Config::parse(text, None).ok()) else { return };
    let Ok(source) = Checkpoint::open(dir.path(), &config) else { return };
    let out = dir.path().join("model");
    // Numbers that are not finite are found while they are written.
    if export(dir.path(), &out, ExportOptions::default()).is_err() {
        assert!(config.weights().iter().any(|(name, _)| source.weight(name).is_err()));
        return assert!(!out.exists(), "a refused export left something behind");
    }
    let base = Base::open(&out).unwrap();
    for (name, shape) in config.weights() {
        let weight = base.weight(&name).unwrap();
        assert_eq!((&weight, &weight.shape), (&source.weight(&name).unwrap(), &shape), "{name}");
    }
}

/// A whole decoder of our own, its weights in the file.
fn sound(precision: Precision) -> ModelProto {
    let config = small();
    let Canonical { mut graph, slots, .. } = Canonical::new(&config, Part::Whole, precision);
    for (at, slot) in slots.into_iter().enumerate() {
        let count: usize = slot.shape.iter().product();
        let half = slot.precision == Precision::F16;
        let value = (at + 1) as f32 / 32.0;
        let number = match half {
            true => half::f16::from_f32(value).to_le_bytes().to_vec(),
            false => value.to_le_bytes().to_vec(),
        };
        graph.initializer.push(TensorProto {
            name: slot.name,
            dims: slot.shape.iter().map(|&size| size as i64).collect(),
            data_type: if half { data_type::FLOAT16 } else { data_type::FLOAT },
            raw_data: number.repeat(count),
            ..TensorProto::default()
        });
    }
    model(&config, graph)
}

/// Where a tensor lies outside the model's file.
fn elsewhere(location: &str, offset: &str, length: &str) -> Vec<StringStringEntryProto> {
    let entries = [("location", location), ("offset", offset), ("length", length)];
    let entry = |(key, value): (&str, &str)| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    entries.into_iter().map(entry).collect()
}

/// A Hugging Face file of the same decoder, header and zeros.
fn safetensors() -> Vec<u8> {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, mut shape) in small().weights() {
        if name != "model.embed_tokens.weight" {
            shape.reverse();
        }
        let end = at + 2 * shape.iter().product::<usize>();
        let tensor =
            serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
        header.insert(name, tensor);
        at = end;
    }
    let header = serde_json::Value::from(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; at]].concat()
}

/// The decoder as a file, as a graph without weights, as a checkpoint, and edits of it.
pub fn seeds() -> Vec<Seed> {
    let config = CONFIG.as_bytes();
    let whole = SOUND[1].clone();
    let mut bare = whole.clone();
    bare.metadata_props.clear();
    for tensor in bare.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if tensor.dims.len() == 2 {
            tensor.raw_data.clear();
        }
    }
    let tensors = safetensors();
    let led = |letter: u8, parts: &[&[u8]]| [&[letter], &joined(parts)[..]].concat();
    let mut seeds = vec![
        ("folder", led(b'f', &[config, b"", &whole.encode_to_vec()])),
        ("graph", led(b'g', &[config, &bare.encode_to_vec()])),
        ("checkpoint", led(b'h', &[config, b"", &tensors])),
        ("whole_own", b"e\0".to_vec()),
        ("whole_foreign", b"e\x02".to_vec()),
        ("whole_foreign_half", b"e\x03".to_vec()),
    ];
    seeds.extend(graph::seeds());
    seeds
}
