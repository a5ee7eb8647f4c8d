//! The base: a frozen Llama-family model folder, read into a configuration and plain weights.

pub mod error;
pub mod foreign;
pub mod onnx;

pub use error::BaseError;

/// The shape of a Llama-family decoder and how it ends a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Hidden width D.
    pub hidden: usize,
    /// Decoder layers L.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Vocabulary size V.
    pub vocab: usize,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
}
