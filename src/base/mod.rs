//! The base: a frozen Llama-family model folder, read into a configuration and plain weights.

pub mod canonical;
pub mod config;
pub mod error;
mod fields;
pub mod foreign;
pub mod hf;
pub mod onnx;
mod rope;

pub use config::{Config, Family};
pub use error::BaseError;
pub use rope::{Rope, RopeScaling};

/// One tensor of the base, widened to f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Sizes of the axes, outermost first: `[in, out]` for a linear weight.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<f32>,
}
