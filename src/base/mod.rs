//! The base: a frozen Llama-family model folder, read into a configuration and plain weights.

pub mod config;
pub mod error;
mod fields;
pub mod onnx;
mod rope;

pub use config::{Config, Family};
pub use error::BaseError;
pub use rope::{Rope, RopeScaling};
