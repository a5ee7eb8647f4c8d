//! What can be wrong with an adapter, and with two that should fit each other.

use super::Target;

/// Why an adapter was refused. Whatever was in use before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// `adapter_config.json` is not JSON, or a known field has another type.
    #[error("adapter_config.json is not the configuration of a PEFT adapter: {0}")]
    Config(serde_json::Error),
    /// An adapter of linear layers that are parts of wider ones elsewhere.
    #[error(
        "phi3 has q, k and v as one layer in other programs, and gate and up as another: this adapter's layers have no names there; `sapwood fuse` writes base and adapter as one model"
    )]
    Packed,
    /// A setting of PEFT that this program does not compute.
    #[error("adapter_config.json: `{field}` is {got}, expected {expected}")]
    Unsupported {
        /// The field's name.
        field: String,
        /// Its value, shortened.
        got: String,
        /// What would be read.
        expected: &'static str,
    },
    /// A regular expression that this program does not read.
    #[error("adapter_config.json: pattern `{pattern}` in `{field}`: {reason}")]
    Pattern {
        /// The field's name.
        field: &'static str,
        /// The pattern, shortened.
        pattern: String,
        /// What in it.
        reason: String,
    },
    /// The strength of one module cannot be used.
    #[error("adapter_config.json: rank {rank} and alpha {alpha} for {module}, {expected}")]
    Strength {
        /// Full name of the module.
        module: String,
        /// Its rank.
        rank: u64,
        /// Its alpha.
        alpha: f64,
        /// What holds for every module.
        expected: &'static str,
    },
    /// The tensors' file is damaged: its header contradicts itself or its length.
    #[error("adapter_model.safetensors is damaged: {0}")]
    Tensors(safetensors::SafeTensorError),
    /// A tensor that no part of a plain LoRA adapter of this family has.
    #[error(
        "adapter_model.safetensors: unknown tensor `{name}`, expected names like \
         `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`"
    )]
    UnknownTensor {
        /// Its name, shortened.
        name: String,
    },
    /// A tensor of a layer that the base does not have.
    #[error("adapter_model.safetensors: `{name}`: expected a layer below {layers}, got {layer}")]
    Layer {
        /// The tensor's name.
        name: String,
        /// Layers of the base.
        layers: usize,
        /// Layer in the name.
        layer: usize,
    },
    /// A tensor that the configuration promises.
    #[error(
        "adapter_model.safetensors: `{name}` is missing, though adapter_config.json targets it"
    )]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// A tensor that the configuration does not know; PEFT would silently leave it out.
    #[error("adapter_model.safetensors: `{name}` is not among adapter_config.json's targets")]
    Untargeted {
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another shape than base and rank demand.
    #[error("adapter_model.safetensors: `{name}`: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Shape from base and rank.
        expected: [usize; 2],
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor of another number format.
    #[error("adapter_model.safetensors: `{name}`: expected F32, F16 or BF16, got {got:?}")]
    Format {
        /// The tensor's name.
        name: String,
        /// The file's format.
        got: safetensors::Dtype,
    },
    /// A number that is not one.
    #[error("`{name}`: expected finite numbers, got {value} at position {position}")]
    NotFinite {
        /// The tensor's name.
        name: String,
        /// Where in it, row by row.
        position: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A file that devices and the fleet server would not take from each other.
    #[cfg(feature = "fleet")]
    #[error(transparent)]
    Wire(#[from] sapwood_protocol::fleet::update::UpdateError),
    /// A number that is too large for the type asked for.
    #[error("`{name}` holds {value}, which f16 cannot hold; convert with --dtype f32")]
    Range {
        /// The tensor's name.
        name: String,
        /// The first such value.
        value: f32,
    },
    /// A tensor of an MLX adapter that no part of plain LoRA on this base has, or that stands alone.
    #[error("adapters.safetensors: `{name}`: expected {expected}")]
    Foreign {
        /// Its name, shortened.
        name: String,
        /// What holds of every tensor.
        expected: &'static str,
    },
    /// `adapter_meta.json` cannot be read.
    #[error("adapter_meta.json is damaged: {0}")]
    Meta(serde_json::Error),
    /// A field of `adapter_meta.json` holds what it cannot hold.
    #[error("adapter_meta.json: `{field}` is {got}, expected {expected}")]
    MetaField {
        /// The field's name.
        field: &'static str,
        /// Its value, shortened.
        got: String,
        /// What would be read.
        expected: &'static str,
    },
    /// An adapter of another base; its numbers would be noise here.
    #[error("the adapter was made for base {got}…, expected base {expected}… (BLAKE3)")]
    Base {
        /// First bytes of this base's hash, in hexadecimal.
        expected: String,
        /// First bytes of the hash in `adapter_meta.json`.
        got: String,
    },
    /// An adapter that changes nothing has no PEFT form.
    #[error("the adapter has no module, expected at least one adapted linear layer")]
    Empty,
    /// The flat vector and the spec disagree.
    #[error("the adapter holds {got} numbers, expected {expected} by its spec")]
    Length {
        /// By the spec.
        expected: usize,
        /// In the vector.
        got: usize,
    },
    /// A linear layer that only one of two adapters changes.
    #[error("layer {layer} {target:?} is adapted by one of two adapters, expected both")]
    Alone {
        /// The layer.
        layer: usize,
        /// The linear layer in it.
        target: Target,
    },
    /// Two adapters of different bases.
    #[error("layer {layer} {target:?}: expected fans {expected:?}, got {got:?}: another base")]
    Fans {
        /// The layer.
        layer: usize,
        /// The linear layer in it.
        target: Target,
        /// `(fan_in, fan_out)` of the first adapter.
        expected: (usize, usize),
        /// `(fan_in, fan_out)` of the second.
        got: (usize, usize),
    },
}
