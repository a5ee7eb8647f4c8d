//! `sapwood fuse`: a base and an adapter become a model of its own.

use super::args::Fuse;
use super::chosen;
use super::console::{Console, bytes};
use super::names::{FolderKind, NumberName};
use sapwood::adapter::fuse::Fused;
use sapwood::base::export::{self, small_files};
use sapwood::base::gguf::Gguf;
use sapwood::base::hf::Checkpoint;
use sapwood::base::shards::{self, SHARD_BYTES_MAX, TOKENIZERS};
use sapwood::base::{self, Base, Config, ExportOptions, Source};
use serde_json::json;
use std::path::Path;

/// Folds the adapter in and says what was written.
pub(crate) fn run(args: &Fuse, console: &Console) -> anyhow::Result<()> {
    let precision = match (args.format, args.dtype) {
        (FolderKind::Sapwood, NumberName::Bf16) => {
            anyhow::bail!("--dtype bf16 is for --format hf; a model folder keeps f32 or f16")
        }
        (_, NumberName::F16) => base::Precision::F16,
        _ => base::Precision::F32,
    };
    let place = chosen::adapter_place(&args.adapter_path, console)?;
    let Opened { config, source, small, hash } = open(&args.model)?;
    let (adapter, _) = chosen::adapter_at(&place, &config, Some(hash))?;
    let fused = Fused { base: &*source, adapter: &adapter };
    let weights = (&config, &fused as &dyn Source);
    let report = match args.format {
        FolderKind::Hf => {
            shards::write(&args.out, weights, &small, args.dtype.into(), SHARD_BYTES_MAX)?
        }
        FolderKind::Sapwood => {
            let options = ExportOptions { dtype: precision, ..ExportOptions::default() };
            export::write(&args.out, weights, &small, options)?
        }
    };
    let modules = adapter.spec.modules.len();
    let value = json!({
        "event": "fused",
        "modules": modules,
        "parameters": report.parameters,
        "tensors": report.tensors,
        "weight_bytes": report.weight_bytes,
        "format": args.format.word(),
        "files": report.files,
        "out": args.out,
    });
    let text = format!(
        "{modules} modules folded into {} parameters, {} of weights\nwritten to {}: {}",
        report.parameters,
        bytes(report.weight_bytes),
        args.out.display(),
        report.files.join(", "),
    );
    Ok(console.result(&value, &text)?)
}

/// A base that is only read.
struct Opened {
    config: Config,
    source: Box<dyn Source>,
    small: Vec<(&'static str, Vec<u8>)>,
    /// What an adapter knows it by.
    hash: [u8; 32],
}

/// A model folder; a Hugging Face folder where there is no ONNX file; or a GGUF file.
fn open(place: &Path) -> anyhow::Result<Opened> {
    if place.is_file() {
        let gguf = Gguf::open(place)?;
        let (config, small) = (gguf.config().clone(), gguf.files().to_vec());
        let hash = base::hash(&config, &gguf)?;
        return Ok(Opened { config, source: Box::new(gguf), small, hash });
    }
    let is_there = |name: &str| place.join(name).exists();
    let in_safetensors = ["model.safetensors", "model.safetensors.index.json"].map(is_there);
    let (config, source, hash): (_, Box<dyn Source>, _) =
        if is_there("model.onnx") || in_safetensors == [false, false] {
            let base = Base::open(place)?;
            let (config, hash) = (base.config().clone(), base.hash());
            (config, Box::new(base), hash)
        } else {
            let (config, checkpoint) = Checkpoint::with_config(place)?;
            let hash = base::hash(&config, &checkpoint)?;
            (config, Box::new(checkpoint), hash)
        };
    let small = small_files(place, config.tied, &TOKENIZERS)?;
    Ok(Opened { config, source, small, hash })
}
