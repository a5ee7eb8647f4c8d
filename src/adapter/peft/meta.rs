//! `adapter_meta.json`: what PEFT's files cannot say about an adapter of ours.
//!
//! - In: the facts. Out: JSON with a format version, and the facts again from such bytes.
//! - Never here: a clock. Two adapters that agree in everything are the same bytes.
//! - Version 1. Fields unknown to this program are passed over; a newer version is refused.

use super::config::short;
use crate::adapter::AdapterError;
use serde::{Deserialize, Serialize};

/// The only version there is.
const FORMAT_VERSION: u32 = 1;

/// Which of the two learners an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trained by gradient.
    Fast,
    /// The running average, which is served and synced.
    Slow,
}

/// Where an adapter comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// BLAKE3 of the base it was trained on.
    pub base_hash: [u8; 32],
    /// Number of the commit.
    pub generation: u64,
    /// Optimiser steps k of the device's life.
    pub steps: u64,
    /// Which learner.
    pub role: Role,
    /// Kept per step by the average, in `[0, 1)`.
    pub retain: f32,
    /// The global adapter whose ranks come first in every module, if there is one.
    pub global: Option<Global>,
}

/// A global adapter beside which an adapter was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    /// Its rank.
    pub ranks: u32,
    /// BLAKE3 of its file.
    pub artifact: [u8; 32],
    /// Of the statement that offered it.
    pub sequence: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenGlobal {
    ranks: u32,
    artifact: String,
    sequence: u64,
}

impl Global {
    fn written(self) -> WrittenGlobal {
        let Self { ranks, artifact, sequence } = self;
        WrittenGlobal { ranks, artifact: hex(&artifact), sequence }
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    format_version: u32,
    base_hash: String,
    generation: u64,
    steps: u64,
    role: Role,
    retain: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    global: Option<WrittenGlobal>,
    created_by: String,
}

/// Only what tells whether the rest can be read.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl Meta {
    /// The bytes of `adapter_meta.json`.
    pub(super) fn write(&self) -> Result<Vec<u8>, AdapterError> {
        check_retain(self.retain)?;
        let written = Written {
            format_version: FORMAT_VERSION,
            base_hash: hex(&self.base_hash),
            generation: self.generation,
            steps: self.steps,
            role: self.role,
            retain: self.retain,
            global: self.global.map(Global::written),
            created_by: concat!("sapwood ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let mut json = serde_json::to_vec_pretty(&written).map_err(AdapterError::Meta)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads the bytes of an `adapter_meta.json`.
    ///
    /// # Errors
    /// [`AdapterError::Meta`], [`AdapterError::MetaField`].
    pub fn parse(json: &[u8]) -> Result<Self, AdapterError> {
        let version: Version = serde_json::from_slice(json).map_err(AdapterError::Meta)?;
        if version.format_version != FORMAT_VERSION {
            let got = version.format_version.to_string();
            return Err(field("format_version", &got, "1, or a newer program"));
        }
        let written: Written = serde_json::from_slice(json).map_err(AdapterError::Meta)?;
        check_retain(written.retain)?;
        let Some(base_hash) = unhex(&written.base_hash) else {
            return Err(field("base_hash", &written.base_hash, "64 hexadecimal digits"));
        };
        let Written { generation, steps, role, retain, global, .. } = written;
        let global = global.map(global_of).transpose()?;
        Ok(Self { base_hash, generation, steps, role, retain, global })
    }
}

fn global_of(written: WrittenGlobal) -> Result<Global, AdapterError> {
    let WrittenGlobal { ranks, artifact, sequence } = written;
    match unhex(&artifact) {
        Some(artifact) => Ok(Global { ranks, artifact, sequence }),
        None => Err(field("global.artifact", &artifact, "64 hexadecimal digits")),
    }
}

fn check_retain(retain: f32) -> Result<(), AdapterError> {
    if (0.0..1.0).contains(&retain) {
        return Ok(());
    }
    Err(field("retain", &retain.to_string(), "a number in [0, 1)"))
}

fn field(field: &'static str, got: &str, expected: &'static str) -> AdapterError {
    AdapterError::MetaField { field, got: short(got), expected }
}

/// Lower-case hexadecimal digits of some bytes.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// What an adapter stands on is said in our file alone: one of before has no word of it.
    #[test]
    fn a_global_adapter_is_named_in_the_meta() {
        let meta = |global| Meta {
            base_hash: [7; 32],
            generation: 4,
            steps: 9,
            role: Role::Slow,
            retain: 0.5,
            global,
        };
        let global = Some(Global { ranks: 16, artifact: [171; 32], sequence: 7 });
        let json = meta(global).write().unwrap();
        let text = String::from_utf8(json.clone()).unwrap();
        assert!(text.contains(&format!("\"artifact\": \"{}\"", "ab".repeat(32))), "{text}");
        assert_eq!(Meta::parse(&json).unwrap().global, global);
        assert!(!String::from_utf8(meta(None).write().unwrap()).unwrap().contains("global"));
        let said = Meta::parse(text.replace("abab", "xbab").as_bytes()).unwrap_err().to_string();
        assert!(said.contains("global.artifact"), "{said}");
    }
}
