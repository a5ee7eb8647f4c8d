//! A Hugging Face checkpoint: safetensors, in one file or in shards with an index.
//!
//! - In: a folder and its [`Config`]. Out: any weight as f32 in our layout: linear weights
//!   `[in, out]`, the embedding `[V, D]`, the output layer `[D, V]` even when tied.
//! - Of a tied output layer either name may be stored; where both are and differ, it is not tied. What
//!   Phi-3 packs is given as its parts.
//! - A tensor is read by its range when it is asked for; only headers are held.
//! - Invariant: after [`Checkpoint::open`], every weight of the config is there with its shape,
//!   nothing else is, and every range lies inside its file.
//!
//! Source: the safetensors format, <https://github.com/huggingface/safetensors>.

use super::foreign::{EMBEDDING, OUTPUT};
use super::{BaseError, Config, Family, Source, Weight};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Linear layers that a Phi-3 checkpoint keeps as one, row after row.
pub(super) const PACKED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv_proj", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
];
/// Numbers that are compared at a time.
const SOME: usize = 1 << 16;
/// Longest header accepted, as the reference implementation does.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The tensors of a checkpoint and where they lie.
pub struct Checkpoint {
    dir: PathBuf,
    tensors: BTreeMap<String, Place>,
    /// Whether embedding and output layer are one, of which either may be stored.
    tied: bool,
}

/// Where a tensor lies and what it is.
struct Place {
    path: PathBuf,
    offset: u64,
    bytes: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// Reads the headers of every file and holds them against the config.
    /// # Errors
    /// A file that cannot be read, whose header lies, or that does not match the config.
    pub fn open(dir: &Path, config: &Config) -> Result<Self, BaseError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let mut tensors = match (single.exists(), index.exists()) {
            (false, true) => read_shards(dir, &index)?,
            (false, false) => {
                refuse_pickles(dir)?;
                read_header(&single)?
            }
            _ => read_header(&single)?,
        };
        if config.family == Family::Phi3 {
            unpack(&mut tensors, config)?;
        }
        let mut checkpoint = Self { dir: dir.to_owned(), tensors, tied: config.tied };
        checkpoint.check(config)?;
        checkpoint.tied = config.tied && !checkpoint.has_own_output()?;
        Ok(checkpoint)
    }

    /// Reads a folder's configuration too. It says that the output layer is the embedding only where that is
    /// so: one that is stored and differs stays what it is, as in transformers 5.
    /// # Errors
    /// As [`Checkpoint::open`], and what is wrong with `config.json`.
    pub fn with_config(dir: &Path) -> Result<(Config, Self), BaseError> {
        let mut config = super::read_config(dir)?;
        let checkpoint = Self::open(dir, &config)?;
        config.tied = checkpoint.tied;
        Ok((config, checkpoint))
    }

    /// Whether an output layer is stored that is not the embedding.
    fn has_own_output(&self) -> Result<bool, BaseError> {
        let (Some(embedding), Some(output)) =
            (self.tensors.get(EMBEDDING), self.tensors.get(OUTPUT))
        else {
            return Ok(false);
        };
        let read = |place: &Place, from, count| {
            let path = || place.path.clone();
            place.read(from, count).map_err(|source| BaseError::Read { path: path(), source })
        };
        let all = embedding.count();
        for from in (0..all).step_by(SOME) {
            let count = SOME.min(all - from);
            if read(embedding, from, count)? != read(output, from, count)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every weight of the config with its shape, and nothing that it does not name.
    fn check(&self, config: &Config) -> Result<(), BaseError> {
        let weights: BTreeMap<_, _> = config.weights().into_iter().collect();
        for (name, ours) in &weights {
            let expected = theirs(name, ours);
            // Of a tied output layer both places may be there.
            let stored = self.tensors.get(name).map_or_else(|| self.place(name), Ok)?;
            for found in [stored, self.place(name)?] {
                if found.shape != expected {
                    let got = found.shape.clone();
                    return Err(BaseError::Shape { tensor: name.clone(), expected, got });
                }
                if !matches!(found.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    let what =
                        format!("tensor {name:?} is {}, expected F32, F16 or BF16", found.dtype);
                    return Err(BaseError::Safetensors { path: found.path.clone(), what });
                }
            }
        }
        // Old checkpoints keep the rotary frequencies, in any type; they follow from the config.
        let known =
            |name: &str| weights.contains_key(name) || name.ends_with("rotary_emb.inv_freq");
        match self.tensors.iter().find(|(name, _)| !known(name)) {
            None => Ok(()),
            Some((tensor, place)) => Err(BaseError::UnexpectedTensor {
                tensor: tensor.clone(),
                path: place.path.clone(),
            }),
        }
    }

    fn place(&self, name: &str) -> Result<&Place, BaseError> {
        let is_there = |name: &str| self.tensors.contains_key(name);
        let source = match name {
            OUTPUT if self.tied && is_there(EMBEDDING) => EMBEDDING,
            EMBEDDING if self.tied && !is_there(EMBEDDING) && is_there(OUTPUT) => OUTPUT,
            _ => name,
        };
        self.tensors.get(source).ok_or_else(|| BaseError::MissingTensor {
            tensor: source.into(),
            path: self.dir.clone(),
        })
    }

    /// One weight, widened to f32, in our layout.
    /// # Errors
    /// [`BaseError::Read`], [`BaseError::MissingTensor`], or [`BaseError::Range`] when a value is
    /// infinite or not a number.
    pub fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        let place = self.place(name)?;
        let data = place
            .read(0, place.count())
            .map_err(|source| BaseError::Read { path: place.path.clone(), source })?;
        if let Some(&value) = data.iter().find(|value| !value.is_finite()) {
            let (tensor, target) = (name.into(), "a model");
            return Err(BaseError::Range { tensor, value, target, hint: "" });
        }
        Ok(turned(name, Weight { shape: place.shape.clone(), data }))
    }
}

