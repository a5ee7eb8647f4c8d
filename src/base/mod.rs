//! The base: a frozen Llama-family model folder, read into a configuration and plain weights.
//!
//! - In: a folder with `model.onnx`, `config.json` and perhaps `generation_config.json`, from our
//!   own [export](export::export()) or from another exporter; or a Hugging Face folder. Out: [`Config`],
//!   any [`Weight`], and a hash by which an adapter knows its base.
//! - Weights are read when asked for, one at a time, in one layout whatever file they come from:
//!   linear weights `[in, out]`, the embedding `[V, D]`, the output layer `[D, V]` even when tied.
//! - Never here: running the graph.
//! - Invariant: an opened base has every weight of its config with the right shape, and every one
//!   has been read once: now, or when the stamp beside the model was written for these very bytes.

pub mod canonical;
pub mod config;
pub mod error;
pub mod export;
mod family;
mod fields;
pub mod foreign;
pub mod gguf;
pub mod hf;
mod number;
pub mod ollama;
pub mod onnx;
pub mod origin;
pub mod place;
pub mod publish;
mod rope;
pub mod shards;
mod stamp;
mod tokens;

pub use canonical::Precision;
pub use config::Config;
pub use error::BaseError;
pub use export::{ExportOptions, ExportReport, export};
pub use family::Family;
pub use number::Number;
pub use rope::{Rope, RopeScaling};

use foreign::{Dims, WeightMap};
use half::f16;
use onnx::OnnxFile;
use serde::{Deserialize, Serialize};
use stamp::Stamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One tensor of the base, widened to f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Sizes of the axes, outermost first: `[in, out]` for a linear weight.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<f32>,
}

/// What holds all weights of a base.
pub trait Source {
    /// One weight by its Hugging Face name, in our layout.
    /// # Errors
    /// [`BaseError::NoWeight`] or [`BaseError::MissingTensor`] for an unknown name, else what is wrong
    /// with the file.
    fn weight(&self, name: &str) -> Result<Weight, BaseError>;
}

/// The narrowest numbers that all of a weight survive in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Narrowest {
    /// bf16; f16 perhaps too.
    Bf16,
    /// f16 and not bf16.
    F16,
    /// Neither.
    F32,
}

impl Narrowest {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }

    fn of(values: &[f32]) -> Self {
        let as_bf16 = |value: &f32| value.to_bits().trailing_zeros() >= 16;
        let as_f16 = |value: &f32| f16::from_f32(*value).to_f32().to_bits() == value.to_bits();
        match () {
            () if values.iter().all(as_bf16) => Self::Bf16,
            () if values.iter().all(as_f16) => Self::F16,
            () => Self::F32,
        }
    }
}

/// An opened model folder.
#[derive(Debug)]
pub struct Base {
    config: Config,
    file: OnnxFile,
    map: WeightMap,
    shapes: BTreeMap<String, Vec<usize>>,
    /// How narrow the numbers of each weight may be.
    narrowest: BTreeMap<String, Narrowest>,
    hash: [u8; 32],
    dir: PathBuf,
    /// The hash of its files, if they could be read for that.
    bytes: Option<String>,
    stamp: Option<Stamp>,
}

impl Base {
    /// Opens a model folder and reads every weight once, to prove it and to hash it; where a stamp says
    /// what came of that for these bytes, they are only hashed.
    /// # Errors
    /// A file that is missing, truncated, of another kind of model, or at odds with `config.json`.
    pub fn open(dir: &Path) -> Result<Self, BaseError> {
        let config = read_config(dir)?;
        place::expect_folder(dir)?;
        let file = OnnxFile::open(&dir.join("model.onnx"))?;
        let map = foreign::map(&file, &Dims::from(&config))?;
        if !map.is_own() {
            foreign::positions::check(&file, &config)?;
        }
        let shapes: BTreeMap<_, _> = config.weights().into_iter().collect();
        if let Some(name) = map.places().keys().find(|name| !shapes.contains_key(*name)) {
            let what = format!("the graph uses {name:?}, which the model of config.json has not");
            return Err(BaseError::Structure { what });
        }
        let bytes = stamp::bytes(&file, &config.identity());
        let stamp = bytes.as_deref().and_then(|bytes| Stamp::read(dir, bytes));
        let (dir, narrowest, hash) = (dir.to_owned(), BTreeMap::new(), [0; 32]);
        let mut base = Self { config, file, map, shapes, narrowest, hash, dir, bytes, stamp };
        if let Some((stamp, hash)) = base.stamp.as_ref().and_then(|own| Some((own, own.hash()?))) {
            (base.narrowest, base.hash) = (stamp.narrowest.clone(), hash);
            return Ok(base);
        }
        (base.hash, base.narrowest) = read_all(&base.config, &base)?;
        if let Some(bytes) = &base.bytes {
            Stamp::new(bytes, base.hash, base.narrowest.clone()).write(&base.dir);
        }
        Ok(base)
    }

