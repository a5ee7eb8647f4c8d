//! Weights of an ONNX file, under the names that Hugging Face gives them, whoever wrote the file.
//!
//! - In: an opened file and the dimensions of config.json. Out: where each weight lies, and each
//!   weight as f32 in one layout: linear `[in, out]`, embedding `[V, D]`, norms `[D]`.
//! - A file of our own export is read by name. Any other is walked along its residual stream, from
//!   the token embedding to the logits, and each weight is known by its place in that walk; names
//!   play no part, for exporters rename and transpose weights.
//! - What the graph says of RoPE and of the width of a head is held against the configuration
//!   (`positions`).
//! - Never here: running the graph.
//! - Invariant: a graph is mapped whole or refused. Every linear layer of the graph has a place, no
//!   node hangs off the residual stream unexplained, and every shape is the configuration's.

mod attention;
mod graph;
mod linear;
mod operators;
pub(super) mod positions;
mod read;
mod walk;

#[cfg(test)]
mod tests;

use crate::base::Config;
use crate::base::error::BaseError;
use crate::base::onnx::{OnnxFile, shape};
use std::collections::BTreeMap;
use std::ops::Range;

/// Metadata key of the files that we write ourselves.
pub const FORMAT_KEY: &str = "sapwood.format";

/// The version of our own files, the value of [`FORMAT_KEY`].
pub const FORMAT: &str = "1";

/// Name of the token embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

/// Name of the last norm.
pub const FINAL_NORM: &str = "model.norm.weight";

/// Name of the output layer.
pub const OUTPUT: &str = "lm_head.weight";

/// What of config.json a graph is checked against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dims {
    /// Hidden width D.
    pub hidden: usize,
    /// Decoder layers L.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Vocabulary size V.
    pub vocab: usize,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
}

impl From<&Config> for Dims {
    fn from(config: &Config) -> Self {
        Self {
            hidden: config.hidden,
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            ffn: config.ffn,
            vocab: config.vocab,
            norm_eps: config.norm_eps,
        }
    }
}

impl Dims {
    /// Width of all query heads together.
    fn queries(&self) -> usize {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Width of all key heads together, and of all value heads.
    fn keys(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_dim)
    }

    /// The shape of a weight as [`WeightMap::read`] gives it; none for a name that no decoder has.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (d, q, kv, ffn) = (self.hidden, self.queries(), self.keys(), self.ffn);
        if let Some(rest) = name.strip_prefix("model.layers.") {
            let (index, part) = rest.split_once('.')?;
            index.parse::<usize>().ok().filter(|&index| index < self.layers)?;
            return Some(match part {
                "input_layernorm.weight" | "post_attention_layernorm.weight" => vec![d],
                "self_attn.q_proj.weight" => vec![d, q],
                "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => vec![d, kv],
                "self_attn.o_proj.weight" => vec![q, d],
                "mlp.gate_proj.weight" | "mlp.up_proj.weight" => vec![d, ffn],
                "mlp.down_proj.weight" => vec![ffn, d],
                "self_attn.q_proj.bias" => vec![q],
                "self_attn.k_proj.bias" | "self_attn.v_proj.bias" => vec![kv],
                "self_attn.o_proj.bias" | "mlp.down_proj.bias" => vec![d],
                "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => vec![self.head_dim],
                "mlp.gate_proj.bias" | "mlp.up_proj.bias" => vec![ffn],
                _ => return None,
            });
        }
        match name {
            EMBEDDING => Some(vec![self.vocab, d]),
            FINAL_NORM => Some(vec![d]),
            OUTPUT => Some(vec![d, self.vocab]),
            _ => None,
        }
    }
}

/// How a weight lies in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it is read: a vector, or the embedding `[V, D]`.
    AsRead,
    /// A linear layer, `[in, out]`.
    InOut,
    /// A linear layer, `[out, in]`, as Hugging Face keeps it.
    OutIn,
}

/// Where one weight lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Name of the initializer, or of a Constant node's output.
    pub tensor: String,
    /// How it lies there.
    pub layout: Layout,
    /// Which outputs of the tensor are this weight, when several projections share one.
    pub outputs: Option<Range<usize>>,
    /// How to get numbers, when the tensor is packed integers.
    pub quantised: Option<Quantised>,
}

