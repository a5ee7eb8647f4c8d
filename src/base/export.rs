//! Export: a Hugging Face folder or a GGUF file becomes a model folder with one ONNX file.
//!
//! - In: `config.json`, safetensors, `tokenizer.json` and its companions; or a GGUF file, which says all
//!   of that in its own words (`gguf`). Out: `model.onnx` with
//!   the [canonical graph](super::canonical), its external data when the weights are many bytes,
//!   and the small files beside it.
//! - The folder is written under a temporary name beside its place and renamed at the end: a failed
//!   export leaves nothing behind.
//! - One weight at a time is in memory, and its copy in the layout of the file.
//!
//! Source: ONNX external data, <https://onnx.ai/onnx/repo-docs/ExternalData.html>.

use super::canonical::{self, Canonical, Part, Precision, Slot};
use super::hf::Checkpoint;
use super::number::Number;
use super::onnx::*;
use super::{BaseError, Config, Source, origin, tokens};
use prost::Message;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Weights of more bytes than this go to a file of their own; protobuf ends at twice as many.
pub const INLINE_BYTES_MAX: u64 = 1 << 30;
/// Every external tensor begins at a multiple of this, so that it can be mapped.
const ALIGNMENT: u64 = 4096;
/// Name of the file with external data.
const EXTERNAL: &str = "model.onnx.data";
/// Files copied as they are when they are there.
const COMPANIONS: [&str; 4] = [
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// What a user may choose of an export.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// How two-dimensional weights are stored.
    pub dtype: Precision,
    /// Weights of more bytes in sum than this go to `model.onnx.data`; at most
    /// [`INLINE_BYTES_MAX`] counts.
    pub inline_bytes_max: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { dtype: Precision::F32, inline_bytes_max: INLINE_BYTES_MAX }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// Numbers the model learned, a tied output layer counted once.
    pub parameters: u64,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of the weights as stored.
    pub weight_bytes: u64,
    /// Whether they lie in `model.onnx.data`, or in several files.
    pub external: bool,
    /// Names of the files in the model folder.
    pub files: Vec<String>,
}

/// Writes `model_dir` from the Hugging Face folder or the GGUF file `source`.
/// # Errors
/// What reading the source finds wrong; [`BaseError::Occupied`] when `model_dir` holds something;
/// [`BaseError::Write`]. Nothing is left behind and nothing that was there is changed.
pub fn export(
    source: &Path,
    model_dir: &Path,
    options: ExportOptions,
) -> Result<ExportReport, BaseError> {
    export_from(source, None, model_dir, options)
}

/// The same, with a record of where `source` was fetched from.
/// # Errors
/// As [`export()`].
pub fn export_from(
    source: &Path,
    origin: Option<&Value>,
    model_dir: &Path,
    options: ExportOptions,
) -> Result<ExportReport, BaseError> {
    let record = origin.map(|origin| (origin::FILE, pretty(origin)));
    #[cfg(feature = "engine")]
    if source.is_file() {
        let gguf = super::gguf::Gguf::open(source)?;
        let small: Vec<_> = gguf.files().iter().cloned().chain(record).collect();
        return write(model_dir, (gguf.config(), &gguf), &small, options);
    }
    let (config, checkpoint) = Checkpoint::with_config(source)?;
    let mut small = small_files(source, config.tied, &[])?;
    small.extend(record);
    write(model_dir, (&config, &checkpoint), &small, options)
}