impl Source for Checkpoint {
    fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        self.weight(name)
    }
}

/// Gives each part of a packed linear layer a place of its own.
fn unpack(tensors: &mut BTreeMap<String, Place>, config: &Config) -> Result<(), BaseError> {
    let shapes: BTreeMap<_, _> = config.weights().into_iter().collect();
    for layer in 0..config.layers {
        for (packed, parts) in PACKED {
            let at = |module: &str| format!("model.layers.{layer}.{module}.weight");
            let Some(place) = tensors.remove(&at(packed)) else { continue };
            let fans = |part: &&str| shapes.get(&at(part)).map(|ours| theirs(&at(part), ours));
            let fans: Vec<_> = parts.iter().filter_map(fans).collect();
            let rows: usize = fans.iter().map(|fans| fans[0]).sum();
            let expected = vec![rows, fans.first().map_or(0, |fans| fans[1])];
            if place.shape != expected {
                let got = place.shape;
                return Err(BaseError::Shape { tensor: at(packed), expected, got });
            }
            let mut offset = place.offset;
            for (part, shape) in parts.iter().zip(fans) {
                let bytes = place.bytes / rows * shape[0];
                let (path, dtype) = (place.path.clone(), place.dtype);
                let part = (at(part), Place { path, offset, bytes, dtype, shape });
                if let Some(twice) = tensors.insert(part.0.clone(), part.1) {
                    let (first, second) = (twice.path, place.path);
                    return Err(BaseError::DuplicateTensor { tensor: part.0, first, second });
                }
                offset += bytes as u64;
            }
        }
    }
    Ok(())
}

/// Refuses a folder whose weights are pickled, with the way out.
fn refuse_pickles(dir: &Path) -> Result<(), BaseError> {
    let names = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    let pickle = names.map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    pickle.map_or(Ok(()), |path| Err(BaseError::Pickle { path }))
}

/// The shape Hugging Face gives a weight that has `ours`: linear weights lie `[out, in]` there.
pub(super) fn theirs(name: &str, ours: &[usize]) -> Vec<usize> {
    match ours {
        [rows, columns] if name != EMBEDDING => vec![*columns, *rows],
        _ => ours.to_vec(),
    }
}

/// A weight from Hugging Face's layout to ours, or back.
pub(super) fn turned(name: &str, weight: Weight) -> Weight {
    match weight.shape[..] {
        [rows, columns] if name != EMBEDDING => {
            let data = transpose(&weight.data, rows, columns);
            Weight { shape: vec![columns, rows], data }
        }
        _ => weight,
    }
}

/// `[rows, columns]` to `[columns, rows]`, by tiles that stay in the cache.
fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut turned = vec![0.0; data.len()];
    for row_tile in (0..rows).step_by(TILE) {
        for column_tile in (0..columns).step_by(TILE) {
            for row in row_tile..rows.min(row_tile + TILE) {
                for column in column_tile..columns.min(column_tile + TILE) {
                    turned[column * rows + row] = data[row * columns + column];
                }
            }
        }
    }
    turned
}

