//! An adapter's file on its way: a safetensors file whose every claim is checked before it is kept.
//!
//! ```text
//! header bytes u64 | header: JSON | tensors, f16 or f32, one after the other       little-endian
//! ```
//! - In: the header and the file's length, then the tensors in pieces of any size. Out: a [`Header`]
//!   whose names, shapes, rank and places agree; and that every number is finite.
//! - Names are PEFT's. A is [r, in], B is [out, r] with the scale folded in; all modules have one rank.
//! - Never here: files, products of matrices. What the adapter does to a model is for the gate.
//! - Source: the safetensors format, README of huggingface/safetensors 0.8.

mod entries;
mod finite;
mod header;
mod shape;

use super::code::Code;
use super::id::{CohortId, Hash, IdError};
use crate::limits::{
    FLEET_ADAPTER_BYTES_MAX, FLEET_HEADER_BYTES_MAX, FLEET_LAYERS_MAX, FLEET_TENSORS_MAX,
};
use alloc::string::String;

pub use finite::Finite;
pub use header::{Expected, Header, header_bytes};
pub use shape::{MODULES, Shape};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// L of one device.
    Update,
    /// G of a cohort.
    Global,
}

impl Kind {
    /// The value of `format` in the file's metadata.
    pub const fn format(self) -> &'static str {
        match self {
            Self::Update => "sapwood-update/1",
            Self::Global => "sapwood-global/1",
        }
    }
}

/// Where an adapter comes from: the file's metadata, numbers in decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What the file is, `format`.
    pub kind: Kind,
    /// BLAKE3 of the base.
    pub base: Hash,
    /// The cohort.
    pub cohort: CohortId,
    /// The artifact that it goes on from; of the first one zeros.
    pub from: Hash,
    /// Number of the device's commit, or of the round.
    pub generation: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens that were learned in them.
    pub tokens: u64,
}

/// Why a file is no adapter of the cohort; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Larger than any adapter may be.
    #[error("the file has {got} bytes, expected at most {FLEET_ADAPTER_BYTES_MAX}")]
    Long {
        /// Its bytes.
        got: u64,
    },
    /// Smaller than any adapter.
    #[error("the file has {got} bytes, expected at least {ADAPTER_BYTES_MIN}")]
    Short {
        /// Its bytes.
        got: u64,
    },
    /// A header that does not fit.
    #[error("the file's header has {got} bytes, expected 2 to {max}")]
    HeaderBytes {
        /// What the file says.
        got: u64,
        /// Most bytes, in this file.
        max: u64,
    },
    /// The header is no JSON, or of another form.
    #[error("the file's header is not safetensors': {problem}")]
    Json {
        /// What is wrong, with line and column.
        problem: String,
    },
    /// Metadata that is not there, or twice.
    #[error("the file's metadata has {got} `{key}`, expected 1")]
    Metadata {
        /// Its key.
        key: &'static str,
        /// How many there are.
        got: usize,
    },
    /// Metadata of another form.
    #[error("the file's metadata `{key}` is {got:?}, expected {expected}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What does, shortened.
        got: String,
    },
    /// Metadata that is no hash.
    #[error("the file's metadata `{key}`: {problem}")]
    Name {
        /// Its key.
        key: &'static str,
        /// What is wrong.
        problem: IdError,
    },
    /// No tensors, or more than there are modules.
    #[error("the file has {got} tensors, expected 2 to {FLEET_TENSORS_MAX}")]
    Count {
        /// How many.
        got: usize,
    },
    /// A name that no module of a decoder has.
    #[error("tensor {tensor:?} is no LoRA factor of a decoder's linear layer in PEFT's names")]
    Unknown {
        /// Its name, shortened.
        tensor: String,
    },
    /// A tensor twice.
    #[error("tensor {tensor} is there twice, expected once")]
    Twice {
        /// Its name.
        tensor: String,
    },
    /// Numbers in another form.
    #[error("tensor {tensor} is in {got:?}, expected F16 or F32")]
    Dtype {
        /// Its name.
        tensor: String,
        /// What the header says, shortened.
        got: String,
    },
    /// Not a matrix.
    #[error("tensor {tensor} has {got} dimensions, expected 2")]
    Dimensions {
        /// Its name.
        tensor: String,
        /// How many.
        got: usize,
    },
    /// A side that does not fit the other tensors, or the cohort.
    #[error("tensor {tensor} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// What fits.
        expected: [u64; 2],
        /// What the header says.
        got: [u64; 2],
    },
    /// A rank that may not be.
    #[error("tensor {tensor} has rank {got}, expected 1 to {max}")]
    Rank {
        /// Its name.
        tensor: String,
        /// Highest rank.
        max: u32,
        /// Its rank.
        got: u64,
    },
    /// A tensor does not begin where the one before it ends.
    #[error(
        "tensor {tensor} begins at byte {got} of the body, expected {expected}: no hole, no overlap"
    )]
    Begin {
        /// Its name.
        tensor: String,
        /// Where the one before it ends.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// A tensor's place is not as long as its shape says.
    #[error("tensor {tensor} ends at byte {got} of the body, expected {expected} by its shape")]
    End {
        /// Its name.
        tensor: String,
        /// Where it should end.
        expected: u64,
        /// Where the header says that it does.
        got: u64,
    },
    /// The body is not as long as its tensors.
    #[error("the file's body has {got} bytes, expected {expected}, where its last tensor ends")]
    Body {
        /// Where the last tensor ends.
        expected: u64,
        /// How long it is.
        got: u64,
    },
    /// A module of some layers is not there in another.
    #[error("tensor {tensor} is missing: each layer has A and B of the same linear layers")]
    Missing {
        /// Its name.
        tensor: String,
    },
    /// Layers further apart than an adapter may have.
    #[error("the file adapts {got} layers, expected at most {FLEET_LAYERS_MAX}")]
    Layers {
        /// From the first to the last.
        got: u32,
    },
    /// A module that the cohort does not adapt.
    #[error("tensor {tensor} is of a module that the cohort does not adapt")]
    Foreign {
        /// Its name.
        tensor: String,
    },
    /// Of another base, cohort or artifact, or of another kind.
    #[error("the file's metadata `{key}` is {got}, expected {expected}")]
    Other {
        /// Its key.
        key: &'static str,
        /// The own one.
        expected: String,
        /// The file's.
        got: String,
    },
    /// A number that is none.
    #[error("tensor {tensor} has a number that is not finite at {position}")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Which of its numbers, from 0.
        position: u64,
    },
}

impl UpdateError {
    /// What the server answers.
    pub fn code(&self) -> Code {
        match self {
            Self::Long { .. } => Code::TooLarge,
            Self::Other { key: "from", .. } => Code::Stale,
            _ => Code::Adapter,
        }
    }
}

/// Bytes of the shortest file: the length of its header, and an empty object.
const ADAPTER_BYTES_MIN: u64 = 10;

const _: () = assert!(FLEET_HEADER_BYTES_MAX <= u32::MAX as u64, "a header's length is a usize");
