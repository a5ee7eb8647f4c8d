//! Goal: files of other exporters give the weights that they were made from.
//! Oracle: `tools/golden/graphs.py` (torch, onnx.helper); `tests/golden/onnx/base*` are the weights.

use super::super::*;
use crate::base::onnx::OnnxFile;
use half::f16;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx").join(name)
}

fn dims(base: &str) -> Dims {
    let text = std::fs::read_to_string(folder(base).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    Dims {
        hidden: size("hidden_size"),
        layers: size("num_hidden_layers"),
        heads: size("num_attention_heads"),
        kv_heads: size("num_key_value_heads"),
        head_dim: size("hidden_size") / size("num_attention_heads"),
        ffn: size("intermediate_size"),
        vocab: size("vocab_size"),
        norm_eps: config["rms_norm_eps"].as_f64().unwrap() as f32,
    }
}

/// Compares every weight with the base's, changed as the exporter changes it: `[out, in]` rows in,
/// the same out. Exact, for nothing is computed but the change itself.
fn compare(name: &str, base: &str, changed: impl Fn(&str, Vec<f32>) -> Vec<f32>) {
    let file = OnnxFile::open(&folder(name).join("model.onnx")).unwrap();
    let map = map(&file, &dims(base)).unwrap();
    let bytes = std::fs::read(folder(base).join("model.safetensors")).unwrap();
    let base = SafeTensors::deserialize(&bytes).unwrap();
    let is_tied = base.tensor(OUTPUT).is_err();
    assert_eq!(map.places().len(), base.len() + usize::from(is_tied), "{name}");
    for weight in map.places().keys() {
        let source = if is_tied && weight == OUTPUT { EMBEDDING } else { weight };
        let tensor = base.tensor(source).unwrap();
        let rows = tensor.data().as_chunks::<4>().0;
        let stored = changed(weight, rows.iter().map(|&b| f32::from_le_bytes(b)).collect());
        let expected = match tensor.shape() {
            &[fan_out, fan_in] if weight != EMBEDDING => {
                super::decoder::transpose(&stored, fan_out, fan_in)
            }
            _ => stored,
        };
        let (shape, got) = map.read(&file, weight).unwrap();
        assert_eq!(shape.iter().product::<usize>(), got.len(), "{name} {weight}");
        assert_eq!(got, expected, "{name} {weight}");
    }
}

#[test]
fn every_exporter_gives_the_weights_it_was_given() {
    for name in ["dynamo_op18", "hand_external", "hand_op17", "torchscript_op17_mask"] {
        compare(name, "base", |_, rows| rows);
    }
    compare("dynamo_op18_qwen2", "base_qwen2", |_, rows| rows);
    compare("torchscript_op17_f16", "base", |_, rows| {
        rows.into_iter().map(|value| f16::from_f32(value).to_f32()).collect()
    });
}

#[test]
fn four_bit_weights_are_those_of_their_exporter() {
    // `handmade.py`: blocks of 16, scale max / 7, codes rounded to even.
    compare("hand_int4", "base", |name, mut rows| {
        if name.ends_with("_proj.weight") {
            for block in rows.chunks_exact_mut(16) {
                let scale = block.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 7.0;
                for value in block {
                    *value = (*value / scale).round_ties_even().clamp(-8.0, 7.0) * scale;
                }
            }
        }
        rows
    });
}

#[test]
fn external_data_that_is_not_there_is_named() {
    let away = tempfile::tempdir().unwrap();
    let path = away.path().join("model.onnx");
    std::fs::copy(folder("hand_external").join("model.onnx"), &path).unwrap();
    let file = OnnxFile::open(&path).unwrap();
    let map = map(&file, &dims("base")).unwrap();
    let error = map.read(&file, EMBEDDING).unwrap_err();
    assert!(matches!(error, BaseError::MissingExternalData { .. }), "{error}");
    assert!(error.to_string().contains("model.onnx.data"), "{error}");
}