impl Place {
    /// How many numbers.
    fn count(&self) -> usize {
        self.bytes * 8 / self.dtype.bitsize()
    }

    /// Some of its numbers.
    fn read(&self, from: usize, count: usize) -> std::io::Result<Vec<f32>> {
        let width = self.dtype.bitsize() / 8;
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset + (from * width) as u64))?;
        let mut bytes = vec![0; count * width];
        file.read_exact(&mut bytes)?;
        let (pairs, _) = bytes.as_chunks::<2>();
        Ok(match self.dtype {
            Dtype::F16 => pairs.iter().map(|&pair| f16::from_le_bytes(pair).to_f32()).collect(),
            Dtype::BF16 => pairs.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
        })
    }
}

/// The tensors of all shards that an index names.
fn read_shards(dir: &Path, index: &Path) -> Result<BTreeMap<String, Place>, BaseError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let lie = |what: String| BaseError::Safetensors { path: index.to_owned(), what };
    let text = std::fs::read_to_string(index)
        .map_err(|source| BaseError::Read { path: index.to_owned(), source })?;
    let Index { weight_map } =
        serde_json::from_str(&text).map_err(|error| lie(error.to_string()))?;
    let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
    let shards: std::collections::BTreeSet<&String> = weight_map.values().collect();
    for shard in shards {
        let mut parts = Path::new(shard).components();
        let (Some(Component::Normal(file)), None) = (parts.next(), parts.next()) else {
            return Err(lie(format!("shard {shard:?} is not a file of the same folder")));
        };
        for (tensor, place) in read_header(&dir.join(file))? {
            if let Some(first) = tensors.get(&tensor) {
                let (first, second) = (first.path.clone(), place.path);
                return Err(BaseError::DuplicateTensor { tensor, first, second });
            }
            tensors.insert(tensor, place);
        }
    }
    for (tensor, shard) in weight_map {
        let path = dir.join(shard);
        if tensors.get(&tensor).is_none_or(|place| place.path != path) {
            return Err(BaseError::MissingTensor { tensor, path });
        }
    }
    Ok(tensors)
}

/// The tensors of one file, each proved to lie inside it.
fn read_header(path: &Path) -> Result<BTreeMap<String, Place>, BaseError> {
    let lie = |what: String| BaseError::Safetensors { path: path.to_owned(), what };
    let unread = |source| BaseError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unread)?;
    let size = file.metadata().map_err(unread)?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(lie(format!("it has {size} bytes, the header's length alone takes 8")));
    }
    file.read_exact(&mut length).map_err(unread)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > size - 8 {
        return Err(lie(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(unread)?;
    let Header(infos) = serde_json::from_slice(&header).map_err(|error| lie(error.to_string()))?;
    check_offsets(&infos, size - 8 - length).map_err(lie)?;
    let place = |info: TensorInfo| Place {
        path: path.to_owned(),
        offset: 8 + length + info.data_offsets.0 as u64,
        bytes: info.data_offsets.1 - info.data_offsets.0,
        dtype: info.dtype,
        shape: info.shape,
    };
    Ok(infos.into_iter().map(|(name, info)| (name, place(info))).collect())
}

/// The tensors must be as long as their shape says, and fill the file without gap or overlap.
fn check_offsets(infos: &BTreeMap<String, TensorInfo>, data_bytes: u64) -> Result<(), String> {
    let mut order: Vec<_> = infos.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in order {
        let (from, to) = info.data_offsets;
        let bits = info.dtype.bitsize();
        let bits = info.shape.iter().try_fold(bits, |product, &width| product.checked_mul(width));
        let bytes = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
        if from != end || to < from {
            return Err(format!(
                "tensor {name:?} lies at {from}..{to}, expected to begin at {end}"
            ));
        }
        if bytes != Some(to - from) {
            let got = to - from;
            let shape = &info.shape;
            return Err(format!(
                "tensor {name:?} of shape {shape:?} has {got} bytes as {}",
                info.dtype
            ));
        }
        end = to;
    }
    if end as u64 != data_bytes {
        return Err(format!("its tensors need {end} bytes, it holds {data_bytes}"));
    }
    Ok(())
}

/// The JSON of a header; a name that comes twice is an error rather than the last one's victory.
struct Header(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("an object of tensors")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let info = map.next_value()?;
                    if tensors.insert(name.clone(), info).is_some() {
                        let what = format!("tensor {name:?} comes twice");
                        return Err(serde::de::Error::custom(what));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
