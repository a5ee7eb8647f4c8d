//! The head against transformers, with every family's base, and against PEFT, with its adapters.
//!
//! Oracle: `tools/golden/peft.py` (peft 0.21, torch 2.15, f32, seeds in the script).

use super::families::FAMILIES;
use crate::common::{Golden, Surprise, Within, assert_close, exported, golden};
use ndarray::Array2;
use sapwood::adapter::Adapter;
use sapwood::adapter::fuse::Fused;
use sapwood::adapter::peft::{self, Files, Meta, Role};
use sapwood::base::export::small_files;
use sapwood::base::{self, Base, ExportOptions, Number, Precision, Source, shards};
use sapwood::head::{Backend, Head, Keep};
use sapwood::trunk::{Trunk, Whole};
use std::fs;

const F32: Within = Within { relative: 1e-4, because: "f32 sums in another order" };
const READABLE: [&str; 6] = ["f32", "f16", "bf16", "patterns", "rslora", "regex"];

fn read(name: &str, base: &Base) -> Result<Adapter, Surprise> {
    let folder = golden(&format!("peft/{name}"));
    let config = fs::read(folder.join(peft::CONFIG_FILE))?;
    let tensors = fs::read(folder.join(peft::TENSORS_FILE))?;
    let files = Files { config: &config, tensors: &tensors, meta: None };
    Ok(peft::read(files, base.config(), None)?.0)
}

#[test]
fn adapters_of_peft_give_the_logits_of_peft() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    let trunk = Trunk::load(&base, 0, 1)?;
    let cpu = Backend::cpu();
    let by_hand = Head::load(&base, 0, &cpu, 12, Keep::default())?;
    for head in [by_hand, Head::load_reference(&base, 0, &cpu, 12)?] {
        for name in READABLE {
            let expected = Golden::load(&format!("peft/{name}/expected"))?;
            let shape = expected.shape("input_ids")?;
            let ids = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
            let hidden = trunk.hidden(&Array2::from_shape_vec((shape[0], shape[1]), ids)?)?;
            let logits = head.logits(Some(&read(name, &base)?), &hidden)?;
            let got: Vec<f32> = logits.iter().copied().collect();
            assert_close(name, &got, &expected.f32("logits")?, &F32);
        }
    }
    Ok(())
}

/// Goal: an adapter of PEFT's over Phi-3's packed layers is one over their parts. Oracle: PEFT's logits.
#[test]
fn an_adapter_of_packed_layers_gives_the_logits_of_peft() -> Result<(), Surprise> {
    let (_place, base) = exported("families/phi3")?;
    let adapter = read("packed", &base)?;
    let expected = Golden::load("peft/packed/expected")?;
    let shape = expected.shape("input_ids")?;
    let ids = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
    let hidden =
        Trunk::load(&base, 0, 1)?.hidden(&Array2::from_shape_vec((shape[0], shape[1]), ids)?)?;
    let head = Head::load(&base, 0, &Backend::cpu(), 12, Keep::default())?;
    for (adapter, oracle) in [(Some(&adapter), "logits"), (None, "base_logits")] {
        let logits: Vec<f32> = head.logits(adapter, &hidden)?.iter().copied().collect();
        assert_close(oracle, &logits, &expected.f32(oracle)?, &F32);
    }
    Ok(())
}

