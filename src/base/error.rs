//! What can go wrong between a model folder and its weights.

use std::path::PathBuf;
use thiserror::Error;

/// The way out of every ONNX file that we cannot read.
pub const EXPORT_HINT: &str =
    "write the folder anew from the Hugging Face weights: sapwood export HF_DIR MODEL_DIR";

/// Why a base cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BaseError {
    /// A file of the new model folder could not be written.
    #[error("cannot write {}: {source}; nothing was left behind", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder to write already holds something.
    #[error("{} is not an empty folder; choose another or remove it, nothing was changed", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A safetensors file's header does not describe its bytes.
    #[error("{} is not a whole safetensors file: {what}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// A GGUF file's header does not describe its bytes.
    #[error("{} is not a whole GGUF file: at byte {at}, {what}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// First byte of what is wrong.
        at: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// A value of a GGUF file's metadata is none that we compute with.
    #[error("{}: `{key}` must be {expected}, got {got}", path.display())]
    GgufValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A GGUF file holds another model than we compute.
    #[error("{} holds no model that is computed here: {what}", path.display())]
    GgufModel {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// A model, or the name of one, where a model folder is expected.
    #[error(
        "{path} {what}, expected a model folder; write one: sapwood export {source_name} MODEL_DIR"
    )]
    NoModelFolder {
        /// What was given.
        path: String,
        /// What it is.
        what: &'static str,
        /// What an export calls it.
        source_name: String,
    },
    /// A name that Ollama would not take.
    #[error(
        "ollama:{name} is no name of Ollama: expected ollama:NAME, ollama:NAME:TAG or ollama:HOST/USER/NAME:TAG"
    )]
    OllamaName {
        /// The name.
        name: String,
    },
    /// A model that Ollama's store does not have.
    #[error("{} has no model {name}: {there}", store.display())]
    OllamaAbsent {
        /// The store.
        store: PathBuf,
        /// The name.
        name: String,
        /// What it has.
        there: String,
    },
    /// A manifest of Ollama's that names no model which is read here.
    #[error("{}: {what}", path.display())]
    OllamaManifest {
        /// The manifest.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// A checkpoint's weights are in PyTorch's own files.
    #[error("{} is a pickle, which can run code and is not read; write the folder anew as safetensors, in Python: transformers.AutoModelForCausalLM.from_pretrained(HF_DIR).save_pretrained(NEW_DIR), the tokenizer likewise", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint lacks a weight that its configuration asks for.
    #[error("{} has no tensor {tensor:?}, which config.json asks for", path.display())]
    MissingTensor {
        /// The weight's Hugging Face name.
        tensor: String,
        /// The checkpoint or the shard that should hold it.
        path: PathBuf,
    },
    /// A checkpoint has a weight that the decoder of its configuration has not.
    #[error("{} has a tensor {tensor:?} that the decoder of config.json does not use", path.display())]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
        /// The file it lies in.
        path: PathBuf,
    },
    /// Two shards of a checkpoint hold the same weight.
    #[error("tensor {tensor:?} is in {} and again in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The file that has it.
        first: PathBuf,
        /// The file that has it too.
        second: PathBuf,
    },
    /// A weight is infinite or not a number, or becomes so in the type asked for.
    #[error("weight {tensor:?} holds {value}, which {target} cannot hold{hint}")]
    Range {
        /// The weight.
        tensor: String,
        /// The first such value.
        value: f32,
        /// The element type asked for.
        target: &'static str,
        /// The way out, if there is one.
        hint: &'static str,
    },
    /// A configuration file is not a JSON object.
    #[error("{file} is not a JSON object: {what}")]
    ConfigJson {
        /// The file's name.
        file: &'static str,
        /// Where and why it does not parse.
        what: String,
    },
    /// A field of a configuration file has a value that we cannot compute with.
    #[error("{file}: `{field}` must be {expected}, got {got}")]
    Config {
        /// The file's name.
        file: &'static str,
        /// The field, with the objects it lies in.
        field: String,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A sequence is longer than the base computes rightly.
    #[error(
        "a sequence of {length} tokens exceeds {limit}, {why}; nothing was started (use a shorter --max-seq-length)"
    )]
    Length {
        /// Tokens asked for.
        length: usize,
        /// Most tokens possible.
        limit: usize,
        /// What sets the limit.
        why: &'static str,
    },
    /// A file of the model folder could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A token without a row in the embedding.
    #[error(
        "{}: token {token:?} has id {id}, but the model has ids below {vocab}: expected a tokenizer of this \
         model; a token that was added to it, such as one to pad with, needs its row in the embedding \
         (resize_token_embeddings), or has to be taken out of tokenizer.json",
        path.display()
    )]
    Token {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token with the highest id.
        token: String,
        /// Its id.
        id: u64,
        /// Vocabulary size of the model.
        vocab: usize,
    },
    /// A file is bigger than its format allows or than we accept.
    #[error("{} has {got} bytes, expected at most {limit}; a bigger model keeps its weights in external data: {EXPORT_HINT}", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
        /// Most bytes accepted.
        limit: u64,
        /// Bytes found.
        got: u64,
    },
    /// The file is not ONNX, or is cut off.
    #[error("{} is not a whole ONNX model: {what}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        what: String,
    },
    /// A tensor's bytes should lie in another file, which is not there.
    #[error("tensor {tensor:?} has its data in {}, which cannot be read ({source}); copy it beside model.onnx", path.display())]
    MissingExternalData {
        /// The tensor.
        tensor: String,
        /// The file it names.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor's place in another file is outside the model folder or malformed.
    #[error("tensor {tensor:?} names external data {location:?}: {what}")]
    ExternalData {
        /// The tensor.
        tensor: String,
        /// The place, as written in the file.
        location: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A tensor reaches past the end of its file.
    #[error("tensor {tensor:?} needs bytes {offset}..{offset}+{length} of {}, which has {got}; the file is truncated or of another model", path.display())]
    ExternalDataShort {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes wanted.
        length: u64,
        /// Bytes in the file.
        got: u64,
    },
    /// A tensor holds another number of elements than its shape says.
    #[error("tensor {tensor:?} has {got} {unit}, expected {expected} for its shape {dims:?}")]
    Elements {
        /// The tensor.
        tensor: String,
        /// Its shape as written.
        dims: Vec<i64>,
        /// What is counted: elements or bytes.
        unit: &'static str,
        /// Count that the shape asks for.
        expected: usize,
        /// Count found.
        got: usize,
    },
    /// A tensor's shape is negative, too large to count, or its type is not one that we read.
    #[error("tensor {tensor:?}: {what}; {EXPORT_HINT}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// A weight has another shape than the configuration says.
    #[error("weight {tensor:?} has shape {got:?}, expected {expected:?} by config.json")]
    Shape {
        /// The weight's Hugging Face name.
        tensor: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape found.
        got: Vec<usize>,
    },
    /// The graph has an operator that a plain Llama-family decoder has not, or that we do not read.
    #[error("the graph has operator {op} ({count} times, first {node:?}): {hint}")]
    UnknownOp {
        /// The operator, with its domain unless it is ONNX's own.
        op: String,
        /// The first node of that kind.
        node: String,
        /// How often it occurs.
        count: usize,
        /// Why it matters and the way out.
        hint: String,
    },
    /// The graph is not that of a plain Llama-family decoder.
    #[error("not a plain Llama-family decoder as we know it: {what}; if it is one, {EXPORT_HINT}")]
    Structure {
        /// What was expected and what was found.
        what: String,
    },
    /// The base has no weight of that name.
    #[error("the base has no weight {name:?}; config.json must be of the same model")]
    NoWeight {
        /// The Hugging Face name asked for.
        name: String,
    },
}
