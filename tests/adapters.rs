//! Adapters that PEFT wrote, run by our head, give the logits that PEFT gave.
//!
//! Oracle: `tools/golden/peft.py` (peft 0.21, torch 2.15, f32, seeds in the script).

mod common;

use common::{Golden, Surprise, Within, assert_close, exported, golden};
use ndarray::Array2;
use sapwood::adapter::Adapter;
use sapwood::adapter::peft::{self, Files, Meta, Role};
use sapwood::base::Base;
use sapwood::head::{Head, Kernels, Place};
use sapwood::trunk::Trunk;
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
    for kernels in [Kernels::Fused, Kernels::Reference] {
        let mut head = Head::load(&base, 0, &Place::cpu(), 12)?;
        head.use_kernels(kernels);
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

#[test]
fn an_adapter_written_and_read_again_is_the_same() -> Result<(), Surprise> {
    let (_place, base) = exported("step/base")?;
    for name in READABLE {
        let adapter = read(name, &base)?;
        let meta =
            Meta { base_hash: base.hash(), generation: 1, steps: 2, role: Role::Slow, retain: 0.5 };
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