    /// Whether something was proved of these bytes when they were opened before.
    pub fn is_proved(&self, proof: &str) -> bool {
        self.stamp.as_ref().is_some_and(|stamp| stamp.has(proof))
    }

    /// Notes for the next time what was proved of these bytes; `proof` says on what it depends besides.
    pub fn prove(&self, proof: &str) {
        let stamp = self.bytes.as_deref().and_then(|bytes| Stamp::read(&self.dir, bytes));
        if let Some(mut stamp) = stamp {
            stamp.note(proof);
            stamp.write(&self.dir);
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// BLAKE3 over what the base computes with: the same for the same weights and configuration,
    /// whatever exporter wrote the file.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// One weight by its Hugging Face name, f32.
    /// # Errors
    /// [`BaseError::NoWeight`] for an unknown name, else what is wrong with the file.
    pub fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        let Some(expected) = self.shapes.get(name) else {
            return Err(BaseError::NoWeight { name: name.into() });
        };
        let (shape, data) = self.map.read(&self.file, name)?;
        if shape != *expected {
            let (tensor, expected) = (name.into(), expected.clone());
            return Err(BaseError::Shape { tensor, expected, got: shape });
        }
        Ok(Weight { shape, data })
    }

    /// How narrow the numbers of a weight may be so that all of them survive.
    pub fn narrowest(&self, name: &str) -> Narrowest {
        self.narrowest.get(name).copied().unwrap_or(Narrowest::F32)
    }
}

impl Source for Base {
    fn weight(&self, name: &str) -> Result<Weight, BaseError> {
        self.weight(name)
    }
}

/// BLAKE3 over what a base computes with, [`Base::hash`], of weights that lie anywhere; all are read.
/// # Errors
/// What is wrong with a weight.
pub fn hash(config: &Config, source: &dyn Source) -> Result<[u8; 32], BaseError> {
    Ok(read_all(config, source)?.0)
}

/// The hash, and how narrow each weight may be.
fn read_all(
    config: &Config,
    source: &dyn Source,
) -> Result<([u8; 32], BTreeMap<String, Narrowest>), BaseError> {
    let mut narrowest = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.identity().as_bytes());
    let shapes: BTreeMap<_, _> = config.weights().into_iter().collect();
    for (name, shape) in shapes {
        let weight = source.weight(&name)?;
        if let Some(&value) = weight.data.iter().find(|value| !value.is_finite()) {
            let (tensor, target) = (name, "a model");
            return Err(BaseError::Range { tensor, value, target, hint: "" });
        }
        hasher.update(format!("{name} {shape:?}\n").as_bytes());
        narrowest.insert(name, Narrowest::of(&weight.data));
        let mut bytes = Vec::with_capacity(4 * 4096);
        for values in weight.data.chunks(4096) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
    }
    Ok((hasher.finalize().into(), narrowest))
}

/// The configuration of a Hugging Face folder or a model folder.
pub fn read_config(dir: &Path) -> Result<Config, BaseError> {
    let path = dir.join("config.json");
    if !path.exists() {
        place::expect_folder(dir)?;
    }
    let config =
        std::fs::read_to_string(&path).map_err(|source| BaseError::Read { path, source })?;
    let path = dir.join("generation_config.json");
    let generation = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(BaseError::Read { path, source }),
    };
    Config::parse(&config, generation.as_deref())
}

#[cfg(test)]
pub(crate) mod tests;
