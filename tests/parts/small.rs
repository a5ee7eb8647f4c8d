//! A small base, and blocks that it learns in a few steps.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use sapwood::base::{ExportOptions, export};
use sapwood::block::Block;
use sapwood::learner::Engines;
use sapwood::settings::Settings;
use sapwood_tiny as tiny;
use std::path::{Path, PathBuf};

/// The model folder of a base of noise, below `place`.
pub(crate) fn model(place: &Path) -> PathBuf {
    let (hf, model) = (place.join("hf"), place.join("model"));
    tiny::write(&hf, 7, tiny::VOCAB).unwrap();
    export(&hf, &model, ExportOptions::default()).unwrap();
    model
}

/// The engines of such a base, and the folder that they read.
pub(crate) fn engines(settings: &Settings) -> (tempfile::TempDir, Engines) {
    let place = tempfile::tempdir().unwrap();
    let engines = Engines::load(&model(place.path()), settings).unwrap();
    (place, engines)
}

/// Blocks of `from, from + 1, ...`, each of another length and start: a rule that can be learned.
pub(crate) fn blocks(from: u32, count: usize) -> Vec<Block> {
    let block = |i: usize| {
        let length = 5 + i * 7 % 11;
        let tokens = (0..length).map(|t| from + ((i * 3 + t) % 20) as u32).collect();
        let learn = (0..length).map(|t| t > 0).collect();
        Block { tokens, learn, bytes: length as u32 - 1, domain: 0 }
    };
    (0..count).map(block).collect()
}
