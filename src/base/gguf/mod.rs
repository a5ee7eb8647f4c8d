//! A GGUF file, as llama.cpp and Ollama have it: its model in our words, any weight, and the small files.
//!
//! - In: the path of a file. Out: [`Config`], any weight as f32 in our layout, and the files that a
//!   Hugging Face folder of the same model would have beside its weights.
//! - Only the header is held; a tensor is read and widened a few rows at a time when it is asked for.
//! - Never here: writing, the tokenizers crate.
//! - Invariant: after [`Gguf::open`], every weight of the config is there with its shape, nothing else
//!   is, and every range lies inside the file.

pub mod cursor;
pub mod encoding;
mod facts;
pub mod header;
mod model;
mod rope;
mod split;
mod tokenizer;
pub mod value;
mod vocabulary;
#[cfg(feature = "engine")]
mod weights;

use super::{BaseError, Config};
use cursor::Fault;
use facts::Facts;
use header::{Header, Tensor};
use model::Model;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// What every GGUF file begins with.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// A small file: its name and its bytes.
pub type SmallFile = (&'static str, Vec<u8>);

/// An opened file.
pub struct Gguf {
    path: PathBuf,
    header: Header,
    config: Config,
    tensors: BTreeMap<String, String>,
    files: Vec<SmallFile>,
}

/// What a header says of a model.
pub struct Described {
    /// The configuration.
    pub config: Config,
    /// The tensor of each weight.
    pub tensors: BTreeMap<String, String>,
    /// `config.json`, `tokenizer.json` and what else stands beside the weights.
    pub files: Vec<SmallFile>,
}

impl Gguf {
    /// Reads the header and holds it against what we compute.
    /// # Errors
    /// A file that cannot be read, whose header lies, or that holds another model than we compute.
    pub fn open(path: &Path) -> Result<Self, BaseError> {
        let header = read_header(path)?;
        let divisors = match header.tensors.get(model::DIVISORS) {
            Some(tensor) => Some(divisors(path, tensor)?),
            None => None,
        };
        let Described { config, tensors, files } = describe(&header, divisors.as_deref(), path)?;
        Ok(Self { path: path.to_owned(), header, config, tensors, files })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `config.json`, `tokenizer.json` and what else stands beside the weights.
    pub fn files(&self) -> &[SmallFile] {
        &self.files
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of a weight by its Hugging Face name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.header.tensors.get(self.tensors.get(name)?)
    }
}

/// The header of a file.
/// # Errors
/// [`BaseError::Read`], [`BaseError::Gguf`].
pub fn read_header(path: &Path) -> Result<Header, BaseError> {
    let unread = |source| BaseError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    Header::read(BufReader::new(file), length).map_err(|fault| match fault {
        Fault::Read(source) => unread(source),
        Fault::Lie { at, what } => BaseError::Gguf { path: path.to_owned(), at, what },
    })
}

/// What a header says of a model; `divisors` are those of `rope_freqs.weight`, `path` is for errors.
/// # Errors
/// [`BaseError::GgufValue`], [`BaseError::GgufModel`].
pub fn describe(
    header: &Header,
    divisors: Option<&[f32]>,
    path: &Path,
) -> Result<Described, BaseError> {
    let facts = Facts::new(header, path);
    let tokenizer = Tokenizer::new(&facts)?;
    let Model { json, config, tensors } =
        Model::new(&facts, divisors, &tokenizer.specials, &tokenizer.generation())?;
    let mut files = vec![("config.json", json.into_bytes())];
    files.extend(tokenizer.files(&facts, u32::try_from(config.context).ok())?);
    Ok(Described { config, tensors, files })
}

/// The files of the tokenizer alone, for a file that has no more.
/// # Errors
/// [`BaseError::GgufValue`].
pub fn tokenizer_files(header: &Header, path: &Path) -> Result<Vec<SmallFile>, BaseError> {
    let facts = Facts::new(header, path);
    Tokenizer::new(&facts)?.files(&facts, None)
}

/// Whether a file says that it is GGUF.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == MAGIC
}

/// The divisors of the frequencies of rope.
fn divisors(path: &Path, tensor: &Tensor) -> Result<Vec<f32>, BaseError> {
    let plain = tensor.encoding == encoding::Encoding::F32 && tensor.shape.len() == 1;
    if !plain || tensor.shape[0] > super::config::HEAD_MAX {
        let what = format!("tensor {:?} is no short row of F32", model::DIVISORS);
        return Err(BaseError::GgufModel { path: path.to_owned(), what });
    }
    let mut bytes = vec![0; tensor.bytes as usize];
    let mut read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(tensor.offset))?;
        file.read_exact(&mut bytes)
    };
    read().map_err(|source| BaseError::Read { path: path.to_owned(), source })?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect())
}

#[cfg(all(test, feature = "engine"))]
mod tests;