/// What a folder has beside its weights: configuration, tokenizer and its companions, and of `more` what is
/// there; name and bytes of each. The configuration says that the output layer is the embedding where it is
/// `tied`, and only there.
/// # Errors
/// [`BaseError::Read`], and what is wrong with `config.json`.
pub fn small_files(
    dir: &Path,
    tied: bool,
    more: &[&'static str],
) -> Result<Vec<(&'static str, Vec<u8>)>, BaseError> {
    let others = COMPANIONS.into_iter().chain(more.iter().copied());
    let others = others.filter(|file| dir.join(file).exists());
    let read = |file| {
        let path = dir.join(file);
        let bytes = fs::read(&path).map_err(|source| BaseError::Read { path, source })?;
        Ok((file, bytes))
    };
    let mut files = ["config.json", "tokenizer.json"]
        .into_iter()
        .chain(others)
        .map(read)
        .collect::<Result<Vec<_>, BaseError>>()?;
    if tied != super::read_config(dir)?.tied {
        let mut about = json_object(&files[0].1)?;
        about.insert("tie_word_embeddings".to_owned(), tied.into());
        files[0].1 = pretty(&about.into());
    }
    Ok(files)
}

/// A `config.json`.
pub(super) fn json_object(bytes: &[u8]) -> Result<Map<String, Value>, BaseError> {
    serde_json::from_slice(bytes)
        .map_err(|error| BaseError::ConfigJson { file: "config.json", what: error.to_string() })
}

/// JSON for people.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Writes `model_dir` from its small files and whatever has the weights.
/// # Errors
/// As [`export()`].
pub fn write(
    model_dir: &Path,
    (config, source): (&Config, &dyn Source),
    small: &[(&'static str, Vec<u8>)],
    options: ExportOptions,
) -> Result<ExportReport, BaseError> {
    for (file, bytes) in small.iter().filter(|(file, _)| *file == "tokenizer.json") {
        tokens::check(Path::new(file), bytes, config.vocab)?;
    }
    let partial = Partial::beside(model_dir)?;
    small.iter().try_for_each(|(file, bytes)| whole(&partial.path.join(file), bytes))?;
    let plan = Plan::new(config, options);
    plan.write(&partial.path, source)?;
    let mut files: Vec<&str> = small.iter().map(|(file, _)| *file).collect();
    files.push("model.onnx");
    files.extend(plan.external.then_some(EXTERNAL));
    partial.publish(model_dir)?;
    Ok(ExportReport {
        parameters: config.parameters(),
        tensors: plan.slots.len(),
        weight_bytes: plan.slots.iter().map(bytes).sum(),
        external: plan.external,
        files: files.into_iter().map(Into::into).collect(),
    })
}

/// Writes a small file.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> Result<(), BaseError> {
    let mut file = Sink::create(path.to_owned())?;
    file.write(bytes)?;
    file.finish()
}

impl From<Precision> for Number {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
        }
    }
}

/// Bytes of a weight as stored.
fn bytes(slot: &Slot) -> u64 {
    let size = Number::from(slot.precision).bytes();
    slot.shape.iter().fold(size, |product, &width| product * width as u64)
}

/// Everything about the files but the weights' values.
struct Plan {
    model: ModelProto,
    graph: Vec<u8>,
    slots: Vec<Slot>,
    external: bool,
}

impl Plan {
    fn new(config: &Config, options: ExportOptions) -> Self {
        let Canonical { graph, slots, .. } = Canonical::new(config, Part::Whole, options.dtype);
        let total: u64 = slots.iter().map(bytes).sum();
        let external = total > options.inline_bytes_max.min(INLINE_BYTES_MAX);
        let model = canonical::model(config, GraphProto::default());
        Self {
            model: ModelProto { graph: None, ..model },
            graph: graph.encode_to_vec(),
            slots,
            external,
        }
    }

    /// Writes `model.onnx`, and the external data if that is the plan.
    ///
    /// Protobuf wants the length of a message before its bytes. All lengths follow from the shapes,
    /// so the file is written front to back with one weight in memory.
    fn write(&self, dir: &Path, source: &dyn Source) -> Result<(), BaseError> {
        let heads = self.heads();
        let fields = heads.iter().zip(&self.slots).map(|(head, slot)| self.field(head, slot).0);
        let graph_bytes = self.graph.len() as u64 + fields.sum::<u64>();
        let mut file = Sink::create(dir.join("model.onnx"))?;
        file.write(&self.model.encode_to_vec())?;
        file.write(&tag(7, graph_bytes))?;
        file.write(&self.graph)?;
        let mut data = match self.external {
            true => Some(Sink::create(dir.join(EXTERNAL))?),
            false => None,
        };
        for (head, slot) in heads.iter().zip(&self.slots) {
            let mut values = Vec::with_capacity(bytes(slot) as usize);
            let weight = source.weight(&slot.name)?.data;
            Number::from(slot.precision).encode(&slot.name, &weight, &mut values)?;
            file.write(&self.field(head, slot).1)?;
            file.write(head)?;
            match &mut data {
                None => {
                    file.write(&tag(9, bytes(slot)))?;
                    file.write(&values)?;
                }
                Some(data) => {
                    let gap = data.bytes.next_multiple_of(ALIGNMENT) - data.bytes;
                    data.write(&vec![0; gap as usize])?;
                    data.write(&values)?;
                }
            }
        }
        data.map_or(Ok(()), Sink::finish)?;
        file.finish()
    }