/// Goal: an adapter folded into its base gives the logits of both, in either folder. Oracle: PEFT's logits of
/// the two; and the same sums of weights, which a type of 16 bits rounds once.
#[test]
fn a_fused_base_gives_the_logits_of_base_and_adapter() -> Result<(), Surprise> {
    let (place, bare) = exported("step/base")?;
    let small = small_files(&place.path().join("model"), false, &[])?;
    let half = Within { relative: 4e-3, because: "weights of 11 significant bits" };
    let narrow = Within { relative: 3.2e-2, because: "three bits fewer, eight times as much" };
    for name in READABLE {
        let adapter = read(name, &bare)?;
        let fused = Fused { base: &bare, adapter: &adapter };
        let weights = (bare.config(), &fused as &dyn Source);
        let expected = Golden::load(&format!("peft/{name}/expected"))?;
        let shape = expected.shape("input_ids")?;
        let ids = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
        let ids = Array2::from_shape_vec((shape[0], shape[1]), ids)?;
        for (number, within) in [(Number::F32, &F32), (Number::F16, &half), (Number::Bf16, &narrow)]
        {
            let out = tempfile::tempdir()?;
            let (hf, again) = (out.path().join("hf"), out.path().join("again"));
            shards::write(&hf, weights, &small, number, 20_000)?;
            base::export(&hf, &again, ExportOptions::default())?;
            let fused = Base::open(&again)?;
            let logits: Vec<f32> = Whole::load(&fused, 1)?.logits(&ids)?.iter().copied().collect();
            assert_close(name, &logits, &expected.f32("logits")?, within);
            let own = out.path().join("own");
            let dtype = if number == Number::F32 { Precision::F32 } else { Precision::F16 };
            let options = ExportOptions { dtype, ..ExportOptions::default() };
            base::export::write(&own, weights, &small, options)?;
            // A model folder in 16 bits keeps its vectors in 32.
            let same = number == Number::F32;
            assert_eq!(Base::open(&own)?.hash() == fused.hash(), same, "{name} {number:?}");
        }
    }
    Ok(())
}

/// Goal: the head's own layers know every family. Oracle: `tools/golden/families.py`.
#[test]
fn every_family_in_the_head_gives_the_logits_of_transformers() -> Result<(), Surprise> {
    for family in FAMILIES {
        let (_place, base) = exported(&format!("families/{family}"))?;
        let expected = Golden::load(&format!("families/{family}/expected"))?;
        let shape = expected.shape("input_ids")?;
        let ids = expected.i64("input_ids")?.iter().map(|&id| id as u32).collect();
        let ids = Array2::from_shape_vec((shape[0], shape[1]), ids)?;
        // At tap 1 the trunk's layer and the head's layers must fit together, too.
        let by_hand = |tap| Head::load(&base, tap, &Backend::cpu(), shape[1], Keep::default());
        let by_candle = Head::load_reference(&base, 0, &Backend::cpu(), shape[1])?;
        for head in [by_hand(0)?, by_candle, by_hand(1)?] {
            let hidden = Trunk::load(&base, head.tap(), 1)?.hidden(&ids)?;
            let logits: Vec<f32> = head.logits(None, &hidden)?.iter().copied().collect();
            assert_close(family, &logits, &expected.f32("logits")?, &F32);
        }
    }
    Ok(())
}

/// Goal: the exporter's files mean to ONNX Runtime what they mean to tract, and do not change.
/// Oracle: `tools/golden/exported.py` (onnxruntime 1.31), on the very bytes that are compared here.
#[test]
fn an_exported_file_has_the_bytes_and_logits_that_onnx_runtime_saw() -> Result<(), Surprise> {
    let (place, base) = exported("step/base")?;
    let written = fs::read(place.path().join("model/model.onnx"))?;
    assert!(written == fs::read(golden("exported/model.onnx"))?, "the exporter writes other bytes");
    let expected = Golden::load("exported/expected")?;
    let whole = Whole::load(&base, 1)?;
    for (rows, length) in [(1, 1), (1, 2), (2, 3), (2, 9)] {
        let ids = expected.i64(&format!("input_ids.{rows}x{length}"))?;
        let ids = Array2::from_shape_vec((rows, length), ids)?.mapv(|id| id as u32);
        let logits: Vec<f32> = whole.logits(&ids)?.iter().copied().collect();
        let wanted = expected.f32(&format!("logits.{rows}x{length}"))?;
        assert_close("logits", &logits, &wanted, &F32);
    }
    Ok(())
}

#[test]
fn an_adapter_written_and_read_again_is_the_same() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    for name in READABLE {
        let adapter = read(name, &base)?;
        let meta = Meta {
            base_hash: base.hash(),
            generation: 1,
            steps: 2,
            role: Role::Slow,
            retain: 0.5,
            global: None,
        };
        let files = peft::write(&adapter, &meta, "base")?;
        let bytes = |name: &str| {
            files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.as_slice())
        };
        let files = Files {
            config: bytes(peft::CONFIG_FILE).ok_or("config")?,
            tensors: bytes(peft::TENSORS_FILE).ok_or("tensors")?,
            meta: bytes(peft::META_FILE),
        };
        let (again, _) = peft::read(files, base.config(), Some(base.hash()))?;
        assert_eq!(again, adapter, "{name}");
    }
    Ok(())
}