/// The parameters of ONNX Runtime's MatMulNBits: 4 bits a weight, `(q - zero point) * scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantised {
    /// Tensor of the scales, one for each block of each output.
    pub scales: String,
    /// Tensor of the zero points, packed as the weights or floating; 8 when absent.
    pub zero_points: Option<String>,
    /// Inputs that share a scale.
    pub block: usize,
    /// Inputs K.
    pub fan_in: usize,
    /// Outputs N.
    pub fan_out: usize,
}

/// Every weight of a decoder by its Hugging Face name, and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightMap {
    places: BTreeMap<String, Location>,
    own: bool,
}

impl WeightMap {
    /// The Hugging Face names and their places, in order of name. `lm_head.weight` is always
    /// there; its tensor is the embedding's when the two are tied.
    pub fn places(&self) -> &BTreeMap<String, Location> {
        &self.places
    }

    /// Whether the file is of our own export, so that its graph is the canonical one.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Whether the output layer is the embedding.
    pub fn is_tied(&self) -> bool {
        let tensor = |name| self.places.get(name).map(|place| &place.tensor);
        tensor(EMBEDDING) == tensor(OUTPUT)
    }

    /// One weight as f32, row-major, and its shape: linear `[in, out]`, so `lm_head.weight` is
    /// `[D, V]`; `model.embed_tokens.weight` `[V, D]`; norms `[D]`; biases `[out]`.
    ///
    /// # Errors
    /// [`BaseError::NoWeight`], and those of [`OnnxFile::floats`].
    pub fn read(&self, file: &OnnxFile, name: &str) -> Result<(Vec<usize>, Vec<f32>), BaseError> {
        let place = self.places.get(name);
        let place = place.ok_or_else(|| BaseError::NoWeight { name: name.to_owned() })?;
        read::weight(file, place)
    }
}

/// Finds every weight of a plain Llama-family decoder.
///
/// # Errors
/// [`BaseError::UnknownOp`] and [`BaseError::Structure`] when the graph is something else;
/// [`BaseError::Shape`] when a weight has not the shape that `dims` asks for.
pub fn map(file: &OnnxFile, dims: &Dims) -> Result<WeightMap, BaseError> {
    let map = match file.metadata(FORMAT_KEY) {
        Some(FORMAT) => WeightMap { places: by_name(file, dims)?, own: true },
        Some(other) => {
            let what = format!("{FORMAT_KEY} is {other:?}, this program reads {FORMAT:?}");
            return Err(BaseError::Structure { what });
        }
        None => WeightMap { places: walk::walk(file.graph(), dims)?, own: false },
    };
    for (name, place) in &map.places {
        let got = read::shape_of(file, place)?;
        let tensor = name.clone();
        match dims.shape(name) {
            Some(expected) if expected == got => {}
            Some(expected) => return Err(BaseError::Shape { tensor, expected, got }),
            None => {
                return Err(BaseError::Structure { what: format!("no place for {tensor:?}") });
            }
        }
    }
    Ok(map)
}

/// The weights of a file of our own: initializers under their Hugging Face names.
fn by_name(file: &OnnxFile, dims: &Dims) -> Result<BTreeMap<String, Location>, BaseError> {
    let mut places = BTreeMap::new();
    for tensor in &file.graph().initializer {
        let name = &tensor.name;
        let Some(expected) = dims.shape(name) else {
            if name.starts_with("model.layers.") {
                return Err(BaseError::Structure { what: format!("unexpected weight {name:?}") });
            }
            continue;
        };
        let linear = shape(tensor)?.len() == 2 && expected.len() == 2 && name != EMBEDDING;
        let layout = if linear { Layout::InOut } else { Layout::AsRead };
        places.insert(name.clone(), Location::plain(name, layout));
    }
    if !places.contains_key(OUTPUT) {
        places.insert(OUTPUT.into(), Location::plain(EMBEDDING, Layout::OutIn));
    }
    let missing = required(dims).find(|name| !places.contains_key(name));
    missing.map_or(Ok(places), |name| Err(BaseError::NoWeight { name }))
}

/// The names that every decoder of these dimensions has.
fn required(dims: &Dims) -> impl Iterator<Item = String> {
    const PARTS: [&str; 9] = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let layers = (0..dims.layers).flat_map(|layer| {
        PARTS.iter().map(move |part| format!("model.layers.{layer}.{part}.weight"))
    });
    [EMBEDDING, FINAL_NORM, OUTPUT].into_iter().map(str::to_owned).chain(layers)
}

impl Location {
    /// A whole floating point tensor.
    fn plain(tensor: &str, layout: Layout) -> Self {
        Self { tensor: tensor.to_owned(), layout, outputs: None, quantised: None }
    }
}