    /// Every weight's TensorProto but its values.
    fn heads(&self) -> Vec<Vec<u8>> {
        let mut offset = 0u64;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        let head = |slot: &Slot| {
            let mut tensor = TensorProto {
                name: slot.name.clone(),
                dims: slot.shape.iter().map(|&width| width as i64).collect(),
                data_type: match slot.precision {
                    Precision::F32 => data_type::FLOAT,
                    Precision::F16 => data_type::FLOAT16,
                },
                ..TensorProto::default()
            };
            if self.external {
                offset = offset.next_multiple_of(ALIGNMENT);
                tensor.data_location = LOCATION_EXTERNAL;
                tensor.external_data = vec![
                    entry("location", EXTERNAL.into()),
                    entry("offset", offset.to_string()),
                    entry("length", bytes(slot).to_string()),
                ];
                offset += bytes(slot);
            }
            tensor.encode_to_vec()
        };
        self.slots.iter().map(head).collect()
    }

    /// Size of the graph's field for one weight, and the field's tag.
    fn field(&self, head: &[u8], slot: &Slot) -> (u64, Vec<u8>) {
        let values = bytes(slot);
        let inline = if self.external { 0 } else { tag(9, values).len() as u64 + values };
        let tag = tag(5, head.len() as u64 + inline);
        (tag.len() as u64 + head.len() as u64 + inline, tag)
    }
}

/// The start of a length-delimited protobuf field.
fn tag(field: u32, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(length, &mut bytes);
    bytes
}

/// A file being written, that knows its name when something fails.
pub(super) struct Sink {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Sink {
    pub(super) fn create(path: PathBuf) -> Result<Self, BaseError> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self { path, file: BufWriter::new(file), bytes: 0 }),
            Err(source) => Err(BaseError::Write { path, source }),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BaseError> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    /// Everything is on the disk when this returns.
    pub(super) fn finish(mut self) -> Result<(), BaseError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> BaseError {
        BaseError::Write { path: self.path.clone(), source }
    }
}

/// The name of a folder that can be written: there is none of it, or an empty one.
/// # Errors
/// [`BaseError::Occupied`].
pub fn expect_vacant(model_dir: &Path) -> Result<String, BaseError> {
    let occupied = || BaseError::Occupied { path: model_dir.to_owned() };
    let name = model_dir.file_name().ok_or_else(occupied)?.to_string_lossy().into_owned();
    match fs::read_dir(model_dir).map(Iterator::count) {
        Ok(0) => Ok(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(name),
        _ => Err(occupied()),
    }
}

/// The folder under its temporary name; removed unless it is published.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    /// Folders above it that were made for it, the outermost first.
    parents: Vec<PathBuf>,
}

impl Partial {
    /// A new folder in the same parent, which is made where it is missing, so that the rename stays on one
    /// file system.
    pub(super) fn beside(model_dir: &Path) -> Result<Self, BaseError> {
        let name = expect_vacant(model_dir)?;
        let path = model_dir.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        // What is made by then goes again when anything fails.
        let mut partial = Self { path, parents: Vec::new() };
        let missing = |parent: &&Path| !parent.as_os_str().is_empty() && !parent.exists();
        let parents: Vec<&Path> = model_dir.ancestors().skip(1).take_while(missing).collect();
        for parent in parents.into_iter().rev() {
            let failed = |source| BaseError::Write { path: parent.to_owned(), source };
            fs::create_dir(parent).map_err(failed)?;
            partial.parents.push(parent.to_owned());
        }
        match fs::create_dir(&partial.path) {
            Ok(()) => Ok(partial),
            Err(source) => Err(BaseError::Write { path: partial.path.clone(), source }),
        }
    }

    /// Gives the folder its name.
    pub(super) fn publish(self, model_dir: &Path) -> Result<(), BaseError> {
        let failed = |source| BaseError::Write { path: model_dir.to_owned(), source };
        // Only an empty folder can be removed this way.
        if model_dir.exists() {
            fs::remove_dir(model_dir).map_err(failed)?;
        }
        fs::rename(&self.path, model_dir).map_err(failed)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove, and a failed export has its own error.
        let _gone = fs::remove_dir_all(&self.path);
        // Only empty ones can be removed this way.
        for parent in self.parents.iter().rev() {
            let _gone = fs::remove_dir(parent);
        }
    }
}
